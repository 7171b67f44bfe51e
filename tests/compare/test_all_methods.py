"""Every method in one grid by the command line: each trains, keeps its own form, and is counted as it is."""

from __future__ import annotations

import json

import pytest

from neuroglot.cli import main

WHOLE = ("full", "vision", "connector", "language")
METHODS = ("base", *WHOLE, "lora", "dora", "prompt", "bitfit", "norms", "random", "gradient", "mnaft", "mnaft-paper")


@pytest.mark.slow
def test_a_grid_of_every_method(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["compare", "quickstart", "name=all", "data.pairs=[en-de, en-fr]", "data.heldout=0", "--scale", "smoke",
              "--methods", ",".join(METHODS), "--budgets", "0.1", "--seeds", "1", "--rates", "1e-3", "--json",
              "--runs", str(tmp_path)])  # fmt: skip
    assert end.value.code == 0
    found = {entry["method"]: entry for entry in json.loads(capsys.readouterr().out)["contenders"]}
    assert found.keys() == set(METHODS)
    budgets = {method: entry["budget"] for method, entry in found.items()}
    assert {method for method, budget in budgets.items() if budget is not None} == {
        "lora", "dora", "random", "gradient", "mnaft", "mnaft-paper",
    }  # fmt: skip
    counts = {m: entry["cost"]["trainable_parameters"] for m, entry in found.items() if m != "base"}
    assert counts["dora"] == pytest.approx(counts["lora"], rel=0.1)  # up to one rank
    assert counts["vision"] + counts["connector"] + counts["language"] == counts["full"]
    assert counts["prompt"] == 16 * 192  # tokens x width
    assert counts["bitfit"] < counts["full"] / 100
    for method, entry in found.items():
        folder = next(
            (tmp_path / "all" / "cells").glob(f"{method}*" if budgets[method] is None else f"{method}-0.1-*")
        )
        assert (folder / "model").is_dir() == (method in WHOLE)
        assert (folder / "adapter").is_dir() == (method not in (*WHOLE, "base"))
        assert {"bleu", "nll", "retention", "retention_nll"} <= entry["figures"].keys()
        if method not in ("full", "base"):
            audit = json.loads((folder / "training.json").read_text())["audit"]
            assert audit["outside"] == []
