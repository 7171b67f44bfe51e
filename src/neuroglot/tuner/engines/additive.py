"""The other way: the base's output plus the product of the units with the input, by autograd's own means.

Where the weight cannot be written this is all there is. In a batch of several pairs a group's delta takes part as a
parameter for its own samples and as a constant for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from neuroglot.tuner.engines.sliced import picked

if TYPE_CHECKING:
    from neuroglot.tuner.engines.deltas import UnitLayer
    from neuroglot.tuner.engines.units import Route

Tensor = torch.Tensor


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
        found = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)
        return out.index_add(-1, route.units, found.to(out.dtype))
    for found in pieces:
        out = out + found.to(out.dtype)
    return out


def _product(x: Tensor, layer: UnitLayer, adapter: str, groups: Sequence[str], units: Tensor, detach: bool) -> Tensor:
    """Return x U^T + d [..., k] of output units, x[..., units] U [..., O] of columns."""
    outputs = layer.units_are_outputs(adapter)
    deltas = [layer.delta(adapter, group) for group in groups]
    biases = [bias for group in groups if (bias := layer.bias_delta(adapter, group)) is not None]
    if not detach:
        return _trained(x, deltas, biases, units, outputs)
    # each by itself: compiled code gives a parameter that it detaches later a gradient of zeros
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
            (unit_product(own, delta, False) for own, delta in zip(slices, deltas, strict=True)), start=x.new_zeros(())
        )
    products = [unit_product(x, delta, True) for delta in deltas]
    product = products[0] if len(products) == 1 else torch.cat(products, dim=-1)
    return product + torch.cat(biases).to(product.dtype) if biases else product


def _constant(
    x: Tensor, deltas: Sequence[Sequence[Tensor]], biases: list[Tensor], units: Tensor, outputs: bool
) -> Tensor:
    """Return the same of groups that do not train, in at most two matmuls for all of them.

    They are those of a LoRA that holds these groups, in its order and with its zeros: matmuls round by the shape of
    what they are given, and an exported adapter should answer as this one does, to the bit.
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
    whole = mine.new_empty(x.shape[0], *mine.shape[1:])
    return whole.index_copy(0, samples, mine).index_copy(0, others, rest)
