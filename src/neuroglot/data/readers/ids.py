"""Names that come again: a second one is found, at 16 bytes for each that is known."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

BLOCK = 65_536
"""Ids that are kept in a dictionary before they go into the sorted arrays."""


class Ids:
    """The ids of a source with their positions, by 64 bits of a hash.

    Two different ids of a million are taken for one with a chance of 3 in 10^8.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._hashes: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._positions: NDArray[np.int64] = np.empty(0, np.int64)

    def earlier(self, name: str, position: int) -> int | None:
        """Return the position of the record that has this id already; None, and remember it, if there is none."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "little")
        if key in self._recent:
            return self._recent[key]
        at = int(np.searchsorted(self._hashes, np.uint64(key)))
        if at < len(self._hashes) and int(self._hashes[at]) == key:
            return int(self._positions[at])
        self._recent[key] = position
        if len(self._recent) >= BLOCK:
            self._merge()
        return None

    def _merge(self) -> None:
        hashes = np.fromiter(self._recent, np.uint64, len(self._recent))
        positions = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        order = np.argsort(hashes)
        places = np.searchsorted(self._hashes, hashes[order])
        self._hashes = np.insert(self._hashes, places, hashes[order])
        self._positions = np.insert(self._positions, places, positions[order])
        self._recent.clear()
