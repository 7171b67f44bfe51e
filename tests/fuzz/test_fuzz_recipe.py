"""Recipes from mutated YAML and mutated overrides: each is read, or refused in one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzzing import fuzz

from neuroglot.config import check, dump
from neuroglot.config.load import load_recipe, shipped
from neuroglot.config.strict_yaml import read_yaml

TEXTS = [path.read_text(encoding="utf-8") for path in shipped().values()]
KEYS = (
    "name", "method", "task", "model.path", "model.parts", "data", "data.source", "data.pairs", "data.columns",
    "data.splits", "data.images", "data.render", "data.tasks", "profile.scores", "probe.lr", "select", "select.file",
    "select.budget", "select.layers", "select.specific", "select.keep", "train.steps", "train.lr", "train.seed",
    "train.rows", "evaluate.retention", "evaluate.beams", "report", "classic.tower", "sweep", "sweep.over",
    "sweep.values", "sweep.variants", "sweep.names", "sweep.reference", "systems", "systems.a", "systems.a.reader",
    "systems.a.translator", "systems.a.path", "smoke", "smoke.layout", "smoke.data.train", "a..b", "", "1", "null",
)  # fmt: skip
VALUES = (
    "", "~", "x", "1", "-1", "0.5", "1e999", ".inf", ".nan", "9" * 5000, "-" + "9" * 30, "yes", "no", "010", "0x1f",
    "12:30", "2024-01-01", "1_000", "true", "[]", "{}", "[1, x]", "[[x]]", "{a: 1}", "{1: 2}", "{~: x}", "{true: x}",
    "{a: {b: [c]}}", "&a {b: *a}", "*a", "{a: 1, a: 2}", "{<<: {a: 1}}", "[" * 500, "{a: " * 100, "'", '"\\0"',
    '"\\e[2J\\n"', '"\\ud83d"', "!!binary aGk=", "!!timestamp 2024-01-01", "!!set {a}", "!!python/name:os.system",
    "!!float 1:2", "!!int x", "!!null x", "~nobody/x", "./" + "x" * 300, "x/" * 3000, "en-de", "[en-de, en-fr]",
    "[en-no]", "mnaft", "signs", "hf:x/y", "similarity", "auto", "{vision: 0.1}", "{vision: x}", "{en-de: 0.1}",
    "{kind: cascade}", "{kind: cascade, reader: base, translator: base}", "{kind: seq2seq, path: ~x}", "{kind: x}",
    "{kind: [x]}", "{model: x}", "{over: train.rank, values: [1, 2]}", "{over: x, values: [.nan, 1e999]}",
    "{variants: {a: {method: [x]}, b: {train: 3}}}", "{variants: {a: {method: lora}, b: {}}}", "\t", "\u2028", "😀",
)  # fmt: skip
ALPHABET = "\n\t :,-[]{}&*!|>'\"#%@`~.0189aeyn\x00\x1b\x85\u202e\ud83d"


@pytest.fixture(autouse=True, scope="module")
def in_a_folder_of_its_own(tmp_path_factory):
    """What a recipe names is looked for there; the little corpora of `smoke.layout` are made there too."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NEUROGLOT_CACHE", str(folder))
        yield folder


def make(draw: random.Random) -> tuple[bytes, list[str], str]:
    """Return the text of a recipe, overrides and a scale."""
    text = draw.choice(TEXTS) if draw.random() < 0.5 else f"{draw.choice(KEYS)}: {draw.choice(VALUES)}\n"
    for _ in range(draw.choice((0, 0, 1, 1, 3, 10))):
        place = draw.randrange(len(text) + 1)
        cut = draw.choice((0, 1, 1, 10))
        text = text[:place] + draw.choice((draw.choice(ALPHABET), draw.choice(VALUES), "")) + text[place + cut :]
    given = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.1:
        given = given[: draw.randrange(len(given) + 1)] + bytes(draw.choices(range(256), k=3))
    count = draw.choice((0, 0, 0, 1, 1, 2))
    overrides = [f"{draw.choice(KEYS)}={draw.choice(VALUES)}" for _ in range(count)]
    return given, overrides, draw.choice(("full", "full", "smoke"))


def read(given: tuple[bytes, list[str], str]) -> None:
    """Read a recipe from a file; what it is written as reads the same."""
    text, overrides, scale = given
    Path("recipe.yaml").write_bytes(text)
    recipe = load_recipe("recipe.yaml", overrides, scale)
    assert check(read_yaml(dump(recipe)), "again") == recipe


def test_recipes() -> None:
    fuzz("recipes", make, read)
