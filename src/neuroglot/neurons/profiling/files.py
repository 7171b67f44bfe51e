"""The file form of a profile: what is measured in float64 is kept as float32 means and spreads, and read lazily.

A sum of squares in float32 would lose the variance wherever it is small beside the mean. Kept are therefore the mean
and the spread, the root of the mean squared deviation from it, whose squares may lie below what float32 can hold. The
sums are made again, in float64 and one layer at a time, when somebody asks for them: a file of 1.5 million neurons
and 14 pairs is mapped into memory and never copied whole.

Shapes: K conditions, S scores, C token classes, N neurons of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

ALL = slice(None)

Index = Any
"""A number, a list of numbers or a slice."""


@dataclass(frozen=True, eq=False)
class Stored(Mapping[str, Tensor]):
    """Sums over samples, layer -> [K, S, C, N] float64, made on access from what a file holds.

    Attributes:
        counts: [K, 1, C, 1] float64, samples.
        means: layer -> [K, S, C, N].
        spreads: layer -> [K, S, C, N]; None for plain sums, given for sums of squares.
    """

    counts: Tensor
    means: Mapping[str, Tensor]
    spreads: Mapping[str, Tensor] | None = None

    def cut(self, name: str, rows: Index = ALL, score: Index = ALL, token_class: Index = ALL) -> Tensor:
        """Return `self[name][rows, score, token_class]` without making the rest."""
        n = self.counts[rows, 0 if isinstance(score, int) else ALL, token_class]
        mean = self.means[name][rows, score, token_class].double()
        if self.spreads is None:
            return mean.mul_(n)
        spread = self.spreads[name][rows, score, token_class].double()
        return mean.square_().addcmul_(spread, spread).mul_(n)

    def __getitem__(self, name: str) -> Tensor:
        return self.cut(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.means)

    def __len__(self) -> int:
        return len(self.means)


@dataclass(frozen=True, eq=False)
class StoredBlocks(Mapping[str, Tensor]):
    """Block sums of a task, layer -> [S, C, N] float64, made on access.

    They are kept as distances from what they would be if all items were alike, which is `counts` times the square of
    the mean over pairs of the mean share: where every sample lies in a block, that is the centred sum over items.

    Attributes:
        counts: [1, C, 1] float64, complete items.
        rows: the task's conditions.
        means: layer -> [K, S, C, N], the mean shares.
        distances: layer -> [S, C, N], the root of the distance over the count, with its sign.
    """

    counts: Tensor
    rows: Sequence[int]
    means: Mapping[str, Tensor]
    distances: Mapping[str, Tensor]

    def cut(self, name: str, score: Index = ALL, token_class: Index = ALL) -> Tensor:
        """Return `self[name][score, token_class]` without making the rest."""
        n = self.counts[0 if isinstance(score, int) else ALL, token_class]
        centre = self.means[name][list(self.rows), score, token_class].double().mean(0)
        distance = self.distances[name][score, token_class].double()
        return centre.square_().addcmul_(distance, distance.abs()).mul_(n)

    def __getitem__(self, name: str) -> Tensor:
        return self.cut(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.distances)

    def __len__(self) -> int:
        return len(self.distances)


def cut(values: Mapping[str, Tensor], name: str, rows: Index, score: int, token_class: int) -> Tensor:
    """Return a slice [K, N] of sums, stored or not."""
    if isinstance(values, Stored):
        return values.cut(name, rows, score, token_class)
    return values[name][rows, score, token_class]


def cut_mean(
    sums: Mapping[str, Tensor], counts: Tensor, name: str, rows: Index, score: int, token_class: int
) -> Tensor:
    """Return a slice [K, N] of sums over counts [K, C], a new float64 tensor."""
    if isinstance(sums, Stored):
        return sums.means[name][rows, score, token_class].double()
    return sums[name][rows, score, token_class] / counts[rows, token_class].clamp(min=1).unsqueeze(1)


def cut_block(values: Mapping[str, Tensor], name: str, score: int, token_class: int) -> Tensor:
    """Return a slice [N] of a task's block sums, stored or not."""
    if isinstance(values, StoredBlocks):
        return values.cut(name, score, token_class)
    return values[name][score, token_class]


def packed(
    counts: Tensor, sums: Mapping[str, Tensor], squares: Mapping[str, Tensor], name: str
) -> tuple[Tensor, Tensor]:
    """Return a layer's means and spreads, [K, S, C, N] float32; a condition without samples has zeros."""
    if isinstance(sums, Stored) and isinstance(squares, Stored) and squares.spreads is not None:
        return sums.means[name], squares.spreads[name]
    n = counts.clamp(min=1).double()[:, None, :, None]
    mean = sums[name] / n
    return mean.float(), (squares[name] / n - mean.square()).clamp(min=0).sqrt().float()


def packed_block(
    counts: Tensor, rows: Sequence[int], share_sums: Mapping[str, Tensor], blocks: Mapping[str, Tensor],
    items: Tensor, name: str,
) -> Tensor:  # fmt: skip
    """Return a layer's distances of one task, [S, C, N] float32, see `StoredBlocks`."""
    if isinstance(blocks, StoredBlocks):
        return blocks.distances[name]
    samples = counts[list(rows)].clamp(min=1).double()[:, None, :, None]
    centre = (share_sums[name][list(rows)] / samples).mean(0)
    distance = blocks[name] / items.clamp(min=1).double()[None, :, None] - centre.square()
    distance = distance * (items > 0)[None, :, None]
    return (distance.abs().sqrt() * distance.sign()).float()
