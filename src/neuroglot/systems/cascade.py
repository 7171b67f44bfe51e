"""The cascade baseline: read the image first, translate what was read second."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from neuroglot.data.example import Example, ImageSource
from neuroglot.errors import UserError
from neuroglot.pair import Pair
from neuroglot.systems.base import System, check, close

# ---- Between reading and translating --------------------------------------------------------------------------------
# Notable: nobody can mend what a machine has read. The user's own text is refused where a model could not take it; of
# this one the model is shown what it can take, and the rest counts against the system.

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
    while result := [mark for mark in marks if mark in text]:
        text = text.replace(max(result, key=len), "")
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


# ---- Cascade --------------------------------------------------------------------------------------------------------
# Notable: an image is read once, however many languages it is then translated into. What was read may be anything: the
# translator is shown what it can take of it, and where that is nothing the answer is empty.


class Cascade:
    """Two systems in a row: a reader that transcribes images and a translator of text.

    Only image translation is a chain. An example without images goes to the translator as it is, any other
    (transcribing, describing) to the reader, so that a cascade can be scored on every split.

    Args:
        reader: answers `ocr` examples.
        translator: answers `text_translation` examples; may be the same system.
        name: the key of this system in the scores.
        lines: what is done with the lines that were read: `whole` leaves them to the translator, `joined` makes them
            one text (a phrase that is wrapped on a sign), `each` translates them one by one (signs of many texts).

    Raises:
        UserError: `lines` is none of these.
    """

    def __init__(self, reader: System, translator: System, name: str = "cascade", lines: str = "whole") -> None:
        if lines not in LINES:
            raise UserError(f"lines must be {', '.join(LINES)}, got {lines!r}")
        self.lines = lines
        self.reader = reader
        self.translator = translator
        self.name = name
        self._read: dict[Hashable, str] = {}

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Transcribe each distinct image, then translate the transcriptions; the input order is kept."""
        chained = [index for index, example in enumerate(examples) if _is_chained(example)]
        read = dict(zip(chained, self.transcribe([examples[index] for index in chained]), strict=True))
        others = [index for index, example in enumerate(examples) if example.images and index not in read]

        asked: list[tuple[int, Example]] = []  # where nothing was read there is nothing to translate
        for index, example in enumerate(examples):
            if index in read:
                asked += [(index, shown) for shown in self._shown(example, read[index])]
            elif not example.images:
                asked.append((index, example))
        said = self.translator.translate([example for _, example in asked]) if asked else []
        parts: list[list[str]] = [[] for _ in examples]
        for (index, _), answer in zip(asked, said, strict=True):
            parts[index].append(answer)
        answers = ["\n".join(part) for part in parts]
        rest = self.reader.translate([examples[index] for index in others]) if others else []
        for index, answer in zip(others, rest, strict=True):
            answers[index] = answer
        return answers

    def transcribe(self, examples: Sequence[Example]) -> list[str]:
        """Return what the reader sees in each example's images; an image seen before is not read again."""
        keys = [_key(example) for example in examples]
        fresh = {key: _as_ocr(example) for key, example in zip(keys, examples, strict=True) if key not in self._read}
        if fresh:
            self._read.update(zip(fresh, self.reader.translate(list(fresh.values())), strict=True))
        return [self._read[key] for key in keys]

    def transcriptions(self, examples: Sequence[Example]) -> list[str | None]:
        """Return what was read in the images of each example; None of those that are not read first."""
        chained = [example for example in examples if _is_chained(example)]
        read = iter(self.transcribe(chained))
        return [next(read) if _is_chained(example) else None for example in examples]

    def _shown(self, example: Example, transcription: str) -> list[Example]:
        """Return what the translator is asked: nothing of a piece that leaves nothing it could read."""
        texts = [_as_text(example, piece) for piece in pieces(transcription, self.lines)]
        if hasattr(self.translator, "readable"):
            texts = [self.translator.readable(text) for text in texts]
        return [text for text in texts if text.source]

    def nll(self, examples: Sequence[Example]) -> None:
        """A chain through a hard transcription has no likelihood of its own."""
        return

    def check(self, pair: Pair) -> None:
        """Refuse a direction that the reader or the translator does not know.

        Raises:
            UserError: one of them does not know the direction.
        """
        check(self.reader, Pair(pair.source, pair.source))
        check(self.translator, pair)

    def close(self) -> None:
        """Close both."""
        close(self.reader)
        if self.translator is not self.reader:
            close(self.translator)


def _is_chained(example: Example) -> bool:
    return bool(example.images) and example.task == "image_translation"


def _as_ocr(example: Example) -> Example:
    # The source text is the reference of the transcription, never part of what the reader is shown.
    return replace(
        example,
        task="ocr",
        target_lang=example.source_lang,
        source=None,
        target=example.source or "",
        alternatives=(),
    )


def _as_text(example: Example, transcription: str) -> Example:
    return replace(example, task="text_translation", images=(), source=transcription, alternatives=())


def _key(example: Example) -> Hashable:
    return (example.source_lang, *(_image_key(image) for image in example.images))


def _image_key(image: ImageSource) -> Hashable:
    return hashlib.sha256(image).digest() if isinstance(image, bytes) else image
