"""Example: the record that every reader yields and all other code uses; and the instructions for the model, in
several paraphrases (the first is used for training and scoring).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroglot.errors import UserError, nearest
from neuroglot.pair import INSTRUCT, Condition, Pair, language_name

# ---- Example --------------------------------------------------------------------------------------------------------


def blank(text: str) -> bool:
    """Whether a text has only white space, control and formatting characters.

    Examples:
        >>> blank(" \\u200b\\ufeff"), blank("a")
        (True, False)
    """
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


@dataclass(frozen=True)
class RenderSpec:
    """An image that is drawn when it is needed: the same fields give the same pixels.

    Attributes:
        kind: `sign` (the text, rendered), `picture` (what the text describes, drawn) or `scene` (the reading of an
            ambiguous word that the text names, drawn).
        text: what the image shows.
        seed: the corpus seed.
        index: the sample's index in the corpus; font, size, colours, layout and noise follow from (seed, index).
        style: restrictions on the choices, such as `font=DejaVu Serif`, as sorted (key, value) pairs.
    """

    text: str
    seed: int
    index: int
    kind: str = "sign"
    style: tuple[tuple[str, str], ...] = ()


ImageSource = Path | bytes | RenderSpec

_SPLITS = ("train", "dev", "test", "heldout")


def split_seed(split: str, seed: int) -> int:
    """Return the seed of the images of a split: no two splits of a corpus, and no two corpora, share an image."""
    return 10 * seed + 1 + _SPLITS.index(split)


@dataclass(frozen=True)
class Example:
    """One thing to translate, transcribe or describe.

    Attributes:
        images: none, one or several; a path, encoded bytes, or a render spec.
        source: the source text if the prompt contains it (text and multimodal translation), or the text in the image
            if that is known; None otherwise.
        target: the reference.
        source_lang: BCP 47 code.
        target_lang: BCP 47 code; equal to `source_lang` for transcribing and describing.
        task: one of `neuroglot.pair.TASKS`.
        alternatives: wrong readings of a contrastive item.
        item: names the source item; examples of several pairs made from one source share it.
        meta: further data from the reader.
    """

    images: tuple[ImageSource, ...]
    source: str | None
    target: str
    source_lang: str
    target_lang: str
    task: str
    alternatives: tuple[str, ...] = ()
    item: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pair(self) -> Pair:
        """The translation direction."""
        return Pair(self.source_lang, self.target_lang)

    @property
    def condition(self) -> Condition:
        """Task and pair."""
        return Condition(self.task, self.pair)


# ---- Instructions ---------------------------------------------------------------------------------------------------

_TEXT = (
    "Translate the text to {target}.",
    "What is this in {target}?",
    "Write this text in {target}.",
)

INSTRUCTION = "instruction"
"""Key of the question in the `meta` of an `instruct` example."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "image_translation": (
        "Translate the text in the image to {target}.",
        "What does the sign say in {target}?",
        "Write the text of the image in {target}.",
    ),
    # Only the image distinguishes it from text translation: without it, the two prompts are the same.
    "multimodal_translation": _TEXT,
    "ocr": ("Read the text in the image.", "What does the sign say?", "Transcribe the text of the image."),
    "text_translation": _TEXT,
    "describe": ("Name what the image shows.", "What is in the picture?", "Describe the image."),
}


def paraphrases(task: str) -> int:
    """Return the number of instructions of a task; an `instruct` example has only its question."""
    return 1 if task == INSTRUCT else len(_templates(task))


def instruction(example: Example, paraphrase: int = 0) -> str:
    """Return the English instruction for an example, with its languages; for `instruct`, source and question."""
    if example.task == INSTRUCT:
        if INSTRUCTION not in example.meta:
            raise UserError(
                f"an {INSTRUCT} example needs its question in meta[{INSTRUCTION!r}], got none (target "
                f"{example.target[:40]!r})"
            )
        asked = str(example.meta[INSTRUCTION])
        return f"{example.source}\n{asked}" if example.source else asked
    templates = _templates(example.task)
    return templates[paraphrase % len(templates)].format(
        source=language_name(example.source_lang), target=language_name(example.target_lang)
    )


def filled(prompt: str, example: Example) -> str:
    """Return the user's prompt, with {source} and {target} replaced by the languages of an example."""
    named = prompt.replace("{source}", language_name(example.source_lang))
    return named.replace("{target}", language_name(example.target_lang))


def _templates(task: str) -> tuple[str, ...]:
    if task not in TEMPLATES:
        raise UserError(f"task {task!r} is not known; {nearest(task, TEMPLATES)}")
    return TEMPLATES[task]


def shows_source(task: str) -> bool:
    """Whether the prompt contains the source text (otherwise it must be read in the image)."""
    return task in ("text_translation", "multimodal_translation")
