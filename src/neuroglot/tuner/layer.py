"""The wrapped layers: y = x W^T + b, with deltas on the chosen rows (or columns) of W."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn.modules import module as global_hooks
from transformers.pytorch_utils import Conv1D

from neuroglot.errors import UserError
from neuroglot.tuner.deltas import Route
from neuroglot.tuner.forward import added_units, sliced_linear
from neuroglot.tuner.weight import WeightLayer, why_not_sliced

# ---- Base modules with hooks or another forward ---------------------------------------------------------------------

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


# ---- Wrapped layers -------------------------------------------------------------------------------------------------
# Two ways of computing it. `sliced`: the weight itself holds base + deltas and `sliced.py` does the arithmetic.
# `additive`: the base's output plus the units' own product, for weights that cannot be written (quantised, sharded),
# for several adapters at once, and under `torch.compile`, which does not follow what is written behind autograd's
# back.


class NeuroglotLinear(WeightLayer):
    """Wraps an `nn.Linear`, quantised or not, or transformers' `Conv1D`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map x [..., I] to [..., O].

        Raises:
            UserError: a training forward with specific groups and no active pair.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.merged:
            return self.base_layer(x, *args, **kwargs)
        if is_plain(self.base_layer) or self.sharded:  # sharding's own hooks only gather the weight
            return self._compute(x, *args, **kwargs)
        check_base(self.module_name, self.base_layer)
        dense, replaced = why_not_sliced(self.base_layer) is None, has_own_forward(self.base_layer)
        if dense and (replaced or type(self.base_layer).forward not in LINEAR):
            return self._through((x, *args), kwargs)
        if replaced:
            raise UserError(
                f"{self.module_name}: the forward of this quantised layer was replaced, so the adapter's share of it "
                "is not known; expected its own forward; put that back, or leave the layer out of the selection"
            )
        return self._inside_hooks(x, *args, **kwargs)

    @torch.compiler.disable
    def _inside_hooks(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute where the base module would, inside its hooks, which so see and change what they always do.

        The function that the hooks enclose stands in an attribute of the module, and there is no other way between
        them; it is put back at once.
        """
        base, name = self.base_layer, forward_name(self.base_layer)
        before = vars(base).get(name)
        vars(base)[name], self._enclosed = self._compute, True
        try:
            return base(*args, **kwargs)
        finally:
            self._enclosed = False
            if before is None:
                del vars(base)[name]
            else:
                vars(base)[name] = before

    def _compute(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        names = self.adapters_at_work
        routes = {name: self._route(name, x) for name in names}
        mixed = self.router.adapters is not None
        if len(names) < 2 and not mixed and self.sliced(names):
            name = names[0] if names else None
            return self._forward_sliced(x, name, routes.get(name) if name else None)
        if self._kept is not None:
            self.park()
        if names and x.requires_grad and self.holds:
            out = sliced_linear(x, self, None, None, ())  # another forward may write into the weight before backward
        else:
            out = self.call_base(x, *args, **kwargs)
            if x.requires_grad and torch.is_grad_enabled() and not out.requires_grad:
                raise UserError(
                    f"{self.module_name}: a {type(self.base_layer).__name__} gives its input no gradient, so nothing "
                    "before it would be trained; load the base in another format, or select layers after it only"
                )
        if routes and self.quantization_backend is not None:
            out = self.quantization_backend.maybe_clone_base_result(out)
        samples = self.router.samples_by_adapter(len(x), x.device) if mixed else {}
        for name, route in routes.items():
            if mixed:
                own = samples[name]
                some = added_units(out.index_select(0, own), x.index_select(0, own), self, name, route)
                out = out.index_copy(0, own, some)
            else:
                out = added_units(out, x, self, name, route)
        return out

    def _forward_sliced(self, x: torch.Tensor, adapter: str | None, route: Route | None) -> torch.Tensor:
        trained = () if adapter is None or route is None else self.parameters_of(adapter, route)
        if trained or (x.requires_grad and torch.is_grad_enabled()):
            return sliced_linear(x, self, adapter, route, trained)
        self.settle(adapter)
        return self.call_base(x)


class NeuroglotMatrix(WeightLayer):
    """Wraps a module that multiplies with a bare matrix of its own, such as Gemma 3's connector.

    What the module does with the matrix is its business, so a training forward gives it the sum of base and deltas in
    the matrix's place, and autograd finds the way: a full dW, of which the chosen units are taken. One small matrix.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module.

        Raises:
            UserError: a training forward with specific groups and no active pair, or a batch of several pairs.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.merged:
            return self.base_layer(*args, **kwargs)
        if not self.sharded:
            check_base(self.module_name, self.base_layer, self.weight_name)
        names = self.adapters_at_work
        alike = self.router.adapters is None and len(names) < 2
        if not torch.is_grad_enabled() and alike and self.sliced(names):
            self.settle(names[0] if names else None)
            return self.base_layer(*args, **kwargs)
        return self._through(args, kwargs)
