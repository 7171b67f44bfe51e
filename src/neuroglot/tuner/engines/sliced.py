"""The arithmetic of a training step: one matmul forward; backward the input's gradient and the chosen units' own.

Shape suffixes: K units of an adapter in a layer, k of them trained now; T tokens; I inputs, O outputs; w the width of
a unit (I for an output row, O for an input column); r a rank.

A full Linear costs three matmuls a step (forward, dX, dW). Here it is 2 + k/O: the weight holds the current units, so
the forward is the base's own, and dW is taken of the k trained units alone. What is kept for backward is the input x
(of columns only its slice x[:, columns]), and nothing where no unit trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from neuroglot.tuner.engines.units import Route
from neuroglot.tuner.engines.weight import HeldWeight

Tensor = torch.Tensor


class _SlicedLinear(torch.autograd.Function):
    """The base layer's output with an adapter's units in its weight; differentiable in x and in the trained units.

    With `adapter` None it is the base's own output. That goes this way too, because another adapter's units may be
    in the weight by the time that its backward runs: both directions put into the weight what they need.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: HeldWeight, adapter: str | None, route: Route | None,
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
        saved = ctx.saved_tensors  # under checkpointing this runs the layer's forward again, so it comes first
        dx = None
        if ctx.needs_input_grad[0]:
            layer.hold(ctx.adapter, write=False)
            dx = (grad @ layer.outputs_first.to(grad.dtype)).to(ctx.dtype)
        if not saved:
            return dx, *[None] * (len(ctx.needs_input_grad) - 1)
        return dx, None, None, None, *_gradients(layer, ctx.adapter, ctx.route, saved[0], grad)


def _gradients(layer: HeldWeight, adapter: str, route: Route, kept: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the gradients of the trained groups' parameters, in the order of `UnitLayer.parameters_of`.

    Of output units dU = dY[:, units]^T x, of columns dU = x[:, columns]^T dY: left^T right in both.
    """
    kept = kept.to(grad.dtype)  # under autocast the gradient is narrower than the input
    outputs = layer.units_are_outputs(adapter)
    left, right = (picked(grad, route.own), kept) if outputs else (kept, grad)
    deltas, biases = [], []
    for share in route.shares:
        own, other = left[..., share.start : share.stop], right
        if share.samples is not None:
            own, other = own.index_select(0, share.samples), other.index_select(0, share.samples)
        own_Tk, other_Tw = own.reshape(-1, own.shape[-1]), other.reshape(-1, other.shape[-1])
        factors = [layer.delta(adapter, group) for group in share.groups]
        sizes = [layer.group_size(adapter, group) for group in share.groups]
        if all(len(delta) == 1 for delta in factors):  # one matmul for all of them
            found: Sequence[Tensor] = (own_Tk.T @ other_Tw).split(sizes)
        else:
            each = zip(own_Tk.split(sizes, dim=1), factors, strict=True)
            found = [gradient for group_Tk, delta in each for gradient in unit_gradients(group_Tk, other_Tw, delta)]
        dtype = factors[0][0].dtype
        deltas += [gradient.to(dtype) for gradient in found]
        if layer.trains_bias(adapter):
            biases += own_Tk.sum(0, dtype=dtype).split(sizes)
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
    x: Tensor, layer: HeldWeight, adapter: str | None, route: Route | None, parameters: Sequence[Tensor]
) -> Tensor:
    """Map x [..., I] to [..., O] through a layer whose dense weight holds an adapter's units.

    Args:
        x: the input.
        layer: neither its weight nor its bias receives a gradient.
        adapter: whose units; None for the base as it is.
        route: how its units are split.
        parameters: the trained groups' deltas (or factors), then their bias deltas, in the order of the route.
    """
    return _SlicedLinear.apply(x, layer, adapter, route, *parameters)
