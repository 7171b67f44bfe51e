"""Every command in a shipped recipe's header passes all that is checked before data and model are read."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import typer.main

from neuroglot.cli import app
from neuroglot.cli.app import numbers
from neuroglot.compare.grid import Cell, recipe_of
from neuroglot.compare.runner import make_grid, make_sweep
from neuroglot.config.load import load_recipe, shipped
from neuroglot.config.smoke import write_corpus
from neuroglot.data.readers import read_source

VERBS = typer.main.get_command(app).commands
PLACES = {"model.path=...": "model.path=embedded", "data.source=...": "data.source=signs"}
"""What stands for the reader's own."""


def commands():
    for name, path in shipped().items():
        header = path.read_text(encoding="utf-8").split("\nname:")[0]
        for said in re.findall(r"^#   neuroglot (.*)$", header, re.MULTILINE):
            words = shlex.split(re.sub(r" +\(.*\)$", "", said))
            if words[0] in ("run", "compare", "sweep"):
                yield pytest.param([PLACES.get(word, word) for word in words], id=f"{name}: {said}")


@pytest.mark.parametrize("words", commands())
def test_a_command_in_a_header_is_accepted(words, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()  # the reader's own too
    verb, *arguments = words
    given = VERBS[verb].make_context(verb, arguments).params
    recipe = load_recipe(given["recipe"], given["overrides"], given["scale"])
    if verb == "run":
        return
    rates = numbers("--rates", given["rates"])
    if verb == "sweep":
        assert make_sweep(recipe, given["seeds"], rates, given["retain"]).contenders
        return
    methods, swept = given["methods"].split(","), given["sweep"] == "lr"
    budgets = numbers("--budgets", given["budgets"])
    grid = make_grid(recipe, methods, budgets, given["seeds"], swept, rates, given["retain"])
    for contender in grid.contenders:
        assert recipe_of(Cell(contender, 1e-3, 0), recipe, [(64, 64)]).learning_rate == 1e-3
    assert "full" not in methods  # its weights, gradients and moments do not fit the GPU that the header names


def test_mit10m_takes_a_dev_folder_as_its_header_says(tmp_path):
    write_corpus("mit10m", tmp_path)
    lines = (tmp_path / "train/EN.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    image = json.loads(lines[0])["img"]
    (tmp_path / "dev").mkdir()
    for place, wanted in (("dev", True), ("train", False)):
        chosen = [line for line in lines if (json.loads(line)["img"] == image) == wanted]
        (tmp_path / place / "EN.jsonl").write_text("".join(chosen), encoding="utf-8")
    recipe = load_recipe("mnaft-mit10m", ["data.dev=100", "data.splits.dev=dev"], "smoke")
    found = [example for _, example in read_source(tmp_path, recipe.data.layout(recipe.task))]
    assert {str(e.pair) for e in found if e.meta["split"] == "dev"} == set(recipe.data.pairs)
