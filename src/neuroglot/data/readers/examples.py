"""From the contents of a record to examples: one for each of its tasks."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuroglot.data.example import Example, ImageSource, RenderSpec, blank, split_seed
from neuroglot.data.readers.layout import Layout
from neuroglot.errors import UserError
from neuroglot.pair import Pair


@dataclass(frozen=True)
class Piece:
    """The contents of one record of a corpus, from which examples are made.

    Attributes:
        source: the text to translate; None if it is not known.
        targets: pair -> its translation.
        item: names the record within the corpus.
        number: position of the record in the corpus; the rendering depends on it.
        written: images that contain the source text.
        pictured: images of what the text is about.
        alternatives: pair -> wrong readings.
        split: train, dev or test; None if unknown.
        meta: further data for the example's `meta`.
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


NOTES = "notes"
"""Key in an example's `meta`: pairs of a kind of finding and its reason, which `neuroglot data check` reports."""


class Notes:
    """Notes for the user about what a reader changed in one record.

    Attributes:
        meta: the notes, for the `meta` of the record's examples.
    """

    def __init__(self) -> None:
        self.meta: dict[str, list[list[str]]] = {}

    def add(self, kind: str, why: str) -> None:
        """Add a note of a kind in `neuroglot.validation.findings.KINDS`."""
        self.meta.setdefault(NOTES, []).append([kind, why])

    def cleaned(self, what: str, before: str, after: str) -> str:
        """Return a text that a reader cleaned; add a note if it changed."""
        if before != after:
            self.add("cleaned", f"{what} {_LONG.repr(before)} became {_LONG.repr(after)}")
        return after

    def split(self, named: object, own: str | None, of_file: str | None, used: str | None) -> None:
        """Add a note if a record names another split than its file.

        Args:
            named: the split that the record names, in its words.
            own: our name for it; None if it is not used.
            of_file: the split of the file; None if it has none.
            used: the split that the record is put in.
        """
        if named is not None and of_file is not None and own != of_file:
            self.add("other_split", f"the record says {shown(named)} and its file is {of_file}; it is put in {used}")


_SHORT, _LONG = reprlib.Repr(), reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_LONG.maxstring = 120


def shown(value: object) -> str:
    """Return a value for a message: both ends of a long text, a few levels of a nested value."""
    return _SHORT.repr(value)


def not_a_text(what: str, value: object) -> UserError:
    """Return the error for a value that should be a text that is not empty."""
    if value is None:
        return UserError(f"{what} is missing or empty")
    if isinstance(value, str):
        return UserError(f"{what} is empty")
    if isinstance(value, float) and value != value:
        return UserError(f"{what} is NaN, as a table writes an empty cell; leave it out, or fill it in")
    return UserError(f"{what} must be a text, got {shown(value)}")


def name_of(value: object, what: str) -> str:
    """Return the text of an id or an item.

    Raises:
        UserError: it is an object or a list.
    """
    if isinstance(value, Mapping | list):
        raise UserError(f"{what} must be a text or a number, got {shown(value)}")
    return str(value)


def examples(piece: Piece, layout: Layout, tasks: Sequence[str] | None = None) -> Iterator[Example]:
    """Yield the examples of a record: of every task, and for translation tasks of every pair.

    Image translation uses an image that contains the source text, or renders it; multimodal translation uses an image
    of what the text is about; transcribing and describing stay in the source language.

    Raises:
        UserError: the record lacks something that a task needs.
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
    """Return the rendered image of a text: the same for all pairs of a record, never shared by two splits."""
    return RenderSpec(text, split_seed(split or "train", layout.seed), number, style=layout.render or ())


def image_name(image: ImageSource) -> str:
    """Return the name of an image: its path, or a hash of its bytes."""
    return hashlib.blake2b(image, digest_size=12).hexdigest() if isinstance(image, bytes) else str(image)


def checked_text(value: str, what: str) -> str:
    """Return a text without white space around it.

    Raises:
        UserError: nothing is left, or it contains half a surrogate pair.
    """
    text = value.strip()
    if blank(text):
        raise UserError(f"the {what} is empty; leave the record out, or fill it in")
    check_surrogates(text)
    return text


def check_surrogates(*texts: str) -> None:
    """Refuse texts that UTF-8 cannot encode.

    Raises:
        UserError: a text contains half a surrogate pair.
    """
    for text in texts:
        if not text.isascii() and text.encode("utf-8", "ignore").decode() != text:
            raise UserError(f"half a surrogate pair in {text[:60]!r}; write the character itself, or leave it out")
