"""Records of a source on their way to examples: one or several files, positions that never fall, ids once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example
from neuroglot.data.readers.ids import Ids
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
        counts: what the position counts, `line` or `record`.
    """

    position: int
    fields: Fields | UserError
    folder: Path
    split: str | None = None
    place: str = ""
    counts: str = "record"


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


def joined(parts: Iterable[Part], alone: bool = False) -> Iterator[Row]:
    """Yield the records of all parts; those of a part that is alone keep their numbers."""
    position = 0
    for part in parts:
        for number, fields in part.rows:
            position = number if alone else position + 1
            place = "" if alone else f"{part.name} {part.counts} {number}: "
            yield Row(position, fields, part.folder, part.split, place, part.counts if alone else "record")


def convert(rows: Iterable[Row], schema: Callable[[Row, Fields], Iterable[Example]]) -> Iterator[Record]:
    """Yield the examples of every record, or what is wrong with it: all examples of a record or none.

    A record with the id of an earlier one is wrong.

    Args:
        rows: the records.
        schema: makes examples of the fields of a record, and raises a UserError where it cannot.
    """
    ids = Ids()
    for row in rows:
        try:
            if isinstance(row.fields, UserError):
                raise row.fields
            found = list(schema(row, row.fields))
            if found and "id" in found[0].meta:
                _refuse_known(found[0].meta["id"], row, ids)
        except UserError as error:
            yield row.position, UserError(f"{row.place}{error}")
        else:
            yield from ((row.position, example) for example in found)


def _refuse_known(name: str, row: Row, ids: Ids) -> None:
    earlier = ids.earlier(name, row.position)
    if earlier is not None:
        raise UserError(f"the id {name!r} is that of {row.counts} {earlier} already; give each record its own")
