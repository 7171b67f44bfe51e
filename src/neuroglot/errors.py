"""The one exception that means "the person who called can fix this", and text that is safe to print."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

LONGEST = 2000
"""Characters of a message at most; of a longer one the middle is left out."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch says, on accelerators and processors, beside types that tell."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line and paragraph separators, bidirectional overrides, and halves of surrogate pairs."""


class UserError(ValueError):
    """A mistake in what the user gave: its message says what, got, expected and what to try, on one line.

    The command line prints the message and exits with code 2; every other exception is a defect. A message often
    quotes data, paths or the answer of a server, so it is made safe to print (`visible`) and at most `LONGEST`
    characters long.
    """

    def __init__(self, message: object) -> None:
        super().__init__(_shortened(visible(_shortened(str(message)))))


@contextmanager
def refusing(say: Callable[[str], object]) -> Iterator[None]:
    """Turn whatever a foreign library raises in the block into a `UserError`, without guessing what that may be.

    A `UserError` passes as it is; so does lack of memory, which is not the fault of what is read.

    Args:
        say: makes the message from what went wrong, on one line.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        why = " ".join(str(error).split())
        if not why or not isinstance(error, OSError | ValueError):  # a KeyError says only the key
            why = f"{type(error).__name__} {why}".strip()
        raise UserError(say(why)) from None


def visible(text: object) -> str:
    r"""Return a text on one line with everything escaped that a terminal would obey instead of show.

    Examples:
        >>> visible("a\nb\x1b[2J")
        'a\\nb\\x1b[2J'
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def visible_json(text: str) -> str:
    r"""Return JSON text in which the same characters are JSON escapes; line feeds between values stay.

    Examples:
        >>> visible_json('["\x9b",\n "a"]')
        '["\\u009b",\n "a"]'
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    head, tail = LONGEST * 7 // 10, LONGEST // 4
    return f"{text[:head]} [... {len(text) - head - tail:,} characters left out ...] {text[-tail:]}"


def ran_out(error: Exception) -> bool:
    """Whether memory was too small.

    Examples:
        >>> ran_out(RuntimeError("CUDA error: out of memory"))
        True
    """
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def expect(place: str, value: object, kinds: type | tuple[type, ...], form: str) -> None:
    """Refuse a value of the wrong type.

    Args:
        place: what was given, as the caller knows it.
        value: the value.
        kinds: the types that it may have.
        form: the expected form, in words.

    Raises:
        UserError: it has another type.
    """
    if not isinstance(value, kinds):
        shown = f" {value!r}" if isinstance(value, str | int | float) else ""
        raise UserError(f"{place} must be {form}, got {type(value).__name__}{shown}")


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return a hint naming the known names closest to `name`, or all of them when none is close.

    Examples:
        >>> nearest("mnatf", ["mnaft", "neumt"])
        'did you mean mnaft?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
