"""What is done with the lines of a text that was read in an image, before it is translated."""

from __future__ import annotations

import re
import unicodedata

LINES = ("joined", "each", "whole")


def join(text: str) -> str:
    """Return the lines of a text as one: with a space between them, except between Chinese or Japanese characters.

    >>> join("Mind the\\n gap"), join("出口\\nA 出口")
    ('Mind the gap', '出口 A 出口')
    >>> join("立入\\n禁止")
    '立入禁止'
    """
    joined = ""
    for line in filter(None, (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())):
        gap = "" if not joined or (_unspaced(joined[-1]) and _unspaced(line[0])) else " "
        joined += gap + line
    return joined


def _unspaced(character: str) -> bool:
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not unicodedata.name(character, "").startswith("HANGUL")


def pieces(text: str, lines: str) -> list[str]:
    """Return what of a text is translated by itself; nothing of one without a character.

    >>> pieces("one\\ntwo", "each"), pieces("one\\ntwo", "joined"), pieces("one\\ntwo", "whole"), pieces("", "whole")
    (['one', 'two'], ['one two'], ['one\\ntwo'], [])
    """
    if lines == "each":
        return [line.strip() for line in text.splitlines() if line.strip()]
    text = join(text) if lines == "joined" else text
    return [text] if text else []
