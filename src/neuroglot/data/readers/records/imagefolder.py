"""A folder of images with metadata, as Hugging Face's `imagefolder` reads it.

How to obtain: any folder `data/` or `data/{train,validation,test}/` with images and, beside them or above them, a
`metadata.jsonl` or `metadata.csv` whose `file_name` (a path relative to it) names an image; `file_names`, a list,
names several. The other columns are neuroglot's fields, or are given their meaning by `data.columns`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from neuroglot.data.example import Example
from neuroglot.data.readers.layout import Layout, Record, split_of
from neuroglot.data.readers.records.fields import KNOWN, columns_read, mapped, names_of, record_examples
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
        UserError: the folder has no metadata.
    """
    files = metadata_files(path)
    if not files:
        raise UserError(
            f"image folder {path} has no metadata; expected {' or '.join(METADATA)} there or in its split folders"
        )
    columns_read(layout, KNOWN)
    return convert(joined(_parts(path, files, layout)), partial(_example, layout))


def _parts(path: Path, files: list[Path], layout: Layout) -> Iterator[Part]:
    for file in files:
        split = split_of(file.parent.name, layout) if file.parent != path else None
        yield Part(str(file.relative_to(path)), text_rows(file), file.parent, split)


def _example(layout: Layout, row: Row, fields: Fields) -> Iterator[Example]:
    key = next((name for name in NAMES if fields.get(name)), None)
    if key is None:
        raise UserError(f"field 'file_name' must be a path, got {fields.get('file_name')!r}")
    values = {**mapped(fields, layout, KNOWN), "images": fields[key]}
    values.pop("image", None)
    # The folders of two splits may have images of the same name.
    values.setdefault("item", f"{row.folder.name}/{names_of(fields[key])}|{values.get('source') or ''}")
    if row.split is None and "split" not in values and isinstance(fields[key], str):
        first = Path(fields[key]).parts[0] if Path(fields[key]).parts else ""
        split = split_of(first, layout)  # metadata above the folders of the splits
        values.update({} if split is None else {"split": layout.splits.get(split, split)})
    return record_examples(row, values, layout)
