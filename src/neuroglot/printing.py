"""Text for the terminal: nothing that comes from data acts on it, and long values are shown short."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from neuroglot.errors import visible, visible_json

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# ---- Safe text, tables and JSON -------------------------------------------------------------------------------------


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
    plain = json.loads(json.dumps(value), parse_constant=lambda name: None)  # JSON has no NaN and no infinity
    print(visible_json(json.dumps(plain, indent=indent, ensure_ascii=False)))


class OneLine(logging.Formatter):
    """Log messages as single lines that are safe to print."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record."""
        return visible(super().format(record))


# ---- Short texts of large values ------------------------------------------------------------------------------------

FEW, LONG = 3, 60
"""Entries of a collection that are shown, and characters of a text."""


def short(value: Any) -> str:
    """Return a one-line text of a dataclass or a named tuple; for use as its `__repr__`."""
    names = getattr(value, "_fields", None) or value.__dataclass_fields__
    shown = (f"{name}={brief(getattr(value, name))}" for name in names if hasattr(value, name))
    return f"{type(value).__name__}({', '.join(shown)})"


def brief(value: Any) -> str:
    """Return a value in a few words.

    Examples:
        >>> brief(list(range(100)))
        '[0, 1, 2, ... 100 in all]'
    """
    if hasattr(value, "shape"):
        return f"{type(value).__name__}{list(value.shape)}"
    if hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__"):
        return repr(value)
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        text = repr(value)
        return text if len(text) <= LONG else f"{text[: LONG - 3]}..."
    items = list(itertools.islice(value, FEW))
    if isinstance(value, Mapping):
        entries = [f"{brief(key)}: {brief(value[key])}" for key in items]
    else:
        entries = [brief(item) for item in items]
    opening, closing = "()" if isinstance(value, tuple) else "[]" if isinstance(value, list) else "{}"
    more = [f"... {len(value)} in all"] if len(value) > FEW else []
    return f"{opening}{', '.join(entries + more)}{closing}"
