"""Sums that stream: what a profile keeps of each batch, in memory that does not grow with the data.

`Totals` adds up over samples, for the mean and the variance of each score. `Blocks` adds up over the source items of
parallel data, so that an analysis of variance can tell what differs between items from what differs between pairs.

Shapes: B samples, N neurons, S scores, C token classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroglot.pair import Condition, Pair


def _wide(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


class Totals:
    """Sums over samples, per condition: layer -> [S, C, N]."""

    def __init__(self) -> None:
        self.counts: dict[Condition, Tensor] = {}
        self.sums: dict[Condition, dict[str, Tensor]] = {}
        self.squares: dict[Condition, dict[str, Tensor]] = {}

    def add(self, condition: Condition, samples: Mapping[str, Tensor], present: Tensor) -> None:
        """Add a batch: layer -> [S, B, C, N], and [B, C], which samples hold the class."""
        self.counts[condition] = self.counts.get(condition, 0) + present.sum(0)
        sums, squares = self.sums.setdefault(condition, {}), self.squares.setdefault(condition, {})
        for name, x in samples.items():
            sums[name] = sums.get(name, 0) + _wide(x.sum(1))
            squares[name] = squares.get(name, 0) + _wide(x.square().sum(1))


@dataclass
class _Block:
    """The pairs seen so far of a batch of source items; `total` is layer -> [S, B, C, N], summed over them."""

    items: tuple[str, ...]
    pairs: set[Pair]
    total: dict[str, Tensor]
    present: Tensor


class Blocks:
    """Sums over source items of (mean over pairs)^2, one open block per task.

    A block ends when its task's items change or a pair comes again (another instruction on the same items). Which
    pairs a task has is known only at the end, so what is kept are the sums of the blocks with the largest set of
    pairs so far; if that is not the whole set in the end, no block was complete.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Block] = {}
        self._pairs: dict[str, set[Pair]] = {}
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, condition: Condition, items: tuple[str, ...], samples: dict[str, Tensor], present: Tensor) -> None:
        """Add a batch, named by its items; without items it belongs to no block."""
        task, pair = condition.task, condition.pair
        block = self._open.get(task)
        if block is not None and (block.items != items or pair in block.pairs):
            self._close(task)
            block = None
        if not items:
            return
        if block is None:
            self._open[task] = _Block(items, {pair}, samples, present)
            return
        block.pairs.add(pair)
        block.present = block.present & present
        for name, x in samples.items():
            block.total[name] = block.total[name] + x if name in block.total else x

    def _close(self, task: str) -> None:
        block = self._open.pop(task)
        best = self._pairs.get(task, set())
        if len(block.pairs) < 2 or not block.pairs >= best:
            return
        if block.pairs > best:
            self._pairs[task], self._sums[task] = block.pairs, {}
            self._counts[task] = torch.zeros_like(block.present.sum(0))
        sums = self._sums[task]
        self._counts[task] += block.present.sum(0)
        for name, total in block.total.items():
            mean = total / len(block.pairs) * block.present.to(total).unsqueeze(2)  # (S, B, C, N)
            sums[name] = sums.get(name, 0) + _wide(mean.square().sum(1))

    def finish(self, pairs: Mapping[str, set[Pair]]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """Return task -> layer -> [S, C, N] and task -> [C], for the tasks whose blocks hold all their pairs."""
        for task in list(self._open):
            self._close(task)
        complete = [task for task in self._pairs if self._pairs[task] == pairs[task]]
        return {task: self._sums[task] for task in complete}, {task: self._counts[task] for task in complete}
