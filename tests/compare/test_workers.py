"""What becomes of a cell that fails, and what the grid's own process does before the cells."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch

from neuroglot.compare.grid import Estimate
from neuroglot.compare.workers import out_of_memory_message
from neuroglot.errors import ran_out
from neuroglot.pipeline.folder import release

SMALL = ["data.pairs=[en-de]", "data.heldout=0", "data.retention=0"]


def test_want_of_memory_is_told_from_other_failures():
    with pytest.raises(RuntimeError) as processor:
        torch.empty(2**50)
    assert ran_out(processor.value)
    assert ran_out(MemoryError())
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not ran_out(RuntimeError("shape mismatch"))


def test_the_line_about_cells_that_ran_out_of_memory_names_them_and_a_way_out():
    long = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of\n79 GiB"
    said = out_of_memory_message({"full-1e-05-0": long})
    assert said.startswith("cell full-1e-05-0 ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB), ")
    assert "\n" not in said
    assert "train.gradient_checkpointing=true" in said
    assert out_of_memory_message({"a": "", "b": "x"}).startswith(
        "2 cells (a, b) ran out of memory (nothing more was said)"
    )


def test_an_estimate_comes_from_measured_cells():
    estimate = Estimate([], 2)
    assert estimate.left(10) == "how long they take is said when the first is done"
    estimate.add(10, whole=True)
    assert estimate.left(12) == "about 60 seconds left (10 s a cell, 2 at a time)"
    estimate.add(20, whole=False)  # the test split of the same cell
    assert estimate.left(12) == "about 3 minutes left (30 s a cell, 2 at a time)"
    earlier = Estimate([100.0, 200.0], 1)
    assert earlier.left(2) == "about 5 minutes left (150 s a cell, 1 at a time)"
    earlier.add(10, whole=True)  # what is measured here counts more than an earlier process's records
    assert earlier.left(2) == "about 20 seconds left (10 s a cell, 1 at a time)"


def test_nothing_is_held_by_a_cycle_when_the_cells_begin():
    class Holder:
        pass

    holder = Holder()
    holder.own, holder.weights = holder, torch.zeros(10)
    seen = weakref.ref(holder.weights)
    gc.disable()
    try:
        del holder
        assert seen() is not None
        release()
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_the_other_cells_are_done_before_one_without_memory_is_named(cli, tmp_path):
    arguments = ("compare", "quickstart", "name=short", *SMALL, "train.prompt_tokens=1000000000000",
                 "--scale", "smoke", "--methods", "prompt,lora", "--budgets", "0.1", "--seeds", "1", "--rates",
                 "1e-3,1e-2", "--runs", str(tmp_path))  # fmt: skip
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("neuroglot: 2 cells (prompt-0.001-0, prompt-0.01-0) ran out of memory")
    cells = tmp_path / "short" / "cells"
    assert len(list(cells.glob("lora-*/.stages/examine.json"))) == 1
    assert json.loads(next(cells.glob("lora-*/dev.json")).read_text())
