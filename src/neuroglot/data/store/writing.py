"""Records on their way into a store: bytes to a file, and a row of the index each."""

from __future__ import annotations

import io
import zlib
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.example import Example
from neuroglot.data.store.encoding import encoded
from neuroglot.data.store.keys import hash_text, image_key, text_key
from neuroglot.data.store.records import BAD, COLUMNS, FURTHER, INDEX, SPLITS, Kind, Store
from neuroglot.errors import UserError


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
        found = np.zeros(len(self._columns["end"]), INDEX)
        for name, column in self._columns.items():
            found[name] = np.frombuffer(column, column.typecode) if len(column) else []
        return found

    def further(self) -> NDArray[Any]:
        return np.frombuffer(self._further, FURTHER) if len(self._further) else np.empty(0, FURTHER)


def held(records: Iterable[tuple[int, Example | UserError]]) -> Store:
    """Return a store in memory."""
    writer = Writer(io.BytesIO())
    for record in records:
        writer.add(*record)
    return Store(writer.file, writer.index(), list(writer.kinds), writer.further())
