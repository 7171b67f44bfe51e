"""A source read once: its records in a file, and an index of a few tens of bytes per record to choose examples by."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import sys
import tempfile
import threading
import unicodedata
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.example import Example, ImageSource, RenderSpec
from neuroglot.data.paths import plain
from neuroglot.errors import UserError
from neuroglot.file_format import Format, cache_folder, with_checksum

# ---- Keys: 64 bits for an item, an image or a text ------------------------------------------------------------------


def hashed(raw: bytes) -> int:
    """Return 64 bits of a hash; the probability of a collision among a million inputs is 3 in 10^8."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def hash_text(text: str) -> int:
    """Return 64 bits of a text's hash."""
    return hashed(text.encode("utf-8", "surrogatepass"))


def image_key(image: ImageSource) -> int:
    """Return a key that identifies an image without opening it: from a file's path, or from the bytes."""
    if isinstance(image, bytes):
        return hashed(image)
    return hash_text(os.path.abspath(plain(image)) if isinstance(image, Path) else repr(image))


def text_key(example: Example) -> int:
    """Return a key that identifies an example's text in its source language; 0 if it has none.

    It is the text to translate, normalised, shown as text or in an image; for transcribing, the reference.
    """
    text = example.target if example.task == "ocr" else example.source
    return hash_text(f"{example.source_lang}|{normalised(text)}") if text and text.strip() else 0


@cache
def _punctuation() -> dict[int, str]:
    return {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "P"}


def normalised(text: str) -> str:
    """Return a text without differences in case, spacing, punctuation and compatibility forms.

    Examples:
        >>> normalised("  Open  daily!")
        'open daily'
    """
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
    words = " ".join(folded.casefold().translate(_punctuation()).split())
    return words or text.strip()


# ---- Encoding a record ----------------------------------------------------------------------------------------------

_write = json.JSONEncoder(ensure_ascii=False).encode


def encoded(record: Example | UserError) -> bytes:
    """Return a record as a line of JSON, followed by the bytes of its images."""
    if isinstance(record, UserError):
        fields: list[Any] = [str(record)]
        return _write(fields).encode("utf-8", "surrogatepass")
    image_bytes = [image for image in record.images if isinstance(image, bytes)]
    images = [_named(image) for image in record.images]
    fields = [record.target, record.source, record.source_lang, record.target_lang, record.task, record.item, images,
              record.alternatives, record.meta]  # fmt: skip
    text = _write(fields).encode("utf-8", "surrogatepass")
    return b"\n".join([text, b"".join(image_bytes)]) if image_bytes else text


def _named(image: ImageSource) -> Any:
    """Return an image as JSON: a path, the number of its bytes, or the fields of a render spec."""
    if isinstance(image, bytes):
        return len(image)
    return str(image) if isinstance(image, Path) else [image.text, image.seed, image.index, image.kind, image.style]


def decoded(raw: bytes) -> Example | UserError:
    """Return the record from the bytes that `encoded` made."""
    text, _, rest = raw.partition(b"\n")  # JSON text has no raw line breaks
    fields = json.loads(text.decode("utf-8", "surrogatepass"))
    if len(fields) == 1:
        return UserError(fields[0])
    target, source, source_lang, target_lang, task, item, names, alternatives, meta = fields
    images: list[ImageSource] = []
    for name in names:
        if isinstance(name, int):
            images.append(rest[:name])
            rest = rest[name:]
        elif isinstance(name, str):
            images.append(Path(name))
        else:
            shown, seed, index, kind, style = name
            images.append(RenderSpec(shown, seed, index, kind, tuple((key, value) for key, value in style)))
    return Example(tuple(images), source, target, source_lang, target_lang, task, tuple(alternatives), item, meta)


# ---- The store: records at random access, and their index -----------------------------------------------------------

SPLITS = (None, "train", "dev", "test")
"""Numbers in the index for the split that a record names; there are no others."""

COLUMNS = {"end": "Q", "line": "Q", "kind": "H", "split": "B", "files": "B", "item": "Q", "image": "Q", "text": "Q",
            "check": "I"}  # fmt: skip
INDEX = np.dtype([(name, array(code).typecode) for name, code in COLUMNS.items()])
"""For every record: the end of its bytes, its line, its kind (index in `Store.kinds`; BAD if it is no example), its
split, how many of its images are files, the hashes of its item, of its first image and of its text in the source
language (0 for none), and the checksum of its bytes."""

FURTHER = np.dtype([("place", np.uint64), ("image", np.uint64)])
"""For every image after a record's first one: the index of the record, and the hash."""

BAD = 2**16 - 1


class Kind(NamedTuple):
    """Task and pair of a record, as texts."""

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
        kinds: kinds of the records, by number.
        further: (images after the first of their record,) of `FURTHER`, ordered by record.
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

    def __getitem__(self, record: int) -> tuple[int, Example | UserError]:
        """Return the line of a record, and its example or its error."""
        start = int(self.index["end"][record - 1]) if record else 0
        raw = self._read(start, int(self.index["end"][record]) - start)
        if zlib.crc32(raw) != self.index["check"][record]:
            raise UserError(f"a store of records in {cache_folder('records')} is damaged; delete it and run again")
        return int(self.index["line"][record]), decoded(raw)

    def __iter__(self) -> Iterator[tuple[int, Example | UserError]]:
        return (self[record] for record in range(len(self)))

    def _read(self, start: int, size: int) -> bytes:
        if self._memory is not None:
            return bytes(self._memory[start : start + size])
        if hasattr(os, "pread"):  # does not move a position that processes or threads share
            return os.pread(self._file.fileno(), size, start)
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    @property
    def good(self) -> NDArray[np.int64]:
        """The indices of records that are examples."""
        return np.flatnonzero(self.index["kind"] != BAD)


# ---- Writing a store ------------------------------------------------------------------------------------------------


class Writer:
    """Appends records to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.kinds: dict[Kind, int] = {}
        self._columns = {name: array(code) for name, code in COLUMNS.items()}
        self._further = array("Q")
        self.size = 0

    def add(self, line: int, record: Example | UserError) -> None:
        raw = encoded(record)
        self.file.write(raw)
        self.size += len(raw)
        row: tuple[int, ...] = (self.size, line, BAD, 0, 0, 0, 0, 0, zlib.crc32(raw))
        if isinstance(record, Example):
            kind = Kind(record.task, record.source_lang, record.target_lang)
            number = self.kinds.setdefault(kind, len(self.kinds))
            if number >= BAD:
                raise UserError(
                    f"the data hold more than {BAD} tasks and pairs; expected far fewer; look at line {line}"
                )
            images = record.images
            files = min(255, sum(isinstance(image, Path) for image in images))
            first = image_key(images[0]) if images else 0
            for image in images[1:]:
                self._further.extend((len(self._columns["end"]), image_key(image)))
            split = SPLITS.index(record.meta.get("split"))
            row = (self.size, line, number, split, files, hash_text(record.item), first, text_key(record), row[-1])
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def index(self) -> NDArray[Any]:
        index = np.zeros(len(self._columns["end"]), INDEX)
        for name, column in self._columns.items():
            index[name] = np.frombuffer(column, column.typecode) if len(column) else []
        return index

    def further(self) -> NDArray[Any]:
        return np.frombuffer(self._further, FURTHER) if len(self._further) else np.empty(0, FURTHER)


def in_memory(records: Iterable[tuple[int, Example | UserError]]) -> Store:
    """Return a store in memory."""
    writer = Writer(io.BytesIO())
    for record in records:
        writer.add(*record)
    return Store(writer.file, writer.index(), list(writer.kinds), writer.further())


# ---- Views: some examples of a store, in some order -----------------------------------------------------------------


def viewed(examples: Sequence[Example]) -> View:
    """Return examples as a view: unchanged if they are one, otherwise of a new store in memory."""
    return examples if isinstance(examples, View) else View(in_memory(enumerate(examples, start=1)))


class View(Sequence[Example]):
    """Some examples of a store, in some order.

    Attributes:
        store: the store that contains them.
        places: (examples,) their indices in the store.
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
        """Return a column of the index for every example; see `INDEX`."""
        return self.store.index[name][self.places]

    def images(self) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
        """Return the index of the example of every image of every example, and the hash of every image."""
        first, further = self.column("image"), self.store.further
        rows = np.flatnonzero(first)
        keys = first[rows]
        if len(further):
            order = np.argsort(self.places, kind="stable")
            places = np.asarray(self.places[order], np.uint64)
            index = np.searchsorted(places, further["place"]).clip(max=max(0, len(places) - 1))
            mine = places[index] == further["place"] if len(places) else np.zeros(len(further), bool)
            rows = np.concatenate([rows, order[index[mine]]])
            keys = np.concatenate([keys, further["image"][mine]])
        return rows, keys

    @property
    def pairs(self) -> list[str]:
        """The pair of every example; examples of a pair share one string."""
        names = [kind.pair for kind in self.store.kinds]
        return [names[kind] for kind in self.column("kind")]

    def where(self, chosen: NDArray[np.bool_]) -> View:
        """Return the examples for which a mask is true."""
        return View(self.store, self.places[chosen])

    def first_items(self, count: int) -> View:
        """Return the examples of the first `count` items of each task and pair; see `first_of_each`."""
        return self.where(first_of_each(self.column("kind"), self.column("item"), count))


def first_of_each(kind: NDArray[Any], item: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Return which examples belong to the first `count` items of their kind, a mask [examples].

    Items are ordered by their first occurrence in any kind, so that with parallel data every kind gets the same items.

    Args:
        kind: [examples], kind of each example, such as its pair.
        item: [examples], its source item.
        count: number of items of each kind; of a kind with fewer items, all are taken.
    """
    _, first, number = np.unique(item, return_index=True, return_inverse=True)
    began = first[number]
    chosen = np.zeros(len(item), bool)
    for code in np.unique(kind):
        mine = kind == code
        order = np.unique(began[mine])
        chosen |= mine if count >= len(order) else mine & (began < order[count])
    return chosen


# ---- The cache of stores --------------------------------------------------------------------------------------------

STORE = Format("store", 2, "run")
IN_MEMORY = 64 * 2**20
"""Most bytes of records for which a store stays in memory."""

_TAIL = struct.Struct("<8sQ")
_MARK = b"NGSTORE1"


def open_store(name: str, identity: Any, records: Callable[[], Iterable[tuple[int, Example | UserError]]]) -> Store:
    """Return the store of a source: from the cache if it has one of the same identity, otherwise a new one.

    Args:
        name: names the source and how it is read; each name has one file in the cache.
        identity: a JSON value that changes whenever the records change.
        records: reads the records.

    Raises:
        UserError: raised by `records`; or the cache cannot be written.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    cached = cache_folder("records") / f"{digest[:24]}.store"
    normalized = json.loads(json.dumps(identity))
    store = _open(cached, normalized)
    return _made(cached, normalized, records) if store is None else store


def _made(cached: Path, identity: Any, records: Callable[[], Iterable[tuple[int, Example | UserError]]]) -> Store:
    writer = Writer(io.BytesIO())
    part: Path | None = None
    try:
        for line, record in records():
            writer.add(line, record)
            if part is None and writer.size > IN_MEMORY:
                part = _spill(writer, cached.parent)
        index, further = writer.index(), writer.further()
        if part is None:
            return Store(writer.file, index, list(writer.kinds), further)
        foot = with_checksum(STORE, {"identity": identity, "kinds": list(writer.kinds), "records": len(index),
                              "further": len(further), "index": _digest(index, further)})  # fmt: skip
        text = json.dumps(foot).encode()
        with writer.file as file:
            file.write(index.tobytes())
            file.write(further.tobytes())
            file.write(text)
            file.write(_TAIL.pack(_MARK, len(text)))
        part.replace(cached)  # a process that has the older one open keeps reading it
        return Store(cached.open("rb"), index, list(writer.kinds), further)
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(cached.parent):
            raise  # from reading the source
        raise UserError(
            f"the records cannot be kept in {cached.parent}: {error.strerror or error}; "
            "make room there, or name another folder with NEUROGLOT_CACHE"
        ) from None
    finally:
        if part is not None:
            writer.file.close()
            part.unlink(missing_ok=True)


def _spill(writer: Writer, folder: Path) -> Path:
    """Move the records to a temporary file, to which the writer then appends; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".part", ".", folder)
    file = os.fdopen(handle, "wb")
    file.write(writer.file.getbuffer())  # type: ignore[attr-defined]
    writer.file = file
    return Path(name)


def _open(cached: Path, identity: Any) -> Store | None:
    """Return the store of a file; None if it is missing, incomplete, or of another identity."""
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
        if mark != _MARK or foot != with_checksum(STORE, body) or foot["identity"] != identity:
            raise ValueError
        sizes = foot["records"] * INDEX.itemsize, foot["further"] * FURTHER.itemsize
        file.seek(end - sum(sizes))
        index, further = np.frombuffer(file.read(sizes[0]), INDEX), np.frombuffer(file.read(sizes[1]), FURTHER)
        if _digest(index, further) != foot["index"]:
            raise ValueError
        return Store(file, index, [Kind(*kind) for kind in foot["kinds"]], further)
    except Exception:
        file.close()
        return None


def _digest(index: NDArray[Any], further: NDArray[Any]) -> str:
    digest = hashlib.sha256(index.tobytes())
    digest.update(further.tobytes())
    return digest.hexdigest()
