"""Little corpora in published layouts, made from the embedded signs: what a recipe for one of them is tried on.

The published ones are gigabytes behind forms. These hold a few dozen signs, in the folders, file names and fields of
the published ones, so that `--scale smoke` goes the whole way from the files on. They also show what is expected.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroglot.errors import UserError, nearest
from neuroglot.file_format import cache_folder

if TYPE_CHECKING:
    from neuroglot.synthetic.signs import Sign

COUNTS = {"train": 32, "dev": 8, "test": 6}
"""Source items of each split."""

EDITION = 1
"""Counts up when what is written changes, so that corpora made earlier are left alone."""

SIX = ("en", "fr", "cs", "de", "lv", "hi", "tr")
"""The languages of M3-Multi30K and M3-AmbigCaps, which are those of the embedded model."""

THREE = ("en", "de", "fr")

Splits = dict[str, list["Sign"]]


def corpus_in(layout: str) -> Path:
    """Return a folder that holds a little corpus in a layout; made at the first call, in the cache.

    Raises:
        UserError: a layout that is not known.
    """
    if layout not in WRITERS:
        raise UserError(f"smoke.layout {layout!r} is not known; {nearest(layout, WRITERS)}")
    folder = cache_folder("smoke") / f"{layout}-{EDITION}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{layout}-"))
        try:
            write_corpus(layout, unfinished)
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was quicker
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def write_corpus(layout: str, folder: Path) -> None:
    """Write a little corpus in a layout into an empty folder."""
    from neuroglot.synthetic.signs import signs

    WRITERS[layout](folder, {split: signs(split, count) for split, count in COUNTS.items()})


def _multi30k(folder: Path, splits: Splits) -> None:
    """M3-Multi30K: `train.en`, ..., the photographs' names in `image_splits/`, the photographs in `images/`."""
    for split, result in splits.items():
        stem = {"dev": "val", "test": "test_2016_flickr"}.get(split, split)
        _texts(folder / "raw", {language: f"{stem}.{language}" for language in SIX}, result)
        names = [f"{split}{number:04}.jpg" for number in range(len(result))]
        _write(folder / "image_splits" / f"{stem}.txt", names)
        _photographs(folder / "images", names, result, split)


def _ambigcaps(folder: Path, splits: Splits) -> None:
    """M3-AmbigCaps: `train.en`, ..., and a folder a split with the photographs and `index.txt`, which names them."""
    for split, result in splits.items():
        stem = {"dev": "val"}.get(split, split)
        _texts(folder, {language: f"{stem}.{language}" for language in SIX}, result)
        names = [f"{number}.jpg" for number in range(len(result))]
        _write(folder / stem / "index.txt", names)
        _photographs(folder / stem, names, result, split)


def _mit10m(folder: Path, splits: Splits) -> None:
    """MIT-10M: `train/EN.jsonl` and `test/EN.jsonl`, a line for an image in a direction, and `images/`."""
    for split in ("train", "test"):
        records, names = [], []
        for number, sign in enumerate(splits[split]):
            name = f"en_{split}{number:05}.jpg"
            names.append(name)
            for language in THREE[1:]:
                record = {
                    "id": f"{split}{number:05}_EN-{language.upper()}", "img": f"en/{number % 7:02x}/{name}",
                    "box_cnt": 1, "difficulty": 1, "cate_id": 1, "cate_name": "signs", "split": split,
                    "src_lang": "EN", "tgt_lang": language.upper(),
                    "src_text": sign.text("en"), "tgt_text": sign.text(language),
                    "src_token_len": len(sign.text("en")), "tgt_token_len": len(sign.text(language)),
                }  # fmt: skip
                records.append(json.dumps(record, ensure_ascii=False))
        _write(folder / split / "EN.jsonl", records)
        _photographs(folder / "images", names, splits[split], split)


def _iwslt(folder: Path, splits: Splits) -> None:
    """IWSLT-2017: a pair's files, `train.tags.en-de.en` with lines of tags, and `IWSLT17.TED.dev2010.en-de.en.xml`."""
    for target in THREE[1:]:
        pair = f"en-{target}"
        for language in ("en", target):
            lines = [sign.text(language) for sign in splits["train"]]
            _write(folder / f"train.tags.{pair}.{language}", ["<url>http://example.org/talk</url>", *lines])
            for split, year in (("dev", "dev2010"), ("test", "tst2015")):
                lines = [f'<seg id="{k}"> {_escaped(s.text(language))} </seg>' for k, s in enumerate(splits[split], 1)]
                whole = ['<?xml version="1.0" encoding="UTF-8"?>', "<mteval>", '<doc docid="1">', *lines, "</doc>"]
                _write(folder / f"IWSLT17.TED.{year}.{pair}.{language}.xml", [*whole, "</mteval>"])


WRITERS: dict[str, Callable[[Path, Splits], None]] = {
    "multi30k": _multi30k,
    "ambigcaps": _ambigcaps,
    "mit10m": _mit10m,
    "iwslt": _iwslt,
}
"""Layout, as `smoke.layout` of a recipe names it -> what writes it."""


def _texts(folder: Path, files: dict[str, str], result: Sequence[Sign]) -> None:
    for language, name in files.items():
        _write(folder / name, [sign.text(language) for sign in result])


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _photographs(folder: Path, names: Sequence[str], result: Sequence[Sign], split: str) -> None:
    """Images of the signs, for want of photographs."""
    from neuroglot.data.example import split_seed
    from neuroglot.synthetic.render import render

    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, sign) in enumerate(zip(names, result, strict=True)):
        render(sign.text("en"), split_seed(split, 0), number).image.save(folder / name, quality=95)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
