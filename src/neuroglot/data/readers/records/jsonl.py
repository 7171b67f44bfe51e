"""Records in neuroglot's own fields: a JSONL, JSON or CSV file, or any table with a column map.

Fields: `image` (or `images`, a list; paths relative to the file), `target`, `source_lang`, `target_lang`; optional
`source` (for image translation what the image says, for text and multimodal translation the text to translate),
`task` (default `image_translation`, `text_translation` without an image), `split` (train, dev or test), `item` (names
what several languages share; default the image and the source), `alternatives`, `id`. Instead of `target` and
`target_lang` a record may have `targets`, an object of texts by language, which makes an example of each.

A recipe's `data.columns` gives fields other columns (`target: text`, `target: translation.de`) or constants
(`source_lang: =en`); a file read with a column map may have further columns, which are left alone.

The pictograms (word, picture, names in twelve languages) are such a file: with `columns: {source_lang: =en, task:
=multimodal_translation}` and `pairs: [en-de]` it needs no reader of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from neuroglot.data.example import Example
from neuroglot.data.readers.layout import SPLITS, Layout, Record
from neuroglot.data.readers.make import shown
from neuroglot.data.readers.records.fields import KNOWN, columns_read, mapped, record_examples, refuse_unknown
from neuroglot.data.readers.sources.named import source_rows
from neuroglot.data.readers.sources.rows import Fields, Part, Row, convert, joined
from neuroglot.data.readers.sources.texts import text_rows
from neuroglot.errors import UserError


def read_jsonl(path: Path | str) -> Iterator[Example]:
    """Yield the examples of a JSONL file, in its order.

    Raises:
        UserError: the file is missing or empty, or a line is wrong; the message names the file and the line.
    """
    found = False
    for number, record in read_records(path):
        if isinstance(record, UserError):
            raise UserError(f"{path} line {number}: {record}")
        found = True
        yield record
    if not found:
        raise UserError(f"data file {path} holds no examples; expected one JSON object a line")


def read_records(path: Path | str, layout: Layout | None = None) -> Iterator[Record]:
    """Yield the number of each line that is not blank, and its example or what is wrong with it.

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
