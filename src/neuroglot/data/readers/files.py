"""Files of text as sources of records: JSONL, JSON, CSV and TSV; one or several files."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import ijson

from neuroglot.data.example import Example
from neuroglot.data.readers.examples import shown
from neuroglot.data.readers.layout import Record
from neuroglot.errors import UserError

# ---- Rows of one or several files -----------------------------------------------------------------------------------

Fields = Mapping[str, Any]
Numbered = tuple[int, Fields | UserError]
"""Line or record number, from 1, and its fields or its error."""

SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""Files of a folder that `save_to_disk` wrote."""


@dataclass(frozen=True)
class Row:
    """One record of a source.

    Attributes:
        position: line or record number, from 1; counted over all files if there are several.
        fields: name -> value, or the error of the record.
        folder: folder to which image names are relative.
        split: our split of the record's file.
        place: file and line for messages, if there are several files.
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
        name: name for messages.
        rows: its records.
        folder: folder to which image names are relative.
        split: our split.
        counts: `line` or `record`.
    """

    name: str
    rows: Iterable[Numbered]
    folder: Path
    split: str | None = None
    counts: str = "line"


@contextmanager
def reading(what: str, expected: str) -> Iterator[None]:
    """Turn any exception of a library about a source into a one-line UserError: its types are not all known.

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
    """Return the message of a library's exception, on one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def refuse_twice(where: str, names: Iterable[str]) -> None:
    """Refuse a table with two columns of the same name, one of which would be lost; unnamed columns are ignored.

    Raises:
        UserError: names the column.
    """
    for name, count in Counter(names).items():
        if count > 1 and name:
            raise UserError(f"{where} has {count} columns called {name!r}; give each a name of its own")


def joined(parts: Iterable[Part], alone: bool = False) -> Iterator[Row]:
    """Yield the records of all parts; a single part's records keep their numbers."""
    position = 0
    for part in parts:
        for number, fields in part.rows:
            position = number if alone else position + 1
            location = "" if alone else f"{part.name} {part.counts} {number}: "
            yield Row(position, fields, part.folder, part.split, location)


def convert(rows: Iterable[Row], schema: Callable[[Row, Fields], Iterable[Example]]) -> Iterator[Record]:
    """Yield the examples of every record, or its error: all examples of a record or none.

    Args:
        rows: the records.
        schema: makes examples from the fields of a record, or raises a UserError.
    """
    for row in rows:
        try:
            if isinstance(row.fields, UserError):
                raise row.fields
            examples = list(schema(row, row.fields))
        except UserError as error:
            yield row.position, UserError(f"{row.place}{error}")
        else:
            yield from ((row.position, example) for example in examples)


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
    """Refuse a file that is clearly of another kind than its name says.

    Args:
        path: the file; an unreadable one is not refused here, since the reader reports it.
        but: first bytes of the kind that is expected.

    Raises:
        UserError: says what the file is.
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


# ---- CSV and TSV ----------------------------------------------------------------------------------------------------
# In a CSV file a value that begins with a quotation mark may span several lines. In a TSV file values are rarely in
# quotation marks, and texts often begin with one: a value that is not completely quoted is read unchanged.

_LINE_END = re.compile(r"\r\n|\r|\n")
_BYTES = "the line is not UTF-8; save the file as UTF-8"
_QUOTES = "close every quotation mark, and double those inside a value"


class _Lines:
    """Lines of a file; lines of a row with an error can be read again."""

    def __init__(self, file: Iterable[str]) -> None:
        self._file = iter(file)
        self._again: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self.taken.append(line)
        return line

    def keep(self, count: int) -> None:
        """Return all taken lines except the first `count` to be read again."""
        self._again.extendleft(reversed(self.taken[count:]))
        del self.taken[count:]


def csv_rows(path: Path) -> Iterator[Numbered]:
    """Yield the rows of a CSV or TSV file with a head, each with the line that it ends in.

    Raises:
        UserError: the file has no head, or one that cannot be read.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # Bytes that are not UTF-8 become half surrogate pairs, so that one bad row does not stop reading.
    opened = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    with reading(f"{path} cannot be read", "expected a CSV or TSV file"), opened as file:
        rows = _rows(_Lines(file), delimiter)
        number, head = next(rows, (1, []))
        if isinstance(head, UserError) or _broken(head):
            raise UserError(f"{path} line {number}: {head if isinstance(head, UserError) else _BYTES}")
        if not head:
            raise UserError(f"{path} is empty; expected a first line with the names of the columns")
        refuse_twice(f"{path} line {number}", head)
        for number, values in rows:
            if isinstance(values, UserError):
                yield number, values
            elif values:
                yield number, _named(head, values)


def _rows(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str] | UserError]]:
    """Yield each row with its last line; for lines with wrong quotation marks, an error for each."""
    number = width = 0
    values: list[str] = []
    while True:
        lines.taken.clear()
        try:
            values, wrong = next(csv.reader(lines, delimiter=delimiter, strict=True)), ""
            count = len(lines.taken)
            width = width or len(values)
            several = count > 1 or (delimiter == "\t" and values)
            if several and (len(values) != width or _swallows(values, delimiter)):
                span = "several rows" if len(values) == width else f"a row of {len(values)} values, expected {width}"
                wrong = f"the quotation mark that opens in line {number + 1} spans {span}, up to line {number + count}"
        except StopIteration:
            return
        except csv.Error as error:
            count, wrong = 1, f"the line is not CSV: {error}"
        if wrong and delimiter == "\t":
            count, wrong, values = 1, "", lines.taken[0].rstrip("\r\n").split(delimiter)
        lines.keep(count)
        if wrong:
            yield from ((number + 1 + k, UserError(f"{wrong}; {_QUOTES}")) for k in range(count))
        else:
            yield number + count, values
        number += count


def _swallows(values: list[str], delimiter: str) -> bool:
    """Whether each line of a value looks like a row: then a quotation mark is missing.

    A row has a value for each column. Unlike a sentence, it has no space after a comma and does not end with one.
    """
    for index, value in enumerate(values):
        parts = [part.split(delimiter) for part in _LINE_END.split(value)]
        parts[0] = [*values[:index], *parts[0]]
        parts[-1] = [*parts[-1], *values[index + 1 :]]
        if len(parts) > 1 and len(values) > 1 and all(_row_like(part, delimiter, len(values)) for part in parts):
            return True
    return False


def _row_like(cells: list[str], delimiter: str, width: int) -> bool:
    sentence = delimiter == "," and (any(cell[:1].isspace() for cell in cells) or (width == 2 and not all(cells)))
    return len(cells) == width and not sentence


def _broken(values: list[str]) -> bool:
    return any("\udc80" <= character <= "\udcff" for value in values for character in value if not value.isascii())


def _named(head: list[str], values: list[str]) -> Fields | UserError:
    if _broken(values):
        return UserError(_BYTES)
    if len(values) != len(head):
        return UserError(f"the row has {len(values)} values, expected {len(head)}: {', '.join(head[:6])}")
    return {name: value for name, value in zip(head, values, strict=True) if value}


# ---- JSONL and JSON -------------------------------------------------------------------------------------------------
# A JSON array is also parsed as a stream (ijson), so that memory does not grow with the file.

_HEAD = 2**20
"""Bytes that are read to check whether an object spans several lines."""

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
    """Return the fields of the first readable record among the first hundred; empty if there is none."""
    try:
        return next((list(fields) for _, fields in islice(text_rows(path), 100) if isinstance(fields, dict)), [])
    except UserError:
        return []  # the reader says why


def json_lines(path: Path) -> Iterator[Numbered]:
    """Yield the number of each line that is not blank, and its object or its error.

    Raises:
        UserError: the first object spans several lines.
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
            except Exception as error:  # a number with thousands of digits, too many nested brackets
                yield number, UserError(f"the line is not JSON that can be read: {reason(error)}; one object a line")
            first = first and not line


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _twice(next(name for name in names if names.count(name) > 1))
    return fields


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
"""Text at the position of a JSON error -> what it is."""


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
    """Whether a file is a JSON array; if its name does not end in .json, only if it begins with an object."""
    with _reading(path), path.open("rb") as file:
        begins = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return begins.startswith(b"[") and (path.suffix.lower() == ".json" or begins[1:].lstrip().startswith(b"{"))


def array_rows(path: Path) -> Iterator[Numbered]:
    """Yield the objects of a JSON array, counted from 1.

    Raises:
        UserError: the array is broken; the message names the record, or the line if bytes are not UTF-8.
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

    `ijson.items` is not used: it keeps the path of every open bracket, and 100,000 of them take 25 GB.
    """
    builder, opened = ijson.ObjectBuilder(_Object), 0
    for event, value in ijson.basic_parse(file, use_float=True, buf_size=8192):
        before = opened
        opened += event.startswith("start_") - event.startswith("end_")
        if opened > DEEPEST:
            raise ValueError(f"more than {DEEPEST} brackets are open")
        if before and opened:  # otherwise it is a bracket of the array
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
    """Return a field that occurs twice in an object or in a nested one; None if none does."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    repeated = value.twice if isinstance(value, _Object) else None
    return repeated if repeated is not None else next(filter(None, map(_repeated, inner)), None)


def _refuse_bytes(path: Path) -> None:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} line {number}: the line is not UTF-8 (byte {error.start}); save the file as UTF-8"
                ) from None
