"""Files of text, record by record: JSONL, JSON, CSV and TSV.

A JSON array is parsed as a stream too (ijson), so that memory does not grow with any of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import ijson

from neuroglot.data.readers.make import shown
from neuroglot.data.readers.sources.rows import Fields, Numbered, reading, reason, refuse_other_kinds
from neuroglot.data.readers.sources.separated import csv_rows
from neuroglot.errors import UserError

_HEAD = 2**20
"""Bytes that are read to see whether an object goes on over several lines."""

DEEPEST = 200
"""Brackets that may be open at once in a JSON array; a conversation has about six."""

TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def text_rows(path: Path) -> Iterator[Numbered]:
    """Yield the records of a JSONL, JSON, CSV or TSV file.

    Raises:
        UserError: the file is missing, or a JSON array is broken, after which nothing can be read.
    """
    refuse_other_kinds(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return csv_rows(path)
    return array_rows(path) if _is_array(path) else json_lines(path)


def first_fields(path: Path) -> list[str]:
    """Return the fields of the first record of a hundred that can be read; none if none can."""
    try:
        return next((list(fields) for _, fields in islice(text_rows(path), 100) if isinstance(fields, dict)), [])
    except UserError:
        return []  # the reader says why


def json_lines(path: Path) -> Iterator[Numbered]:
    """Yield the number of each line that is not blank, and its object or what is wrong with it.

    Raises:
        UserError: the first object goes on over several lines.
    """
    first = True
    with _reading(path), path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = ""
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if line:
                    yield number, _object(json.loads(line, object_pairs_hook=_once))
            except UserError as error:
                yield number, error
            except UnicodeDecodeError as error:
                yield number, UserError(f"the line is not UTF-8 (byte {error.start}); save the file as UTF-8")
            except json.JSONDecodeError as error:
                if first and _goes_on(path):
                    raise UserError(
                        f"{path} line {number}: the object that begins here goes on over several lines; expected one "
                        "object a line (json.dumps without indent, or jq -c . FILE)"
                    ) from None
                why = f"{_cause(error)} at column {error.colno}"
                yield number, UserError(f"the line is not JSON: {why}; one object a line")
            except Exception as error:  # a number of thousands of digits, brackets without end
                yield number, UserError(f"the line is not JSON that can be read: {reason(error)}; one object a line")
            first = first and not line


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _twice(next(name for name in names if names.count(name) > 1))
    return found


def _twice(name: str) -> UserError:
    return UserError(
        f"the field {shown(name)} occurs twice in one object, and which of them counts cannot be told; keep one"
    )


_CAUSES = {
    "'": "a text in single quotes, as Python prints it (json.dumps writes JSON),",
    "None": "Python's None, for which JSON has null,",
    "True": "Python's True, for which JSON has true,",
    "False": "Python's False, for which JSON has false,",
    "}": "a comma before the closing bracket",
    "]": "a comma before the closing bracket",
}
"""What stands where JSON goes wrong -> what it is."""


def _cause(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos :].lstrip(", ")
    if error.msg.startswith("Extra data") and rest.startswith("{"):
        return "a second object begins"
    known = next((cause for begins, cause in _CAUSES.items() if rest.startswith(begins)), None)
    return known if known and not error.msg.startswith("Extra data") else error.msg


def _goes_on(path: Path) -> bool:
    """Whether the first object of a file ends in a later line than it begins in."""
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8-sig", "ignore").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(head)
    except Exception:
        return False
    return "\n" in head[:end]


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(f"{path} cannot be read", "expected a file of text")


def _object(value: Any) -> Fields | UserError:
    return value if isinstance(value, dict) else UserError(f"expected an object, got {type(value).__name__}")


def _is_array(path: Path) -> bool:
    """Whether a file is an array, which one of another name than .json is if it begins with an object."""
    with _reading(path), path.open("rb") as file:
        begins = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return begins.startswith(b"[") and (path.suffix.lower() == ".json" or begins[1:].lstrip().startswith(b"{"))


def array_rows(path: Path) -> Iterator[Numbered]:
    """Yield the objects of a JSON array, counted from 1.

    Raises:
        UserError: the array is broken; the message names the line, where bytes are not UTF-8, or the record.
    """
    number = 0
    with _reading(path), path.open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        try:
            for number, value in enumerate(_items(file), start=1):
                name = _repeated(value)
                yield number, _object(value) if name is None else _twice(name)
        except Exception as error:
            _refuse_bytes(path)
            why = reason(error)[:120]
            raise UserError(f"{path} record {number + 1}: the JSON is broken: {why}; mend the array") from None


def _items(file: IO[bytes]) -> Iterator[Any]:
    """Yield the values of an array.

    `ijson.items` keeps the path of every open bracket, so that 100,000 of them take 25 GB.
    """
    builder, opened = ijson.ObjectBuilder(_Object), 0
    for event, value in ijson.basic_parse(file, use_float=True, buf_size=8192):
        before = opened
        opened += event.startswith("start_") - event.startswith("end_")
        if opened > DEEPEST:
            raise ValueError(f"more than {DEEPEST} brackets are open")
        if before and opened:  # otherwise it is a bracket of the array itself
            builder.event(event, value)
            if opened == 1:
                yield builder.value
                builder = ijson.ObjectBuilder(_Object)


class _Object(dict[str, Any]):
    """An object that remembers a field that was set twice."""

    twice: str | None = None

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self:
            self.twice = name
        super().__setitem__(name, value)


def _repeated(value: Any) -> str | None:
    """Return a field that occurs twice in an object or in one inside it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = value.twice if isinstance(value, _Object) else None
    return own if own is not None else next(filter(None, map(_repeated, inner)), None)


def _refuse_bytes(path: Path) -> None:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} line {number}: the line is not UTF-8 (byte {error.start}); save the file as UTF-8"
                ) from None
