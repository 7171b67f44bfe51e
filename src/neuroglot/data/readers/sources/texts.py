"""Files of text, record by record: JSONL, JSON, CSV and TSV.

A JSON array is parsed as a stream too (ijson), so that memory does not grow with any of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import ijson

from neuroglot.data.readers.sources.rows import Fields, Numbered, reading, reason
from neuroglot.data.readers.sources.separated import csv_rows
from neuroglot.errors import UserError

TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def text_rows(path: Path) -> Iterator[Numbered]:
    """Yield the records of a JSONL, JSON, CSV or TSV file.

    Raises:
        UserError: the file is missing, or a JSON array is broken, after which nothing can be read.
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        return csv_rows(path)
    return array_rows(path) if path.suffix.lower() == ".json" and _is_array(path) else json_lines(path)


def first_fields(path: Path) -> list[str]:
    """Return the fields of the first record of a hundred that can be read; none if none can."""
    try:
        return next((list(fields) for _, fields in islice(text_rows(path), 100) if isinstance(fields, dict)), [])
    except UserError:
        return []  # the reader says why


def json_lines(path: Path) -> Iterator[Numbered]:
    """Yield the number of each line that is not blank, and its object or what is wrong with it."""
    with _reading(path), path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if line:
                    yield number, _object(json.loads(line))
            except UnicodeDecodeError as error:
                yield number, UserError(f"the line is not UTF-8 (byte {error.start}); save the file as UTF-8")
            except json.JSONDecodeError as error:
                yield (
                    number,
                    UserError(f"the line is not JSON: {error.msg} at column {error.colno}; one object a line"),
                )
            except Exception as error:  # a number of thousands of digits, brackets without end
                yield number, UserError(f"the line is not JSON that can be read: {reason(error)}; one object a line")


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(f"{path} cannot be read", "expected a file of text")


def _object(value: Any) -> Fields | UserError:
    return value if isinstance(value, dict) else UserError(f"expected an object, got {type(value).__name__}")


def _is_array(path: Path) -> bool:
    with _reading(path), path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


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
            for number, value in enumerate(ijson.items(file, "item", use_float=True, buf_size=8192), start=1):
                yield number, _object(value)
        except Exception as error:
            _refuse_bytes(path)
            why = reason(error)[:120]
            raise UserError(f"{path} record {number + 1}: the JSON is broken: {why}; mend the array") from None


def _refuse_bytes(path: Path) -> None:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} line {number}: the line is not UTF-8 (byte {error.start}); save the file as UTF-8"
                ) from None
