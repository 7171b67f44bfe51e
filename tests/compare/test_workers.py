"""What becomes of a cell that fails, and what the grid's own process does before the cells."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch

from neuroglot.compare.estimate import estimate, timed
from neuroglot.compare.processes.workers import complaint, ran_out
from neuroglot.recipes import load_recipe
from neuroglot.stages import Context
from neuroglot.stages.keeping.memory import release

SMALL = ["data.pairs=[en-de]", "data.heldout=0", "data.retention=0"]


def context(tmp_path, *overrides):
    recipe = load_recipe("quickstart", [*SMALL, *overrides], "smoke")
    return Context(recipe, tmp_path, lambda label, total: lambda done: None, lambda text: None)


def test_want_of_memory_is_told_from_other_failures():
    with pytest.raises(RuntimeError) as processor:
        torch.empty(2**50)
    assert ran_out(processor.value)
    assert ran_out(MemoryError())
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not ran_out(RuntimeError("shape mismatch"))


def test_the_line_about_cells_that_ran_out_of_memory_names_them_and_a_way_out():
    long = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of\n79 GiB"
    said = complaint({"full-1e-05-0": long})
    assert said.startswith("cell full-1e-05-0 ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB), ")
    assert "\n" not in said
    assert "train.gradient_checkpointing=true" in said
    assert complaint({"a": "", "b": "x"}).startswith("2 cells (a, b) ran out of memory (nothing more was said)")


@pytest.fixture
def every_module():
    """Calls a function after each module's forward, as torch itself offers."""
    hooks = []
    yield lambda function: hooks.append(torch.nn.modules.module.register_module_forward_hook(function))
    for hook in hooks:
        hook.remove()


def test_the_trial_step_computes_as_training_will(tmp_path, every_module):
    """Under autocast, and with activations recomputed."""
    seen = []

    def look(module, given, found):
        if isinstance(module, torch.nn.Linear) and module.training:
            seen.append((found.dtype, id(module)))

    every_module(look)
    options = ("train.bf16=true", "train.gradient_checkpointing=true", "train.batch_size=2")
    assert timed(context(tmp_path, *options)) > 0
    assert {dtype for dtype, _ in seen} == {torch.bfloat16}
    assert max(sum(one == other for _, other in seen) for _, one in seen) == 4  # of two steps


def test_a_trial_that_does_not_fit_is_no_obstacle(tmp_path, every_module):
    def full(module, given, found):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    every_module(full)
    assert "is not known" in estimate(context(tmp_path).recipe, tmp_path, 4, 1, False)


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
