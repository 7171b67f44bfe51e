"""The one exception that means "the person who called can fix this"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: its message says what, got, expected and what to try, on one line.

    The command line prints the message and exits with code 2; every other exception is a defect and keeps its
    traceback. Half surrogate pairs, which names in files and file systems may hold, are escaped, so that any terminal
    and any file takes the message.
    """

    def __init__(self, message: object) -> None:
        super().__init__(str(message).encode("utf-8", "backslashreplace").decode())


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return a hint naming the known names closest to `name`, or all of them when none is close.

    >>> nearest("mnatf", ["mnaft", "neumt"])
    'did you mean mnaft?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
