"""Chosen rows: what this package is for."""

from __future__ import annotations

import torch
from peft import get_peft_model
from torch import nn

from neuroglot.errors import UserError
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig


def neurons(
    model: nn.Module, selection: Selection | None, rank: int | None = None, mode: str = "auto", seed: int = 0
) -> nn.Module:
    """Train the rows of a selection, whichever way they were selected.

    Args:
        model: a base model.
        selection: the rows.
        rank: of a group's delta; None trains the rows themselves.
        mode: `sliced`, `additive` or `auto`; see `neuroglot.tuner.NeuroglotConfig`.
        seed: of the initial values of low-rank factors.
    """
    if selection is None:
        raise UserError("method neurons needs a selection, got none; run the select stage first")
    config = NeuroglotConfig.from_selection(selection, rank=rank, mode=mode)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)
