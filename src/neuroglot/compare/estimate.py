"""How many cells a grid will have and how long they will take: as long as those that are done, or as a trial tells."""

from __future__ import annotations

import json
import time
from pathlib import Path

from neuroglot.compare.processes.workers import ran_out
from neuroglot.recipe import Recipe
from neuroglot.stages import Context


def finished(folder: Path) -> list[Path]:
    """Return the folders of cells that have a loss on dev."""
    return [place.parent.parent for place in (folder / "cells").glob("*/.stages/develop.json")]


def estimate(recipe: Recipe, folder: Path, left: int, jobs: int, trust: bool) -> str:
    """Say how long the cells that are left will take.

    Args:
        recipe: what the cells have in common.
        folder: of the grid.
        left: cells to do.
        jobs: cells at a time.
        trust: let code that comes with the model run.
    """
    own = ("select", "train", "develop", "examine")
    records = [[cell / ".stages" / f"{name}.json" for name in own] for cell in finished(folder)]
    past = [sum(json.loads(r.read_text())["seconds"] for r in cell if r.exists()) for cell in records]
    each = sum(past) / len(past) if past else _trial(recipe, folder, trust)
    if each is None:
        return "how long they take is not known, since a trial step of all weights does not fit into memory"
    minutes = left * each / 60 / jobs
    return f"about {minutes:.0f} minutes ({each:.0f} s a cell, {jobs} at a time)"


def _trial(recipe: Recipe, folder: Path, trust: bool) -> float | None:
    """Return the seconds of a cell; None where memory is too small for all weights, as it need not be for cells."""
    try:
        return timed(Context(recipe, folder, lambda label, total: lambda done: None, lambda text: None, trust))
    except Exception as error:
        if not ran_out(error):
            raise
        return None


def timed(context: Context) -> float:
    """Time one training step of everything and one scored batch, and count how many of them a cell has."""
    import torch

    recipe, corpus, model = context.recipe, context.corpus, context.model()
    first = str(corpus.train[0].pair)
    batch = context.batcher.encode([e for e in corpus.train if str(e.pair) == first][: recipe.train.batch_size])
    batch = {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in batch.items()}
    model.train().requires_grad_(True)
    if recipe.train.gradient_checkpointing:
        newer = getattr(model, "activation_checkpointing_enable", None)  # transformers 5.x calls it so
        (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
    for _ in range(2):  # the first one pays for what is made once
        began = _now()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=recipe.train.bf16):
            loss = model(**batch).loss
        loss.backward()
        step = _now() - began
    model.zero_grad()
    examples = list(corpus.dev or corpus.train)[: recipe.evaluate.batch_size]
    began = _now()
    context.system(model.eval(), "trial").translate(examples)
    answered = (_now() - began) / len(examples)
    tested = sum(map(len, (*corpus.splits.values(), *corpus.retention.values())))
    return step * recipe.train.steps * recipe.train.accumulation + answered * (1.3 * tested + 0.3 * len(corpus.dev))


def _now() -> float:
    """Return the time, in seconds, at which an accelerator has done what it was given."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
