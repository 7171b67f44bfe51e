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

    Args:
        pairs: the pair of each item, in text form.
        batch_size: items per batch.
        seed: chooses the order.

    Raises:
        UserError: no items, or a batch size below 1.
    """

    def __init__(self, pairs: Sequence[str], batch_size: int, seed: int = 0) -> None:
        if not len(pairs):
            raise UserError("there are no examples to train on; expected one or more; check the data and its filters")
        if batch_size < 1:
            raise UserError(f"batch_size must be 1 or more, got {batch_size}")
        self.batch_size = batch_size
        self.drop_last = False  # accelerate reads both attributes
        self.seed = seed
        self.epoch = 0
        by_pair: dict[str, list[int]] = {}
        for index, pair in enumerate(pairs):
            by_pair.setdefault(str(pair), []).append(index)
        self._by_pair = {pair: torch.tensor(by_pair[pair]) for pair in sorted(by_pair)}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(-(-len(index) // self.batch_size) for index in self._by_pair.values())

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches: list[list[int]] = []
        for index in self._by_pair.values():
            shuffled = index[torch.randperm(len(index), generator=generator)]
            batches += [batch.tolist() for batch in shuffled.split(self.batch_size)]
        for position in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[position]
