"""COMET as a subprocess. COMET's weights cannot be had here, so a module of that name stands for the package.

Everything else is real: a virtual environment of its own with its own interpreter, the process, the files between.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv

import pytest

from neuroglot.errors import UserError
from neuroglot.evaluation.comet import comet, python_of

STANDS_FOR_COMET = '''
"""The share of the reference's words that the hypothesis has: no COMET, and it says so by its version."""
import sys


def download_model(name):
    print("noise on standard output", name)
    if name == "none/such":
        raise OSError("none/such is not a model on the hub")
    return f"/downloaded/{name}"


def load_from_checkpoint(path):
    return Model(path)


class Model:
    def __init__(self, path):
        self.path = path

    def predict(self, data, batch_size, gpus):
        assert "neuroglot" not in sys.modules and gpus in (0, 1) and batch_size > 0
        if "short" in self.path:
            data = data[1:]
        words = [(set(d["mt"].split()), set(d["ref"].split()), d["src"]) for d in data]
        scores = [len(mt & ref) / len(ref) + (0.0 if src else 1.0) for mt, ref, src in words]
        return {"scores": [float("nan")] if "nan" in self.path else scores, "system_score": 0.0}
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with a module called comet."""
    place = tmp_path_factory.mktemp("comet") / "environment"
    venv.create(place, with_pip=False)
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([place / "bin" / "python", "-c", code], capture_output=True, text=True, check=True).stdout
    with open(f"{site.strip()}/comet.py", "w", encoding="utf-8") as file:
        file.write(STANDS_FOR_COMET)
    return place


TEXTS = ["one two", "three"], ["eins zwei", "vier"], ["eins zwei", "drei vier"]


def test_scores_come_back_in_order_times_100(environment):
    found = comet(environment, *TEXTS)
    assert found.scores == [100.0, 50.0]
    assert found.signature == "model:Unbabel/wmt22-comet-da|scale:100|version:unknown"
    assert comet(environment / "bin" / "python", *TEXTS).scores == found.scores
    assert python_of(environment) == environment / "bin" / "python"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("none/such", "COMET failed with exit code 1: OSError: none/such is not a model on the hub"),
        ("too/short", "COMET gave 1 scores for 2 segments"),
        ("gives/nan", "COMET gave 1 scores for 2 segments, or one that is no number"),
    ],
)
def test_when_it_fails_there_is_a_word(environment, model, words):
    with pytest.raises(UserError, match=words) as error:
        comet(environment, *TEXTS, model)
    assert "\n" not in str(error.value)


def test_an_environment_without_it(tmp_path):
    with pytest.raises(UserError, match=r"has no COMET \(No module named 'comet'\); python3 -m venv comet"):
        comet(sys.executable, *TEXTS)
    with pytest.raises(UserError, match="holds no bin/python"):
        comet(tmp_path, *TEXTS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not a program"):
        comet(tmp_path / "file", *TEXTS)


def test_on_the_command_line(cli, environment, tmp_path):
    for name, texts in zip(("src", "hyp", "ref"), TEXTS, strict=True):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts))
    files = [tmp_path / "hyp", tmp_path / "ref"]
    code, _, err = cli("score", *files, "--comet", environment)
    assert code == 2
    assert "COMET needs what was translated; give the source texts with --source FILE" in err
    arguments = ["--source", tmp_path / "src", "--comet", environment, "--against", tmp_path / "ref", "--json"]
    code, out, err = cli("score", *files, *arguments, "--comet-model", "some/model")
    assert (code, err) == (0, "")
    found = json.loads(out)["results"][0]["pairs"]["und-und"]["figures"]["comet"]
    assert (found["value"], found["other"], found["difference"]) == (75.0, 100.0, -25.0)
    assert found["signature"] == "model:some/model|scale:100|version:unknown"
