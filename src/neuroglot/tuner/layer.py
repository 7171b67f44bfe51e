"""The wrapped layers: y = x W^T + b, with deltas on the chosen rows (or columns) of W, computed in one of two ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules import module as global_hooks
from transformers.pytorch_utils import Conv1D

from neuroglot.errors import UserError
from neuroglot.tuner.deltas import Route
from neuroglot.tuner.weight import WeightLayer, why_not_sliced

if TYPE_CHECKING:
    from neuroglot.tuner.deltas import Route, UnitLayer


# ---- Sliced ---------------------------------------------------------------------------------------------------------
# Shape suffixes: K units of an adapter in a layer, k of them trained now; T tokens; I inputs, O outputs; w the width
# of a unit (I for an output row, O for an input column); r a rank.
#
# A full Linear costs three matmuls a step (forward, dX, dW). Here it is 2 + k/O: the weight holds the current units,
# so the forward is the base's own, and dW is computed for the k trained units alone. Only the input x (of columns
# its slice x[:, columns]) is kept for backward, and nothing where no unit trains.

Tensor = torch.Tensor


class _SlicedLinear(torch.autograd.Function):
    """The base layer's output with an adapter's units in its weight; differentiable in x and in the trained units.

    With `adapter` None it is the base's output. This is computed here too, because another adapter's units may be in
    the weight when its backward runs: forward and backward each put the units that they need into the weight.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: WeightLayer, adapter: str | None, route: Route | None,
                *parameters: Tensor) -> Tensor:  # fmt: skip
        layer.hold(adapter)
        ctx.layer, ctx.adapter, ctx.route, ctx.dtype = layer, adapter, route, x.dtype
        if adapter is not None and route is not None and any(ctx.needs_input_grad[4:]):
            outputs = layer.units_are_outputs(adapter)
            ctx.save_for_backward(x if outputs else picked(x, route.own))
        return layer.call_base(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        layer, grad = ctx.layer, grads[0]
        saved = ctx.saved_tensors  # with checkpointing this runs the layer's forward again, so it comes first
        dx = None
        if ctx.needs_input_grad[0]:
            layer.hold(ctx.adapter, write=False)
            dx = (grad @ layer.outputs_first.to(grad.dtype)).to(ctx.dtype)
        if not saved:
            return dx, *[None] * (len(ctx.needs_input_grad) - 1)
        return dx, None, None, None, *_gradients(layer, ctx.adapter, ctx.route, saved[0], grad)


def _gradients(layer: WeightLayer, adapter: str, route: Route, saved: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the gradients of the trained groups' parameters, in the order of `UnitLayer.parameters_of`.

    Of output units dU = dY[:, units]^T x, of columns dU = x[:, columns]^T dY: left^T right in both.
    """
    saved = saved.to(grad.dtype)  # under autocast the gradient is narrower than the input
    outputs = layer.units_are_outputs(adapter)
    left, right = (picked(grad, route.own), saved) if outputs else (saved, grad)
    deltas, biases = [], []
    for share in route.shares:
        share_left, share_right = left[..., share.start : share.stop], right
        if share.samples is not None:
            share_left, share_right = (
                share_left.index_select(0, share.samples),
                share_right.index_select(0, share.samples),
            )
        left_Tk, right_Tw = (
            share_left.reshape(-1, share_left.shape[-1]),
            share_right.reshape(-1, share_right.shape[-1]),
        )
        factors = [layer.delta(adapter, group) for group in share.groups]
        sizes = [layer.group_size(adapter, group) for group in share.groups]
        if all(len(delta) == 1 for delta in factors):  # one matmul for all of them
            gradients: Sequence[Tensor] = (left_Tk.T @ right_Tw).split(sizes)
        else:
            each = zip(left_Tk.split(sizes, dim=1), factors, strict=True)
            gradients = [
                gradient for group_Tk, delta in each for gradient in unit_gradients(group_Tk, right_Tw, delta)
            ]
        dtype = factors[0][0].dtype
        deltas += [gradient.to(dtype) for gradient in gradients]
        if layer.trains_bias(adapter):
            biases += left_Tk.sum(0, dtype=dtype).split(sizes)
    return deltas + biases


def picked(x: Tensor, units: Tensor) -> Tensor:
    """Return x[..., units]; through two dimensions, where index_select on the last one is several times faster."""
    return x.reshape(-1, x.shape[-1]).index_select(-1, units).view(*x.shape[:-1], len(units))


def unit_gradients(left_Tk: Tensor, right_Tw: Tensor, delta: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of a group's delta, given as (dense,) or as factors (up [k, r], down [r, w]).

    With U = up down, dU = left^T right gives d up = dU down^T and d down = up^T dU. Multiplying the other way round,
    d up = left^T (right down^T) and d down = (left up)^T right, never forms dU: 4 T r (k + w) operations against
    2 T k w + 4 k r w.
    """
    if len(delta) == 1:
        return [left_Tk.T @ right_Tw]
    up, down = (factor.detach().to(left_Tk.dtype) for factor in delta)
    tokens, (k, r), w = len(left_Tk), up.shape, down.shape[1]
    if 2 * tokens * r * (k + w) < tokens * k * w + 2 * k * r * w:
        return [left_Tk.T @ (right_Tw @ down.T), (left_Tk @ up).T @ right_Tw]
    dense = left_Tk.T @ right_Tw
    return [dense @ down.T, up.T @ dense]


def sliced_linear(
    x: Tensor, layer: WeightLayer, adapter: str | None, route: Route | None, parameters: Sequence[Tensor]
) -> Tensor:
    """Map x [..., I] to [..., O] through a layer whose dense weight holds an adapter's units.

    Args:
        x: the input.
        layer: neither its weight nor its bias receives a gradient.
        adapter: whose units; None for the base alone.
        route: how its units are split.
        parameters: the trained groups' deltas (or factors), then their bias deltas, in the order of the route.
    """
    return _SlicedLinear.apply(x, layer, adapter, route, *parameters)


# ---- Additive -------------------------------------------------------------------------------------------------------
# The only way where the weight cannot be written. In a batch of several pairs a group's delta is a parameter for its
# own samples and a constant for the others.


def added_units(out: Tensor, x: Tensor, layer: UnitLayer, adapter: str, route: Route) -> Tensor:
    """Add an adapter's units to the base's output.

    Args:
        out: [..., O] the base's output.
        x: [..., I] the layer's input.
        layer: the wrapped layer.
        adapter: whose units.
        route: how they are split.
    """
    pieces = []
    for share in route.shares:
        units = route.units[share.start : share.stop]

        def piece(x: Tensor, detach: bool, groups: tuple[str, ...] = share.groups, units: Tensor = units) -> Tensor:
            return _product(x, layer, adapter, groups, units, detach)

        pieces.append(piece(x, False) if share.samples is None else _by_samples(x, share.samples, piece))
    if route.frozen:
        pieces.append(_product(x, layer, adapter, route.frozen, route.others, detach=True))
    if layer.units_are_outputs(adapter):
        product = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)
        return out.index_add(-1, route.units, product.to(out.dtype))
    for product in pieces:
        out = out + product.to(out.dtype)
    return out


def _product(x: Tensor, layer: UnitLayer, adapter: str, groups: Sequence[str], units: Tensor, detach: bool) -> Tensor:
    """Return x U^T + d [..., k] of output units, x[..., units] U [..., O] of columns."""
    outputs = layer.units_are_outputs(adapter)
    deltas = [layer.delta(adapter, group) for group in groups]
    biases = [bias for group in groups if (bias := layer.bias_delta(adapter, group)) is not None]
    if not detach:
        return _trained(x, deltas, biases, units, outputs)
    # one by one: compiled code gives a parameter that it detaches later a gradient of zeros
    deltas = [tuple(factor.detach() for factor in delta) for delta in deltas]
    return _constant(x, deltas, [bias.detach() for bias in biases], units, outputs)


def _trained(
    x: Tensor, deltas: Sequence[Sequence[Tensor]], biases: list[Tensor], units: Tensor, outputs: bool
) -> Tensor:
    """Return the product of groups that train; dense ones take one matmul together, low-rank ones one each."""
    if all(len(delta) == 1 for delta in deltas):
        deltas = [(deltas[0][0] if len(deltas) == 1 else torch.cat([delta[0] for delta in deltas]),)]
    if not outputs:
        slices = picked(x, units).split([delta[0].shape[0] for delta in deltas], dim=-1)
        return sum(
            (unit_product(columns, delta, False) for columns, delta in zip(slices, deltas, strict=True)),
            start=x.new_zeros(()),
        )
    products = [unit_product(x, delta, True) for delta in deltas]
    product = products[0] if len(products) == 1 else torch.cat(products, dim=-1)
    return product + torch.cat(biases).to(product.dtype) if biases else product


def _constant(
    x: Tensor, deltas: Sequence[Sequence[Tensor]], biases: list[Tensor], units: Tensor, outputs: bool
) -> Tensor:
    """Return the same for groups that do not train, in at most two matmuls for all of them.

    The matmuls are those of a LoRA that holds these groups, in its order and with its zeros: rounding depends on the
    shapes, and an exported adapter should give the same output bit for bit.
    """
    bias = torch.cat(biases).to(x.dtype) if biases else None
    last_Rw = torch.cat([delta[-1] for delta in deltas]).to(x.dtype)
    first_KR = None
    if any(len(delta) > 1 for delta in deltas):
        ones = (torch.eye(len(delta[0]), dtype=x.dtype, device=x.device) for delta in deltas)
        first_KR = torch.block_diag(
            *[d[0].to(x.dtype) if len(d) > 1 else one for d, one in zip(deltas, ones, strict=True)]
        )
    if outputs:
        product = F.linear(x, last_Rw)
        if first_KR is not None:
            return F.linear(product, first_KR, bias)
        return product if bias is None else product + bias.to(product.dtype)
    if first_KR is None:
        slices = picked(x, units)
    else:
        scattered = first_KR.new_zeros(x.shape[-1], first_KR.shape[1]).index_copy_(0, units, first_KR)
        slices = F.linear(x, scattered.t().contiguous())
    return F.linear(slices, last_Rw.t().contiguous())


def unit_product(x: Tensor, delta: Sequence[Tensor], outputs: bool) -> Tensor:
    """Multiply an input with a group's delta: [..., k] for output units; [..., O] for columns, x being their slice."""
    factors = [factor.to(x.dtype) for factor in delta]
    if outputs:  # x U^T = (x down^T) up^T
        return F.linear(x, factors[0]) if len(factors) == 1 else F.linear(F.linear(x, factors[1]), factors[0])
    product = x @ factors[0]  # x U = (x up) down
    return product if len(factors) == 1 else product @ factors[1]


def _by_samples(x: Tensor, samples: Tensor, piece: Callable[[Tensor, bool], Tensor]) -> Tensor:
    """Return the piece with gradients for some entries of the first axis only."""
    others = (
        torch.ones(x.shape[0], dtype=torch.bool, device=x.device).index_fill(0, samples, False).nonzero().flatten()
    )
    mine, rest = piece(x.index_select(0, samples), False), piece(x.index_select(0, others), True)
    result = mine.new_empty(x.shape[0], *mine.shape[1:])
    return result.index_copy(0, samples, mine).index_copy(0, others, rest)


# ---- Base modules with hooks or another forward ---------------------------------------------------------------------

LINEAR = (nn.Linear.forward, Conv1D.forward)


def is_plain(layer: Any) -> bool:
    """Return whether calling a module computes x W^T + b and nothing else. This runs in every forward."""
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
    """Return whether the forward of this one module was replaced."""
    forward = vars(layer).get(forward_name(layer))
    return forward is not None and getattr(forward, "__func__", None) is not type(layer).forward


def check_base(name: str, layer: nn.Module, weight: str = "weight") -> None:
    """Refuse a module whose weight cannot be used.

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
    parameter = layer._parameters[weight]
    if parameter is not None and parameter.is_meta and "_hf_hook" in vars(layer):
        raise UserError(
            f"{name}: its {weight} is offloaded by accelerate, so rows cannot be kept in it; expected it on a device; "
            "load the base with a device_map that names no 'cpu' or 'disk', or leave the layer out of the selection"
        )


# ---- Wrapped layers -------------------------------------------------------------------------------------------------
# Two ways of computing the output. `sliced`: the weight itself holds base + deltas and one matmul computes it.
# `additive`: the base's output plus the units' own product, for weights that cannot be written (quantised, sharded),
# for several adapters at once, and under `torch.compile`, which does not follow writes that
# autograd does not see.


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
        """Compute in place of the base module, inside its hooks, which then see and change the same values as before.

        The function that the hooks enclose is an attribute of the module, and replacing it is the only way; it is
        restored at once.
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
                indices = samples[name]
                part = added_units(out.index_select(0, indices), x.index_select(0, indices), self, name, route)
                out = out.index_copy(0, indices, part)
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
    """Wraps a module that multiplies with a bare matrix, such as Gemma 3's connector.

    How the module uses the matrix is not known, so a training forward replaces it by the sum of base and deltas and
    autograd does the rest: a full dW, of which the chosen units are taken. The matrix is small.
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
