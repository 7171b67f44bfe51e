"""Images in, translations out: folders and files, from a run, a bare model, or a model with an adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from neuroglot.cli import main
from neuroglot.config import ModelSection
from neuroglot.errors import UserError
from neuroglot.file_format import MANIFEST
from neuroglot.pipeline.evaluation import load_trained
from neuroglot.pipeline.translate import image_files, translate_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of several formats and sizes in a folder and one below it, beside a file that is none."""
    place = tmp_path_factory.mktemp("signs")
    (place / "below").mkdir()
    for name, size, mode in [
        ("b.png", (200, 90), "RGBA"),
        ("a.JPG", (61, 133), "RGB"),
        ("below/c.webp", (40, 40), "RGB"),
        ("below/d.gif", (120, 30), "P"),
        ("below/e.tiff", (64, 64), "I;16"),
    ]:
        image = Image.new("RGB", size, "white")
        ImageDraw.Draw(image).text((5, 5), "Monday")
        (image.convert("L") if mode == "I;16" else image).convert(mode).save(place / name)
    (place / "notes.txt").write_text("no image")
    return place


def said(capsys):
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def translate(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["translate", *map(str, arguments)])
    assert ended.value.code == 0


def test_files_of_a_folder_come_in_order_and_others_are_left_out(folder):
    names = ["a.JPG", "b.png", "below/c.webp", "below/d.gif", "below/e.tiff"]
    assert image_files([folder]) == [folder / name for name in names]
    assert image_files([folder / "b.png", folder / "below"]) == [folder / "b.png", *(folder / n for n in names[2:])]


def test_an_adapter_that_was_saved_outside_of_a_run_needs_no_manifest(folder, smoke_run, tmp_path):
    adapter = Path(shutil.copytree(smoke_run / "adapter", tmp_path / "adapter"))
    image = [folder / "b.png"]
    sealed = list(translate_images(image, "en", "de", None, "embedded", adapter))
    (adapter / MANIFEST).unlink()  # as `save_pretrained` leaves it
    assert list(translate_images(image, "en", "de", None, "embedded", adapter)) == sealed
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match="adapter cannot be merged into this model"):
        list(translate_images(image, "en", "de", None, "embedded", adapter))


def test_a_text_is_translated_by_what_an_image_shows(folder, smoke_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("neuroglot.pipeline.translate.BATCH", 1)
    image = folder / "b.png"
    translate(image, image, image, "--to", "de", "--model", "embedded", "--text", "sheep: 12 euros", "--json")
    lines = said(capsys)
    assert lines[0]["to"] == "de"
    assert lines[0]["translation"]
    assert lines == lines[:1] * 3  # each batch is given the text, not the answer of the batch before
    for given, trained, hint in (("bat", "image_translation", "leave --text out"),
                                 (None, "multimodal_translation", "give the text with --text")):  # fmt: skip
        run = Path(shutil.copytree(smoke_run, tmp_path / trained))
        recipe = (run / "recipe.yaml").read_text().replace("task: image_translation", f"task: {trained}")
        (run / "recipe.yaml").write_text(recipe.replace("source: signs", "source: none.jsonl"))
        with pytest.raises(UserError, match=f"was trained for {trained}, got .*; {hint}"):
            list(translate_images([folder / "b.png"], "en", "de", run, None, None, text=given))


def test_a_run_translates_a_folder(folder, smoke_run, capsys):
    translate(folder, "--to", "de", "--run", smoke_run, "--json")
    lines = said(capsys)
    assert [line["image"] for line in lines] == [str(file) for file in image_files([folder])]
    assert all(set(line) == {"image", "from", "to", "translation"} for line in lines)
    assert {(line["from"], line["to"]) for line in lines} == {("en", "de")}

    translate(folder / "b.png", "--to", "DE", "--run", smoke_run)
    assert capsys.readouterr().out == f"{folder / 'b.png'}\t{lines[1]['translation']}\n"


def test_a_model_with_an_adapter_says_what_the_run_says_and_a_bare_one_needs_no_run(folder, smoke_run, capsys):
    place = [folder / "below", "--to", "fr", "--json"]
    translate(*place, "--run", smoke_run)
    of_run = said(capsys)
    translate(*place, "--model", "embedded", "--adapter", smoke_run / "adapter")
    of_adapter = said(capsys)
    # The recipe's own limit on the length of an answer belongs to the run.
    assert all(
        long["translation"].startswith(short["translation"]) for short, long in zip(of_run, of_adapter, strict=True)
    )
    translate(*place, "--model", "embedded")
    assert [line["image"] for line in said(capsys)] == [line["image"] for line in of_run]


def test_any_language_may_be_asked_of_a_bare_model(folder):
    (line,) = translate_images([folder / "b.png"], "en", "tr", None, "embedded", None)
    assert line["to"] == "tr"


def test_a_folder_is_translated_without_what_cannot_be_read(folder, tmp_path, capsys):
    """As it comes from a Mac, with a download that failed."""
    for name in ("a.JPG", "b.png"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "._a.JPG").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    (tmp_path / ".thumbs").mkdir()
    shutil.copy(folder / "b.png", tmp_path / ".thumbs/b.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.png").mkdir()
    translate(tmp_path, "--to", "de", "--model", "embedded", "--json")
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"] for line in out.splitlines()] == [str(tmp_path / n) for n in ("a.JPG", "b.png")]
    hidden, unreadable = err.splitlines()
    assert hidden == f"left out: 2 hidden files of {tmp_path}, such as {tmp_path / '._a.JPG'}"
    assert unreadable.startswith(f"left out: image {tmp_path / 'empty.jpg'} cannot be read")
    with pytest.raises(UserError, match=r"empty.jpg cannot be read: .*the file is empty"):
        next(translate_images([tmp_path, tmp_path / "empty.jpg"], "en", "de", None, "no/such-model", None))
    (tmp_path / "a.JPG").unlink(), (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"no image can be read; the first: image .*empty.jpg"):
        next(translate_images([tmp_path], "en", "de", None, "no/such-model", None))


def test_an_unreadable_image_is_named_before_the_model_is_loaded(folder, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 no image")
    with pytest.raises(UserError, match=r"image .*bad.jpg cannot be read"):
        next(translate_images([folder, bad], "en", "de", None, "no/such-model", None))


def test_an_unfinished_run_says_what_is_missing(smoke_run, tmp_path):
    (tmp_path / "recipe.yaml").write_text((smoke_run / "recipe.yaml").read_text())
    with pytest.raises(UserError, match="adapter holds no adapter .*expected what the train stage writes"):
        load_trained(ModelSection(), tmp_path)
