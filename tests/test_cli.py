"""The command line: every mistake is one line on stderr, exit code 2 and no trace on disk; help is there.

Verbs run in this process through `neuroglot.cli.main`; what only a process of its own can show runs in one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from PIL import Image
from safetensors import SafetensorError

import neuroglot
from neuroglot.cli import main

VERBS = ("run", "profile", "probe", "select", "train", "evaluate", "report", "demo", "show", "translate", "init")


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Return a function that runs a command line in an empty folder: (exit code, stdout, stderr)."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call


def command(*arguments, **options):
    """Run the installed command in a process of its own."""
    line = [sys.executable, "-m", "neuroglot.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, **options)


def snapshot(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*") if p.name != ".lock"}


# ---- mistakes ---------------------------------------------------------------------------------------------------

MISTAKES = {  # what is typed, and what is said (` ... ` stands for anything)
    "unknown recipe": ("run quickstrat", "recipe quickstrat does not exist; ... did you mean quickstart?"),
    "unknown key": ("run quickstart train.stpes=3", "unknown key train.stpes; did you mean steps?"),
    "unknown section": ("run quickstart trian.steps=3", "unknown key trian; did you mean train?"),
    "wrong value": ("run quickstart train.lr=fast", "train.lr: must be a valid number, ... got 'fast'"),
    "malformed override": ("run quickstart train.steps", "expected key.path=value such as train.steps=50"),
    "unknown method": ("run quickstart method=mnatf", "method 'mnatf' is not known; did you mean mnaft?"),
    "unknown language": ("run quickstart data.pairs=[en-xq]", "language code 'xq' is not known"),
    "malformed language": ("run quickstart data.pairs=[en-german]", "language code 'german' ... did you mean de?"),
    "unknown scale": ("run quickstart --scale tiny", "scale must be full or smoke, got 'tiny'"),
    "unknown optimizer": ("run quickstart --scale smoke train.optimizer=adamm", "train: adamm is not a valid"),
    "no such task": ("run quickstart task=multimodal_translation", "the embedded corpus has no task"),
    "no such data": ("run quickstart data.source=none.jsonl", "data file ... none.jsonl does not exist"),
    "no such model": ("run quickstart model.path=./none", "model folder ... none does not exist"),
    "stage without its input": (
        "select quickstart",
        "select needs ... profile.safetensors ... run the profile stage first",
    ),
    "stage that a method lacks": ("select quickstart method=lora", "method lora has no select stage; it has train"),
    "probe that a method lacks": ("probe quickstart", "method mnaft has no probe stage; it has profile, select"),
    "no such run": ("show runs/none", "runs/none is not a folder; expected a run folder such as runs/demo"),
    "no run folder": ("translate {image} --to de --run .", "it has no recipe.yaml"),
    "no such image": ("translate none.png --to de --model embedded", "image none.png does not exist"),
    "truncated image": ("translate {truncated} --to de --model embedded", "image ... truncated.png cannot be read"),
    "empty image": ("translate {empty} --to de --model embedded", "image ... empty.png cannot be read"),
    "folder without images": ("translate . --to de --model embedded", "folder . holds no images; expected files"),
    "run and model": ("translate {image} --to de --run a --model b", "give either --run RUN, or --model MODEL"),
    "neither run nor model": ("translate {image} --to de", "give either --run RUN, or --model MODEL"),
    "run and adapter": ("translate {image} --to de --run a --adapter b", "give either --run RUN, or --model MODEL"),
    "target language by name": ("translate {image} --to German --model embedded", "did you mean de?"),
    "no adapter there": ("translate {image} --to de --model embedded --adapter .", ". holds no adapter"),
    "no such data to start from": ("init --data none.jsonl", "data file none.jsonl does not exist"),
    "unknown verb": ("trian quickstart", "No such command 'trian'. Did you mean 'train'?; see neuroglot --help"),
    "unknown option": ("run quickstart --forec", "No such option: --forec ... ; see neuroglot run --help"),
    "missing argument": ("run", "Missing argument 'recipe'; see neuroglot run --help"),
    "missing option": ("translate {image} --model embedded", "Missing option '--to'; see neuroglot translate --help"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image, one cut short, one of no bytes."""
    folder = tmp_path_factory.mktemp("images")
    Image.effect_noise((60, 40), 64).convert("RGB").save(folder / "whole.png")
    (folder / "truncated.png").write_bytes((folder / "whole.png").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    return {"image": folder / "whole.png", "truncated": folder / "truncated.png", "empty": folder / "empty.png"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_exit_code_2_and_an_untouched_folder(cli, images, tmp_path, mistake):
    line, expected = MISTAKES[mistake]
    code, out, err = cli(*(images[word[1:-1]] if word[0] == "{" else word for word in line.split()))
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"neuroglot: [^\n]*\n", err), err
    assert re.search(".*".join(map(re.escape, expected.split(" ... "))), err), err
    assert list(tmp_path.rglob("*")) == [tmp_path / "work"]


def test_mistakes_with_a_run(cli, own_run, images, tmp_path):
    before = snapshot(own_run)
    other = tmp_path / "other"
    another_model(other)
    adapter = own_run / "adapter"
    (tmp_path / "cut").mkdir()
    for file in adapter.iterdir():
        (tmp_path / "cut" / file.name).write_bytes(
            file.read_bytes()[: 5000 if file.suffix == ".safetensors" else None]
        )
    for arguments, expected in [
        (("--to", "cs", "--run", own_run), "run .*smoke was not trained for en-cs; it has en-de, en-fr"),
        (
            ("--to", "de", "--from", "fr", "--run", own_run),
            "run .*smoke was not trained for fr-de; it has en-de, en-fr",
        ),
        (("--to", "cs", "--model", "embedded", "--adapter", adapter), "adapter .* was not trained for en-cs; it has"),
        (("--to", "de", "--model", other, "--adapter", adapter), "adapter .* does not fit this model"),
        (("--to", "de", "--model", "embedded", "--adapter", tmp_path / "cut"), "adapter .*cut cannot be loaded"),
    ]:
        code, out, err = cli("translate", images["image"], *arguments)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"neuroglot: [^\n]*\n", err), err
        assert re.search(expected, err), err
    code, _, err = cli("run", "quickstart", "--runs", own_run / "recipe.yaml")
    assert code == 2
    assert re.search("run folder .*quickstart cannot be made: .*; choose another with --runs", err)
    assert snapshot(own_run) == before


def another_model(folder):
    """Save a model of the embedded one's kind with a language model of one layer."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from neuroglot.models.load import load_processor, resolve

    config = AutoConfig.from_pretrained(resolve("embedded"))
    config.text_config.num_hidden_layers = 1
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    load_processor("embedded").save_pretrained(folder)


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
    ],
    ids=["python", "safetensors"],
)
def test_a_full_disk_is_one_line(cli, monkeypatch, error):
    def full(*arguments):
        raise error

    monkeypatch.setattr("neuroglot.run.execute", full)
    code, _, err = cli("run", "quickstart")
    assert code == 2
    assert err == f"neuroglot: {error}; make room, then run it again\n"


def test_a_defect_keeps_its_traceback(cli, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr("neuroglot.run.execute", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["run", "quickstart"])


def test_an_interrupted_command_says_that_it_goes_on(cli, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuroglot.run.execute", stopped)
    code, _, err = cli("run", "quickstart")
    assert code == 130
    assert err == "neuroglot: interrupted; the same command goes on from here\n"


# ---- what works -------------------------------------------------------------------------------------------------


def test_version_and_help(cli):
    assert cli("--version") == (0, f"{neuroglot.__version__}\n", "")
    code, out, _ = cli()
    assert (code, "Usage: neuroglot" in out) == (0, True)
    assert cli("--help")[1] == out
    for verb in VERBS:
        assert verb in out
        code, shown, err = cli(verb, "--help")
        assert (code, err) == (0, "")
        assert f"Usage: neuroglot {verb}" in shown


def test_an_unchanged_run_is_shown_again(cli, own_run):
    settings = ["name=smoke", "data.pairs=[en-de, en-fr]", "train.weight_decay=0.1"]
    code, out, err = cli("run", "quickstart", "--scale", "smoke", "--runs", own_run.parent, *settings)
    assert code == 0
    assert err.splitlines() == [
        f"{stage}: unchanged" for stage in ("profile", "select", "train", "evaluate", "report")
    ]
    assert "image translation BLEU" in out
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
    assert command("--version").stdout == f"{neuroglot.__version__}\n"
    wrong = command("run", "quickstart", "trian.steps=3", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "neuroglot: recipe quickstart: unknown key trian; did you mean train?\n"
    # Whoever reads the output may have had enough of it.
    line = f"{sys.executable} -m neuroglot.cli show {own_run} --json | head -1"
    cut = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (cut.stdout, cut.stderr) == ("{\n", "")
