"""Which of a user's examples train, choose settings and test, where their records do not say.

What shares an item, an image or a source text stays together, however many examples hang together in that way:
otherwise the test would hold what was trained. All of it is decided on a store's index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from neuroglot.data.store import SPLITS, View

TRAIN, DEV, TEST = (SPLITS.index(split) for split in ("train", "dev", "test"))

MANY = 20
"""Items from which on a group can be too large for the tenth of the data that tests, or an image be in too many."""


def splits_of(examples: View, task: str, pairs: Sequence[str], seed: int) -> NDArray[np.uint8]:
    """Return the split of every record of a store as a run has it: its task and pairs apart, and each other task."""
    kinds = examples.store.kinds
    parts = [(kind.task, kind.task == task and (not pairs or kind.pair in pairs)) for kind in kinds]
    split = np.zeros(len(examples.store), np.uint8)
    for part in dict.fromkeys(parts):
        numbers = [number for number, its in enumerate(parts) if its == part]
        mine = examples.where(np.isin(examples.column("kind"), numbers))
        split[mine.places] = divided(mine, seed)
    return split


def divided(examples: View, seed: int) -> NDArray[np.uint8]:
    """Return the split of every example: its own, or that of what it shares something with, or one that is drawn.

    Groups are drawn by the name of an item, so that neither the order of the records nor other groups decide: four
    fifths train, a tenth is dev, a tenth test. A group of more than a tenth of all items trains, and the others share
    out what is left.
    """
    split = examples.column("split").copy()
    free = np.flatnonzero(split == 0)
    if not len(free):
        return split
    keys = list(_telling(examples))
    item = examples.column("item")[free]
    names, first, number = np.unique(item, return_index=True, return_inverse=True)
    group = _groups(number, keys, free, len(examples))
    of_item = group[first]  # names are sorted, so that the first of a group has its smallest hash
    found, draws, sizes = np.unique(of_item, return_index=True, return_counts=True)
    large = sizes > max(MANY, len(names) // 10)
    mark = _marks(split, keys, group, free, len(found))
    mark[(mark == 0) & large] = TRAIN
    trained = 0.8 - sizes[large].sum() / len(names)
    share = max(0.0, trained / (trained + 0.2)) if large.any() else 0.8
    for at in np.flatnonzero(mark == 0):
        mark[at] = _bucket(examples[int(free[first[draws[at]]])].item, seed, share)
    split[free] = mark[group]
    return split


def _bucket(item: str, seed: int, share: float) -> int:
    """Draw a split: train with a chance of `share`, dev and test with equal ones."""
    drawn = hashlib.sha256(f"{seed}:{item}".encode()).digest()[0] / 256
    return TRAIN if drawn < share else DEV if drawn < (1 + share) / 2 else TEST


def _telling(examples: View) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint64]]]:
    """Yield hashes of items, images and texts, each with the numbers of their examples.

    An image or a text of more than half of all items, such as a blank picture that stands for none, says nothing.
    """
    item, every = examples.column("item"), np.arange(len(examples))
    yield every, item
    limit = max(MANY, len(np.unique(item)) // 2)
    text = examples.column("text")
    for rows, keys in (examples.images(), (every[text > 0], text[text > 0])):
        found, number, counts = np.unique(keys, return_inverse=True, return_counts=True)
        for at in np.flatnonzero(counts > limit):  # of several examples an item, perhaps
            counts[at] = len(np.unique(item[rows[keys == found[at]]]))
        kept = (counts <= limit)[number]
        yield rows[kept], keys[kept]


def _groups(
    number: NDArray[np.intp],
    keys: list[tuple[NDArray[np.intp], NDArray[np.uint64]]],
    free: NDArray[np.intp],
    count: int,
) -> NDArray[np.intp]:
    """Return the group of every free example: items that share an image or a text, and what shares with those.

    Args:
        number: (free,) the item of each.
        keys: see `_telling`.
        free: places of the free examples among all.
        count: of all examples.
    """
    item = np.full(count, -1, np.int64)
    item[free] = number
    ends: list[NDArray[Any]] = []
    for rows, key in keys[1:]:
        mine = item[rows] >= 0
        owner, key = item[rows[mine]], key[mine]
        order = np.argsort(key, kind="stable")
        owner, key = owner[order], key[order]
        linked = (key[1:] == key[:-1]) & (owner[1:] != owner[:-1])
        ends.append(np.stack([owner[:-1][linked], owner[1:][linked]]).astype(np.int32))
    a, b = np.concatenate(ends, axis=1)
    items = int(number.max()) + 1
    links = coo_array((np.ones(len(a), np.uint8), (a, b)), shape=(items, items))
    _, group = connected_components(links, directed=False)
    return np.asarray(group, np.intp)[number]


def _marks(
    split: NDArray[np.uint8],
    keys: list[tuple[NDArray[np.intp], NDArray[np.uint64]]],
    group: NDArray[np.intp],
    free: NDArray[np.intp],
    count: int,
) -> NDArray[np.uint8]:
    """Return for every group the latest split of a marked example that shares something with it; 0 for none."""
    mark = np.zeros(count, np.uint8)
    of_row = np.full(len(split), -1, np.int64)
    of_row[free] = group
    for rows, key in keys:
        unmarked = of_row[rows] >= 0
        for name in (TRAIN, DEV, TEST):
            touched = np.isin(key[unmarked], key[split[rows] == name])
            groups = of_row[rows[unmarked][touched]]
            mark[groups] = np.maximum(mark[groups], name)
    return mark
