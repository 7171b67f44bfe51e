"""What the terminal shows, and the JSON behind it."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from neuroglot.report import show, show_tables
from neuroglot.report.tables import share, signed, split_title


def test_show_is_plain_json(full_run):
    shown = show(full_run)
    assert json.loads(json.dumps(shown)) == shown
    assert shown["run"] == "demo"
    assert shown["method"] == "mnaft"
    assert shown["split"] == "image_translation"
    assert shown["headline"]["after"]["bleu"] > shown["headline"]["before"]["bleu"] + 35
    assert shown["parts"]["vision"]["neurons"] == 84
    assert shown["groups"]["vision"]["agnostic"] > 0
    assert {row["split"] for row in shown["retention"]} == {"ocr", "text_translation", "describe"}
    assert all(present for file, present in shown["files"].items())


def test_show_of_scores_alone(bare_run):
    shown = show(bare_run)
    assert (shown["parts"], shown["groups"], shown["trainable_parameters"]) == ({}, {}, None)
    assert [file for file, present in shown["files"].items() if present] == ["scores.json"]


@pytest.mark.parametrize("run", ["full_run", "bare_run"])
def test_tables_fit_a_terminal(run, request):
    folder = request.getfixturevalue(run)
    output = io.StringIO()
    show_tables(folder, Console(file=output, width=100))
    text = output.getvalue()
    assert "image translation BLEU 4.4 -> 78.1 (mnaft)" in text
    assert ("What was trained" in text) == (run == "full_run")
    assert "What mnaft kept" in text
    assert max(map(len, text.splitlines())) <= 100
    for split in ("Image translation, held out", "Transcribing", "Text translation", "Describing"):
        assert split in text


def test_replayed_tasks_are_marked(full_run, tmp_path):
    import shutil

    from neuroglot.file_format import TRAINING, read_json, write_json
    from neuroglot.report import report

    folder = shutil.copytree(full_run, tmp_path / "run")
    output = io.StringIO()
    show_tables(folder, Console(file=output, width=100))
    assert "eplayed" not in output.getvalue()
    kept = ("method", "parts", "seconds", "steps", "trainable_parameters", "total_parameters")
    training = {key: read_json(folder / "training.json", TRAINING)[key] for key in kept}
    replay = {"share": 0.3, "examples": {"ocr": 10, "text_translation": 20}}
    write_json(folder / "training.json", TRAINING, {**training, "replay": replay})
    show_tables(folder, Console(file=output, width=100))
    note = (
        "Replayed in training, on other examples: Transcribing, Text translation. What is kept without that is shown"
    )
    assert f"{note} by: Describing." in output.getvalue()
    assert "Transcribing (replayed)" in output.getvalue()
    assert "Describing (replayed)" not in output.getvalue()
    assert show(folder)["replayed"] == ["ocr", "text_translation"]
    page = report(folder).read_text(encoding="utf-8")
    assert note in page
    assert "Transcribing (replayed)" in page


def test_numbers():
    assert [signed(value) for value in (1.25, -1.25, 0.04, -0.04, None)] == [
        "+1.2",
        "\N{MINUS SIGN}1.2",
        "0.0",
        "0.0",
        "–",
    ]
    nbsp = "\N{NO-BREAK SPACE}"
    assert [share(*pair) for pair in ((1, 400), (1, 4), (0, 4), (None, 4), (1, 0))] == [
        f"0.25{nbsp}%",
        f"25.0{nbsp}%",
        f"0.0{nbsp}%",
        "–",
        "–",
    ]
    assert split_title("multimodal_translation") == "Multimodal translation"
