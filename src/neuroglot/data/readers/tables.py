"""Tables as sources of records: parquet files, folders saved by `datasets`, datasets of the hub, batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuroglot.data.readers.files import (
    SAVED,
    Fields,
    Numbered,
    Part,
    Row,
    joined,
    reading,
    reason,
    refuse_other_kinds,
    refuse_twice,
    text_rows,
)
from neuroglot.data.readers.layout import Layout, check_left_out, proposal, split_of, splits_of
from neuroglot.errors import UserError

# ---- Tables ---------------------------------------------------------------------------------------------------------
# Images are never decoded here: a value of a `datasets.Image` column is its bytes or its path.

BATCH = 64
"""Rows in memory at once, with their images."""


def table_rows(path: Path, layout: Layout, needs: Collection[str], uses: Collection[str]) -> Iterator[Row]:
    """Yield the records of a table.

    Args:
        path: a parquet file, a folder of them, a saved dataset, or `hf:owner/name`.
        layout: how the source is laid out.
        needs: required columns; `a|b` for one of two.
        uses: columns that are read if they exist.

    Raises:
        UserError: the source is missing or cannot be read, or lacks a column.
    """
    if str(path).startswith("hf:"):
        return joined(_hub(str(path), layout, needs, uses))
    if path.is_file():
        return joined([Part(path.name, _parquet(path, needs, uses), path.parent, counts="record")], alone=True)
    if any((path / name).is_file() for name in SAVED):
        return joined(_saved(path, layout, needs, uses))
    files = sorted(p for p in path.rglob("*.parquet") if not any(n.startswith(".") for n in p.relative_to(path).parts))
    if not files:
        what = "holds no parquet file and no saved dataset" if path.is_dir() else "does not exist"
        raise UserError(f"data source {path} {what}; give a parquet file, or a folder that save_to_disk wrote")
    return joined(_folder(path, files, layout, needs, uses))


def _folder(
    path: Path, files: Sequence[Path], layout: Layout, needs: Collection[str], uses: Collection[str]
) -> Iterator[Part]:
    """Yield the parquet files of a folder, grouped by split; as on the hub, names give the split."""
    named: dict[str, list[Path]] = {}
    for file in files:
        parent = file.parent.name if file.parent != path else ""
        stem = file.stem.split("-")[0]
        named.setdefault(parent if _names_split(parent, layout) else stem, []).append(file)
    splits_found = splits_of(named, layout, path)
    check_left_out({name: str(of[0].relative_to(path)) for name, of in named.items()}, splits_found, layout, path)
    splits: dict[str | None, list[Path]] = {ours: named[theirs] for ours, theirs in splits_found.items()}
    for split, members in (splits or {None: list(files)}).items():
        for file in members:
            rows = _parquet(file, needs, uses)
            yield Part(str(file.relative_to(path)), rows, file.parent, split, "record")


def _names_split(name: str, layout: Layout) -> bool:
    return name in layout.splits.values() or split_of(name, layout) is not None


def _parquet(path: Path, needs: Collection[str], uses: Collection[str]) -> Iterator[Numbered]:
    refuse_other_kinds(path, but=b"PAR1")
    with (
        reading(f"{path} cannot be read as parquet", "expected a whole parquet file"),
        pq.ParquetFile(path, memory_map=True) as file,
    ):
        names = file.schema_arrow.names
        _check(path, names, needs)
        columns = [name for name in names if name in uses]
        refuse_twice(str(path), columns)
        yield from _rows(file.iter_batches(BATCH, columns=columns))


def _check(where: Path | str, names: Sequence[str], needs: Collection[str]) -> None:
    for need in needs:
        if not set(need.split("|")) & set(names):
            raise UserError(
                f"{where} has no column {' or '.join(map(repr, need.split('|')))}; it has {', '.join(names[:20])}; "
                f"say in data.columns which is which{proposal(names)}"
            )


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Numbered]:
    number = 0
    for batch in batches:
        for row in _objects(batch):
            number += 1
            yield number, row


def _objects(batch: pa.RecordBatch) -> Iterator[Fields | UserError]:
    try:
        rows = batch.to_pylist()
    except Exception:  # a row of the batch is bad; find it
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield UserError(f"a text is not UTF-8 (byte {error.start}); write the table from decoded texts")
            except Exception as error:
                yield UserError(f"the row cannot be read: {reason(error)}; write the table again")
        return
    yield from rows


# ---- datasets -------------------------------------------------------------------------------------------------------


def _saved(path: Path, layout: Layout, needs: Collection[str], uses: Collection[str]) -> Iterator[Part]:
    """Yield the splits of a folder that `save_to_disk` wrote, as memory-mapped tables."""
    import datasets

    with reading(f"{path} cannot be read as a saved dataset", "save it again"):
        loaded: Any = datasets.load_from_disk(str(path))
    single = isinstance(loaded, datasets.Dataset)
    splits = {None: None} if single else _chosen(list(loaded), layout, path)
    for ours, theirs in splits.items():
        table = (loaded if single else loaded[theirs]).data.table
        _check(path, table.column_names, needs)
        columns = table.select([name for name in uses if name in table.column_names])
        name = path.name if single else str(theirs)
        yield Part(name, _of_table(path, columns), path, ours, "record")


def _of_table(path: Path, table: Any) -> Iterator[Numbered]:
    with reading(f"{path} cannot be read as a saved dataset", "save it again"):
        yield from _rows(table.to_batches(max_chunksize=BATCH))


def _chosen(names: Sequence[str], layout: Layout, where: Path | str) -> dict[str | None, str | None]:
    """Return our split -> theirs; a source with only one split of unknown name is {None: name}."""
    splits = splits_of(names, layout, where)
    if not splits and len(names) == 1:
        return {None: names[0]}
    if not splits:
        raise UserError(
            f"{where} has the splits {', '.join(names)}; say with data.splits which is train, dev and test"
        )
    check_left_out({name: f"split {name}" for name in names}, splits, layout, where)
    return dict(splits)


def _hub(name: str, layout: Layout, needs: Collection[str], uses: Collection[str]) -> Iterator[Part]:
    """Yield the splits of a dataset of the hub, streamed."""
    import datasets

    repository, _, configuration = name.removeprefix("hf:").partition(":")
    try:
        loaded: Any = datasets.load_dataset(repository, configuration or None, streaming=True)
        for ours, theirs in _chosen(list(loaded), layout, name).items():
            stream = loaded[theirs].decode(False)
            if stream.column_names is not None:
                _check(name, stream.column_names, needs)
            yield Part(str(theirs), _streamed(name, stream, uses), Path(), ours, "record")
    except UserError:
        raise
    except Exception as error:
        raise _unreachable(name, error) from None


def _streamed(name: str, stream: Iterable[Fields], uses: Collection[str]) -> Iterator[Numbered]:
    try:
        for number, row in enumerate(stream, start=1):
            yield number, {key: value for key, value in row.items() if key in uses}
    except Exception as error:
        raise _unreachable(name, error) from None


def _unreachable(name: str, error: Exception) -> UserError:
    """Return the error of one of many libraries: no network, no such name, a gated set, an unknown kind of file."""
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        return UserError(
            f"{name} cannot be read: HF_HUB_OFFLINE is set, so that the hub is not asked; unset it, or give a file"
        )
    return UserError(
        f"{name} cannot be read: {type(error).__name__}: {reason(error)}; expected hf:owner/name or "
        "hf:owner/name:configuration, and a hub that can be reached"
    )


# ---- Any source that a recipe names ---------------------------------------------------------------------------------


def source_rows(path: Path, layout: Layout, needs: Collection[str], uses: Collection[str]) -> Iterator[Row]:
    """Yield the records of a file, a folder of parquet files, a saved dataset, or a dataset of the hub.

    Args:
        path: as the recipe names it.
        layout: how the source is laid out.
        needs: required columns of a table.
        uses: columns that are read if a table has them.

    Raises:
        UserError: the source is missing, or a table lacks a column.
    """
    if str(path).startswith("hf:") or path.is_dir() or path.suffix.lower() == ".parquet":
        return table_rows(path, layout, needs, uses)
    if not path.is_file():
        raise UserError(f"data file {path} does not exist; give a JSONL file, `signs` or `scenes`")
    return joined([Part(path.name, text_rows(path), path.parent)], alone=True)
