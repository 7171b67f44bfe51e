"""What a run's examples are divided into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.example import Example
from neuroglot.data.store import View, first_of_each

RETAINED = ("ocr", "text_translation", "describe")


@dataclass(frozen=True)
class Corpus:
    """Examples of one task.

    Attributes:
        pairs: every pair, in the order asked for or found.
        train: each item in every pair, each with a rendering of its own where it is rendered.
        profile: the same items, an item's pairs on one image.
        splits: name -> examples to score: `<task>` (test), `<task>_heldout`.
        dev: examples to choose settings by.
        retention: task -> examples of what the model could do before.
        dev_retention: the same tasks on other examples, to choose settings by; empty where a file marks none as dev.
        replay: task -> examples of other tasks to train on against forgetting; none of them is tested.
    """

    pairs: tuple[str, ...]
    train: Sequence[Example]
    profile: Sequence[Example]
    dev: Sequence[Example]
    splits: Mapping[str, Sequence[Example]]
    retention: Mapping[str, Sequence[Example]]
    dev_retention: Mapping[str, Sequence[Example]]
    replay: Mapping[str, Sequence[Example]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """How many source items of each kind."""

    train: int
    dev: int
    test: int
    heldout: int
    retention: int


def as_task(example: Example, task: str, target: str | None = None) -> Example | None:
    """The same image put to another task in the source language; None where its reference is not known."""
    known = target if target is not None else example.source if task == "ocr" else None
    if not known:
        return None
    return replace(example, task=task, target_lang=example.source_lang, source=None, target=known, alternatives=())


def as_text(example: Example) -> Example:
    """The source text alone, to translate."""
    return replace(example, task="text_translation", images=(), alternatives=())


def first_items(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """Return the examples of the first `count` items of each task and pair, in their order; see `first_of_each`.

    Of a file only the index is looked at; no record is read.
    """
    return _taken(examples, np.flatnonzero(first_of_each(*_keys(examples), count)))


def items_in_turn(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """Return the examples of `count` items in all; where items differ in their pairs, the sets of pairs take turns.

    Of parallel data these are the first items. A file that is not parallel may begin with hundreds of one pair. Of a
    file only the index is looked at.
    """
    kind, item = _keys(examples)
    if not len(item):
        return _taken(examples, np.zeros(0, np.intp))
    _, first, number = np.unique(item, return_index=True, return_inverse=True)
    # An item's set of pairs, as one number: the exclusive or of random numbers, one a pair.
    kinds, code = np.unique(kind, return_inverse=True)
    both = np.unique(number * len(kinds) + code)
    starts = np.flatnonzero(np.diff(both // len(kinds), prepend=-1))
    drawn = np.random.default_rng(0).integers(1, 2**63, len(kinds))
    group = np.bitwise_xor.reduceat(drawn[both % len(kinds)], starts)[np.argsort(first)]
    _, begins, group = np.unique(group, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    turn = np.empty(len(order), np.intp)
    turn[order] = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    chosen = np.argsort(first)[np.lexsort((begins[group], turn))[:count]]
    place = np.full(len(first), len(first))
    place[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(place[number] < len(first))
    return _taken(examples, rows[np.argsort(place[number[rows]], kind="stable")])


def items_of(examples: Sequence[Example]) -> dict[str, int]:
    """Return how many items there are of each pair."""
    if isinstance(examples, View):
        code = examples.column("kind")
        names = [kind.pair for kind in examples.store.kinds]
        return {names[one]: len(np.unique(examples.column("item")[code == one])) for one in np.unique(code)}
    held: dict[str, set[str]] = {}
    for example in examples:
        held.setdefault(str(example.pair), set()).add(example.item)
    return {pair: len(items) for pair, items in held.items()}


def shortfall(examples: Sequence[Example], pairs: Sequence[str], count: int) -> str:
    """Return which pairs have fewer items than were asked for, and how many: `en-fr 3, en-tr 0`; empty if none."""
    held = items_of(examples)
    return ", ".join(f"{pair} {held.get(pair, 0)}" for pair in pairs if held.get(pair, 0) < count)


def _keys(examples: Sequence[Example]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a number for the task and pair of every example, and one for its item."""
    if isinstance(examples, View):
        return examples.column("kind"), examples.column("item")
    kinds: dict[str, int] = {}
    items: dict[str, int] = {}
    numbers = [
        (kinds.setdefault(str(e.condition), len(kinds)), items.setdefault(e.item, len(items))) for e in examples
    ]
    found = np.array(numbers, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _taken(examples: Sequence[Example], rows: NDArray[np.intp]) -> Sequence[Example]:
    if isinstance(examples, View):
        return View(examples.store, examples.places[rows])
    return [examples[row] for row in rows]
