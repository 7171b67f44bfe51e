"""What is done with a text that was read in an image, before it is translated.

Notable: nobody can mend what a machine has read. The user's own text is refused where a model could not take it; of
this one the model is shown what it can take, and the rest counts against the system.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from neuroglot.data.example import Example

LINES = ("joined", "each", "whole")


def join(text: str) -> str:
    """Return the lines of a text as one: with a space between them, except between Chinese or Japanese characters.

    Examples:
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

    Examples:
        >>> [pieces("one\\ntwo", lines) for lines in ("each", "joined", "whole")]
        [['one', 'two'], ['one two'], ['one\\ntwo']]
        >>> pieces("", "whole")
        []
    """
    if lines == "each":
        return [line.strip() for line in text.splitlines() if line.strip()]
    text = join(text) if lines == "joined" else text
    return [text] if text else []


class Writer(Protocol):
    """What makes prompts of texts; `neuroglot.data.batch.Batcher` does."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""

    @property
    def marks(self) -> Sequence[str]:
        """The texts of its special tokens."""

    @property
    def max_length(self) -> int:
        """The most tokens a sample may take; 0 for no limit."""

    def prompt_tokens(self, example: Example) -> int:
        """Return how many tokens the prompt takes."""


def readable(example: Example, writer: Writer, answer: int) -> Example:
    """Return a text example with as much of its source as a model can be shown.

    The marks of special tokens and the characters that have no token are left out, and so is the end of a text that is
    too long: room is left for `answer` tokens, half of `max_length` at most. The source may be empty then.
    """
    marks, most = writer.marks, writer.max_length - min(answer, writer.max_length // 2)
    text = unmarked(known(unmarked(example.source or "", marks), writer.tokenizer), marks).strip()

    def taken(end: int) -> int:
        return writer.prompt_tokens(replace(example, source=text[:end]))

    if writer.max_length and taken(len(text)) > most:
        text = text[: max(0, bisect_right(range(len(text)), most, key=taken) - 1)].strip()
    return replace(example, source=text)


def unmarked(text: str, marks: Sequence[str]) -> str:
    """Return a text without marks, those included that come together when others go.

    Examples:
        >>> unmarked("Ex<p<pad>ad>it", ["<pad>"])
        'Exit'
    """
    while found := [mark for mark in marks if mark in text]:
        text = text.replace(max(found, key=len), "")
    return text


def known(text: str, tokenizer: Any) -> str:
    """Return a text without the characters that have no token, and without the words that have none even so."""
    if _has_tokens(text, tokenizer):
        return text
    words = []
    for word in re.split(r"(\s+)", text):
        own = word if _has_tokens(word, tokenizer) else "".join(c for c in word if _has_tokens(c, tokenizer))
        words.append(own if _has_tokens(own, tokenizer) else "")
        if word.isspace() and not words[-1]:
            words[-1] = " "
    return "".join(words)


def _has_tokens(text: str, tokenizer: Any) -> bool:
    unknown = tokenizer.unk_token_id
    return unknown is None or unknown not in tokenizer(text, add_special_tokens=False)["input_ids"]
