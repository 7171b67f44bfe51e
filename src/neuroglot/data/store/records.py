"""Records at random access: bytes in a file, or in memory, and an index of where each is and what it is of."""

from __future__ import annotations

import io
import os
import threading
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.example import Example
from neuroglot.data.store.encoding import decoded
from neuroglot.errors import UserError

SPLITS = (None, "train", "dev", "test")
"""What the index has for the split that a record names; others are not known."""

COLUMNS = {"end": "Q", "line": "Q", "kind": "H", "split": "B", "files": "B", "item": "Q", "image": "Q", "text": "Q",
            "check": "I"}  # fmt: skip
INDEX = np.dtype([(name, array(code).typecode) for name, code in COLUMNS.items()])
"""Of every record: the end of its bytes, its line, its kind (of `Store.kinds`; BAD if it holds no example), its split,
how many of its images are files, the hashes of its item, of its first image and of its text in the source language (0
for none), and the checksum of its bytes."""

FURTHER = np.dtype([("place", np.uint64), ("image", np.uint64)])
"""Of every image after a record's first one: the place of the record, and the hash."""

BAD = 2**16 - 1


class Kind(NamedTuple):
    """What a record is an example of: a task and a pair, as texts."""

    task: str
    source_lang: str
    target_lang: str

    @property
    def pair(self) -> str:
        """The pair in text form."""
        return f"{self.source_lang}-{self.target_lang}"


class Store:
    """Records at random access.

    Attributes:
        index: (records,) of `INDEX`.
        kinds: of the records, by number.
        further: (images after the first of their record,) of `FURTHER`, by place.
    """

    def __init__(
        self, file: IO[bytes], index: NDArray[Any], kinds: Sequence[Kind], further: NDArray[Any] | None = None
    ) -> None:
        self._file = file
        self._memory = file.getbuffer() if isinstance(file, io.BytesIO) else None
        self._lock = threading.Lock()
        self.index = index
        self.kinds = tuple(kinds)
        self.further: NDArray[Any] = np.empty(0, FURTHER) if further is None else further

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> tuple[int, Example | UserError]:
        """Return the line of a record and its example, or what is wrong with it."""
        start = int(self.index["end"][place - 1]) if place else 0
        raw = self._read(start, int(self.index["end"][place]) - start)
        if zlib.crc32(raw) != self.index["check"][place]:
            raise UserError(f"a store of records in {cache_folder()} is damaged; delete it and run again")
        return int(self.index["line"][place]), decoded(raw)

    def __iter__(self) -> Iterator[tuple[int, Example | UserError]]:
        return (self[place] for place in range(len(self)))

    def _read(self, start: int, size: int) -> bytes:
        if self._memory is not None:
            return bytes(self._memory[start : start + size])
        if hasattr(os, "pread"):  # which moves no position that processes or threads would share
            return os.pread(self._file.fileno(), size, start)
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    @property
    def good(self) -> NDArray[np.int64]:
        """The places of records that hold an example."""
        return np.flatnonzero(self.index["kind"] != BAD)


def cache_folder() -> Path:
    """Return where stores are kept: `NEUROGLOT_CACHE`, or `neuroglot` in the user's cache folder."""
    own = os.environ.get("NEUROGLOT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuroglot"
