"""A folder of images with metadata, as Hugging Face's `imagefolder` reads it.

How to obtain: any folder `data/` or `data/{train,validation,test}/` with images and, beside them or above them, a
`metadata.jsonl` or `metadata.csv` whose `file_name` (a path relative to it) names an image; `file_names`, a list,
names several. The other columns are neuroglot's fields, or are given their meaning by `data.columns`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

from neuroglot.data.example import Example
from neuroglot.data.paths import plain
from neuroglot.data.readers.layout import Layout, Record, check_left_out, splits_of
from neuroglot.data.readers.make import shown
from neuroglot.data.readers.records.fields import KNOWN, columns_read, images_of, mapped, names_of, record_examples
from neuroglot.data.readers.sources.rows import Fields, Part, Row, convert, joined
from neuroglot.data.readers.sources.texts import text_rows
from neuroglot.errors import UserError

METADATA = ("metadata.jsonl", "metadata.csv")
NAMES = ("file_names", "file_name")


def metadata_files(path: Path) -> list[Path]:
    """Return the metadata files of a folder: its own, or those of the folders in it."""
    own = [path / name for name in METADATA if (path / name).is_file()]
    return own or sorted(p for name in METADATA for p in path.glob(f"*/{name}"))


def read_imagefolder(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of an image folder.

    Raises:
        UserError: the folder has no metadata, or two files of it for the same images, or lacks a split.
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
    """Refuse two files that would give each image twice, or of which one would not be read."""
    every = [*files, *(p for name in METADATA for p in path.glob(f"*/{name}") if p not in files)]
    for number, file in enumerate(every):
        for other in every[:number]:
            if other.parent in (path, file.parent):
                shown = " and ".join(str(p.relative_to(path)) for p in (other, file))
                raise UserError(f"image folder {path} has {shown} for the same images; keep one of them")


class _Folders:
    """The folders beside metadata that lie above them, as splits: looked up when a record does not say its own."""

    def __init__(self, path: Path, layout: Layout, above: bool) -> None:
        self._path, self._layout, self._above = path, layout, above

    @cached_property
    def splits(self) -> dict[str, str]:
        """Folder -> our split."""
        names = [folder.name for folder in self._path.iterdir() if folder.is_dir()] if self._above else []
        return {theirs: ours for ours, theirs in splits_of(names, self._layout, self._path).items() if ours}


def _parts(path: Path, files: list[Path], layout: Layout) -> Iterator[Part]:
    named = {file.parent.name: file for file in files if file.parent != path}
    found = splits_of(named, layout, path) if named else {}
    check_left_out({name: str(file.relative_to(path)) for name, file in named.items()}, found, layout, path)
    ours = {theirs: split for split, theirs in found.items()}
    for file in files:
        if file.parent == path or not found or file.parent.name in ours:
            yield Part(str(file.relative_to(path)), text_rows(file), file.parent, ours.get(file.parent.name))


def _example(layout: Layout, folders: _Folders, row: Row, fields: Fields) -> Iterator[Example]:
    key = next((name for name in NAMES if fields.get(name)), None)
    if key is None:
        raise UserError(f"field 'file_name' must be a path, got {shown(fields.get('file_name'))}")
    images_of(fields[key], row.folder)  # refuses what is no name before the record is named after it
    values = {**mapped(fields, layout, KNOWN), "images": fields[key]}
    values.pop("image", None)
    # The folders of two splits may have images of the same name.
    values.setdefault("item", f"{row.folder.name}/{names_of(fields[key])}|{values.get('source') or ''}")
    if row.split is None and "split" not in values and isinstance(fields[key], str):
        first = next(iter(Path(plain(Path(fields[key]))).parts), "")
        split = folders.splits.get(first)
        values.update({} if split is None else {"split": layout.splits.get(split, split)})
    return record_examples(row, values, layout)
