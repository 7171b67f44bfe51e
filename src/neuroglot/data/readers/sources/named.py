"""What a recipe names: a file of text, a table, or a folder or dataset of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from neuroglot.data.readers.layout import Layout
from neuroglot.data.readers.sources.rows import Part, Row, joined
from neuroglot.data.readers.sources.texts import text_rows
from neuroglot.errors import UserError


def source_rows(path: Path, layout: Layout, needs: Collection[str], uses: Collection[str]) -> Iterator[Row]:
    """Yield the records of a file, a folder of parquet files, a saved dataset, or a dataset of the hub.

    Args:
        path: as the recipe names it.
        layout: how the source is laid out.
        needs: columns that a table must have.
        uses: columns that are read, if a table has them.

    Raises:
        UserError: the source is missing, or a table lacks a column.
    """
    if str(path).startswith("hf:") or path.is_dir() or path.suffix.lower() == ".parquet":
        from neuroglot.data.readers.sources.tables import table_rows

        return table_rows(path, layout, needs, uses)
    if not path.is_file():
        raise UserError(f"data file {path} does not exist; give a JSONL file, `signs` or `scenes`")
    return joined([Part(path.name, text_rows(path), path.parent)], alone=True)
