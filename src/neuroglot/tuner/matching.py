"""An adapter against a model: which matrix a name means, and whether tensors and rows fit."""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import FAMILIES
from neuroglot.tuner.layer import NeuroglotLinear, NeuroglotMatrix


def matrix_of(name: str, modules: dict[str, nn.Module]) -> tuple[nn.Module, str]:
    """Return the module of a name and its matrix's attribute, looking through our own wrappers.

    Raises:
        UserError: there is no such module or matrix, or it cannot be wrapped.
    """
    owner, _, leaf = name.rpartition(".")
    holder = modules.get(owner)
    if name not in modules and holder is not None:
        holder = holder.base_layer if isinstance(holder, NeuroglotMatrix) else holder
        if isinstance(getattr(holder, leaf, None), nn.Parameter) and getattr(holder, leaf).dim() == 2:
            return holder, leaf
    linears = [n.removesuffix(".base_layer") for n, m in modules.items() if isinstance(m, nn.Linear)]
    if name not in modules:
        raise UserError(f"the model has no module {name!r}; {nearest(name, linears)}")
    module = modules[name]
    if isinstance(module, NeuroglotLinear):
        return module.base_layer, "weight"
    if isinstance(module, BaseTunerLayer):
        raise UserError(f"{name} is wrapped by {type(module).__module__}; merge or unload that adapter first")
    if not isinstance(module, nn.Linear | Conv1D):
        raise UserError(f"{name} is a {type(module).__name__}, expected a Linear; {nearest(name, linears)}")
    if isinstance(holder, nn.MultiheadAttention):
        raise UserError(
            f"{name} lies in a torch MultiheadAttention, which reads the weight without calling the layer; expected a "
            "layer that is called; leave it out of the selection"
        )
    return module, "weight"


def part_of(model: nn.Module, name: str) -> str | None:
    """Return the part of a module, `packed` for a vision side without an axis of samples; None if nobody knows."""
    family = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""))
    if family is None:
        return None
    part = family.part_of(name)
    return "packed" if part in ("vision", "connector") and family.vision_rows == "packed" else part


def check_tensors(module: str, expected: dict[str, tuple[int, ...]], found: dict[str, torch.Tensor]) -> None:
    for key, shape in expected.items():
        if key not in found:
            raise UserError(f"adapter: {key} is missing; load it on the base model that it was trained on")
        if tuple(found[key].shape) != shape:
            raise UserError(
                f"adapter: {module}: {key.rpartition('neuroglot_')[2]} has shape {tuple(found[key].shape)}, "
                f"expected {shape}; load it on the base model that it was trained on"
            )


def check_rows(module: str, rows_K: torch.Tensor, outputs: int) -> None:
    wrong = rows_K[(rows_K < 0) | (rows_K >= outputs)]
    if wrong.numel():
        raise UserError(
            f"{module}: row {int(wrong[0])} is out of range; expected 0 to {outputs - 1}; "
            "select again for this model, or load the adapter on the model that it was trained on"
        )
