"""In the trained model: what is lost when what one group learned is taken out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroglot.artefact import ADAPTER, digests, unseal
from neuroglot.evidence.kinds.ablation.losses import Losses
from neuroglot.evidence.kinds.ablation.matrix import Groups, draws_of, matrix
from neuroglot.evidence.setting import Found, Setting


def measure_trained(setting: Setting, groups: Groups) -> Found:
    """Take what each group learned out of the trained model; random groups are drawn from all trained units."""
    from neuroglot.stages import with_adapter

    adapter, selection = (setting.context.path(name) for name in ("adapter", "selection.safetensors"))
    if unseal(adapter, ADAPTER)["made_from"].get("selection") != digests(selection):
        return {"skipped": "the adapter was trained on another selection"}
    names = dict.fromkeys(name for _, units in groups.values() for name in units)
    trained = {n: torch.cat([units[n] for _, units in groups.values() if n in units]).sort().values for n in names}
    axes = {name: setting.selection.axes.get(name, 0) for name in names}
    model = setting.context.model()
    if not all(_weights(model, name, axes[name])[0].is_floating_point() for name in names):
        return {"skipped": "the base is quantised, and its rows cannot be exchanged"}
    before = {name: _taken(model, name, axes[name], index) for name, index in trained.items()}
    model = with_adapter(model, adapter)

    def restored(units: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return exchanged(model, units, axes, trained, before)

    losses = Losses(setting, model)
    whole = losses.nats()
    found = matrix(losses, whole, groups, restored, trained, draws_of(setting))
    return {"base": losses.per_character(whole, np.ones(len(losses.items))).tolist(), **found}


Held = tuple[Tensor, Tensor | None]
"""Units of a weight, on its axis 0, and their bias entries."""


@contextmanager
def exchanged(
    model: nn.Module,
    units: Mapping[str, Tensor],
    axes: Mapping[str, int],
    known: Mapping[str, Tensor],
    before: Mapping[str, Held],
) -> Iterator[None]:
    """Put other values into units of a model for the time of the block.

    Args:
        model: a plain model.
        units: module -> indices to exchange.
        axes: module -> the axis that its units are on.
        known: module -> indices, ascending, that `before` has values of.
        before: module -> values.
    """
    after = {name: _taken(model, name, axes[name], index) for name, index in units.items()}
    try:
        for name, index in units.items():
            weight, bias = before[name]
            places = torch.searchsorted(known[name], index)
            _put(model, name, axes[name], index, (weight[places], None if bias is None else bias[places]))
        yield
    finally:
        for name, index in units.items():
            _put(model, name, axes[name], index, after[name])


def _taken(model: nn.Module, name: str, axis: int, index: Tensor) -> Held:
    weight, bias = _weights(model, name, axis)
    return (weight.t() if axis else weight)[index.to(weight.device)].clone(), (
        None if bias is None else bias[index.to(bias.device)].clone()
    )


def _put(model: nn.Module, name: str, axis: int, index: Tensor, values: Held) -> None:
    weight, bias = _weights(model, name, axis)
    (weight.t() if axis else weight)[index.to(weight.device)] = values[0]
    if bias is not None and values[1] is not None:
        bias[index.to(bias.device)] = values[1]


def _weights(model: nn.Module, name: str, axis: int) -> tuple[Tensor, Tensor | None]:
    """Return a weight, and the bias where the units are outputs."""
    modules = dict(model.named_modules())
    if name not in modules:
        return model.get_parameter(name).data, None
    module: Any = modules[name]
    outputs = axis == (0 if isinstance(module, nn.Linear) else 1)
    bias = getattr(module, "bias", None) if outputs else None
    return module.weight.data, None if bias is None else bias.data
