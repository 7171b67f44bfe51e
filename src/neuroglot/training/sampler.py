"""Batches of one pair each, mixed over the steps, the same for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from neuroglot.errors import UserError


class OnePairBatchSampler(Sampler[list[int]]):
    """Yields lists of indices whose items belong to one pair.

    An epoch visits every item once. Each pair's items are shuffled and cut into batches (its last may be short), then
    the batches of all pairs are shuffled together. The order is a function of (seed, epoch) alone, so that a run
    resumed in the middle of an epoch skips exactly what it has seen.

    With several processes the batches come in runs of `world` batches of one pair, one for each process: accelerate
    gives the i-th batch to process i modulo `world`. It also drops or refills runs that end in a short batch, so here
    every batch is full: a pair's last run is filled up with items of the same pair, from the start of its order, which
    are then seen twice (or more, of a pair with few items) in that epoch.

    Args:
        pairs: the pair of each item, in text form.
        batch_size: items per batch, that of one process.
        seed: chooses the order.
        world: number of processes that share the batches out.

    Raises:
        UserError: no items, or a batch size or a number of processes below 1.
    """

    def __init__(self, pairs: Sequence[str], batch_size: int, seed: int = 0, world: int = 1) -> None:
        if not len(pairs):
            raise UserError("there are no examples to train on; expected one or more; check the data and its filters")
        if batch_size < 1:
            raise UserError(f"batch_size must be 1 or more, got {batch_size}")
        if world < 1:
            raise UserError(f"world must be 1 or more, got {world}; it is the number of processes")
        self.batch_size = batch_size
        self.drop_last = False  # accelerate reads both attributes
        self.seed = seed
        self.world = world
        self.epoch = 0
        by_pair: dict[str, list[int]] = {}
        for index, pair in enumerate(pairs):
            by_pair.setdefault(str(pair), []).append(index)
        self._by_pair = {pair: torch.tensor(by_pair[pair]) for pair in sorted(by_pair)}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        run = self.batch_size * self.world
        return sum(-(-len(index) // run) for index in self._by_pair.values()) * self.world

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        run = self.batch_size * self.world
        runs: list[list[list[int]]] = []
        for index in self._by_pair.values():
            shuffled = index[torch.randperm(len(index), generator=generator)]
            if self.world > 1:
                full = -(-len(index) // run) * run
                shuffled = shuffled.repeat(-(-full // len(index)))[:full]
            batches = [batch.tolist() for batch in shuffled.split(self.batch_size)]
            runs += [batches[start : start + self.world] for start in range(0, len(batches), self.world)]
        for position in torch.randperm(len(runs), generator=generator).tolist():
            yield from runs[position]
