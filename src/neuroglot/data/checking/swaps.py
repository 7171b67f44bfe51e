"""Source and target the wrong way round: what each language looks like, as the texts of the corpus itself show.

Notable: letters in threes are counted by language and hashed, so that nothing has to be known of a language beforehand
and memory does not grow. A single swapped record is found where most others are right; a corpus that is swapped as a
whole is found where its languages have different scripts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.checking.texts import TRANSLATING, crossed
from neuroglot.data.example import Example

MOST = 50_000
"""Examples that are counted and judged, the first ones."""

SURE = 3.0
"""Nats by which each of the two texts must look more like the other's language: one in twenty."""

_SIZE = 2**16
_SEEN = 0.1
"""What is added to each count."""


@dataclass
class Swaps:
    """Counts of hashed letter trigrams by language."""

    counts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    examples: int = 0

    def add(self, example: Example) -> None:
        """Count the texts of an example that translates."""
        if self.examples < MOST and judged(example):
            self.examples += 1
            for language, text in _texts(example):
                if language not in self.counts:
                    self.counts[language] = np.zeros(_SIZE)
                grams = _trigrams(text)
                np.add.at(self.counts[language], grams, 1)
                self.totals[language] += len(grams)

    def swapped(self, example: Example) -> bool:
        """Whether each text of a judged example is in the other's script, or looks like the other's language."""
        (source, shown), (target, answer) = _texts(example)
        if crossed(example):
            return True
        return self._leans(shown, source, target) > SURE and self._leans(answer, target, source) > SURE

    def _leans(self, text: str, own: str, other: str) -> float:
        """Return the log-likelihood ratio of a text in the other language to its own, itself not counted there."""
        grams, times = np.unique(_trigrams(text), return_counts=True)
        mine, theirs = self.counts[own], self.counts[other]
        as_own = (np.maximum(mine[grams] - times, 0) + _SEEN) / (self.totals[own] - times.sum() + _SEEN * _SIZE)
        as_other = (theirs[grams] + _SEEN) / (self.totals[other] + _SEEN * _SIZE)
        return float((times * np.log(as_other / as_own)).sum())


def judged(example: Example) -> bool:
    """Whether an example has texts in two languages."""
    source, target = example.source_lang.partition("_")[0], example.target_lang.partition("_")[0]
    return bool(example.source) and example.task in TRANSLATING and source != target


def _texts(example: Example) -> Iterator[tuple[str, str]]:
    yield example.source_lang, example.source or ""
    yield example.target_lang, example.target


def _trigrams(text: str) -> NDArray[np.int64]:
    """Return the hashes of a text's letters in threes, its words apart; signs and digits are of no language."""
    words = "".join(c if c.isalpha() else " " for c in text.casefold()).split()
    codes = np.frombuffer(f" {' '.join(words)} ".encode("utf-32-le", "ignore"), dtype=np.uint32).astype(np.uint64)
    mixed = codes[:-2] * np.uint64(2654435761) ^ codes[1:-1] * np.uint64(40503) ^ codes[2:] * np.uint64(2246822519)
    return ((mixed * np.uint64(11400714819323198485)) >> np.uint64(48)).astype(np.int64)
