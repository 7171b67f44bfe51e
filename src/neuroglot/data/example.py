"""Example: the one record that every reader yields and everything else takes; and the instructions that put its task
to a model, in several paraphrases (the first is used for training and scoring).
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
    """Whether a text shows nothing: white space, control and formatting characters only.

    Examples:
        >>> blank(" \\u200b\\ufeff"), blank("a")
        (True, False)
    """
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


@dataclass(frozen=True)
class RenderSpec:
    """An image that is made when it is looked at: same fields, same pixels.

    Attributes:
        kind: `sign` (the text, rendered), `picture` (what the text describes, drawn) or `scene` (the reading of an
            ambiguous word that the text names, drawn).
        text: what the image holds.
        seed: the corpus seed.
        index: the sample's place in the corpus; font, size, colours, layout and noise follow from (seed, index).
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
        source: the source text where the model is shown it (text and multimodal translation), or, for an image
            with text, what the image says where that is known; None otherwise.
        target: the reference.
        source_lang: BCP 47 code.
        target_lang: BCP 47 code; equal to `source_lang` for transcribing and describing.
        task: one of `neuroglot.pair.TASKS`.
        alternatives: wrong readings of a contrastive item.
        item: names the source item; examples of several pairs made from one source share it.
        meta: anything else a reader wants to keep.
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
"""Where the `meta` of an `instruct` example has what is asked."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "image_translation": (
        "Translate the text in the image to {target}.",
        "What does the sign say in {target}?",
        "Write the text of the image in {target}.",
    ),
    # The image is all that sets it apart from text translation: without it, the two are the same prompt.
    "multimodal_translation": _TEXT,
    "ocr": ("Read the text in the image.", "What does the sign say?", "Transcribe the text of the image."),
    "text_translation": _TEXT,
    "describe": ("Name what the image shows.", "What is in the picture?", "Describe the image."),
}


def paraphrases(task: str) -> int:
    """How many instructions a task has; a question is put as it is."""
    return 1 if task == INSTRUCT else len(_templates(task))


def instruction(example: Example, paraphrase: int = 0) -> str:
    """Return the instruction for an example, in English, naming its languages; a question, with its text, as it is."""
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
    """Return a prompt of the user's own, its {source} and {target} replaced by the languages of an example."""
    named = prompt.replace("{source}", language_name(example.source_lang))
    return named.replace("{target}", language_name(example.target_lang))


def _templates(task: str) -> tuple[str, ...]:
    if task not in TEMPLATES:
        raise UserError(f"task {task!r} is not known; {nearest(task, TEMPLATES)}")
    return TEMPLATES[task]


def shows_source(task: str) -> bool:
    """Whether the prompt carries the source text (otherwise it is to be read in the image)."""
    return task in ("text_translation", "multimodal_translation")
