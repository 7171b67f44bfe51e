"""From what a record holds to examples: one for each task that it serves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuroglot.data.example import Example, ImageSource, RenderSpec, split_seed
from neuroglot.data.readers.layout import Layout
from neuroglot.errors import UserError
from neuroglot.pair import Pair


@dataclass(frozen=True)
class Piece:
    """What one record of a corpus holds, whatever is made of it.

    Attributes:
        source: the text to translate, where it is known.
        targets: pair -> its translation.
        item: names the record within the corpus.
        number: place of the record in the corpus, which decides how it is rendered.
        written: images in which the source stands written.
        pictured: images of what the text is about.
        alternatives: pair -> wrong readings.
        split: train, dev, test, or unknown.
        meta: what else is kept.
    """

    source: str | None
    targets: Mapping[Pair, str]
    item: str
    number: int
    written: Sequence[ImageSource] = ()
    pictured: Sequence[ImageSource] = ()
    alternatives: Mapping[Pair, Sequence[str]] = field(default_factory=dict)
    split: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def examples(piece: Piece, layout: Layout, tasks: Sequence[str] | None = None) -> Iterator[Example]:
    """Yield the examples of a record: every task, and of those that translate every pair.

    Image translation takes an image in which the source stands written, or renders it; multimodal translation takes
    an image of what the text is about; transcribing and describing stay in the source language.

    Raises:
        UserError: a task that the record cannot serve.
    """
    for task in layout.made if tasks is None else tasks:
        images = _images(piece, layout, task)
        for pair, target in piece.targets.items() if task.endswith("translation") else [_same(piece)]:
            yield Example(
                images=tuple(images),
                source=None if task in ("ocr", "describe") else piece.source,
                target=target,
                source_lang=pair.source,
                target_lang=pair.target,
                task=task,
                alternatives=tuple(piece.alternatives.get(pair, ())),
                item=piece.item,
                meta={**({"split": piece.split} if piece.split else {}), **piece.meta},
            )


def _images(piece: Piece, layout: Layout, task: str) -> Sequence[ImageSource]:
    if task in ("image_translation", "ocr"):
        if piece.written:
            return piece.written
        if not piece.source:
            raise UserError(f"task {task} needs an image, or a source text to render; this record has neither")
        return (rendered(piece.source, piece.split, piece.number, layout),)
    if task == "text_translation":
        if not piece.source:
            raise UserError(f"task {task} needs the source text, which this record does not have")
        return ()
    if not piece.pictured:
        raise UserError(f"task {task} needs an image of what the text is about, which this record does not have")
    if task == "multimodal_translation" and not piece.source:
        raise UserError(f"task {task} needs the source text, which this record does not have")
    return piece.pictured


def _same(piece: Piece) -> tuple[Pair, str]:
    """Return the source language as a pair, and the source text."""
    if not piece.source:
        raise UserError("transcribing and describing need the source text, which this record does not have")
    language = next(iter(piece.targets)).source
    return Pair(language, language), piece.source


def rendered(text: str, split: str | None, number: int, layout: Layout) -> RenderSpec:
    """Return the image of a text: a record has the same one in every pair, and no two splits share one."""
    return RenderSpec(text, split_seed(split or "train", layout.seed), number, style=layout.render or ())


def image_name(image: ImageSource) -> str:
    """Return what an image is called where it has no path: a hash of its bytes."""
    return hashlib.blake2b(image, digest_size=12).hexdigest() if isinstance(image, bytes) else str(image)


def checked_text(value: str, what: str) -> str:
    """Return a text without white space around it.

    Raises:
        UserError: nothing is left, or it holds half a surrogate pair.
    """
    text = value.strip()
    if not text:
        raise UserError(f"the {what} is blank; leave the record out, or fill it in")
    check_surrogates(text)
    return text


def check_surrogates(*texts: str) -> None:
    """Refuse what no UTF-8 can hold.

    Raises:
        UserError: half a surrogate pair.
    """
    for text in texts:
        if not text.isascii() and text.encode("utf-8", "ignore").decode() != text:
            raise UserError(f"half a surrogate pair in {text[:60]!r}; write the character itself, or leave it out")
