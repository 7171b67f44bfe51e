"""Multi30K, M3-Multi30K, AmbigCaps and M3-AmbigCaps: captions in several languages, and the photographs they describe.

How to obtain:

- Multi30K: github.com/multi30k/dataset, `data/task1` (English, German, French, Czech); the photographs of Flickr30k
  after a request at its home page, those of the later test sets as linked in the repository.
- M3-Multi30K and M3-AmbigCaps (with Latvian, Hindi and Turkish besides): text linked in the repository of LVP-M3
  (Guo et al. 2022); it is line-aligned with Multi30K and AmbigCaps, whose images serve.
- AmbigCaps (English, Turkish): linked in the repository vision-matters-when-it-should (Li et al. 2021).

Files: `train.en`, `train.de`, ... (plain or .gz) in the folder itself, in `raw/` or in `data/task1/raw/`; lists of
image names `train.txt` beside them or in `image_splits/` (Multi30K), or `train/index.txt` (AmbigCaps); photographs in
`images/` or `flickr30k-images/` (Multi30K), in `train/` (AmbigCaps), or in `data.images`.

Image translation renders the caption, text translation takes it as it is, multimodal translation shows the photograph
beside it, and describing wants the caption of the photograph. Where there are several test sets, `data.splits: {test:
test_2017_flickr}` chooses one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from neuroglot.data.readers.aligned.lines import first_folder, language_files, of_pairs, pairs_of, together
from neuroglot.data.readers.layout import Layout, Record, splits_of
from neuroglot.data.readers.make import Piece
from neuroglot.errors import UserError

TEXTS = ("", "raw", "data/task1/raw", "task1/raw", "text")
IMAGES = ("images", "flickr30k-images", "flickr30k_images")
_CAPTION = re.compile(r"#\d+$")
"""Flickr30k's number of a caption, after the name of its image."""
PICTURED = ("multimodal_translation", "describe")


def text_folder(path: Path) -> Path | None:
    """Return the folder of a corpus that holds the captions."""
    return first_folder((path / name for name in TEXTS), language_files)


def read_captions(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a corpus of captions, all splits one after the other.

    Raises:
        UserError: no captions are there, files are not aligned, or a language or the list of images is missing.
    """
    texts = text_folder(path)
    if texts is None:
        raise UserError(f"{path} holds no captions; expected files such as train.en and train.de there or in raw/")
    files = language_files(texts)
    position = 0
    splits: list[tuple[str | None, str]] = [*splits_of(files, layout, texts).items()]
    for split, stem in splits or [(None, _only(files, texts))]:
        pairs = pairs_of(layout, files[stem], texts / stem)
        wanted = {language for pair in pairs for language in (pair.source, pair.target)}
        chosen = {language: file for language, file in files[stem].items() if language in wanted}
        folder = None
        if set(layout.made) & set(PICTURED):
            chosen["image"] = image_list(path, texts, stem)
            folder = layout.images or image_folder(path, chosen["image"])
        for record in together(chosen, path):
            position += 1
            if record.wrong is not None:
                yield position, record.wrong
                continue
            name = _CAPTION.sub("", record.texts.get("image", ""))
            piece = Piece(
                source=None,
                targets={},
                item=f"{stem}-{record.number}",
                number=position,
                pictured=(folder / name,) if folder else (),
                split=split,
            )
            yield from ((position, example) for example in of_pairs(piece, record.texts, pairs, layout))


def _only(files: Mapping[str, object], where: Path) -> str:
    if len(files) > 1:
        raise UserError(f"{where} has {', '.join(sorted(files))}; say in data.splits which is train, dev and test")
    return next(iter(files))


def image_list(path: Path, texts: Path, stem: str) -> Path:
    """Return the file that names the photographs of a split.

    Raises:
        UserError: there is none.
    """
    name = stem.split(".", maxsplit=1)[0]  # of train.lc.norm.tok, train
    roots = (texts, texts.parent / "image_splits", path / "image_splits", path)
    places = [root / form for root in roots for form in (f"{name}.txt", f"{name}/index.txt", f"{name}_images.txt")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(
            f"{path} has no list of photographs for {name}; expected {name}.txt beside the captions or in "
            f"image_splits/, or {name}/index.txt"
        )
    return found


def image_folder(path: Path, listed: Path) -> Path:
    """Return where the photographs of a list are, if the recipe does not say it."""
    if listed.name == "index.txt":
        return listed.parent
    places = [root / name for root in (path, listed.parent, listed.parent.parent) for name in IMAGES]
    return next((place for place in places if place.is_dir()), path / IMAGES[0])
