"""What an adapter trains in one layer, and how that is split while one pair, or a mixture of pairs, is active.

A unit is what the adapter trains: an output row of a weight or, of an `ffn` neuron's down side, an input column. Its
values are always stored as a row; an axis of 1 says that the stored weight is read transposed for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from neuroglot.errors import UserError, nearest
from neuroglot.tuner.routing import Mixture

ALL = "*"
"""In place of a pair: everything trains."""


@dataclass(frozen=True)
class Layout:
    """What one adapter trains in one layer.

    Attributes:
        groups: group text -> number of units, in the order in which the units are stored.
        pairs: the pairs that the adapter knows.
        agnostic_only: whether every group of the adapter, in every layer, holds all pairs.
        axis: the axis of the stored weight that the units lie on.
        biased: whether bias entries are trained as well, where the layer has some.
        ranks: group text -> rank of its delta; None for a dense one.
        mode: `auto`, `sliced` or `additive`.
    """

    groups: Mapping[str, int]
    pairs: tuple[str, ...]
    agnostic_only: bool
    axis: int = 0
    biased: bool = True
    ranks: Mapping[str, int | None] = field(default_factory=dict)
    mode: str = "auto"

    @property
    def size(self) -> int:
        """The number of units of all groups."""
        return sum(self.groups.values())


@dataclass(frozen=True)
class Share:
    """Trained groups whose gradient comes from the same samples.

    Attributes:
        groups: their texts.
        start, stop: where their units lie in the route's order.
        samples: indices along the first axis of the layer's input; None for all of them.
    """

    groups: tuple[str, ...]
    start: int
    stop: int
    samples: torch.Tensor | None = None


@dataclass(frozen=True)
class Route:
    """A split of an adapter's units in a layer.

    Attributes:
        shares: the trained groups.
        frozen: the others.
        units: [K] indices along the units' axis of the weight; those of the shares first, in their order.
        own: [k] those of the shares; made once, so that no step makes a tensor of indices.
        others: [K - k] the rest.
    """

    shares: tuple[Share, ...]
    frozen: tuple[str, ...]
    units: torch.Tensor
    own: torch.Tensor
    others: torch.Tensor

    @property
    def trained(self) -> tuple[str, ...]:
        """The trained groups in their order."""
        return tuple(group for share in self.shares for group in share.groups)


def make_route(
    layout: Layout,
    units_K: torch.Tensor,
    pair: str | Mixture | None,
    adapter: str,
    length: int = 0,
    part: str | None = None,
) -> Route:
    """Split a layer's units.

    Args:
        layout: what the adapter trains in the layer.
        units_K: their indices in the order of the layout.
        pair: the pair that trains, `ALL`, a mixture, or None for nothing.
        adapter: its name, for messages.
        length: of the first axis of the layer's input, for a mixture.
        part: the layer's part, for a mixture.

    Raises:
        UserError: the adapter has no such pair, or the mixture does not fit the input.
    """
    wanted = pair.pairs if isinstance(pair, Mixture) else (() if pair in (None, ALL) else (str(pair),))
    for one in wanted:
        if one not in layout.pairs:
            raise UserError(f"adapter {adapter!r} has no pair {one!r}; {nearest(one, layout.pairs)}")
    own = dict(zip(layout.groups, units_K.long().split(list(layout.groups.values())), strict=True))
    by_samples: dict[tuple[int, ...] | None, tuple[list[str], torch.Tensor | None]] = {}
    for group in own:
        if not (pair == ALL or set(wanted) & set(group.split(","))):
            continue
        samples = pair.samples(group, length, part, units_K.device) if isinstance(pair, Mixture) else None
        if samples is None or samples.numel():
            key = None if samples is None else tuple(samples.tolist())
            by_samples.setdefault(key, ([], samples))[0].append(group)
    shares, start = [], 0
    for groups, samples in by_samples.values():
        stop = start + sum(layout.groups[group] for group in groups)
        shares.append(Share(tuple(groups), start, stop, samples))
        start = stop
    trained = [group for share in shares for group in share.groups]
    frozen = tuple(group for group in own if group not in trained)
    units = torch.cat([own[group] for group in (*trained, *frozen)])
    return Route(tuple(shares), frozen, units, units[:start], units[start:])
