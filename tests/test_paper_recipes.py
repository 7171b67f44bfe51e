"""The papers' recipes: their settings, their layouts, and each of them whole on a little corpus in its layout."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import pytest

from neuroglot.config.load import load_recipe, shipped
from neuroglot.config.smoke import COUNTS, WRITERS, corpus_in, write_corpus
from neuroglot.data.readers import Layout, read_source
from neuroglot.data.readers.registry import guess_format
from neuroglot.errors import UserError
from neuroglot.pipeline.run import execute

PAPERS = {
    "neumt-m3-multi30k": "multi30k",
    "neumt-m3-ambigcaps": "ambigcaps",
    "mnaft-mit10m": "mit10m",
    "mnaft-iwslt-rendered": "iwslt",
}
"""Recipe -> the layout of its data."""

CHOSEN = os.environ.get("NEUROGLOT_TEST_RECIPES", "")
"""`all`, or names with commas between them; by default two of the four, others tomorrow."""


def in_turn():
    """The recipes that the slow tier runs today: two, so that within two days all have their turn."""
    if CHOSEN:
        return list(PAPERS) if CHOSEN == "all" else CHOSEN.split(",")
    day = datetime.datetime.now(tz=datetime.UTC).timetuple().tm_yday
    return list(PAPERS)[day % 2 :: 2]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of the tests' own."""
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_recipe_is_whole(name):
    header = shipped()[name].read_text(encoding="utf-8").split("\nname:")[0]
    for said in (
        f"neuroglot run {name}",
        "--scale smoke",
        "# Data:",
        "Expected in data/",
        "# Hardware:",
        "Expected time",
    ):
        assert said in header, said
    full, smoke = load_recipe(name), load_recipe(name, scale="smoke")
    assert (full.method, full.task, full.select) == (smoke.method, smoke.task, smoke.select)
    assert Path(full.data.source).parent == Path("data").resolve()
    assert (full.train.lr, full.train.warmup, full.train.scheduler, full.train.weight_decay) == (
        2e-5,
        0.03,
        "cosine",
        0,
    )
    assert full.train.batch_size * full.train.accumulation == 64, "four devices of 16 samples in the paper"
    assert smoke.model.path == "embedded"
    assert smoke.data.source == str(corpus_in(PAPERS[name]))
    assert set(smoke.data.pairs) <= set(full.data.pairs)


def test_four_epochs_are_four_epochs():
    for name, items in (("neumt-m3-multi30k", 29_000), ("neumt-m3-ambigcaps", 89_600)):
        recipe = load_recipe(name)
        assert recipe.data.train == items
        assert recipe.train.steps == 4 * items * len(recipe.data.pairs) // 64
        assert (recipe.select.layers, recipe.select.specific) == (0.4, 0.1)


@pytest.mark.parametrize(("name", "layout"), PAPERS.items())
def test_the_little_corpus_is_read_as_the_published_one_would_be(name, layout, tmp_path):
    write_corpus(layout, tmp_path)
    recipe = load_recipe(name, scale="smoke")
    asked = recipe.data.layout(recipe.task)
    assert guess_format(tmp_path) == (recipe.data.format if layout != "iwslt" else "parallel")
    found = [example for _, example in read_source(tmp_path, asked)]
    wrong = [example for example in found if isinstance(example, UserError)]
    assert not wrong, wrong[0]
    assert {str(e.pair) for e in found} == set(recipe.data.pairs)
    counts = {split: sum(e.meta["split"] == split for e in found) for split in COUNTS}
    expected = {split: count * len(recipe.data.pairs) for split, count in COUNTS.items()}
    assert counts == (expected | {"dev": 0} if layout == "mit10m" else expected)
    for example in found:
        assert example.task == recipe.task
        assert len(example.images) == 1
        assert layout == "iwslt" or example.images[0].is_file()
    assert isinstance(asked, Layout)


def test_a_corpus_is_made_once_and_nothing_unfinished_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path))
    first = corpus_in("iwslt")
    stamps = {p: p.stat().st_mtime_ns for p in first.rglob("*")}
    assert len(stamps) == 12
    assert corpus_in("iwslt") == first
    assert {p: p.stat().st_mtime_ns for p in first.rglob("*")} == stamps
    monkeypatch.setitem(WRITERS, "mit10m", lambda folder, splits: (folder / "half").write_text("a") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        corpus_in("mit10m")
    assert [p.name for p in first.parent.iterdir()] == [first.name]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("smoke: 5", "smoke must be a section of keys such as model.path: embedded, got 5"),
        ("smoke: {layout: mutli30k}", "smoke.layout 'mutli30k' is not known; did you mean multi30k"),
        ("smoke: {train.stesp: 3}", "unknown key train.stesp; did you mean steps"),
    ],
)
def test_a_wrong_smoke_section(section, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"data: {{pairs: [en-de]}}\n{section}\n", encoding="utf-8")
    load_recipe(file)
    with pytest.raises(UserError, match=message):
        load_recipe(file, scale="smoke")


def test_a_recipes_own_smoke_section_goes_before_the_general_one_and_overrides_before_both(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {pairs: [en-de]}\nsmoke: {train.steps: 3, data.test: 9}\n", encoding="utf-8")
    assert load_recipe(file).train.steps == 200
    smoke = load_recipe(file, ["data.test=2"], "smoke")
    assert (smoke.train.steps, smoke.data.test, smoke.data.dev) == (3, 2, 4)


def test_photographs_to_draw_on_are_looked_for_beside_the_recipe(tmp_path):
    (tmp_path / "photos").mkdir()
    file = tmp_path / "mine.yaml"
    file.write_text("data: {pairs: [en-de], render: {background: photos, width: 448}}\n", encoding="utf-8")
    assert load_recipe(file).data.render == {"background": str(tmp_path / "photos"), "width": "448"}
    assert load_recipe(file, ["data.render.background=[plate, plain]"]).data.render["background"] == "plate, plain"


@pytest.mark.slow
@pytest.mark.parametrize("name", in_turn())
def test_a_papers_recipe_runs_whole_at_smoke_scale(name, tmp_path):
    recipe = load_recipe(name, scale="smoke")
    folder = execute(recipe, tmp_path / "runs", lambda label, total: lambda done: None, lambda line: None)
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert facts["steps"] == recipe.train.steps
    rows = [json.loads(line) for line in (folder / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()]
    scored = {row["pair"] for row in rows if row["task"] == recipe.task and row["system"] == recipe.method}
    assert scored == set(recipe.data.pairs)
    assert (folder / "report.html").stat().st_size > 10_000
