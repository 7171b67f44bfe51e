"""Sums that stream: what a profile keeps of each batch, in memory that does not grow with the data.

`Totals` adds up over samples, for the mean and the variance of each score. `Blocks` adds up over the source items of
parallel data, so that an analysis of variance can tell what differs between items from what differs between pairs.

Shapes: B samples, N neurons, S scores, C token classes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuroglot.pair import Condition, Pair

KINDS = ("sums", "squares", "share_sums", "share_squares")
"""What is summed over samples, named as in `Profile`."""


def wide(x: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def shares(samples: Mapping[str, Tensor], kinds: Mapping[str, Hashable]) -> dict[str, Tensor]:
    """Return each sample's scores divided by their sum over the layers of a kind: layer -> [S, B, C, N].

    Args:
        samples: layer -> [S, B, C, N], no score below zero.
        kinds: layer -> what its neurons are shared out among.
    """
    totals: dict[Hashable, Tensor] = {}
    for name, x in samples.items():
        totals[kinds[name]] = totals.get(kinds[name], 0) + x.sum(3, keepdim=True)
    # A sample that a part does not serve has no shares there, and not 0 / 0.
    scale = {kind: (1 / total).masked_fill(total == 0, 0) for kind, total in totals.items()}
    return {name: x * scale[kinds[name]] for name, x in samples.items()}


class Totals:
    """Sums over samples, per condition: layer -> [S, C, N]."""

    def __init__(self) -> None:
        self.counts: dict[Condition, Tensor] = {}
        self.sums: dict[str, dict[Condition, dict[str, Tensor]]] = {kind: {} for kind in KINDS}

    def add(
        self, condition: Condition, samples: Mapping[str, Tensor], parts: Mapping[str, Tensor], present: Tensor
    ) -> None:
        """Add a batch: scores and shares, layer -> [S, B, C, N], and [B, C], which samples hold the class."""
        self.counts[condition] = self.counts.get(condition, 0) + present.sum(0)
        for values, (plain, squared) in ((samples, KINDS[:2]), (parts, KINDS[2:])):
            sums, squares = (self.sums[kind].setdefault(condition, {}) for kind in (plain, squared))
            for name, x in values.items():
                sums[name] = sums.get(name, 0) + wide(x.sum(1))
                squares[name] = squares.get(name, 0) + wide(x.square().sum(1))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON that `restore` takes."""
        order = list(self.counts)
        tensors = {f"counts|{k}": self.counts[c] for k, c in enumerate(order)}
        for kind, sums in self.sums.items():
            tensors |= {f"{kind}|{k}|{n}": x for k, c in enumerate(order) for n, x in sums.get(c, {}).items()}
        return tensors, {"conditions": [str(c) for c in order]}

    def restore(self, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        order = [Condition.parse(text) for text in head["conditions"]]
        for name, x in tensors.items():
            kind, k, *layer = name.split("|", 2)
            if kind == "counts":
                self.counts[order[int(k)]] = x
            else:
                self.sums[kind].setdefault(order[int(k)], {})[layer[0]] = x
        self.counts = {c: self.counts[c] for c in order}


@dataclass
class _Block:
    """The pairs seen so far of a batch of source items; `total` is layer -> [S, B, C, N], summed over them."""

    items: tuple[str, ...]
    pairs: set[Pair]
    total: dict[str, Tensor]
    present: Tensor


class Blocks:
    """Sums over source items of (mean over pairs of the share)^2, one open block per task.

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
        """Add a batch's shares, named by its items; without items it belongs to no block."""
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
            sums[name] = sums.get(name, 0) + wide(mean.square().sum(1))

    def finish(self, pairs: Mapping[str, set[Pair]]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """Return task -> layer -> [S, C, N] and task -> [C], for the tasks whose blocks hold all their pairs."""
        for task in list(self._open):
            self._close(task)
        complete = [task for task in self._pairs if self._pairs[task] == pairs[task]]
        return {task: self._sums[task] for task in complete}, {task: self._counts[task] for task in complete}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON that `restore` takes."""
        tensors: dict[str, Tensor] = {}
        for task, block in self._open.items():
            tensors[f"present|{task}"] = block.present
            tensors |= {f"open|{task}|{name}": x for name, x in block.total.items()}
        for task, sums in self._sums.items():
            tensors[f"items|{task}"] = self._counts[task]
            tensors |= {f"sums|{task}|{name}": x for name, x in sums.items()}
        head = {
            "open": {task: [list(block.items), sorted(map(str, block.pairs))] for task, block in self._open.items()},
            "pairs": {task: sorted(map(str, pairs)) for task, pairs in self._pairs.items()},
        }
        return tensors, head

    def restore(self, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        for task, (items, pairs) in head["open"].items():
            present = tensors[f"present|{task}"]
            self._open[task] = _Block(tuple(items), set(map(Pair.parse, pairs)), {}, present)
        for task, pairs in head["pairs"].items():
            self._pairs[task], self._sums[task] = set(map(Pair.parse, pairs)), {}
        for name, x in tensors.items():
            kind, task, *layer = name.split("|", 2)
            if kind == "items":
                self._counts[task] = x
            elif kind == "open":
                self._open[task].total[layer[0]] = x
            elif kind == "sums":
                self._sums[task][layer[0]] = x
