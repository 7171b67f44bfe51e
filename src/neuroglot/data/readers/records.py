"""Records with fields: from a row of JSONL, JSON, CSV or a table to one example for each of its tasks."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example, ImageSource, blank
from neuroglot.data.paths import plain
from neuroglot.data.readers.examples import (
    Notes,
    Piece,
    check_surrogates,
    examples,
    image_name,
    name_of,
    not_a_text,
    rendered,
    shown,
)
from neuroglot.data.readers.files import Fields, Part, Row, convert, joined, text_rows
from neuroglot.data.readers.layout import (
    SPLITS,
    Layout,
    Record,
    check_left_out,
    divided,
    proposal,
    split_of,
    splits_of,
)
from neuroglot.data.readers.tables import source_rows
from neuroglot.errors import UserError, nearest
from neuroglot.pair import INSTRUCT, TASKS, Pair, language_code

# ---- From fields to examples ----------------------------------------------------------------------------------------

PLACE = "<image>"
"""Placeholder of an image in a text, as LLaVA and its successors write it."""

REQUIRED = ("target", "source_lang", "target_lang")
OPTIONAL = ("image", "images", "source", "task", "split", "item", "alternatives", "targets", "id",
            "instruction")  # fmt: skip
KNOWN = (*REQUIRED, *OPTIONAL)
PICTURED = ("image_translation", "ocr", "describe", "multimodal_translation")


EXCLUDED = {
    "image": ("images",),
    "images": ("image",),
    "target": ("targets", "instruction"),
    "targets": ("target", "target_lang", "instruction"),
}
"""Field -> fields that a record cannot have together with it."""

_DATA = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"(https?|ftp|s3|gs|data):", re.IGNORECASE)
_FILE = re.compile(r"file:(//(localhost(?=/))?)?", re.IGNORECASE)
_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|SUkq|TU0A)[A-Za-z0-9+/\s]{40,}={0,2}\s*")
"""A JPEG, PNG, GIF, WebP, BMP or TIFF file in base64: its first bytes, and unlike a path no dot."""


# ---- columns --------------------------------------------------------------------------------------------------------


def columns_read(layout: Layout, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the columns that the recipe names, which are required (`a|b` for one of two), and all that may be read.

    Raises:
        UserError: data.columns has a field that is not in `names`.
    """
    names = list(names)
    for name in layout.columns:
        if name not in names:
            raise UserError(f"data.columns has no field {name!r}; {nearest(name, names)}")
    # `a.b` is a column of that name, otherwise the field b of a column a
    named = [dict.fromkeys((col, col.split(".")[0])) for col in layout.columns.values() if not col.startswith("=")]
    return list(dict.fromkeys(map("|".join, named))), list(dict.fromkeys([*chain(*named), *names]))


def mapped(fields: Fields, layout: Layout, names: Iterable[str]) -> dict[str, Any]:
    """Return our fields of a record, by the recipe's column map; a column that is not mapped keeps its name.

    If the recipe maps one of several fields that exclude each other, columns with the names of the others are ignored:
    with `target: output`, a column `instruction` does not turn the record into a question.

    Raises:
        UserError: the record lacks a column that the recipe names.
    """
    mapped_away = {other for name in layout.columns for other in EXCLUDED.get(name, ())} - set(layout.columns)
    if layout.columns.get("task") == f"={INSTRUCT}":
        mapped_away.discard("instruction")
    values = {name: fields[name] for name in names if fields.get(name) is not None and name not in mapped_away}
    for name, theirs in layout.columns.items():
        values[name] = theirs[1:] if theirs.startswith("=") else _deep(fields, theirs, name)
    return values


def _deep(fields: Any, theirs: str, name: str) -> Any:
    value: Any = fields
    keys = [theirs] if theirs in fields else theirs.split(".")
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            known = f"; it has {', '.join(list(map(str, value))[:20])[:300]}" if isinstance(value, Mapping) else ""
            raise UserError(f"there is no {theirs!r}, which data.columns.{name} names{known}")
        value = value[key]
    return value


def directed(values: Mapping[str, Any], layout: Layout) -> Pair:
    """Return the direction of a record: from its fields, or the recipe's if that has one pair.

    Raises:
        UserError: a language is not known, or neither gives it.
    """
    if not any(values.get(key) for key in ("source_lang", "target_lang")) and len(layout.pairs) == 1:
        return layout.directions[0]
    for key in ("source_lang", "target_lang"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise UserError(
                f"field {key!r} must be a text, got {shown(values.get(key))}; name one pair in data.pairs, or give "
                f"data.columns.{key} a column or a constant such as =en"
            )
    return Pair(language_code(values["source_lang"]), language_code(values["target_lang"]))


def images_of(value: Any, folder: Path) -> tuple[ImageSource, ...]:
    """Return images given as a path or `file:` address, in base64 or as a data URL, as bytes, as `datasets` stores
    them, or as a list of these.

    Raises:
        UserError: they are something else, such as the address of a page.
    """
    images: list[ImageSource] = []
    for item, image in _held(value):
        if not isinstance(image, str | bytes) or not image:
            what = "an object without bytes and path" if isinstance(item, Mapping) else shown(value)
            raise UserError(f"image must be a path or a list of paths, got {what}")
        if isinstance(image, str):
            check_surrogates(image)
            if _ADDRESS.match(image):
                raise UserError(f"image {image[:80]!r} is an address; fetch it, and give the path of the file")
        images.append(folder / image if isinstance(image, str) else image)
    return tuple(images)


def _held(value: Any) -> Iterator[tuple[Any, Any]]:
    for item in [] if value is None else value if isinstance(value, list) else [value]:
        image = (item.get("bytes") or item.get("path")) if isinstance(item, Mapping) else item
        yield item, _read(image) if isinstance(image, str) else image


def _read(text: str) -> str | bytes:
    """Return a text as a path, without `file:`, or the bytes that it encodes in base64."""
    if not _DATA.match(text) and not _BASE64.fullmatch(text):
        return text[match.end() :] if (match := _FILE.match(text)) else text
    head, comma, content = text.rpartition(",")
    try:
        return b64decode("".join(content.split()), validate=True)
    except ValueError as error:
        raise UserError(
            f"image {head[:40] + comma + content[:20]!r}... cannot be decoded: {error}; expected "
            "data:image/png;base64, and base64 after it"
        ) from None


def names_of(value: Any) -> str:
    """Return a name of images for a record without item: their unchanged paths, or hashes of their bytes."""
    return "|".join(image_name(image) for _, image in _held(value))


def split_named(value: Any, row: Row, layout: Layout, notes: Notes) -> str | None:
    """Return our name for the split that a record names, or that of its file; add a note if they differ.

    Raises:
        UserError: the record names an unknown split.
    """
    if value is None:
        return row.split
    if divided(name_of(value, "split"), layout):
        return None
    split = value if value in SPLITS and not layout.splits else split_of(name_of(value, "split"), layout)
    if split is None:
        known = ", ".join(layout.splits.values()) if layout.splits else ", ".join(SPLITS)
        raise UserError(f"split must be one of {known}, got {shown(value)}")
    notes.split(value, split, row.split, split)
    return split


# ---- records --------------------------------------------------------------------------------------------------------


def refuse_unknown(fields: Fields) -> None:
    """Refuse an unknown field: in a file without a column map it is probably misspelt.

    Raises:
        UserError: names the field.
    """
    for key in fields:
        if key not in KNOWN:
            if suggestion := "" if {"target", "targets"} & set(fields) else proposal(fields):
                raise UserError(f"unknown field {shown(key)}; say which column is which{suggestion}")
            raise UserError(f"unknown field {shown(key)}; {nearest(key[:60], KNOWN)}")


def record_examples(row: Row, values: Mapping[str, Any], layout: Layout) -> Iterator[Example]:
    """Yield the examples of a record with neuroglot's fields: one, or with `targets` one for each language.

    Raises:
        UserError: what is wrong with the record.
    """
    if "image" in values and "images" in values:
        raise UserError("give either image or images, not both")
    if "instruction" in values or values.get("task") == INSTRUCT:
        yield _asked(row, values, layout)
        return
    if "targets" in values and ("target" in values or "target_lang" in values):
        raise UserError("give either targets, a text for each language, or target and target_lang, not both")
    if "targets" not in values:
        _require(values, "target")
    targets, alternatives = _targets(values, layout)
    if not targets:
        return  # the recipe asks for none of its pairs
    image_field = values.get("images", values.get("image"))
    images = images_of(image_field, layout.images or row.folder)
    source = values.get("source")
    if source is not None and not isinstance(source, str):
        raise not_a_text("source", source)
    check_surrogates(source or "", *targets.values(), *(a for wrong in alternatives.values() for a in wrong))
    task = values.get("task", None if layout.tasks else "image_translation" if images else "text_translation")
    if task is not None and task not in TASKS:
        raise UserError(f"task {shown(task)} is not known; {nearest(shown(task), TASKS)}")
    notes = Notes()
    split = split_named(values.get("split"), row, layout, notes)
    item = values.get("item")
    piece = Piece(
        source=source,
        targets=targets,
        item=f"{names_of(image_field)}|{source or ''}" if item is None else name_of(item, "item"),
        number=row.position,
        written=images,
        pictured=images,
        alternatives=alternatives,
        split=split,
        meta={**id_of(values), **notes.meta},
    )
    for name in [task] if task else layout.tasks:
        _check_task(name, piece, layout)
    yield from _as_said(piece, task, layout) if task else examples(piece, layout)


def _asked(row: Row, values: Mapping[str, Any], layout: Layout) -> Example:
    """Return a question of the user with its answer; English if the record does not name its languages."""
    for key in ("instruction", "target"):
        _require(values, key)
    task = values.get("task")
    if task in TASKS:
        raise UserError(f"task {task} has instructions of its own; leave out the field task or instruction")
    if task not in (None, INSTRUCT):
        raise UserError(f"task {shown(task)} is not known; {nearest(shown(task), (*TASKS, INSTRUCT))}")
    for key in ("source_lang", "target_lang"):
        if values.get(key) is not None:
            _require(values, key)
    languages = [language_code(values.get(key) or "en") for key in ("source_lang", "target_lang")]
    source = values.get("source")
    if source is not None and not isinstance(source, str):
        raise not_a_text("source", source)
    check_surrogates(values["instruction"], values["target"], source or "")
    image_field = values.get("images", values.get("image"))
    images = images_of(image_field, layout.images or row.folder)
    notes = Notes()
    split = split_named(values.get("split"), row, layout, notes)
    item = values.get("item")
    default_item = f"{names_of(image_field)}|{source or ''}|{values['instruction']}"
    asked = values["instruction"]
    if images and asked.count(PLACE) == len(images):  # the processor places them
        asked = asked.replace(PLACE, "").strip()
    meta = {"instruction": asked, **({} if split is None else {"split": split}), **id_of(values),
            **notes.meta}  # fmt: skip
    return Example(images, source, values["target"], languages[0], languages[1], INSTRUCT,
                   item=default_item if item is None else name_of(item, "item"), meta=meta)  # fmt: skip


def id_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the id of a record, for its `meta`."""
    return {} if values.get("id") is None else {"id": name_of(values["id"], "id")}


def _require(values: Mapping[str, Any], key: str) -> None:
    if not isinstance(values.get(key), str) or blank(values[key]):
        raise not_a_text(f"field {key!r}", values.get(key))


def _targets(values: Mapping[str, Any], layout: Layout) -> tuple[dict[Pair, str], dict[Pair, Sequence[str]]]:
    """Return pair -> translation and pair -> wrong readings; of several languages those that the recipe asks for."""
    wrong = values.get("alternatives") or []
    if "targets" not in values:
        pair = directed(values, layout)
        if not _texts(wrong):
            raise UserError(f"alternatives must be a list of texts, got {shown(wrong)}")
        return {pair: values["target"]}, {pair: wrong}
    if not isinstance(values["targets"], Mapping):
        raise UserError(f"targets must be an object of texts by language, got {shown(values['targets'])}")
    if all(text is None for text in values["targets"].values()):
        raise UserError('targets holds no text; expected one for each language, such as {"de": "Ausgang"}')
    sources = {p.source for p in layout.directions}
    if values.get("source_lang") is None and len(sources) == 1:
        source = sources.pop()
    else:
        _require(values, "source_lang")
        source = language_code(values["source_lang"])
    targets, alternatives = {}, {}
    for code, text in values["targets"].items():
        pair = Pair(source, language_code(code))
        if text is None or pair.source == pair.target or (layout.pairs and pair not in layout.directions):
            continue  # a table has an empty cell for each language of another record
        if not isinstance(text, str) or blank(text):
            raise not_a_text(f"targets.{code}", text)
        if pair in targets:
            raise UserError(f"targets names the language {pair.target} twice, as {code} too; leave one out")
        targets[pair] = text
        readings = wrong.get(code) or [] if isinstance(wrong, Mapping) else wrong
        if not _texts(readings) or (readings and not isinstance(wrong, Mapping)):
            raise UserError(f"alternatives must be an object of lists of texts by language, got {shown(wrong)}")
        alternatives[pair] = readings
    return targets, alternatives


def _check_task(task: str, piece: Piece, layout: Layout) -> None:
    rendering = layout.render is not None and task in ("image_translation", "ocr") and piece.source
    if task in PICTURED and not piece.written and not rendering:
        raise UserError(f"task {task} needs an image; add the field image or set task to text_translation")
    if task in ("text_translation", "multimodal_translation") and not piece.source:
        raise UserError(f"task {task} needs the field source, the text to translate")


def _as_said(piece: Piece, task: str, layout: Layout) -> Iterator[Example]:
    """Yield the examples of a record with a known task, named or by default: nothing else is inferred."""
    images = tuple(piece.written)
    if not images and task in PICTURED and piece.source:
        images = (rendered(piece.source, piece.split, piece.number, layout),)
    for pair, target in piece.targets.items():
        yield Example(
            images, piece.source, target, pair.source, pair.target, task, tuple(piece.alternatives[pair]), piece.item,
            {**({} if piece.split is None else {"split": piece.split}), **piece.meta},
        )  # fmt: skip


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v for v in value)


# ---- JSONL, JSON, CSV and tables ------------------------------------------------------------------------------------
# Fields: `image` (or `images`, a list; paths relative to the file), `target`, `source_lang`, `target_lang`; optional
# `source` (for image translation the text in the image, for text and multimodal translation the text to translate),
# `task` (default `image_translation`, `text_translation` without an image), `split` (train, dev or test), `item`
# (the same for all languages of a source item; default the image and the source), `alternatives`, `id`. Instead of
# `target` and `target_lang` a record may have `targets`, an object of texts by language; each makes an example.
#
# A recipe's `data.columns` maps fields to other columns (`target: text`, `target: translation.de`) or constants
# (`source_lang: =en`); a file read with a column map may have further columns, which are ignored.
#
# The pictograms (word, picture, names in twelve languages) are such a file: with `columns: {source_lang: =en, task:
# =multimodal_translation}` and `pairs: [en-de]` it needs no special reader.


def read_jsonl(path: Path | str) -> Iterator[Example]:
    """Yield the examples of a JSONL file, in its order.

    Raises:
        UserError: the file is missing or empty, or a line is wrong; the message names the file and the line.
    """
    any_record = False
    for number, record in read_records(path):
        if isinstance(record, UserError):
            raise UserError(f"{path} line {number}: {record}")
        any_record = True
        yield record
    if not any_record:
        raise UserError(f"data file {path} holds no examples; expected one JSON object a line")


def read_records(path: Path | str, layout: Layout | None = None) -> Iterator[Record]:
    """Yield the number of each line that is not blank, and its example or its error.

    Raises:
        UserError: the file is missing.
    """
    path, layout = Path(path), layout or Layout()
    if not path.is_file():
        raise UserError(f"data file {path} does not exist; give a JSONL file, `signs` or `scenes`")
    columns_read(layout, KNOWN)
    rows = joined([Part(path.name, text_rows(path), path.parent)], alone=True)
    return convert(rows, partial(_table if layout.columns else _plain, layout))


def read_table(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of parquet files, a folder saved by `save_to_disk`, or a dataset of the hub.

    How to obtain: any table with a text and, for most tasks, an image (`datasets.Image` or a path). A name `hf:owner/
    name` (or `hf:owner/name:configuration`) is streamed from the hub.

    Raises:
        UserError: the source is missing, or lacks a column.
    """
    named, uses = columns_read(layout, KNOWN)
    target = [] if {"target", "targets"} & set(layout.columns) else ["target|targets"]
    return convert(source_rows(path, layout, [*named, *target], uses), partial(_table, layout))


def _plain(layout: Layout, row: Row, fields: Fields) -> Iterator[Example]:
    refuse_unknown(fields)
    if not layout.splits and fields.get("split") not in (None, *SPLITS):
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {shown(fields['split'])}")
    return record_examples(row, fields, layout)


def _table(layout: Layout, row: Row, fields: Fields) -> Iterator[Example]:
    return record_examples(row, mapped(fields, layout, KNOWN), layout)


# ---- Image folders --------------------------------------------------------------------------------------------------
# How to obtain: any folder `data/` or `data/{train,validation,test}/` with images and, beside them or above them, a
# `metadata.jsonl` or `metadata.csv` whose `file_name` (a path relative to it) names an image; `file_names`, a list,
# names several. The other columns are neuroglot's fields, or are mapped by `data.columns`.

METADATA = ("metadata.jsonl", "metadata.csv")
NAMES = ("file_names", "file_name")


def metadata_files(path: Path) -> list[Path]:
    """Return the metadata files directly in a folder, or else those in its subfolders."""
    direct = [path / name for name in METADATA if (path / name).is_file()]
    return direct or sorted(p for name in METADATA for p in path.glob(f"*/{name}"))


def read_imagefolder(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of an image folder.

    Raises:
        UserError: the folder has no metadata, or two metadata files for the same images, or lacks a split.
    """
    files = metadata_files(path)
    if not files:
        raise UserError(
            f"image folder {path} has no metadata; expected {' or '.join(METADATA)} there or in its split folders"
        )
    columns_read(layout, KNOWN)
    _refuse_two(path, files)
    above = files[0].parent == path
    return convert(joined(_parts(path, files, layout)), partial(_example, layout, _Folders(path, layout, above)))


def _refuse_two(path: Path, files: Sequence[Path]) -> None:
    """Refuse two files that would yield each image twice, or one of which would not be read."""
    every = [*files, *(p for name in METADATA for p in path.glob(f"*/{name}") if p not in files)]
    for number, file in enumerate(every):
        for other in every[:number]:
            if other.parent in (path, file.parent):
                shown = " and ".join(str(p.relative_to(path)) for p in (other, file))
                raise UserError(f"image folder {path} has {shown} for the same images; keep one of them")


class _Folders:
    """The folders beside a metadata file, as splits: looked up if a record does not name its split."""

    def __init__(self, path: Path, layout: Layout, above: bool) -> None:
        self._path, self._layout, self._above = path, layout, above

    @cached_property
    def splits(self) -> dict[str, str]:
        """Folder -> our split."""
        names = [folder.name for folder in self._path.iterdir() if folder.is_dir()] if self._above else []
        return {theirs: ours for ours, theirs in splits_of(names, self._layout, self._path).items() if ours}


def _parts(path: Path, files: list[Path], layout: Layout) -> Iterator[Part]:
    named = {file.parent.name: file for file in files if file.parent != path}
    splits = splits_of(named, layout, path) if named else {}
    check_left_out({name: str(file.relative_to(path)) for name, file in named.items()}, splits, layout, path)
    ours = {theirs: split for split, theirs in splits.items()}
    for file in files:
        if file.parent == path or not splits or file.parent.name in ours:
            yield Part(str(file.relative_to(path)), text_rows(file), file.parent, ours.get(file.parent.name))


def _example(layout: Layout, folders: _Folders, row: Row, fields: Fields) -> Iterator[Example]:
    key = next((name for name in NAMES if fields.get(name)), None)
    if key is None:
        raise UserError(f"field 'file_name' must be a path, got {shown(fields.get('file_name'))}")
    images_of(fields[key], row.folder)  # refuses a value that is no path, before an item's name is made from it
    values = {**mapped(fields, layout, KNOWN), "images": fields[key]}
    values.pop("image", None)
    # The folders of two splits may have images of the same name.
    values.setdefault("item", f"{row.folder.name}/{names_of(fields[key])}|{values.get('source') or ''}")
    if row.split is None and "split" not in values and isinstance(fields[key], str):
        first = next(iter(Path(plain(Path(fields[key]))).parts), "")
        split = folders.splits.get(first)
        values.update({} if split is None else {"split": layout.splits.get(split, split)})
    return record_examples(row, values, layout)
