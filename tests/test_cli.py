"""The command line: every mistake is one line on stderr, exit code 2 and no trace on disk; help is there.

Verbs run in this process through `neuroglot.cli.main`; what only a process of its own can show runs in one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

import neuroglot
from neuroglot.config import BASELINES, CLASSIC, METHODS
from neuroglot.config.load import shipped

VERBS = (
    "run",
    "profile",
    "probe",
    "select",
    "train",
    "evaluate",
    "report",
    "demo",
    "show",
    "translate",
    "init",
    "compare",
    "analyse",
    "dial",
    "merge",
    "export",
)


def command(*arguments, **options):
    """Run the installed command in a process of its own."""
    line = [sys.executable, "-m", "neuroglot", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, **options)


# ---- damage, defects, interruptions -------------------------------------------------------------------------------


def test_damaged_files_of_a_run_are_named(cli, own_run):
    (own_run / "scores.json").write_text("{")
    code, _, err = cli("show", own_run)
    assert code == 2
    assert re.fullmatch(r"neuroglot: .*scores.json is not valid JSON .*run the evaluate stage again\n", err)
    (own_run / "recipe.yaml").write_text("name: [")
    assert cli("translate", own_run, "--to", "de", "--run", own_run)[0] == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "runs/quickstart/scores.json"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
    ids=["python", "safetensors", "torch", "torch-too"],
)
def test_a_full_disk_is_one_line(cli, monkeypatch, error):
    def full(*arguments):
        raise error

    monkeypatch.setattr("neuroglot.pipeline.run.execute", full)
    code, _, err = cli("run", "quickstart")
    assert code == 2
    assert err.count("\n") == 1
    assert str(error) in err
    assert re.fullmatch("neuroglot: .*No space left on device.*; make room, then run it again\n", err)


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (
            RuntimeError("a\ndefect"),
            70,
            r"this is a defect of neuroglot, please report it with (\S+) \(RuntimeError: a d",
        ),
        (RecursionError(), 70, r"this is a defect of neuroglot, please report it with (\S+) \(RecursionError\)\n"),
        (OSError(36, "File name too long", "x"), 2, r"x: File name too long; see (\S+) for where that happened\n"),
        (OSError(5, "Input/output error"), 2, r"Input/output error; see (\S+) for where"),
    ],
)
def test_what_nothing_else_catches_is_one_line_and_a_file(cli, monkeypatch, tmp_path, error, code, expected):
    def broken(*arguments):
        raise error

    monkeypatch.setattr("neuroglot.pipeline.run.execute", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found, out, err = cli("run", "quickstart", "train.steps=3")
    assert (found, out, err.count("\n")) == (code, "", 1)
    file = re.match(f"neuroglot: {expected}", err)
    assert file, err
    text = Path(file[1]).read_text()
    assert "Traceback" in text
    assert "run quickstart train.steps=3" in text


def test_memory_that_ran_out_is_one_line(cli, monkeypatch):
    monkeypatch.setattr("neuroglot.pipeline.run.execute", lambda *_: [0] * 2**61)
    code, _, err = cli("run", "quickstart")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("neuroglot: memory ran out")


def test_an_interrupted_command_says_that_it_goes_on(cli, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuroglot.pipeline.run.execute", stopped)
    code, _, err = cli("run", "quickstart")
    assert code == 130
    assert err == "neuroglot: interrupted; run the same command again to resume\n"


def test_sigterm_ends_it_as_ctrl_c_does(cli, monkeypatch, tmp_path):
    def stopped(*arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            (tmp_path / "tidied").touch()

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("neuroglot.pipeline.run.execute", stopped)
    code, _, err = cli("run", "quickstart")
    assert code == 143
    assert err == "neuroglot: terminated; run the same command again to resume\n"
    assert (tmp_path / "tidied").exists()
    assert signal.getsignal(signal.SIGTERM) == before


# ---- what works -------------------------------------------------------------------------------------------------


def test_version_and_help(cli):
    assert cli("--version") == (0, f"{neuroglot.__version__}\n", "")
    code, out, _ = cli()
    assert (code, "Usage: neuroglot" in out) == (0, True)
    assert cli("--help")[1] == out
    words = {word.rstrip(".") for word in re.split(r"[^\w.-]+", cli("compare", "--help")[1])}
    assert words >= {*shipped(), *METHODS, *BASELINES, *CLASSIC, "full", "smoke", "lr", "none"}
    for verb in VERBS:
        assert verb in out
        code, shown, err = cli(verb, "--help")
        assert (code, err) == (0, "")
        assert f"Usage: neuroglot {verb}" in shown
        assert "bool" not in shown


def test_an_unchanged_run_is_shown_again(cli, own_run):
    settings = ["name=smoke", "data.pairs=[en-de, en-fr]", "train.weight_decay=0.1"]
    code, out, err = cli("run", "quickstart", "--scale", "smoke", "--runs", own_run.parent, *settings)
    assert code == 0
    assert err.splitlines() == [
        f"{stage}: unchanged" for stage in ("profile", "select", "train", "evaluate", "report")
    ]
    assert "image translation chrF++" in out  # so few texts have no BLEU
    assert cli("show", own_run) == (0, out, "")
    code, out, err = cli("report", "quickstart", "--scale", "smoke", "--runs", own_run.parent, *settings)
    assert (code, out, err) == (0, f"{own_run}\n", "report: unchanged\n")


def test_show_as_json(cli, own_run):
    code, out, err = cli("show", own_run, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["method"] == "mnaft"
    assert set(facts["parts"]) == {"vision", "connector", "language"}
    assert facts["trainable_parameters"] > 0
    assert facts["scores"]["mnaft"]["image_translation"]["average"]["bleu"] >= 0


# ---- a process of its own ---------------------------------------------------------------------------------------


def test_starting_is_light():
    code = (
        "import sys, neuroglot.cli\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'peft', 'numpy', 'babel', 'pydantic', 'datasets', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_process_itself(tmp_path, own_run):
    module = subprocess.run([sys.executable, "-m", "neuroglot", "--version"], capture_output=True, text=True)
    assert module.stdout == f"{neuroglot.__version__}\n"
    wrong = command("run", "quickstart", "trian.steps=3", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "neuroglot: recipe quickstart: unknown key trian; did you mean train?\n"
    # Whoever reads the output may have had enough of it.
    line = f"{sys.executable} -m neuroglot show {own_run} --json | head -1"
    cut = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (cut.stdout, cut.stderr) == ("{\n", "")
