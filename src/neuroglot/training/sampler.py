"""Batches of one pair each, mixed over the steps, the same for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from neuroglot.errors import UserError


@dataclass(frozen=True)
class Mix:
    """What an epoch is made of, where it is not simply every item once.

    Attributes:
        kinds: a text for each item; a batch holds items of one pair and one kind. None for one kind.
        temperature: T of p ~ n^(1/T), by which pairs with n items share an epoch: 1 by size, larger more evenly
            (Arivazhagan et al. 2019, arXiv 1907.05019, section 4.1; the papers use up to 100, which is nearly even).
        replayed: how many items, the last ones, are of other tasks. The pairs' shares do not include them.
        share: of replayed items in all batches. Their kinds come in turn.
    """

    kinds: Sequence[str] | None = None
    temperature: float = 1.0
    replayed: int = 0
    share: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}; 1 draws pairs by their size")
        if not 0 <= self.share < 1:
            raise UserError(f"replay must be in [0, 1), got {self.share}; it is a share of the batches")
        if self.share and not self.replayed:
            raise UserError(
                f"replay is {self.share}, and there are no items to replay; expected some, or a share of 0"
            )


class OnePairBatchSampler(Sampler[list[int]]):
    """Yields lists of indices whose items belong to one pair.

    An epoch visits every item once. Each pair's items are shuffled and cut into batches (its last may be short), then
    the batches of all pairs are shuffled together. The order is a function of (seed, epoch) alone, so that a run
    resumed in the middle of an epoch skips exactly the batches that it has seen.

    With a temperature an epoch has as many items as before, but the pairs have other shares of it. A pair with fewer
    than all its items draws new ones every epoch; one with more repeats all its items.

    Batches of replayed items are full and evenly spread: after any number of batches of an epoch, those that were
    replayed are the share of them, to within one. The share is therefore the same in a training of less than an epoch.
    Of few batches the share may be no integer. An epoch is then several passes over the items, as few as make the
    share exact to a hundredth of it; all epochs have the same length, from which a resumed training computes its
    position.

    With several processes the batches come in runs of `world` batches of one pair, one for each process: accelerate
    gives the i-th batch to process i modulo `world`. It also drops or refills runs that end in a short batch, so here
    every batch is full: a pair's last run is filled up with items of the same pair, from the start of its order, which
    are then seen twice (or more, of a pair with few items) in that epoch.

    Args:
        pairs: the pair of each item, in text form.
        batch_size: items per batch, that of one process.
        seed: chooses the order.
        world: number of processes that share the batches.
        mix: what an epoch is made of.

    Attributes:
        passes: how often an epoch visits every item.
        replays: batches (of each process) that are replayed in an epoch.

    Raises:
        UserError: no items, or a batch size or a number of processes below 1.
    """

    def __init__(
        self, pairs: Sequence[str], batch_size: int, seed: int = 0, world: int = 1, mix: Mix | None = None
    ) -> None:
        mix = mix or Mix()
        items = len(pairs) - mix.replayed
        if items < 1:
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
        self._index = _divided(pairs, mix.kinds, range(items))
        self._replayed = _divided(pairs, mix.kinds, range(items, len(pairs)))
        self._counts = quotas({key: len(index) for key, index in self._index.items()}, mix.temperature)
        self._runs = sum(-(-count // self._run) for count in self._counts.values())
        share = Fraction(mix.share).limit_denominator(10**6)
        self.passes, self.replays = _whole(self._runs * share / (1 - share))

    @property
    def _run(self) -> int:
        """Items of a run."""
        return self.batch_size * self.world

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return (self._runs * self.passes + self.replays) * self.world

    def __iter__(self) -> Iterator[list[int]]:
        generator = self._generator(0)
        first, replays = self._pass(generator), self._replay(generator)
        later = (self._pass(self._generator(number)) for number in range(1, self.passes))
        runs = chain(first, chain.from_iterable(later))
        done, total = 0, len(self) // self.world
        for number in range(total):
            due = (number + 1) * self.replays // total
            run = next(replays if due > done else runs)
            done = due
            yield from (batch.tolist() for batch in run.split(self.batch_size))

    def _generator(self, number: int) -> torch.Generator:
        """Return the random generator of a pass of the epoch."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch * self.passes + number)

    def _pass(self, generator: torch.Generator) -> list[Tensor]:
        """Return the runs of one pass over the items, in order."""
        runs: list[Tensor] = []
        for key, index in self._index.items():
            count = self._counts[key]
            passes = [index[torch.randperm(len(index), generator=generator)] for _ in range(-(-count // len(index)))]
            shuffled = torch.cat(passes)[:count] if passes else index[:0]
            if self.world > 1 and count:
                full = -(-count // self._run) * self._run
                shuffled = shuffled.repeat(-(-full // count))[:full]
            runs += shuffled.split(self._run) if count else ()
        return [runs[number] for number in torch.randperm(len(runs), generator=generator).tolist()]

    def _replay(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield runs of replayed items, full ones, the kinds in turn."""
        kinds: dict[str, list[Tensor]] = {}
        for (_, kind), index in self._replayed.items():
            kinds.setdefault(kind, []).append(index)
        streams = [self._cycled(groups, generator) for groups in kinds.values()]
        turn = self.epoch * self.replays  # the kinds continue where the epoch before stopped
        while streams:
            yield next(streams[turn % len(streams)])
            turn += 1

    def _cycled(self, groups: Sequence[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        """Yield runs of the groups of one kind, by their size, without end; each run is of one group."""
        while True:
            runs = []
            for index in groups:
                shuffled = index[torch.randperm(len(index), generator=generator)]
                full = -(-len(index) // self._run) * self._run
                runs += shuffled.repeat(-(-full // len(index)))[:full].split(self._run)
            for position in torch.randperm(len(runs), generator=generator).tolist():
                yield runs[position]


def _whole(exact: Fraction) -> tuple[int, int]:
    """Return the fewest passes, and their replayed batches, that give `exact` per pass to within a hundredth of it."""
    passes = 1
    while abs(round(exact * passes) - exact * passes) > exact * passes / 100:
        passes += 1
    return passes, round(exact * passes)


def quotas(sizes: dict[tuple[str, str], int], temperature: float) -> dict[tuple[str, str], int]:
    """Return how many items of each (pair, kind) an epoch has; together as many as there are.

    Pairs share by p ~ n^(1/T) with n their items, a pair's kinds share by their size; whole numbers by largest
    remainder.

    Examples:
        >>> quotas({("en-de", ""): 90, ("en-cs", ""): 10}, 2.0)
        {('en-de', ''): 75, ('en-cs', ''): 25}
    """
    if temperature == 1:
        return dict(sizes)
    pairs: dict[str, int] = {}
    for (pair, _), size in sizes.items():
        pairs[pair] = pairs.get(pair, 0) + size
    total = sum(sizes.values())
    largest = max(pairs.values())
    weights = {pair: (size / largest) ** (1 / temperature) for pair, size in pairs.items()}
    scale = total / sum(weights.values())
    exact = {key: scale * weights[key[0]] * size / pairs[key[0]] for key, size in sizes.items()}
    counts = {key: int(value) for key, value in exact.items()}
    rest = sorted(exact, key=lambda key: (counts[key] - exact[key], key))
    for key in rest[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def _divided(pairs: Sequence[str], kinds: Sequence[str] | None, among: range) -> dict[tuple[str, str], Tensor]:
    """Return the indices of every pair and kind, as int64: a list of them would take five times the memory."""
    names: dict[tuple[str, str], int] = {}
    numbers = np.empty(len(among), np.int32)
    for position, index in enumerate(among):
        key = (str(pairs[index]), "" if kinds is None else kinds[index])
        numbers[position] = names.setdefault(key, len(names))
    return {key: torch.from_numpy(np.flatnonzero(numbers == names[key]) + among.start) for key in sorted(names)}
