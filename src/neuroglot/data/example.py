"""The one record that every reader yields and everything else takes."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroglot.pair import Condition, Pair


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
