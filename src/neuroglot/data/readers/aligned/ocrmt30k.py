"""OCRMT30K: Chinese street photographs, the text that an OCR reads in them, the text itself, and its English.

How to obtain: github.com/DeepLearnXMU/mc_tit, `ocrmt30k_data/v2.0` (no commercial use); the photographs after a form
linked there. `data.source` is that folder, or the one with the text files in it.

Files of a split (train, valid, test): `image_train.txt`, the name of the photograph of each line; `ocr_zh_train.txt`,
the text as people wrote it down; `ocr_zh_pseudo_train.txt`, the text as an OCR read it; `ocr_en_train.txt`, the
translation. The tokenised files (`train.tok.lower.zh-c`, `.zh`, `.en`) are left alone: their words are in pieces.
Photographs are in `whole_image_v2/` or `whole_image/`, or where `data.images` says.

A line is one text of a photograph, which may have several. Image translation and transcribing take a photograph with
all of its texts, joined by line breaks, since nothing says which of them is meant; text translation and multimodal
translation take each text for itself. The source is the text that people wrote down, or with `data.columns: {source:
ocr}` what the OCR read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from neuroglot.data.readers.aligned.lines import Aligned, first_folder, together
from neuroglot.data.readers.ids import Ids
from neuroglot.data.readers.layout import Layout, Record, splits_of
from neuroglot.data.readers.make import Piece, examples
from neuroglot.errors import UserError
from neuroglot.pair import Pair

TEXTS = ("", "before_tok_bpe", "after_proprecess", "after_proprecess/before_tok_bpe")
IMAGES = ("whole_image_v2", "whole_image")
PAIR = Pair("zh", "en")
WHOLE = ("image_translation", "ocr")
SOURCES = ("gold", "ocr")


@dataclass(frozen=True)
class _Place:
    split: str | None
    name: str
    images: Path
    source: str


def text_folder(path: Path) -> Path | None:
    """Return the folder that holds the text files."""
    return first_folder((path / name for name in TEXTS), lambda folder: any(folder.glob("ocr_en_*.txt")))


def read_ocrmt30k(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of OCRMT30K: of a photograph, or of one text of it.

    Raises:
        UserError: the files are not there or not aligned, or another direction than zh-en is wanted.
    """
    folder = text_folder(path)
    if folder is None:
        raise UserError(f"{path} is no OCRMT30K; expected files such as ocr_en_train.txt and image_train.txt in it")
    for pair in layout.directions:
        if pair != PAIR:
            raise UserError(f"{path} has the pair {PAIR}, and data.pairs asks for {pair}")
    source = layout.columns.get("source", "gold")
    if source not in SOURCES or set(layout.columns) > {"source"}:
        raise UserError(f"data.columns of OCRMT30K is {{source: gold}} or {{source: ocr}}, got {dict(layout.columns)}")
    names = [file.stem.removeprefix("ocr_en_") for file in folder.glob("ocr_en_*.txt")]
    position = 0
    for split, theirs in splits_of(names, layout, folder).items():
        files = {
            "image": folder / f"image_{theirs}.txt",
            "gold": folder / f"ocr_zh_{theirs}.txt",
            "ocr": folder / f"ocr_zh_pseudo_{theirs}.txt",
            "target": folder / f"ocr_en_{theirs}.txt",
        }
        place = _Place(split, theirs, layout.images or _images(path, folder), source)
        optional = [role for role in SOURCES if role != source]
        later = _later(together(files, path, optional))
        waiting: dict[str, list[Aligned]] = {}
        for name, group in groupby(together(files, path, optional), _photograph):
            lines = list(group)
            every = [*waiting.pop(name, []), *lines]
            if later[name]:  # its other texts come further down
                later[name] -= 1
                waiting[name], every = every, []
            yield from _of_image(lines, every, place, position + 1, layout)
            position += len(lines)


def _photograph(record: Aligned) -> str:
    return record.texts["image"]


def _later(records: Iterable[Aligned]) -> Counter[str]:
    """Return how often photographs come again after others; none does where all lines of each lie together."""
    known, found = Ids(), Counter[str]()
    for name, _ in groupby(records, _photograph):
        found.update([name] if known.earlier(name, 0) is not None else [])
    return found


def _of_image(
    lines: Sequence[Aligned], every: Sequence[Aligned], place: _Place, first: int, layout: Layout
) -> Iterator[Record]:
    """Yield the examples of a photograph, then those of its texts, each with the number of its line.

    Args:
        lines: those that lie together.
        every: all of the photograph; none where more of them follow.
        place: where they are from.
        first: number of the first of `lines`.
        layout: how the source is laid out.
    """
    whole = [task for task in layout.made if task in WHOLE]
    alone = [task for task in layout.made if task not in WHOLE]
    if every and whole and not any(line.wrong for line in every):
        yield from ((first, example) for example in examples(_piece(every, place, first), layout, whole))
    for position, line in enumerate(lines, first):
        if line.wrong is not None:
            yield position, line.wrong
        elif alone:
            yield from ((position, e) for e in examples(_piece([line], place, position), layout, alone))


def _piece(lines: Sequence[Aligned], place: _Place, position: int) -> Piece:
    photograph = place.images / lines[0].texts["image"]
    read = "\n".join(line.texts["ocr"] for line in lines if line.texts["ocr"])
    return Piece(
        source="\n".join(line.texts[place.source] for line in lines),
        targets={PAIR: "\n".join(line.texts["target"] for line in lines)},
        item=f"{place.name}-{lines[0].number}",
        number=position,
        written=(photograph,),
        pictured=(photograph,),
        split=place.split,
        meta={} if place.source == "ocr" or not read else {"ocr": read},
    )


def _images(path: Path, folder: Path) -> Path:
    roots = [path, *list(folder.parents)[:3]]
    return next((r / name for r in roots for name in IMAGES if (r / name).is_dir()), path / IMAGES[0])
