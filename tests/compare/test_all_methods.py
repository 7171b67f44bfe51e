"""Competitors of every form in one grid, by the command line: each trains, keeps its form, is counted as it is."""

from __future__ import annotations

import json

import pytest

from neuroglot.cli import main
from neuroglot.models.load import load_model

WHOLE = ("vision",)
METHODS = ("base", *WHOLE, "lora", "dora", "prompt", "bitfit", "norms", "mnaft-raw")
"""The others have grids of their own."""


@pytest.mark.slow
@pytest.mark.turns
def test_a_grid_of_every_form(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["compare", "quickstart", "name=all", "data.pairs=[en-de, en-fr]", "data.heldout=0", "--scale", "smoke",
              "--methods", ",".join(METHODS), "--budgets", "0.1", "--seeds", "1", "--rates", "1e-3", "--json",
              "--runs", str(tmp_path)])  # fmt: skip
    assert end.value.code == 0
    found = {entry["method"]: entry for entry in json.loads(capsys.readouterr().out)["contenders"]}
    assert found.keys() == set(METHODS)
    budgets = {method: entry["budget"] for method, entry in found.items()}
    assert {method for method, budget in budgets.items() if budget is not None} == {
        "lora", "dora", "mnaft-raw",
    }  # fmt: skip
    counts = {m: entry["cost"]["trainable_parameters"] for m, entry in found.items() if m != "base"}
    assert counts["dora"] == pytest.approx(counts["lora"], rel=0.1)  # up to one rank
    whole = sum(p.numel() for p in load_model("embedded").parameters())
    assert counts["vision"] == sum(p.numel() for p in load_model("embedded").model.vision_tower.parameters())
    assert counts["prompt"] == 16 * 192  # tokens x width
    assert counts["bitfit"] < whole / 100
    for method, entry in found.items():
        folder = next(
            (tmp_path / "all" / "cells").glob(f"{method}*" if budgets[method] is None else f"{method}-0.1-*")
        )
        assert (folder / "model").is_dir() == (method in WHOLE)
        assert (folder / "adapter").is_dir() == (method not in (*WHOLE, "base"))
        # BLEU of so little data may mean nothing, and is left out then
        assert {"chrf", "nll", "retention", "retention_nll"} <= entry["figures"].keys()
        if method != "base":
            audit = json.loads((folder / "training.json").read_text())["audit"]
            assert audit["outside"] == []
