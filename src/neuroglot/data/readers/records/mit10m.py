"""MIT-10M: photographs with text, and the text in eight languages (Li, Zhu and Wen, 2024).

How to obtain: the test set and a sample are on the Hugging Face hub (Apache-2.0), the full set after a request there.
Unpack so that `{train,test}/{DE,EN,ES,FR,IT,JA,PT,ZH}.jsonl` lie in one folder with the images, under `images/` or
wherever `data.images` says, by their paths or by their base names alone.

A line of the files is one image in one direction: `id`, `img`, `src_lang`, `tgt_lang`, `src_text`, `tgt_text` (lines
joined by line breaks), `difficulty`, `cate_name`. Only some of the visible lines are annotated, in no reading order,
which the order-free line match allows for. A target that stands in a code fence is taken out of it; `meta.fenced`
says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from neuroglot.data.example import Example
from neuroglot.data.readers.ids import Ids
from neuroglot.data.readers.layout import Layout, Record, splits_of
from neuroglot.data.readers.make import Piece, checked_text, examples
from neuroglot.data.readers.sources.rows import Fields, Part, Row, convert, joined
from neuroglot.data.readers.sources.texts import json_lines
from neuroglot.errors import UserError
from neuroglot.pair import Pair, language_code

_FENCE = re.compile(r"\s*```[^\n`]*\n(.*?)\n?```\s*", re.DOTALL)
TEXTS = ("id", "img", "src_lang", "tgt_lang", "src_text", "tgt_text")


def split_files(path: Path) -> dict[str, list[Path]]:
    """Return folder -> its files, of the folders that hold `DE.jsonl`, `EN.jsonl` and so on."""
    found: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*/*.jsonl")):
        if re.fullmatch(r"[A-Z]{2}", file.stem):
            found.setdefault(file.parent.name, []).append(file)
    return found


def read_mit10m(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of MIT-10M, those of the recipe's pairs where it names some.

    Raises:
        UserError: the folder has no such files.
    """
    files = split_files(path)
    if not files:
        raise UserError(f"{path} is no MIT-10M; expected files such as train/EN.jsonl and test/EN.jsonl in it")
    parts = [
        Part(f"{theirs}/{file.name}", json_lines(file), path, ours)
        for ours, theirs in splits_of(files, layout, path).items()
        for file in files[theirs]
    ]
    return convert(joined(parts), partial(_examples, _Finder(path, layout.images), Ids(), layout))


class _Finder:
    """Finds images, which are stored by their path or by their base name; all of a corpus alike."""

    def __init__(self, path: Path, images: Path | None) -> None:
        roots = [images] if images else [path / "images", path]
        self._ways = [(root, whole) for root in roots for whole in (True, False)]

    def find(self, name: str) -> Path:
        for number, (root, whole) in enumerate(self._ways):
            place = root / (name if whole else Path(name).name)
            if _is_file(place):
                self._ways.insert(0, self._ways.pop(number))  # the next one is likely to lie there too
                return place
        root, whole = self._ways[0]
        return root / (name if whole else Path(name).name)


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # a name that is too long, a folder that may not be read: which is said when it is opened
        return False


def _examples(finder: _Finder, readings: Ids, layout: Layout, row: Row, fields: Fields) -> Iterator[Example]:
    for key in TEXTS:
        if not isinstance(fields.get(key), str):
            raise UserError(f"field {key!r} must be a text, got {fields.get(key)!r}")
    pair = Pair(language_code(fields["src_lang"]), language_code(fields["tgt_lang"]))
    if layout.pairs and pair not in layout.directions:
        return
    fenced = _FENCE.fullmatch(fields["tgt_text"])
    target = checked_text(fenced[1] if fenced else fields["tgt_text"], "field 'tgt_text'")
    source = checked_text(fields["src_text"], "field 'src_text'")
    tasks = list(layout.made)
    # A photograph comes once for each of its languages: what stays in its own language is made with the first.
    if not all(task.endswith("translation") for task in tasks):
        photograph = f"{row.split}|{pair.source}|{fields['img']}"
        if readings.earlier(photograph, row.position) is not None:
            tasks = [task for task in tasks if task.endswith("translation")]
    meta = {"id": fields["id"], **_kept(fields), **({"fenced": True} if fenced else {})}
    yield from examples(
        Piece(
            source=source,
            targets={pair: target},
            item=fields["id"].rpartition("_")[0] or fields["id"],  # 10596673_EN-ZH: the image is the item
            number=row.position,
            written=(finder.find(fields["img"]),),
            split=row.split,
            meta=meta,
        ),
        layout,
        tasks,
    )


def _kept(fields: Fields) -> Mapping[str, object]:
    names = {"difficulty": "difficulty", "cate_name": "category"}
    return {ours: fields[theirs] for theirs, ours in names.items() if fields.get(theirs) is not None}
