"""A source read once: its records where they take no memory, and beside them a few tens of bytes each to choose by.

A record is a line of JSON (and the bytes of its images, where it holds any) in a file that is read at random places.
Of every record an array holds where it is, its line in the source, task and pair, split, and hashes of its item and of
its first image. What is small stays in memory; what is not goes to a cache folder, `NEUROGLOT_CACHE` or the user's
own, one file a source, which is made again when the source changes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tempfile
import threading
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from neuroglot.artefact import Format, sealed
from neuroglot.data.encoding import decoded, encoded, hashed, image_key
from neuroglot.data.example import Example
from neuroglot.errors import UserError

STORE = Format("store", 1, "run")
IN_MEMORY = 64 * 2**20
"""Bytes of records up to which a store stays in memory."""

SPLITS = (None, "train", "dev", "test")
"""What the index has for the split that a record names; others are not known."""

_COLUMNS = {"end": "Q", "line": "Q", "kind": "H", "split": "B", "files": "B", "shown": "B", "source": "B", "item": "Q",
            "image": "Q", "check": "I"}  # fmt: skip
INDEX = np.dtype([(name, array(code).typecode) for name, code in _COLUMNS.items()])
"""Of every record: the end of its bytes, its line, its kind (of `Store.kinds`; BAD if it holds no example), its split,
how many of its images are files, whether it has images, whether it has a source text, the hashes, and the
checksum of its bytes."""

BAD = 2**16 - 1

_TAIL = struct.Struct("<8sQ")
_MARK = b"NGSTORE1"


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
    """

    def __init__(self, file: IO[bytes], index: NDArray[Any], kinds: Sequence[Kind]) -> None:
        self._file = file
        self._memory = file.getbuffer() if isinstance(file, io.BytesIO) else None
        self._lock = threading.Lock()
        self.index = index
        self.kinds = tuple(kinds)

    @classmethod
    def of(cls, records: Iterable[tuple[int, Example | UserError]]) -> Store:
        """Return a store in memory."""
        writer = _Writer(io.BytesIO())
        for record in records:
            writer.add(*record)
        return cls(writer.file, writer.index(), list(writer.kinds))

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

    @property
    def pairs(self) -> list[str]:
        """The pair of every example; examples of a pair share one text."""
        names = [kind.pair for kind in self.store.kinds]
        return [names[kind] for kind in self.column("kind")]

    def where(self, chosen: NDArray[np.bool_]) -> View:
        """Return those examples for which a mask holds."""
        return View(self.store, self.places[chosen])

    def first_items(self, count: int) -> View:
        """Return the examples of the first `count` items, in their order."""
        _, first, item = np.unique(self.column("item"), return_index=True, return_inverse=True)
        return self if count >= len(first) else self.where(first[item] < np.sort(first)[count])

    def first_of_pairs(self, count: int) -> View:
        """Return the examples of each pair's first `count` items, in their order: what is parallel stays parallel."""
        _, first, item = np.unique(self.column("item"), return_index=True, return_inverse=True)
        began = first[item]  # where an example's item first comes, in whichever pair
        code = self.column("kind")
        kept = np.zeros(len(self), bool)
        for number in np.unique(code):
            of_pair = code == number
            order = np.unique(began[of_pair])
            kept |= of_pair if count >= len(order) else of_pair & (began < order[count])
        return self.where(kept)


# ---- writing --------------------------------------------------------------------------------------------------------


class _Writer:
    """Appends records to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.kinds: dict[Kind, int] = {}
        self._columns = {name: array(code) for name, code in _COLUMNS.items()}
        self.size = 0

    def add(self, line: int, record: Example | UserError) -> None:
        raw = encoded(record)
        self.file.write(raw)
        self.size += len(raw)
        row: tuple[int, ...] = (self.size, line, BAD, 0, 0, 0, 0, 0, 0, zlib.crc32(raw))
        if isinstance(record, Example):
            kind = Kind(record.task, record.source_lang, record.target_lang)
            number = self.kinds.setdefault(kind, len(self.kinds))
            if number >= BAD:
                raise UserError(
                    f"the data hold more than {BAD} tasks and pairs; expected far fewer; look at line {line}"
                )
            images = record.images
            files = min(255, sum(isinstance(image, Path) for image in images))
            first = hashed(image_key(images[0])) if images else 0
            split = SPLITS.index(record.meta.get("split"))
            row = (self.size, line, number, split, files, bool(images), bool(record.source),
                   hashed(record.item.encode("utf-8", "surrogatepass")), first, row[-1])  # fmt: skip
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def index(self) -> NDArray[Any]:
        found = np.zeros(len(self._columns["end"]), INDEX)
        for name, column in self._columns.items():
            found[name] = np.frombuffer(column, column.typecode) if len(column) else []
        return found


def open_store(name: str, identity: Any, records: Callable[[], Iterable[tuple[int, Example | UserError]]]) -> Store:
    """Return the store of a source: from the cache if it is there and of the same identity, otherwise made.

    Args:
        name: of the source and of how it is read: they have one file in the cache.
        identity: what JSON can hold, which changes whenever the records do.
        records: reads them.

    Raises:
        UserError: whatever reading raises; or the cache cannot be written.
    """
    cached = cache_folder() / f"{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}.store"
    whole = json.loads(json.dumps(identity))
    found = _open(cached, whole)
    return _made(cached, whole, records) if found is None else found


def cache_folder() -> Path:
    """Return where stores are kept: `NEUROGLOT_CACHE`, or `neuroglot` in the user's cache folder."""
    own = os.environ.get("NEUROGLOT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuroglot"


def _made(cached: Path, identity: Any, records: Callable[[], Iterable[tuple[int, Example | UserError]]]) -> Store:
    writer = _Writer(io.BytesIO())
    part: Path | None = None
    try:
        for line, record in records():
            writer.add(line, record)
            if part is None and writer.size > IN_MEMORY:
                part = _spill(writer, cached.parent)
        index = writer.index()
        if part is None:
            return Store(writer.file, index, list(writer.kinds))
        foot = sealed(STORE, {"identity": identity, "kinds": list(writer.kinds), "records": len(index),
                              "index": hashlib.sha256(index.tobytes()).hexdigest()})  # fmt: skip
        text = json.dumps(foot).encode()
        with writer.file as file:
            file.write(index.tobytes())
            file.write(text)
            file.write(_TAIL.pack(_MARK, len(text)))
        part.replace(cached)  # a process that still reads the older one goes on reading it
        return Store(cached.open("rb"), index, list(writer.kinds))
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(cached.parent):
            raise  # the source's own
        raise UserError(
            f"the records cannot be kept in {cached.parent}: {error.strerror or error}; "
            "make room there, or name another folder with NEUROGLOT_CACHE"
        ) from None
    finally:
        if part is not None:
            writer.file.close()
            part.unlink(missing_ok=True)


def _spill(writer: _Writer, folder: Path) -> Path:
    """Go on in a file of this process alone."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".part", ".", folder)
    file = os.fdopen(handle, "wb")
    file.write(writer.file.getbuffer())  # type: ignore[attr-defined]
    writer.file = file
    return Path(name)


def _open(cached: Path, identity: Any) -> Store | None:
    """Return the store of a file; None if it is not there, is not whole, or is of something else."""
    try:
        file = cached.open("rb")
    except OSError:
        return None
    try:
        file.seek(-_TAIL.size, os.SEEK_END)
        mark, length = _TAIL.unpack(file.read())
        end = file.seek(-_TAIL.size - length, os.SEEK_END)
        foot = json.loads(file.read(length))
        body = {key: value for key, value in foot.items() if key not in ("format", "checksum")}
        if mark != _MARK or foot != sealed(STORE, body) or foot["identity"] != identity:
            raise ValueError
        file.seek(end - foot["records"] * INDEX.itemsize)
        raw = file.read(foot["records"] * INDEX.itemsize)
        if hashlib.sha256(raw).hexdigest() != foot["index"]:
            raise ValueError
        return Store(file, np.frombuffer(raw, INDEX), [Kind(*kind) for kind in foot["kinds"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        file.close()
        return None
