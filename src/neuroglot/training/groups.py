"""Optimiser parameter groups: one learning rate for the neurons of all pairs, another for those of some."""

from __future__ import annotations

from typing import Any

from torch import nn

from neuroglot.errors import UserError
from neuroglot.tuner.engines.deltas import UnitLayer


def specific_parameters(model: nn.Module) -> set[int]:
    """Return the ids of the parameters whose group lacks one of its adapter's pairs or more."""
    found: set[int] = set()
    for layer in model.modules():
        if isinstance(layer, UnitLayer):
            for adapter, layout in layer.neuroglot_layout.items():
                for group in layout.groups:
                    if set(group.split(",")) != set(layout.pairs):
                        parameters = (*layer.delta(adapter, group), layer.bias_delta(adapter, group))
                        found |= {id(parameter) for parameter in parameters if parameter is not None}
    return found


def parameter_groups(model: nn.Module, lr: float, specific_lr: float | None = None) -> list[dict[str, Any]]:
    """Split a model's trainable parameters for an optimiser of one's own.

    A pair's specific neurons see only its own steps, the agnostic ones all of them; a higher rate makes up for it.

    Args:
        model: a model with a neuroglot adapter, wrapped in anything.
        lr: the learning rate of the language-agnostic neurons, and of whatever else is trainable.
        specific_lr: that of the neurons that not all pairs train; None for the same.

    Returns:
        `[{"params": agnostic, "lr": lr}, {"params": specific, "lr": specific_lr}]`; an empty one is left out.

    Raises:
        UserError: a rate that is not above 0, or nothing is trainable.
    """
    for name, value in (("lr", lr), ("specific_lr", specific_lr)):
        if value is not None and not value > 0:
            raise UserError(f"parameter_groups: {name} must be above 0, got {value}")
    specific = specific_parameters(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise UserError("parameter_groups: no parameter is trainable; expected the result of get_peft_model")
    rates = ((False, lr), (True, lr if specific_lr is None else specific_lr))
    groups = [{"params": [p for p in trainable if (id(p) in specific) is kind], "lr": rate} for kind, rate in rates]
    return [group for group in groups if group["params"]]
