"""What a model with our adapters trains, how it computes, and having its weights written or put back."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from neuroglot.errors import UserError
from neuroglot.selection import Selection
from neuroglot.tuner.deltas import UnitLayer
from neuroglot.tuner.routing import is_sharded
from neuroglot.tuner.weight import WeightLayer, why_not_sliced


def layers_of(model: nn.Module) -> list[WeightLayer]:
    return [module for module in model.modules() if isinstance(module, WeightLayer)]


def refresh(model: nn.Module) -> None:
    """Have the units written again before the next forward.

    Needed only after deltas were changed in a way that their version counters do not show (a fused or 8-bit
    optimiser, `.data`) and without a training forward or a change of mode in between.
    """
    for layer in layers_of(model):
        layer.refresh()


def park(model: nn.Module) -> None:
    """Put the base's own units back into all weights, where the next forward replaces them again.

    Reading `state_dict()`, moving, merging and unloading do this by themselves; it is for those who read
    `layer.weight` directly, or shard the model after it has run.
    """
    for layer in layers_of(model):
        layer.park()


def modes(model: nn.Module, adapter: str = "default") -> str:
    """Say in one line how many layers compute an adapter which way, and why those that are not `sliced` are not."""
    found: Counter[str] = Counter()
    sharded = is_sharded(model)
    for layer in layers_of(model):
        if adapter in layer.neuroglot_layout:
            asked = layer.neuroglot_layout[adapter].mode
            reason = why_not_sliced(layer.base_layer, layer.weight_name)
            if asked == "additive":
                reason = "asked for"
            elif sharded or layer.router.sharded:  # a shard's type would be no explanation
                reason = "its weight is sharded"
            found["sliced" if reason is None else f"additive ({reason})"] += 1
    return ", ".join(f"{count} layers {how}" for how, count in found.most_common()) or "no layers"


def selection_of(model: nn.Module, adapter: str = "default") -> Selection:
    """Return what an adapter trains, as a selection.

    Raises:
        UserError: the model has no such adapter.
    """
    rows: dict[str, dict[frozenset[str], torch.Tensor]] = {}
    axes: dict[str, int] = {}
    pairs: tuple[str, ...] = ()
    for layer in model.modules():
        if isinstance(layer, UnitLayer) and adapter in layer.neuroglot_layout:
            layout = layer.neuroglot_layout[adapter]
            parts = layer.neuroglot_rows[adapter].long().cpu().split(list(layout.groups.values()))
            rows[layer.module_name] = {
                frozenset(group.split(",")): part for group, part in zip(layout.groups, parts, strict=True)
            }
            pairs = layout.pairs
            if layout.axis:
                axes[layer.module_name] = layout.axis
    if not rows:
        raise UserError(f"the model has no neuroglot adapter {adapter!r}; expected one made by NeuroglotConfig")
    return Selection(pairs, rows, axes=axes)


def trained_entries(model: nn.Module, adapter: str = "default") -> dict[str, int]:
    """Return how many numbers an adapter trains in each module: of deltas or their factors, and of biases."""
    found = {}
    for layer in layers_of(model):
        if adapter in layer.neuroglot_layout:
            held = (p for name in layer.adapter_layer_names for p in getattr(layer, name)[adapter].parameters())
            found[layer.module_name] = sum(p.numel() for p in held)
    return found
