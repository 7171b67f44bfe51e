"""Records of a source on their way to examples: one or several files, positions that never fall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example
from neuroglot.data.readers.layout import Record
from neuroglot.errors import UserError

Fields = Mapping[str, Any]
Numbered = tuple[int, Fields | UserError]
"""Line or record number, from 1, and its fields or what is wrong with it."""

SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""What lies in a folder that `save_to_disk` wrote."""


@dataclass(frozen=True)
class Row:
    """One record of a source.

    Attributes:
        position: line or record number, from 1; over all files where there are several.
        fields: name -> value, or what is wrong with the record.
        folder: where image names are relative to.
        split: ours, as the place of the record says it.
        place: file and line for messages, where there are several files.
    """

    position: int
    fields: Fields | UserError
    folder: Path
    split: str | None = None
    place: str = ""


@dataclass(frozen=True)
class Part:
    """One of the files that make up a source.

    Attributes:
        name: for messages.
        rows: its records.
        folder: where image names are relative to.
        split: ours.
        counts: `line` or `record`.
    """

    name: str
    rows: Iterable[Numbered]
    folder: Path
    split: str | None = None
    counts: str = "line"


@contextmanager
def reading(what: str, expected: str) -> Iterator[None]:
    """Turn whatever a library raises about a source into one line: nobody knows all that it may raise.

    Args:
        what: names the source, and how it was read.
        expected: what to try.

    Raises:
        UserError: the library raised something.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {reason(error)}; {expected}") from None


def reason(error: Exception) -> str:
    """Return what an exception of a library says, on one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def refuse_twice(where: str, names: Iterable[str]) -> None:
    """Refuse a table of which one of two columns of the same name would be lost; columns without a name are.

    Raises:
        UserError: which.
    """
    for name, count in Counter(names).items():
        if count > 1 and name:
            raise UserError(f"{where} has {count} columns called {name!r}; give each a name of its own")


def joined(parts: Iterable[Part], alone: bool = False) -> Iterator[Row]:
    """Yield the records of all parts; those of a part that is alone keep their numbers."""
    position = 0
    for part in parts:
        for number, fields in part.rows:
            position = number if alone else position + 1
            place = "" if alone else f"{part.name} {part.counts} {number}: "
            yield Row(position, fields, part.folder, part.split, place)


def convert(rows: Iterable[Row], schema: Callable[[Row, Fields], Iterable[Example]]) -> Iterator[Record]:
    """Yield the examples of every record, or what is wrong with it: all examples of a record or none.

    Args:
        rows: the records.
        schema: makes examples of the fields of a record, and raises a UserError where it cannot.
    """
    for row in rows:
        try:
            if isinstance(row.fields, UserError):
                raise row.fields
            found = list(schema(row, row.fields))
        except UserError as error:
            yield row.position, UserError(f"{row.place}{error}")
        else:
            yield from ((row.position, example) for example in found)


_UTF_16 = "is UTF-16; save it as UTF-8"
_WEB = "is a page of the web, not a data file; download the file itself (the hub's address with resolve, not blob)"
_KINDS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull",
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"PAR1": "is parquet; give it a name that ends in .parquet",
    b"<!doctype html": _WEB,
    b"<html": _WEB,
}
"""How files of another kind begin, and what to do with them."""


def refuse_other_kinds(path: Path, but: bytes = b"") -> None:
    """Refuse a file that is plainly of another kind than its name says.

    Args:
        path: the file; one that cannot be read is left to who reads it.
        but: how the files that are read here begin.

    Raises:
        UserError: what the file is.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return
    for begins, what in _KINDS.items():
        if begins != but and head.lower().startswith(begins.lower()):
            raise UserError(f"{path} {what}")
    if 4 * head[:64].count(0) > len(head[:64]) and not but:
        raise UserError(f"{path} is UTF-16 or no file of text; save it as UTF-8")
