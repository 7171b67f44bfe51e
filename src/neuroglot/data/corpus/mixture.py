"""What a training draws from: the run's own examples and those replayed, as one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from neuroglot.data.corpus.parts import Corpus
from neuroglot.data.corpus.replay import Replayed
from neuroglot.data.example import Example
from neuroglot.data.store import View


class TrainingSet(Sequence[Example]):
    """The training examples of a corpus, and after them what is replayed.

    Attributes:
        pairs: of every example, the pair as which it trains.
        kinds: of every example, what a batch must not mix: whether there are images, and the task of a replayed one.
        replayed: how many are replayed, by task.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._parts: list[Sequence[Example]] = [corpus.train, *corpus.replay.values()]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.replayed = {task: len(part) for task, part in corpus.replay.items()}
        self.pairs = _pairs(corpus.train)
        self.kinds = _shown(corpus.train, "")
        for task, part in corpus.replay.items():
            self.pairs += _pairs(part)
            self.kinds += _shown(part, f"{task} ")

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        if isinstance(at, slice):
            return [self[k] for k in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        part = int(np.searchsorted(self._ends, at, side="right"))
        return self._parts[part][at - int(self._ends[part - 1] if part else 0)]


def _pairs(examples: Sequence[Example]) -> list[str]:
    """Return each example's pair: one text for all of a pair, not one each."""
    if isinstance(examples, View | Replayed):
        return list(examples.pairs)
    known: dict[str, str] = {}
    return [known.setdefault(text, text) for text in (str(example.pair) for example in examples)]


def _shown(examples: Sequence[Example], before: str) -> list[str]:
    names = (before, f"{before}image")
    if isinstance(examples, View):
        return [names[shown] for shown in (examples.column("image") > 0).tolist()]
    if isinstance(examples, Replayed):
        return [names[shown] for shown in examples.shown]
    return [names[bool(example.images)] for example in examples]
