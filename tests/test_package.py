"""The wheel: everything that `neuroglot demo` needs is inside, and it runs outside the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_weights_recipes_template_and_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (
        "neuroglot/models/tiny/weights/model.safetensors",
        "neuroglot/models/tiny/weights/tokenizer.json",
        "neuroglot/models/tiny/weights/chat_template.jinja",
        "neuroglot/recipes/quickstart.yaml",
        "neuroglot/report/page.html",
        "neuroglot/validation/page.html",
        "neuroglot/py.typed",
    ):
        assert file in names
    assert not any(name.startswith(("tests/", "examples/")) for name in names)


@pytest.mark.slow
def test_demo_runs_from_the_wheel_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    # -I would drop PYTHONPATH; -P keeps the working folder out, so that only the wheel's files can be found first.
    code = (
        "import neuroglot, sys; assert 'site/' in neuroglot.__file__; import neuroglot.cli as c; c.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "demo", "--scale", "smoke"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 10_000
