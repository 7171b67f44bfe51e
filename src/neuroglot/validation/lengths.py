"""How long texts and samples are: characters of everything, tokens of a sample, held against the model's context."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.data.example import INSTRUCTION, Example
from neuroglot.errors import UserError
from neuroglot.validation.findings import LISTED, Tally

if TYPE_CHECKING:
    from neuroglot.data.batch import Batcher
    from neuroglot.data.readers.checked import Fits

LONGEST = 100_000
"""Lengths from here on count as this one, so that a histogram stays small."""

Size = tuple[int, int]


@dataclass
class Histogram:
    """How often each length occurs."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, length: int) -> None:
        """Count one."""
        self.counts[min(length, LONGEST)] += 1

    @property
    def total(self) -> int:
        """How many were counted."""
        return self.counts.total()

    def quantile(self, share: float) -> int:
        """Return the length that at least `share` of all do not exceed."""
        reached = 0
        for length in sorted(self.counts):
            reached += self.counts[length]
            if reached >= share * self.total:
                return length
        return 0

    def facts(self) -> dict[str, Any]:
        """Return its figures and its bins as plain data."""
        edges, bins = self.bins()
        total = sum(length * count for length, count in self.counts.items())
        return {
            "count": self.total,
            "mean": round(total / self.total, 2) if self.total else None,
            **{name: self.quantile(share) for name, share in
               (("min", 0.0), ("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))},
            "edges": edges,
            "bins": bins,
        }  # fmt: skip

    def bins(self, most: int = 30) -> tuple[list[int], list[int]]:
        """Return edges and counts of at most `most` bins of one round width; the last takes what is beyond.

        The last bin begins where the longest one in a thousand do, so that a single outlier does not flatten the rest.
        """
        if not self.counts:
            return [0, 1], [0]
        low, high = min(self.counts), max(self.quantile(0.999), min(self.counts))
        width = next(w for e in range(6) for w in (10**e, 2 * 10**e, 5 * 10**e) if (high - low) // w < most)
        start = low // width * width
        edges = list(range(start, high + width + 1, width))
        bins = [0] * (len(edges) - 1)
        for length, count in self.counts.items():
            bins[min((length - start) // width, len(bins) - 1)] += count
        return edges, bins


@dataclass
class Lengths:
    """Measures examples with the model's own tokenizer: all of them, or a random sample of bounded size.

    Attributes:
        batcher: the model's; None to measure characters only.
        fits: refuses what the model cannot take; by default what cannot be encoded.
        most: examples that are kept for measuring; 0 for all.
    """

    batcher: Batcher | None
    fits: Fits | None = None
    most: int = 10_000
    histograms: dict[str, Histogram] = field(default_factory=dict)
    refused: Tally = field(default_factory=lambda: Tally(LISTED))
    offered: int = 0
    measured: int = 0
    over: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(0)
        self._kept: list[tuple[int, Example, Sequence[Size]]] = []

    def offer(self, position: int, example: Example, sizes: Sequence[Size]) -> None:
        """Take an example with the sizes of its images."""
        if example.source:
            self._add("source_characters", len(example.source))
        self._add("target_characters", len(example.target))
        if self.batcher is None:
            return
        self.offered += 1
        if not self.most:
            self._measure(position, example, sizes)
            return
        place = len(self._kept) if len(self._kept) < self.most else self._rng.randrange(self.offered)
        if place < self.most:
            # What the image holds is of no more use, and may be megabytes; of the rest only what is asked.
            meta = {key: value for key, value in example.meta.items() if key == INSTRUCTION}
            entry = (position, replace(example, images=(Path(),) * len(sizes), meta=meta), sizes)
            self._kept[place : place + 1] = [entry]

    def finish(self, progress: Callable[[str, int], None]) -> None:
        """Measure what was kept."""
        for number, kept in enumerate(sorted(self._kept, key=lambda entry: entry[0])):
            if number % 100 == 0:
                progress("measured", number)
            self._measure(*kept)
        self._kept = []

    def _add(self, name: str, length: int) -> None:
        self.histograms.setdefault(name, Histogram()).add(length)

    def _measure(self, position: int, example: Example, sizes: Sequence[Size]) -> None:
        assert self.batcher is not None
        self.measured += 1
        try:
            text, image, target = self.batcher.lengths(example, sizes)
        except UserError as error:  # of a size that its processor does not take
            self.refused.add(position, example.target, str(error))
            return
        self._add("prompt_tokens", text)
        self._add("target_tokens", target)
        if example.images:
            self._add("image_tokens", image)
        self._add("tokens", text + image + target)
        try:
            (self.fits or self.batcher.check)(example, sizes)
        except UserError as error:
            self.refused.add(position, example.target, str(error))
            self.over += bool(self.batcher.max_length and text + image + target > self.batcher.max_length)
