"""What silencing costs: nats of held-out targets, measured again and again on inputs that are made once.

Legend: I items, K pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroglot.evidence.numbers import Array

if TYPE_CHECKING:
    from neuroglot.data.example import Example
    from neuroglot.evidence.setting import Setting


class Losses:
    """Measures the loss of held-out examples again and again: nats of each target, inputs made once."""

    def __init__(self, setting: Setting, model: Any) -> None:
        from neuroglot.systems import HFSystem

        self.examples: list[Example] = setting.heldout
        self.items = list(dict.fromkeys(e.item for e in self.examples))
        self.pairs = [pair for pair in setting.context.corpus.pairs if any(str(e.pair) == pair for e in self.examples)]
        self._at = [(self.items.index(e.item), self.pairs.index(str(e.pair))) for e in self.examples]
        self._progress = setting.progress
        batcher: Any = _Remembering(setting.context.batcher)  # only asked for likelihoods
        self._system = HFSystem(model, batcher, "ablated", setting.recipe.evaluate.batch_size)
        self.characters = self.spread([len(e.target) for e in self.examples])

    def nats(self) -> Array:
        """Return the nats of each target: (items, pairs), 0 where an item lacks a pair."""
        found = self.spread(self._system.nll(self.examples))
        self._progress(len(self.examples))
        return found

    def spread(self, values: Sequence[float]) -> Array:
        """Return values of the examples by item and pair."""
        table = np.zeros((len(self.items), len(self.pairs)))
        for (i, k), value in zip(self._at, values, strict=True):
            table[i, k] = value
        return table

    def per_character(self, nats: Array, weights: Array) -> Array:
        """Return nats per character of each pair, items weighted: (..., I, K) and (I,) -> (..., K)."""
        return np.asarray(np.einsum("...ik,i->...k", nats, weights) / np.maximum(weights @ self.characters, 1e-12))


class _Remembering:
    """A batcher that makes the inputs of the same examples once."""

    def __init__(self, batcher: Any) -> None:
        self._batcher = batcher
        self._made: dict[tuple[int, ...], dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batcher, name)

    def encode(self, examples: Sequence[Example]) -> dict[str, Any]:
        key = tuple(map(id, examples))  # the examples live as long as this does
        if key not in self._made:
            self._made[key] = self._batcher.encode(examples)
        return dict(self._made[key])
