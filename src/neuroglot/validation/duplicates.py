"""Duplicates in a corpus: eight bytes for each field of an example, compared after all are read."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.example import Example
from neuroglot.data.store import hash_text, text_key

Keys = NDArray[np.uint64]

NEAR = 3
"""Bits of 64 in which the hashes of two similar images may differ."""

_BLOCK = 256


class Columns:
    """One row for each example, in arrays of 64-bit numbers; 0 means none."""

    NAMES = ("ordinal", "cell", "item", "source", "shown", "image", "look", "target")

    def __init__(self) -> None:
        self._columns = {name: array("Q") for name in self.NAMES}

    def add(self, ordinal: int, cell: int, example: Example, image: int, look: int) -> None:
        """Add one example.

        Args:
            ordinal: index of its record, from 0.
            cell: the number of its task, pair and split.
            example: the example.
            image: hash of its images' content.
            look: perceptual hash of its image.
        """
        source = text_key(example)
        # The model's input: the pixels of an image with text, the text itself, or both.
        if not example.images:
            shown = source
        elif example.task == "multimodal_translation":
            shown = (image * 31 + source) % 2**64
        else:
            shown = image
        target = hash_text(unicodedata.normalize("NFC", example.target.strip()))
        row = (ordinal, cell, hash_text(example.item), source, shown, image, look, target)
        for name, value in zip(self.NAMES, row, strict=True):
            self._columns[name].append(value)

    def __getitem__(self, name: str) -> Keys:
        column = self._columns[name]
        return np.frombuffer(column, dtype=np.uint64) if len(column) else np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._columns["ordinal"])


def mixed(*columns: Any) -> Keys:
    """Return one key for each row of several columns."""
    key: Keys = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        key = (key ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def repeated(keys: Keys, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows whose key occurs in an earlier row, and the first row with it; both in the order of the corpus.

    Args:
        keys: one for each row of the corpus.
        rows: the rows to compare, ascending.
    """
    order = rows[np.argsort(keys[rows], kind="stable")]
    sorted_keys = keys[order]
    begins = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]) if len(sorted_keys) else np.empty(0, bool)
    first = order[np.flatnonzero(begins)][np.cumsum(begins) - 1] if len(sorted_keys) else order
    later, earlier = order[~begins], first[~begins]
    order_of_later = np.argsort(later)
    return later[order_of_later], earlier[order_of_later]


def shared(keys: Keys, rows: NDArray[np.intp], others: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which of `rows` share a key with one of `others`, and the first such one for each."""
    if not len(rows) or not len(others):
        return rows[:0], others[:0]
    order = others[np.argsort(keys[others], kind="stable")]
    known = keys[order]
    index = np.searchsorted(known, keys[rows]).clip(max=len(known) - 1)
    hit = known[index] == keys[rows]
    return rows[hit], order[index[hit]]


def alike(looks: Keys, rows: NDArray[np.intp], others: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which of `rows` have a perceptual hash within `NEAR` bits of one of `others`, and one of those for each.

    Two hashes that differ in at most three bits agree in one of four quarters, so that only rows that agree in a
    quarter are compared.
    """
    rows, others = rows[looks[rows] != 0], others[looks[others] != 0]
    match: dict[int, int] = {}
    for quarter in range(4 if len(others) else 0):
        shift = np.uint64(16 * quarter)
        part = (looks >> shift) & np.uint64(0xFFFF)
        order = others[np.argsort(part[others], kind="stable")]
        known = part[order]
        for row, other in _candidates(part, known, order, rows):
            near = _bits(looks[row] ^ looks[other]) <= NEAR
            for a, b in zip(row[near].tolist(), other[near].tolist(), strict=True):
                match.setdefault(a, b)
    hits = np.array(sorted(match), dtype=np.intp)
    return hits, np.array([match[row] for row in hits.tolist()], dtype=np.intp)


def _candidates(
    part: Keys, known: Keys, order: NDArray[np.intp], rows: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield pairs of rows that agree in a quarter, in small blocks."""
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        left, right = np.searchsorted(known, part[block], "left"), np.searchsorted(known, part[block], "right")
        for row, a, b in zip(block, left, right, strict=True):
            if b > a:
                yield np.repeat(row, b - a), order[a:b]


def _bits(keys: Keys) -> NDArray[np.intp]:
    octets = np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), 8)
    return np.asarray(np.unpackbits(octets, axis=1).sum(axis=1), dtype=np.intp)


def rows_of(cells: Keys, numbers: Sequence[int]) -> NDArray[np.intp]:
    """Return the rows in any of these cells, ascending."""
    return np.flatnonzero(np.isin(cells, np.array(numbers, dtype=np.uint64)))
