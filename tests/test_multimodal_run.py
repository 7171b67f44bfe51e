"""The second task from end to end, at smoke scale: the shipped recipe, and a user's own file with alternatives."""

from __future__ import annotations

import json

import pytest

from neuroglot.cli import main
from neuroglot.config.load import load_recipe
from neuroglot.data.image import open_image
from neuroglot.evaluation import read_scores
from neuroglot.pair import Pair
from neuroglot.report import show
from neuroglot.synthetic.scenes import TASK, scene_examples

pytestmark = pytest.mark.slow

CONTROLS = ["neumt (no image)", "neumt (no text)", "neumt (other image)"]


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_shipped_recipe(tmp_path):
    call("run", "quickstart-multimodal", "--scale", "smoke", "--runs", tmp_path, "data.test=8")
    folder = tmp_path / "quickstart-multimodal"
    scores = read_scores(folder / "scores.json")
    assert list(scores["systems"]) == ["base", "neumt", *CONTROLS]
    assert set(scores["systems"]["neumt"]) == {TASK, f"{TASK}_heldout", "ocr", "text_translation", "describe"}
    assert set(scores["ceilings"]) == {TASK, f"{TASK}_heldout"}
    assert set(scores["ceilings"][TASK].values()) == {50.0}
    for system in scores["systems"].values():
        assert system[TASK]["average"]["contrastive"] is not None
    for pair, figures in scores["systems"]["neumt (no image)"][TASK].items():
        assert figures["contrastive"] == 50.0, f"{pair}: the text alone prefers the same reading twice"
    told = show(folder)
    assert told["method"] == "neumt"
    assert set(told["domains"]) == {"lexical", "time"}, "two words at this size"
    gallery = lines(folder / "gallery.jsonl")
    assert [row["source"] for row in gallery[:2]] == [gallery[0]["source"]] * 2
    assert gallery[0]["alternatives"] == [gallery[1]["reference"]]
    page = (folder / "report.html").read_text(encoding="utf-8")
    for expected in (*CONTROLS, "at most, text alone", "By domain", "other reading", "beside the text"):
        assert expected in page


def test_a_file_of_ones_own(tmp_path):
    """`init` finds the task, and pictures, sources and alternatives come from the file."""
    records = []
    for split, count in (("train", 24), ("test", 4)):
        for example in scene_examples(split, count, [Pair("en", "de"), Pair("en", "lv")], 0):
            name = f"{example.images[0].text}-{example.images[0].seed}-{example.images[0].index}.png".replace(":", "-")
            open_image(example.images[0]).save(tmp_path / name)
            records.append(
                {"image": name, "source": example.source, "target": example.target, "source_lang": "en",
                 "target_lang": example.target_lang, "task": TASK, "split": split,
                 "alternatives": list(example.alternatives)}
            )  # fmt: skip
    data, recipe = tmp_path / "mine.jsonl", tmp_path / "mine.yaml"
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    call("init", "--model", "embedded", "--data", data, "--out", recipe)
    assert load_recipe(recipe).task == TASK
    call("run", recipe, "--scale", "smoke", "--runs", tmp_path / "runs", "method=lora", "data.test=4")
    scores = read_scores(tmp_path / "runs" / "mine" / "scores.json")
    assert list(scores["systems"]) == ["base", "lora", *(c.replace("neumt", "lora") for c in CONTROLS)]
    assert scores["ceilings"] == {TASK: {"image alone": 50.0, "text alone": 50.0}}
    assert scores["systems"]["lora"][TASK]["average"]["contrastive"] is not None
    assert show(tmp_path / "runs" / "mine")["domains"] == {}
    for row in lines(tmp_path / "runs" / "mine" / "gallery.jsonl"):
        assert row["alternatives"] in [r["alternatives"] for r in records if r["target"] == row["reference"]]
