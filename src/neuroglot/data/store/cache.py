"""Stores in the cache: found there whole and of the same source, or made."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.artefact import Format, sealed
from neuroglot.data.example import Example
from neuroglot.data.store.records import FURTHER, INDEX, Kind, Store, cache_folder
from neuroglot.data.store.writing import Writer
from neuroglot.errors import UserError

STORE = Format("store", 2, "run")
IN_MEMORY = 64 * 2**20
"""Bytes of records up to which a store stays in memory."""

_TAIL = struct.Struct("<8sQ")
_MARK = b"NGSTORE1"


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
        foot = sealed(STORE, {"identity": identity, "kinds": list(writer.kinds), "records": len(index),
                              "further": len(further), "index": _digest(index, further)})  # fmt: skip
        text = json.dumps(foot).encode()
        with writer.file as file:
            file.write(index.tobytes())
            file.write(further.tobytes())
            file.write(text)
            file.write(_TAIL.pack(_MARK, len(text)))
        part.replace(cached)  # a process that still reads the older one goes on reading it
        return Store(cached.open("rb"), index, list(writer.kinds), further)
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


def _spill(writer: Writer, folder: Path) -> Path:
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
