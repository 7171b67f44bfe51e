"""Some examples of a store, in some order, chosen on the index alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.example import Example
from neuroglot.data.store.records import Store
from neuroglot.data.store.writing import held


def viewed(examples: Sequence[Example]) -> View:
    """Return examples as a view of a store: themselves, or of one in memory."""
    return examples if isinstance(examples, View) else View(held(enumerate(examples, start=1)))


class View(Sequence[Example]):
    """Some examples of a store, in some order.

    Attributes:
        store: where they are.
        places: (examples,) their places in the store.
    """

    def __init__(self, store: Store, places: NDArray[Any] | None = None) -> None:
        self.store = store
        self.places: NDArray[Any] = store.good if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> View: ...
    def __getitem__(self, at: int | slice) -> Example | View:
        if isinstance(at, slice):
            return View(self.store, self.places[at])
        _, example = self.store[int(self.places[at])]
        assert isinstance(example, Example), "a view holds no bad record"
        return example

    def __iter__(self) -> Iterator[Example]:
        return (self[at] for at in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        if isinstance(other, View) and other.store is self.store:
            return bool((self.places == other.places).all())
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def column(self, name: str) -> NDArray[Any]:
        """Return what the index has for every example: see `INDEX`."""
        return self.store.index[name][self.places]

    def images(self) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
        """Return the hash of every image of every example, and before them the numbers of their examples."""
        first, further = self.column("image"), self.store.further
        rows = np.flatnonzero(first)
        keys = first[rows]
        if len(further):
            order = np.argsort(self.places, kind="stable")
            places = np.asarray(self.places[order], np.uint64)
            at = np.searchsorted(places, further["place"]).clip(max=max(0, len(places) - 1))
            mine = places[at] == further["place"] if len(places) else np.zeros(len(further), bool)
            rows = np.concatenate([rows, order[at[mine]]])
            keys = np.concatenate([keys, further["image"][mine]])
        return rows, keys

    @property
    def pairs(self) -> list[str]:
        """The pair of every example; examples of a pair share one text."""
        names = [kind.pair for kind in self.store.kinds]
        return [names[kind] for kind in self.column("kind")]

    def where(self, chosen: NDArray[np.bool_]) -> View:
        """Return those examples for which a mask holds."""
        return View(self.store, self.places[chosen])

    def first_items(self, count: int) -> View:
        """Return the examples of the first `count` items of each task and pair; see `first_of_each`."""
        return self.where(first_of_each(self.column("kind"), self.column("item"), count))


def first_of_each(kind: NDArray[Any], item: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Return which examples belong to the first `count` items of their kind, a mask [examples].

    Items count in the order in which they first come, in whichever kind, so that of parallel data every kind gets the
    same items.

    Args:
        kind: [examples], what each is an example of, such as its pair.
        item: [examples], its source item.
        count: items of each kind; a kind that has fewer gives all.
    """
    _, first, number = np.unique(item, return_index=True, return_inverse=True)
    began = first[number]
    kept = np.zeros(len(item), bool)
    for one in np.unique(kind):
        mine = kind == one
        order = np.unique(began[mine])
        kept |= mine if count >= len(order) else mine & (began < order[count])
    return kept
