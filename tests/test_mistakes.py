"""What a user can get wrong: one line that says what, got, expected and what to try; exit code 2; nothing touched.

Verbs run in this process through `neuroglot.cli.main`. "Nothing touched" compares every byte of the folders before
and after: a folder that was not there is not there afterwards, a finished run is as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from neuroglot.file_format import ADAPTER, PROFILE, SELECTION, Format, save_tensors, write_json
from neuroglot.models.load import embedded_folder
from neuroglot.neurons import Profile

SMOKE = ["quickstart", "--scale", "smoke", "name=smoke", "data.pairs=[en-de, en-fr]", "train.weight_decay=0.1",
         "train.optimizer=adamw_torch_fused"]  # fmt: skip
"""The recipe of `smoke_run`."""


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, byte for byte."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(done, expected: str) -> None:
    """Check what a command line came to; ` ... ` in what is expected stands for anything."""
    code, out, err = done
    assert re.fullmatch(r"neuroglot: [^\n]*\n", err), err
    assert re.search(".*".join(map(re.escape, expected.split(" ... "))), err), err
    assert (code, out) == (2, "")


def png(side: int) -> bytes:
    """A black PNG of side x side one-bit pixels, made without holding them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + -(-side // 8)) * 500) for _ in range(side // 500))
    head = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


# ---- what is typed ----------------------------------------------------------------------------------------------

TYPED = {  # what is typed, and what is said (` ... ` stands for anything)
    "unknown recipe": ("run quickstrat", "recipe quickstrat does not exist; ... did you mean quickstart?"),
    "missing recipe": ("run ./my/recipe.yaml", "recipe ./my/recipe.yaml does not exist; give a YAML file or the name"),
    "unknown key": ("run quickstart train.stpes=3", "unknown key train.stpes; did you mean steps?"),
    "unknown section": ("run quickstart trian.steps=3", "unknown key trian; did you mean train?"),
    "wrong value": ("run quickstart train.lr=fast", "train.lr: must be a valid number, ... got 'fast'"),
    "malformed override": ("run quickstart train.steps", "expected key.path=value such as train.steps=50"),
    "unknown method": ("run quickstart method=mnatf", "method 'mnatf' is not known; did you mean mnaft?"),
    "unknown language": ("run quickstart data.pairs=[en-xq]", "language code 'xq' is not known"),
    "malformed language": ("run quickstart data.pairs=[en-german]", "language code 'german' ... did you mean de?"),
    "a folder for a name": ("run quickstart name=../other", "a run's name is letters, digits, dots"),
    "code from a recipe": ("run quickstart model.trust_remote_code=true", "unknown key model.trust_remote_code"),
    "unknown scale": ("run quickstart --scale tiny", "scale must be full or smoke, got 'tiny'"),
    "unknown optimizer": ("run quickstart --scale smoke train.optimizer=adamm", "train: adamm is not a valid"),
    "no such task": ("run quickstart task=multimodal_translation", "have no task multimodal_translation"),
    "no such data": ("run quickstart data.source=none.jsonl", "data file ... none.jsonl does not exist"),
    "no such model": ("run quickstart model.path=./none", "model folder ... none does not exist"),
    "stage without its input": ("select quickstart", "profile.safetensors ... run the profile stage first"),
    "stage that a method lacks": ("select quickstart method=lora", "method lora has no select stage; it has train"),
    "probe that a method lacks": ("probe quickstart", "method mnaft has no probe stage; it has profile, select"),
    "no such run": ("show runs/none", "runs/none is not a folder; expected a run folder such as runs/demo"),
    "no run folder": ("translate {image} --to de --run .", "it has no recipe.yaml"),
    "no such image": ("translate none.png --to de --model embedded", "image none.png does not exist"),
    "truncated image": ("translate {truncated} --to de --model embedded", "truncated.png cannot be read"),
    "empty image": ("translate {empty} --to de --model embedded", "image ... empty.png cannot be read"),
    "enormous image": ("translate {huge} --to de --model embedded", "huge.png ... at most 200,000,000 are read"),
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
    "runs under a file": ("run quickstart --runs {image}", "cannot be made: ... ; choose another with --runs"),
    "runs where nobody may write": ("run quickstart --runs /proc/runs", "cannot be made: ... ; choose another"),
    "recipe that is a picture": ("run {image}", "whole.png is not YAML: ... can't decode"),
    "recipe that is a folder": ("run .", ". is data, not a recipe; write a recipe with: neuroglot init --data ."),
    "text for a section": ("run quickstart train=fast", "train: must be a section of keys, got 'fast'"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image, one cut short, one of no bytes, one that unpacks to 400 million pixels."""
    folder = tmp_path_factory.mktemp("images")
    Image.effect_noise((60, 40), 64).convert("RGB").save(folder / "whole.png")
    (folder / "truncated.png").write_bytes((folder / "whole.png").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "huge.png").write_bytes(png(20_000))
    return {"image": folder / "whole.png", **{n: folder / f"{n}.png" for n in ("truncated", "empty", "huge")}}


@pytest.mark.parametrize("mistake", TYPED)
def test_what_is_typed(cli, images, tmp_path, mistake):
    line, expected = TYPED[mistake]
    refused(cli(*(images.get(word.strip("{}"), word) for word in line.split())), expected)
    assert tree(tmp_path) == {"work": None}


LONG = "x" * 300

PLAIN = [  # what is typed, and what is said
    (("compare", "quickstart", "--methods", ""), "no method is named; name one or more, such as base,mnaft"),
    (("compare", "quickstart", "--jobs", "0"), "jobs must be 1 or more, got 0"),
    (("compare", "quickstart", "--seeds", "9" * 5000), "Invalid value for '--seeds'"),
    (("run", "quickstart", "sweep=x", "--scale", "smoke"), "sweep: must be a section of keys, got 'x'"),
    (
        ("run", "quickstart", "train.steps=" + "9" * 5000),
        "the number 999999999999999999999999999999 in line 1, column",
    ),
    (("run", "quickstart", "systems=&a {b: *a}"), "anchors (&) and aliases (*) are not read in line 1, column"),
    (("run", "quickstart", "train={steps: 3, steps: 4}"), "key 'steps' stands twice in line 1, column 1"),
    (("run", "quickstart", "data=" + "[" * 500), "more than 20 sections or lists within each other"),
    (("run", "quickstart", "train.seed=-1"), "train.seed: must be greater than or equal to 0, got -1"),
    (("run", "quickstart", "model.path=~nouser"), "~nouser does not exist; give a folder, a hub name"),
    (("run", "quickstart", f"model.path=./{LONG}"), "is too long; a name has at most 255 bytes"),
    (("run", LONG), "is too long; a name has at most 255 bytes"),
    (("run", "quickstart", "--runs", LONG), "File name too long"),
    (("show", LONG), "File name too long"),
    (("init", "--data", LONG), "too long"),
    (("translate", LONG, "--to", "de", "--model", "embedded"), "too long"),
    (("merge", LONG, "out"), "File name too long"),
    (("score", LONG), "too long"),
    (("data", "check", "quickstart", "--out", ""), ". is a folder; give the name of the file to write"),
    (("score", "a", "b", "--seed", "-1"), "Invalid value for '--seed'"),
]


@pytest.mark.parametrize(("arguments", "expected"), PLAIN, ids=[" ".join(words)[:40] for words, _ in PLAIN])
def test_plain_mistakes(cli, tmp_path, tmp_path_factory, monkeypatch, arguments, expected):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("tracebacks")))
    refused(cli(*arguments), expected)
    assert tree(tmp_path) == {"work": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"method: [mnaft", "is not YAML: "),
        (b"data:\n\tpairs: [en-de]", "is not YAML: "),
        (b"- method: mnaft", "must be a mapping of sections, got list"),
        (b"name: caf\xe9", "is not YAML: "),
        (b"trian: {steps: 3}", "unknown key trian; did you mean train?"),
        (b"data: {source: gone.jsonl}", "gone.jsonl does not exist"),
    ],
)
def test_what_a_recipe_says(cli, tmp_path, text, expected):
    (tmp_path / "work" / "my.yaml").write_bytes(text)
    before = tree(tmp_path)
    refused(cli("run", "my.yaml"), expected)
    assert tree(tmp_path) == before


# ---- what the data hold -----------------------------------------------------------------------------------------

GOOD = {"image": "a.png", "source": "Exit", "target": "Ausgang", "source_lang": "en", "target_lang": "de"}

DATA = {  # the third line of a data file whose first two are right, and what is said
    "missing image": ({**GOOD, "image": "gone.png"}, "line 3: image ... gone.png does not exist; paths are taken"),
    "truncated PNG": ({**GOOD, "image": "truncated.png"}, "line 3: image ... truncated.png cannot be read: "),
    "zero-byte image": ({**GOOD, "image": "empty.png"}, "line 3: image ... empty.png cannot be read: no known image"),
    "20,000 x 20,000 image": ({**GOOD, "image": "huge.png"}, "line 3: image ... huge.png ... at most 200,000,000"),
    "text for an image": ({**GOOD, "image": "data.jsonl"}, "line 3: image ... data.jsonl cannot be read"),
    "folder for an image": ({**GOOD, "image": "."}, "line 3: image ... is no file"),
    "no path at all": ({**GOOD, "image": "a\0.png"}, "line 3: image ... cannot be read: embedded null byte"),
    "not UTF-8": ('{"target": "Grüße"}'.encode("latin-1"), "line 3: the line is not UTF-8 (byte 14); save"),
    "broken JSON": (b'{"image": "a.png",', "line 3: the line is not JSON: ... at column ... ; one object a line"),
    "nested without end": (b"[" * 100_000, "line 3: the line is not JSON that can be read"),
    "half a character": ({**GOOD, "target": "\ud83d"}, "line 3: half a surrogate pair in '\\ud83d'; write the"),
    "unknown field": ({**GOOD, "traget": "x"}, "line 3: unknown field 'traget'; did you mean target"),
    "malformed language": ({**GOOD, "target_lang": "german"}, "line 3: language code 'german' ... did you mean de?"),
    "unknown language": ({**GOOD, "target_lang": "xq"}, "line 3: language code 'xq' is not known"),
    "no target": ({**GOOD, "target": " "}, "line 3: field 'target' is empty"),
    "target longer than the context": ({**GOOD, "target": "Ausgang " * 200}, "line 3: an example takes ... tokens, at "
                                       "most 512 fit: 'Ausgang ... raise data.max_length or leave the example out"),
    "a model's own mark": ({**GOOD, "target": "<image>"}, "line 3: the text '<image>' holds '<image>', which is a"),
    "a mark in an alternative": ({**GOOD, "alternatives": ["<image>"]}, "line 3: the text '<image>' holds '<image>'"),
    "a letter it cannot write": ({**GOOD, "target": "出口"}, "line 3: the model's tokenizer has no token for '出'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(smoke_run, images, tmp_path_factory):
    """A folder with a finished run under `runs` and good and bad images beside it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(smoke_run, folder / "runs" / "smoke")
    shutil.copy(images["image"], folder / "a.png")
    for name in ("truncated", "empty", "huge"):
        shutil.copy(images[name], folder)
    return folder


def data_file(folder, *records) -> Path:
    path = folder / "data.jsonl"
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def with_data(cli, folder, *changes, verb="run"):
    settings = [f"data.source={folder / 'data.jsonl'}", "data.pairs=[]", "data.retention=0", "data.replay=0", *changes]
    return cli(verb, *SMOKE, *settings, "--runs", folder / "runs")


TRAIN, TEST = {**GOOD, "split": "train"}, {**GOOD, "split": "test"}


@pytest.mark.parametrize("mistake", DATA)
def test_what_the_data_hold(cli, finished, mistake):
    record, expected = DATA[mistake]
    path = data_file(finished, TRAIN, TEST, record)
    before = tree(finished)
    refused(with_data(cli, finished), f"{path} {expected}")
    assert tree(finished) == before


@pytest.mark.parametrize(
    ("records", "changes", "expected"),
    [
        ([], (), "data.jsonl holds no examples; expected one JSON object a line"),
        ([b"", b"   "], (), "data.jsonl holds no examples; expected one JSON object a line"),
        ([TRAIN, TEST], ["data.pairs=[en-cs]"], "data.jsonl has no example of pair en-cs; it has en-de"),
        ([TRAIN], (), "the test split is empty for en-de (1 examples in all); ... add examples, mark some with"),
        ([TRAIN, TEST], ["task=multimodal_translation"], "has no multimodal_translation examples; it has image_tr"),
        ([TRAIN, TEST], ["data.max_length=20"], "line 1: an example takes ... tokens, at most 20 fit: 'Ausgang'; "),
    ],
    ids=["no line", "blank lines", "language without examples", "empty split", "other task", "small context"],
)
def test_data_as_a_whole(cli, finished, records, changes, expected):
    data_file(finished, *records)
    before = tree(finished)
    refused(with_data(cli, finished, *changes), expected)
    assert tree(finished) == before


def test_many_bad_records_are_counted_and_a_few_may_be_left_out(cli, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "own", ignore=shutil.ignore_patterns("runs"))
    folder = tmp_path / "own"
    bad = [{**GOOD, "image": "gone.png"}, b"{", {**GOOD, "image": "truncated.png"}]
    path = data_file(folder, TRAIN, bad[0], bad[1], TEST, bad[2])
    before = tree(folder)
    for most, allows in ((0, 0), (2, 2)):
        refused(
            with_data(cli, folder, f"data.max_bad={most}"),
            f"line 2: image ... gone.png does not exist ... 3 of 5 records are bad and data.max_bad allows {allows}; "
            "this is the first",
        )
        assert tree(folder) == before
    code, _, err = with_data(cli, folder, "data.max_bad=3", "profile.contrast=[]", verb="profile")
    assert (code, err.splitlines()[0]) == (0, f"data: 3 of 5 records left out; see {folder}/runs/smoke/rejected.jsonl")
    left_out = [json.loads(line) for line in (folder / "runs/smoke/rejected.jsonl").read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in left_out] == [(str(path), 2), (str(path), 3), (str(path), 5)]
    assert "gone.png does not exist" in left_out[0]["reason"]
    assert "truncated.png cannot be read" in left_out[2]["reason"]
    # An image that is mended is data that have changed: the file is checked again, the stage is done again.
    shutil.copy(folder / "a.png", folder / "gone.png")
    code, _, err = with_data(cli, folder, "data.max_bad=3", "profile.contrast=[]", verb="profile")
    assert (code, err.splitlines()[0][:36]) == (0, "data: 2 of 5 records left out; see /")
    code, _, err = with_data(cli, folder, "data.max_bad=3", "profile.contrast=[]", verb="profile")
    assert (code, err) == (0, "profile: unchanged\n")
    refused(with_data(cli, folder, "data.max_bad=1"), "2 of 5 records are bad and data.max_bad allows 1")


def test_every_pair_of_a_file_is_profiled_and_a_pair_with_fewer_items_is_named(cli, finished, tmp_path):
    """One pair after the other, as files are concatenated: the second is profiled too."""
    folder = shutil.copytree(finished, tmp_path / "own")

    def rows(count, lang, split):
        own = {**GOOD, "target_lang": lang, "split": split}
        return [{**own, "source": f"{split} {lang} {k}", "target": f"Ausgang {k}"} for k in range(count)]

    data_file(folder, *rows(8, "de", "train"), *rows(3, "fr", "train"), *rows(1, "de", "test"), *rows(1, "fr", "test"))
    settings = ("profile.contrast=[]", "profile.items=4", "profile.batch_size=4")
    code, _, err = with_data(cli, folder, *settings, verb="profile")
    assert (code, err.splitlines()[0]) == (
        0, "profile.items asks for 4 items of each pair; some pairs have fewer: en-fr 3"
    )  # fmt: skip
    made = Profile.load(folder / "runs/smoke/profile.safetensors")
    assert {str(c.pair): int(n) for c, n in zip(made.conditions, made.counts, strict=True)} == {"en-de": 4, "en-fr": 3}


def test_a_base_with_a_weight_that_is_no_number(cli, tmp_path):
    model = Path(shutil.copytree(embedded_folder(), tmp_path / "model"))
    (file,) = model.glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))
    weights[name][3, 5] = float("nan")
    save_file(weights, file, {"format": "pt"})
    before = tree(tmp_path)
    for method in ("mnaft", "lora"):
        settings = (f"model.path={model}", f"method={method}", "data.retention=0")
        refused(
            cli("run", *SMOKE, *settings, "--runs", tmp_path / "runs"),
            f"model {model} has a weight that cannot be computed with: ... mlp.up_proj.weight (1 of ... not finite",
        )
        assert tree(tmp_path) == before


def test_a_training_that_diverges_leaves_what_was_there(cli, finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "own"))
    before = tree(folder / "runs" / "smoke" / "adapter")
    code, _, err = cli("train", *SMOKE, "train.lr=1e6", "--runs", folder / "runs")
    assert code == 2
    assert re.search(r"neuroglot: training diverged (at|by) step \d.*; lower train.lr \(1e\+06\)[^\n]*\n$", err)
    assert tree(folder / "runs" / "smoke" / "adapter") == before


def test_data_to_start_from(cli, finished):
    data_file(finished, TRAIN, TEST, {**GOOD, "image": "truncated.png"})
    before = tree(finished)
    code, out, err = cli("init", "--data", finished / "data.jsonl", "--out", finished / "recipe.yaml")
    *listed, last = err.splitlines(keepends=True)
    refused((code, out, last), "line 3: image ... truncated.png cannot be read ... --max-bad 1")
    assert len(listed) == 1
    assert "line 3: image" in listed[0]
    assert tree(finished) == before


# ---- what was made for something else ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """The embedded model with other weights of the same shapes."""

    folder = Path(shutil.copytree(embedded_folder(), tmp_path_factory.mktemp("other") / "model"))
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


OF_ANOTHER = {  # the verb, and what is said when the run's earlier files were made for another model
    "select": "profile.safetensors was made for another model: ... ; run the profile stage again",
    "train": "selection.safetensors was made for another model: ... ; run the profile and select stages again",
    "evaluate": "adapter was made for another model: ... ; load it on embedded, or train one for this model",
}


@pytest.mark.parametrize("verb", OF_ANOTHER)
def test_files_for_another_model(cli, finished, other_model, verb):
    """Of the same shapes, so that nothing but the weights tells them apart."""
    before = tree(finished)
    changes = ("select.budget=0.3", f"model.path={other_model}")
    code, out, err = cli(verb, *SMOKE, *changes, "--runs", finished / "runs")
    *notes, last = err.splitlines(True)
    assert all(note.endswith(": not made by this recipe; used as it is\n") for note in notes)
    refused((code, out, last), OF_ANOTHER[verb])
    assert tree(finished) == before


def test_an_adapter_for_another_model(cli, finished, other_model, images):
    adapter = finished / "runs" / "smoke" / "adapter"
    arguments = ("translate", images["image"], "--to", "de", "--adapter", adapter, "--model")
    refused(cli(*arguments, other_model), "adapter was made for another model: ... load it on embedded, or train one")
    code, _, err = cli(*arguments, "embedded")
    assert (code, err) == (0, "")


def test_a_direction_that_was_not_trained(cli, finished, images):
    run = finished / "runs" / "smoke"
    known = "was not trained for {}; it has en-de, en-fr"
    for arguments, pair in [
        (("--to", "cs", "--run", run), "en-cs"),
        (("--to", "de", "--from", "fr", "--run", run), "fr-de"),
        (("--to", "cs", "--model", "embedded", "--adapter", run / "adapter"), "en-cs"),
    ]:
        refused(cli("translate", images["image"], *arguments), known.format(pair))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path: Path) -> None:
    kind = Format("something", 1, "train")
    save_tensors(path, kind, {}, {}) if path.suffix == ".safetensors" else write_json(path, kind, {})


def newer(path: Path) -> None:
    kind = {"profile": PROFILE, "selection": SELECTION}.get(path.stem, ADAPTER)
    later = Format(kind.name, 99, kind.stage)
    save_tensors(path, later, {}, {}) if path.suffix == ".safetensors" else write_json(path, later, {})


DAMAGED = {  # the verb that reads it, the file
    "profile": ("select", "profile.safetensors"),
    "selection": ("train", "selection.safetensors"),
    "adapter": ("evaluate", "adapter/neuroglot.json"),
}


@pytest.mark.parametrize("damage", [flip, cut, foreign, newer])
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(cli, own_run, kind, damage):
    verb, name = DAMAGED[kind]
    damage(own_run / name)
    before = tree(own_run)
    code, out, err = cli(verb, *SMOKE, "--runs", own_run.parent)
    expected = {foreign: f"is no {kind} file", newer: "was made by a newer neuroglot"}
    why = expected.get(damage, " cannot be read as " if name.endswith("s") else " ")
    refused(
        (code, out, err.splitlines(True)[-1]), f"{own_run / name} ... {why.strip()} ... run the {DAMAGED_BY[kind]}"
    )
    assert tree(own_run) == before


DAMAGED_BY = {"profile": "profile", "selection": "select", "adapter": "train"}


@pytest.mark.parametrize("damage", [flip, cut])
def test_damaged_weights_of_an_adapter(cli, own_run, images, damage):
    damage(own_run / "adapter" / "adapter_model.safetensors")
    said = "adapter_model.safetensors is damaged or was changed since: ... run the train stage again"
    refused(cli("translate", images["image"], "--to", "de", "--run", own_run), said)
    arguments = ("--model", "embedded", "--adapter", own_run / "adapter")
    refused(cli("translate", images["image"], "--to", "de", *arguments), said)


def test_a_run_of_a_newer_version_is_not_destroyed(cli, own_run):
    write_json(own_run / ".stages" / "profile.json", Format("record", 99, "run"), {})
    before = tree(own_run)
    refused(cli("run", *SMOKE, "--runs", own_run.parent), "smoke was made by a newer neuroglot; update neuroglot, or")
    assert tree(own_run) == before


def test_damaged_files_are_made_again_by_a_whole_run(cli, own_run):
    file, record = own_run / "selection.safetensors", own_run / ".stages" / "select.json"
    whole = file.read_bytes()
    for damage, why in (
        (lambda: flip(file), f"{file} is damaged or was changed"),
        (lambda: flip(record), "its record is damaged, or of an older neuroglot"),
        (lambda: record.write_text('{"fingerprint": "0", "seconds": 1}'), "its record is damaged, or of an older"),
    ):
        damage()
        code, _, err = cli("run", *SMOKE, "--runs", own_run.parent)
        assert code == 0
        assert f"select: {why}" in err
        assert "train: unchanged\n" in err  # what was made again is the same, bit for bit
        assert file.read_bytes() == whole


# ---- the model --------------------------------------------------------------------------------------------------


def model_folder(folder: Path, **changes) -> Path:
    """A copy of the embedded model's folder with other files: name with `__` for the dot -> text, None for none."""
    shutil.copytree(embedded_folder(), folder)
    for name, content in changes.items():
        file = folder / name.replace("__", ".")
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
    return folder


LLAMA = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"config__json": json.dumps(LLAMA)}, "such as a text model without a vision part; give a model that reads"),
        ({"config__json": "{"}, "cannot be loaded as an image-text-to-text model: "),
        ({"config__json": '{"model_type": "telepathy"}'}, "cannot be loaded as an image-text-to-text model: "),
        ({"chat_template__jinja": None}, "has no chat template; use an instruction-tuned model"),
        ({"model__safetensors": None}, "cannot be loaded as an image-text-to-text model: ... no file named model.saf"),
    ],
    ids=["no vision part", "broken", "unknown", "no template", "no weights"],
)
def test_the_model(cli, tmp_path, changes, expected):
    folder = model_folder(tmp_path / "model", **changes)
    before = tree(tmp_path)
    refused(cli("run", *SMOKE, f"model.path={folder}", "--runs", tmp_path / "runs"), expected)
    assert tree(tmp_path) == before


class Opened:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_weights_that_are_a_pickle_are_not_opened(cli, tmp_path, images):
    folder = model_folder(tmp_path / "model", model__safetensors=None)
    torch.save({"weights": Opened(tmp_path / "trace")}, folder / "pytorch_model.bin")
    arguments = ("translate", images["image"], "--to", "de", "--model", folder)
    refused(cli(*arguments), "cannot be loaded as an image-text-to-text model: ... no file named model.safetensors")
    assert not (tmp_path / "trace").exists()


CODE = """
import pathlib
pathlib.Path({trace!r}).touch()
from transformers import LlavaConfig, LlavaForConditionalGeneration, TokenizersBackend
class StrangeConfig(LlavaConfig):
    model_type = "strange"
class StrangeModel(LlavaForConditionalGeneration):
    config_class = StrangeConfig
class StrangeTokenizer(TokenizersBackend):
    pass
"""


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A function: file of a model's folder, what changes in it -> the folder, with code that leaves a file `trace`."""
    import transformers.dynamic_module_utils as dynamic

    def asked(*_):
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    def make(file, **changes):
        folder = model_folder(tmp_path / "model")
        (folder / "strange.py").write_text(CODE.format(trace=str(tmp_path / "trace")))
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
        return folder

    return make


def test_code_that_comes_with_a_model_runs_only_if_asked(cli, tmp_path, images, with_code):
    names = {"AutoConfig": "strange.StrangeConfig", "AutoModelForImageTextToText": "strange.StrangeModel"}
    folder = with_code("config.json", model_type="strange", auto_map=names)
    data_file(tmp_path, TRAIN, TEST)
    shutil.copy(images["image"], tmp_path / "a.png")
    before = tree(tmp_path)
    for arguments in (
        ("translate", images["image"], "--to", "de", "--model", folder),
        ("run", *SMOKE, f"model.path={folder}", "--runs", tmp_path / "runs"),
        ("init", "--model", folder, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "my.yaml"),
    ):
        refused(cli(*arguments), "it brings code of its own, which runs only if you say so; ... --trust-remote-code")
        assert tree(tmp_path) == before
    code, out, _ = cli("translate", images["image"], "--to", "de", "--model", folder, "--trust-remote-code")
    assert (code, out.count("\n")) == (0, 1)
    assert (tmp_path / "trace").exists()


def test_code_that_is_not_needed_is_not_run(cli, tmp_path, images, with_code):
    names = {"AutoTokenizer": [None, "strange.StrangeTokenizer"]}
    folder = with_code("tokenizer_config.json", tokenizer_class="StrangeTokenizer", auto_map=names)
    code, out, err = cli("translate", images["image"], "--to", "de", "--model", folder)
    assert (code, out.count("\n"), err) == (0, 1, "")
    assert not (tmp_path / "trace").exists()


# ---- the folder -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere but on a read-only file system")
def test_a_folder_without_leave_to_write(cli, own_run):
    own_run.chmod(0o500)
    refused(cli("run", *SMOKE, "train.lr=0.5", "--runs", own_run.parent), "cannot be written to: ... choose another")


def test_a_read_only_file_system(cli, own_run):
    mount = ["mount", "-o", "bind", str(own_run), str(own_run)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(own_run)], check=True)
        before = tree(own_run)
        refused(
            cli("run", *SMOKE, "train.lr=0.5", "--runs", own_run.parent),
            "smoke cannot be written to: Read-only file system; choose another",
        )
        assert tree(own_run) == before
    finally:
        subprocess.run(["umount", str(own_run)], check=True)


def test_a_file_where_the_folder_should_be(cli, tmp_path):
    (tmp_path / "smoke").write_text("mine")
    refused(cli("run", *SMOKE, "--runs", tmp_path), "smoke cannot be made: a file of this name is in the way; choose")
    assert (tmp_path / "smoke").read_text() == "mine"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "chat template fails: roles must alternate; correct it"),
        ("{% for m in messages %}{{ m['content'] + 1 }}{% endfor %}", "chat template fails: can only concatenate"),
        ("{% for m in messages %}{{ m['content'] }}", "chat template fails: Unexpected end of template"),
        ("{{ 'no images here' }}", "leaves out the text of a user's turn"),
    ],
)
def test_a_chat_template_that_cannot_be_used_ends_a_run_before_it_begins(cli, tmp_path, template, message):
    model = shutil.copytree(embedded_folder(), tmp_path / "model")
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    runs = tmp_path / "runs"
    code, _, error = cli("run", "quickstart", "--scale", "smoke", f"model.path={model}", "--runs", runs)
    assert (code, message in error, len(error.strip().splitlines())) == (2, True, 1), error
    assert not runs.exists() or not any(runs.iterdir())
