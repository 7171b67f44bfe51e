"""Classic systems as contenders of a grid: trained, chosen on dev, examined once, and done only once."""

from __future__ import annotations

import json

import pytest

from neuroglot.cli import main
from neuroglot.compare.grid import Cell, contenders, recipe_of
from neuroglot.config import Recipe, check
from neuroglot.errors import UserError

SCENES = {"task": "multimodal_translation", "data": {"source": "scenes", "pairs": ["en-de"]}}


def test_a_classic_contender_needs_no_budget_and_takes_rate_and_seed():
    found = contenders(["lvp-m3", "base", "lora"], [0.1])
    assert [c.name for c in found] == ["base", "lvp-m3", "lora 10 %"]
    assert found[1].trained
    cell = Cell(found[1], 3e-3, 2)
    recipe = recipe_of(cell, check({**SCENES, "classic": {"steps": 7}}, "test"), [(4, 4)])
    assert (recipe.train.lr, recipe.train.seed, recipe.classic.steps) == (3e-3, 2, 7)
    assert not recipe.uses_neurons  # so that nothing is profiled for it
    assert recipe_of(Cell(found[1], None, 0), Recipe.model_validate(SCENES), [(4, 4)]).learning_rate == 1e-3


def test_what_does_not_read_is_not_compared_on_texts_in_images():
    signs = check({"data": {"pairs": ["en-de"]}}, "test")
    with pytest.raises(UserError, match="gated-fusion is given the source text.*text-transformer"):
        recipe_of(Cell(contenders(["gated-fusion"], [])[0], 1e-3, 0), signs, [(4, 4)])
    recipe_of(Cell(contenders(["text-transformer"], [])[0], 1e-3, 0), signs, [(4, 4)])


@pytest.mark.slow
@pytest.mark.turns
@pytest.mark.parametrize(
    ("recipe", "methods"),
    [("quickstart-multimodal", ["text-transformer", "lvp-m3"]), ("quickstart", ["text-transformer"])],
)
def test_a_grid_with_classic_systems(tmp_path, capsys, recipe, methods):
    arguments = ["compare", recipe, "name=grid", "data.pairs=[en-de]", "data.heldout=0", "data.retention=0",
                 "--scale", "smoke", "--methods", ",".join(["base", *methods]), "--seeds", "1", "--rates", "1e-3,1e-2",
                 "--jobs", "1", "--runs", str(tmp_path), "--json"]  # fmt: skip

    def run():
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        return json.loads(capsys.readouterr().out)

    found = run()
    assert [c["name"] for c in found["contenders"]] == ["base", *methods]
    cells = tmp_path / "grid" / "cells"
    for entry in found["contenders"][1:]:
        assert [point["rate"] for point in entry["sweep"]] == [1e-3, 1e-2]
        assert entry["cost"]["trainable_parameters"] > 10_000
        assert entry["figures"]["nll"]["mean"] > 0
        for point in entry["sweep"]:  # only the chosen cell saw the test split
            cell = cells / f"{entry['method']}-{point['rate']:g}-0"
            assert (cell / "classic" / "network.safetensors").is_file()
            assert (cell / "scores.json").exists() == (point["rate"] == entry["rate"])
    made = {p: p.stat().st_mtime_ns for p in cells.rglob("network.safetensors")}
    assert run() == found
    assert {p: p.stat().st_mtime_ns for p in cells.rglob("network.safetensors")} == made
    if len(methods) > 1:  # what the tower saw is there once for all cells
        assert len(list((tmp_path / "grid" / "features").iterdir())) == 1
