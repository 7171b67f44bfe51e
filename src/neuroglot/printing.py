"""Printing text, table cells and JSON so that nothing that comes from data acts on the terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from neuroglot.errors import visible, visible_json

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def plain(value: object) -> Text:
    """Return a value as rich text for a line or a table's cell: one line, no markup, control characters escaped."""
    from rich.text import Text

    return Text(visible(value))


def plain_table(heads: Iterable[object], rows: Iterable[Iterable[object]], **looks: Any) -> Table:
    """Return a table with a header; every cell is `plain`, and `looks` are rich's options of a table."""
    from rich.table import Table

    table = Table(**looks)
    for head in heads:
        table.add_column(plain(head))
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def print_line(text: object = "") -> None:
    """Print one line on stdout."""
    print(visible(text))


def print_json(value: Any, indent: int | None = 1) -> None:
    """Print a value as JSON; control characters are JSON escapes, so that reading it gives the same texts."""
    plain = json.loads(json.dumps(value), parse_constant=lambda name: None)  # JSON has no number that is none
    print(visible_json(json.dumps(plain, indent=indent, ensure_ascii=False)))


class OneLine(logging.Formatter):
    """Log messages as single lines that are safe to print."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record."""
        return visible(super().format(record))
