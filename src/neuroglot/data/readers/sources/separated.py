"""Rows of CSV and TSV files, in which a stray quotation mark costs its own row and no other.

In a CSV file a value that begins with a quotation mark may go on over several lines. In a TSV file values rarely are
in quotation marks, and texts often begin with one: what is not wholly quoted is read as it stands.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from neuroglot.data.readers.sources.rows import Fields, Numbered, reading, refuse_twice
from neuroglot.errors import UserError

_LINE_END = re.compile(r"\r\n|\r|\n")
_BYTES = "the line is not UTF-8; save the file as UTF-8"
_QUOTES = "close every quotation mark, and double those inside a value"


class _Lines:
    """Lines of a file, those of a row that went wrong once more."""

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
        """Let all lines that were taken come again but the first ones."""
        self._again.extendleft(reversed(self.taken[count:]))
        del self.taken[count:]


def csv_rows(path: Path) -> Iterator[Numbered]:
    """Yield the rows of a CSV or TSV file with a head, each with the line that it ends in.

    Raises:
        UserError: the file has no head, or one that cannot be read.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # What is not UTF-8 is kept as half surrogate pairs, so that one bad row does not end the reading.
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
    """Yield each row with its last line; of lines whose quotation marks are wrong, what is wrong with each."""
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
                found = "several rows" if len(values) == width else f"a row of {len(values)} values, expected {width}"
                wrong = (
                    f"the quotation mark that opens in line {number + 1} spans {found}, up to line {number + count}"
                )
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

    A row has a value for each column and, unlike a sentence, no space after a comma, and does not end in one.
    """
    for place, value in enumerate(values):
        parts = [part.split(delimiter) for part in _LINE_END.split(value)]
        parts[0] = [*values[:place], *parts[0]]
        parts[-1] = [*parts[-1], *values[place + 1 :]]
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
