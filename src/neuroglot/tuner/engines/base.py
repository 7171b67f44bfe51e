"""What a wrapped module does besides x W^T + b: hooks, a forward of its own, a weight that is computed."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn.modules import module as global_hooks
from transformers.pytorch_utils import Conv1D

from neuroglot.errors import UserError

LINEAR = (nn.Linear.forward, Conv1D.forward)


def is_plain(layer: Any) -> bool:
    """Return whether calling a module computes x W^T + b and nothing else. It is asked in every forward."""
    return not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or layer._modules  # parametrizations; an adapter of another method
        or "forward" in layer.__dict__
        or type(layer).forward not in LINEAR
        or global_hooks._global_forward_hooks
        or global_hooks._global_forward_pre_hooks
        or global_hooks._global_backward_hooks
        or global_hooks._global_backward_pre_hooks
    )


def forward_name(layer: nn.Module) -> str:
    """Return the attribute of the function that a call of the module runs inside its hooks.

    accelerate replaces `forward` by one that moves inputs between devices and calls the original one.
    """
    return "_old_forward" if "_hf_hook" in vars(layer) and "_old_forward" in vars(layer) else "forward"


def has_own_forward(layer: nn.Module) -> bool:
    """Return whether someone has replaced the forward of this one module."""
    found = vars(layer).get(forward_name(layer))
    return found is not None and getattr(found, "__func__", None) is not type(layer).forward


def check_base(name: str, layer: nn.Module, weight: str = "weight") -> None:
    """Refuse a module whose weight cannot be relied on.

    Args:
        name: the module's, for messages.
        layer: the module.
        weight: the matrix's attribute.

    Raises:
        UserError: another adapter lies in it; its weight is computed or offloaded.
    """
    if isinstance(layer, BaseTunerLayer):
        raise UserError(
            f"{name}: an adapter of {type(layer).__module__} lies inside neuroglot's; expected a plain layer; "
            "merge or unload that adapter, and name its target_modules one by one if it must be added later"
        )
    if weight not in layer._parameters:
        if hasattr(layer, "parametrizations"):
            cure = f"torch.nn.utils.parametrize.remove_parametrizations(module, {weight!r})"
        elif f"{weight}_mask" in layer._buffers:
            cure = f"torch.nn.utils.prune.remove(module, {weight!r})"
        else:
            cure = "torch.nn.utils.remove_weight_norm(module) or remove_spectral_norm(module)"
        raise UserError(
            f"{name}: its {weight} is computed in every forward (pruning, a parametrization, a norm); expected a "
            f"parameter; make it one with {cure}, or leave the layer out of the selection"
        )
    found = layer._parameters[weight]
    if found is not None and found.is_meta and "_hf_hook" in vars(layer):
        raise UserError(
            f"{name}: its {weight} is offloaded by accelerate, so rows cannot be kept in it; expected it on a device; "
            "load the base with a device_map that names no 'cpu' or 'disk', or leave the layer out of the selection"
        )
