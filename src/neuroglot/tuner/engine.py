"""The arithmetic of a training step: one matmul forward, and backward the input's gradient and only the chosen rows'.

Shape suffixes: K rows of an adapter in a layer, the first k of them trained by the active pair; I inputs, O outputs.

A full Linear costs three matmuls a step (forward, dX, dW). Here it is 2 + k/O: the forward and dX use the merged
weight, which is put together from the base and the deltas when it is needed (O x I additions, next to nothing beside a
matmul over a batch of tokens) and never kept, and dW is taken of the k trained rows alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

Tensor = torch.Tensor


def composes(layer: torch.nn.Module) -> bool:
    """Whether a layer's weight is dense and floating, so that rows can be added to it."""
    return type(layer) is torch.nn.Linear and layer.weight.is_floating_point() and type(layer.weight.data) is Tensor


def _merged(base: Tensor, trained: Tensor, frozen: Tensor | None, rows_K: Tensor) -> Tensor:
    """Return the base with the deltas added to its chosen rows, rounded once to the base's dtype."""
    delta = trained if frozen is None else torch.cat([trained, frozen])
    wide = torch.promote_types(base.dtype, delta.dtype)
    merged = base.index_select(0, rows_K).to(wide) + delta.to(wide)
    return base.index_copy(0, rows_K, merged.to(base.dtype))


class _RowsLinear(torch.autograd.Function):
    """y = x W'^T + b' with W' the merged weight; differentiable in x and in the first k rows' deltas."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, trained: Tensor, trained_bias: Tensor | None,
                frozen: Tensor | None, frozen_bias: Tensor | None, rows_K: Tensor) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, trained, frozen, rows_K)
        if bias is not None and trained_bias is not None:
            bias = _merged(bias, trained_bias, frozen_bias, rows_K)
        return F.linear(x, _merged(weight, trained, frozen, rows_K), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, trained, frozen, rows_K = ctx.saved_tensors
        grad = grads[0]
        dx = dtrained = dbias = None
        if ctx.needs_input_grad[0]:
            dx = (grad @ _merged(weight, trained, frozen, rows_K).to(grad.dtype)).to(x.dtype)
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            own = grad.index_select(-1, rows_K[: len(trained)]).flatten(0, -2)  # (tokens, k)
            dtrained = (own.T @ x.flatten(0, -2).to(grad.dtype)).to(trained.dtype)
            dbias = own.sum(0, dtype=trained.dtype)
        return dx, None, None, dtrained, dbias if ctx.needs_input_grad[4] else None, None, None, None


def rows_linear(
    x: Tensor,
    layer: torch.nn.Linear,
    trained: tuple[Tensor, Tensor | None],
    frozen: tuple[Tensor, Tensor | None] | None,
    rows_K: Tensor,
) -> Tensor:
    """Map x [..., I] to [..., O] through a Linear with deltas on its rows `rows_K`.

    Args:
        x: the input.
        layer: the Linear; neither its weight nor its bias receives a gradient.
        trained: delta [k, I] and bias delta [k] or None of the first k rows.
        frozen: the same for the other rows, or None where there are none.
        rows_K: distinct row indices.
    """
    frozen_delta, frozen_bias = (None, None) if frozen is None else frozen
    return _RowsLinear.apply(x, layer.weight, layer.bias, *trained, frozen_delta, frozen_bias, rows_K)
