"""Short texts of values that hold tensors and long lists: what they are and how large, never all of them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

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
