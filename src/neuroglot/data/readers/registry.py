"""The reader for a source: by the format that the recipe names, or by the files at the path."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example
from neuroglot.data.paths import lies_in, shortened
from neuroglot.data.readers import conversations, parallel, published, records
from neuroglot.data.readers.files import SAVED, TEXTS, first_fields
from neuroglot.data.readers.layout import Layout, Reader, Record
from neuroglot.data.readers.records import read_records, read_table
from neuroglot.errors import UserError, nearest

READERS: dict[str, Reader] = {
    "jsonl": read_records,
    "parquet": read_table,
    "hf": read_table,
    "imagefolder": records.read_imagefolder,
    "trl": conversations.read_trl,
    "sharegpt": conversations.read_sharegpt,
    "alpaca": conversations.read_alpaca,
    "swift": conversations.read_swift,
    "multi30k": published.read_captions,
    "ambigcaps": published.read_captions,
    "mit10m": published.read_mit10m,
    "ocrmt30k": published.read_ocrmt30k,
    "parallel": parallel.read_parallel,
    "commute": published.read_commute,
}
"""Format (`data.format` of a recipe) -> reader."""


FIXED = ("multi30k", "ambigcaps", "mit10m", "parallel", "commute")
"""Formats without columns that a recipe could name."""


def guess_format(path: Path | str, columns: Collection[str] = ()) -> str:
    """Return the format of a source, from the path and, for a table or a file of records, its first record.

    Args:
        path: the source.
        columns: our fields that the recipe maps; if a target is among them, the column names of a table or file of
            records are not used to guess the format.

    Raises:
        UserError: the format is not known.
    """
    path = Path(path)
    if str(path).startswith("hf:"):
        return "hf"
    if path.is_dir():
        return _folder_format(path, bool({"target", "targets"} & set(columns)))
    ending = path.suffix.lower()
    told = {"target", "targets"} & set(columns)
    if ending == ".parquet" and path.is_file():
        return (not told and _by_fields(_columns(path))) or "parquet"
    if ending in TEXTS and path.is_file():
        return (not told and _by_fields(first_fields(path))) or "jsonl"
    if ending in (*TEXTS, "") or not path.exists():
        return "jsonl"  # whose reader reports that it does not exist
    raise _untold(path)


_FIELDS: dict[str, list[set[str]]] = {
    "sharegpt": [{"conversations"}, {"conversation"}],
    "trl": [{"messages"}, {"prompt", "completion"}],
    "swift": [{"query", "response"}],
    "alpaca": [{"instruction", "output"}],
    "mit10m": [set(published.MIT10M_TEXTS)],
}
"""Format -> sets of fields, one of which every record has."""


def _by_fields(names: Any) -> str | None:
    """Return the format of a record with these fields; None for neuroglot's fields, or unknown ones."""
    return next((name for name, sets in _FIELDS.items() if any(fields <= set(names) for fields in sets)), None)


def _columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    with suppress(Exception):  # the reader reports any error
        return list(pq.read_schema(path).names)
    return []


def _folder_format(path: Path, told: bool) -> str:
    if any((path / name).is_file() for name in SAVED):
        return (not told and _by_fields(_saved_columns(path))) or "hf"
    if records.metadata_files(path):
        return "imagefolder"
    tables = next(path.rglob("*.parquet"), None)
    if tables is not None:
        return (not told and _by_fields(_columns(tables))) or "parquet"
    if published.directions(path):
        return "commute"
    if published.split_files(path):
        return "mit10m"
    if published.ocrmt30k_folder(path) is not None:
        return "ocrmt30k"
    texts = published.captions_folder(path)
    if texts is None:
        raise _untold(path)
    if any(path.glob("*/index.txt")):
        return "ambigcaps"
    listing = (texts, path / "image_splits", texts.parent / "image_splits")
    return "multi30k" if any((folder / "train.txt").is_file() for folder in listing) else "parallel"


def _saved_columns(path: Path) -> list[str]:
    """Return the columns of the first split of a folder that `save_to_disk` wrote."""
    for info in (path / "dataset_info.json", *sorted(path.glob("*/dataset_info.json"))):
        with suppress(Exception):
            return list(json.loads(info.read_bytes())["features"])
    return []


def _untold(path: Path) -> UserError:
    return UserError(f"cannot tell how {path} is laid out; set data.format to one of {', '.join(READERS)}")


def read_source(path: Path | str, layout: Layout | None = None) -> Iterator[Record]:
    """Yield the position of each record of a source, and its example or its error.

    Args:
        path: a file, a folder, or `hf:owner/name`.
        layout: how the source is laid out; by default guessed from the path.

    Raises:
        UserError: the source as a whole cannot be read: it is missing, its files are not aligned, a column is missing,
            or its format is not known.
    """
    layout = layout or Layout()
    if layout.format not in ("auto", *READERS):
        raise UserError(f"data.format {layout.format!r} is not known; {nearest(layout.format, ['auto', *READERS])}")
    name = guess_format(path, layout.columns) if layout.format == "auto" else layout.format
    if layout.columns and name in FIXED:
        raise UserError(f"data.columns has no meaning for the format {name}, whose files say it all; leave it out")
    records = READERS[name](Path(path), layout)
    return records if layout.root is None else _bounded(records, layout.root)


def _bounded(records: Iterator[Record], root: Path) -> Iterator[Record]:
    """Yield records; a record with an image outside of the folder becomes an error."""
    for position, record in records:
        images = record.images if isinstance(record, Example) else ()
        outside = next((i for i in images if isinstance(i, Path) and not lies_in(i, root)), None)
        if outside is None:
            yield position, record
        else:
            yield (
                position,
                UserError(
                    f"image {shortened(outside)} lies outside of data.root, which is {root}; move it there, or set "
                    "data.root to a folder that holds all images"
                ),
            )
