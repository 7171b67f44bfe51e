"""MIT-10M: photographs with text, and the text in eight languages (Li, Zhu and Wen, 2024).

How to obtain: the test set and a sample are on the Hugging Face hub (Apache-2.0), the full set after a request there.
The public sample is `test.jsonl` and `data/base/*.jpg`; of the full set unpack `{train,test}/{DE,EN,ES,FR,IT,JA,PT,
ZH}.jsonl` into one folder with the images. Images are found by their paths or by their base names alone, in `images/`,
`data/base/`, `data/` or the folder itself, or where `data.images` says.

A line of the files is one image in one direction: `id`, `img`, `src_lang`, `tgt_lang`, `src_text`, `tgt_text` (lines
joined by line breaks), `difficulty`, `cate_name`, `split`. Only some of the visible lines are annotated, in no reading
order, which the order-free line match allows for.

The marks of a code fence around a target are removed, and so is a tag such as `plaintext` after the opening one; any
other text there is kept. `meta.fenced` says so, and `neuroglot data check` shows the target before and after.

The file decides the split; a `split` that disagrees with it is reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from neuroglot.data.example import Example
from neuroglot.data.readers.ids import Ids
from neuroglot.data.readers.layout import Layout, Record, check_left_out, split_of, splits_of
from neuroglot.data.readers.make import Notes, Piece, checked_text, examples, not_a_text
from neuroglot.data.readers.sources.rows import Fields, Part, Row, convert, joined
from neuroglot.data.readers.sources.texts import first_fields, json_lines
from neuroglot.errors import UserError
from neuroglot.pair import Pair, language_code

_FENCE = re.compile(r"\s*```(?:(?:plaintext|text|txt|markdown|md)[ \t]*\r?\n)?((?:(?!```).)*)```\s*", re.DOTALL)
"""A text in one code fence, with a tag that says that it is text. Any other word may be part of the translation."""

IMAGES = ("images", "data/base", "data", "")
TEXTS = ("id", "img", "src_lang", "tgt_lang", "src_text", "tgt_text")


def split_files(path: Path) -> dict[str, list[Path]]:
    """Return split as the source calls it -> its files: `train/DE.jsonl`, or `train.jsonl` with MIT-10M's fields."""
    found: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*/*.jsonl")):
        if re.fullmatch(r"[A-Z]{2}", file.stem):
            found.setdefault(file.parent.name, []).append(file)
    if not found:
        found = {file.stem: [file] for file in sorted(path.glob("*.jsonl")) if has_fields(first_fields(file))}
    return found


def has_fields(names: Collection[str]) -> bool:
    """Whether a record with these fields is one of MIT-10M's."""
    return set(TEXTS) <= set(names)


def read_mit10m(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of MIT-10M, those of the recipe's pairs where it names some.

    Raises:
        UserError: the folder has no such files.
    """
    files = {path.stem: [path]} if path.is_file() else split_files(path)
    if not files:
        raise UserError(
            f"{path} is no MIT-10M; expected files such as train/EN.jsonl and test/EN.jsonl in it, or test.jsonl with "
            f"the fields {', '.join(TEXTS)}"
        )
    root = path.parent if path.is_file() else path
    found: Mapping[str | None, str] = {**splits_of(files, layout, path)}
    check_left_out({name: str(of[0].relative_to(root)) for name, of in files.items()}, found, layout, path)
    if not found and len(files) > 1:
        raise UserError(f"{path} has {', '.join(sorted(files))}; say in data.splits which is train, dev and test")
    parts = [
        Part(str(file.relative_to(root)), json_lines(file), root, ours)
        for ours, theirs in (found or {None: next(iter(files))}).items()
        for file in files[theirs]
    ]
    schema = partial(_examples, _Finder(root, layout.images), Ids(), layout)
    return convert(joined(parts, alone=path.is_file()), schema)


class _Finder:
    """Finds images, which are stored by their path or by their base name; all of a corpus alike."""

    def __init__(self, path: Path, images: Path | None) -> None:
        there = [root for root in (path / name for name in IMAGES) if root.is_dir()]
        roots = [images] if images else there
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
            raise not_a_text(f"field {key!r}", fields.get(key))
    pair = Pair(language_code(fields["src_lang"]), language_code(fields["tgt_lang"]))
    if layout.pairs and pair not in layout.directions:
        return
    target, notes = checked_text(fields["tgt_text"], "field 'tgt_text'"), Notes()
    fenced = _FENCE.fullmatch(target)
    if fenced:
        target = notes.cleaned("target", target, checked_text(fenced[1], "text in the code fence of 'tgt_text'"))
    source = checked_text(fields["src_text"], "field 'src_text'")
    tasks = list(layout.made)
    # A photograph comes once for each of its languages: what stays in its own language is made with the first.
    if not all(task.endswith("translation") for task in tasks):
        photograph = f"{row.split}|{pair.source}|{fields['img']}|{source}"
        if readings.earlier(photograph, row.position) is not None:
            tasks = [task for task in tasks if task.endswith("translation")]
    named = fields.get("split")
    own = split_of(named, layout) if isinstance(named, str) else None
    split = row.split or own
    notes.split(named, own, row.split, split)
    meta = {"id": fields["id"], **_kept(fields), **({"fenced": True} if fenced else {}), **notes.meta}
    yield from examples(
        Piece(
            source=source,
            targets={pair: target},
            item=fields["id"].rpartition("_")[0] or fields["id"],  # 10596673_EN-ZH: the image is the item
            number=row.position,
            written=(finder.find(fields["img"]),),
            split=split,
            meta=meta,
        ),
        layout,
        tasks,
    )


def _kept(fields: Fields) -> Mapping[str, object]:
    names = {"difficulty": "difficulty", "cate_name": "category"}
    return {ours: fields[theirs] for theirs, ours in names.items() if fields.get(theirs) is not None}
