"""Readers stream: what they hold does not grow with the source."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroglot.data.example import Example
from neuroglot.data.readers import Layout, read_source

MIB = 2**20


def lines(count: int, line: Callable[[int], str]) -> Iterator[str]:
    return (line(k) + "\n" for k in range(count))


def jsonl(folder: Path, count: int) -> Path:
    row = {"image": "a.png", "target": "Ausgang", "source_lang": "en", "target_lang": "de"}
    with (folder / "x.jsonl").open("w") as file:
        file.writelines(lines(count, lambda k: json.dumps({**row, "source": f"Exit {k}"})))
    return folder / "x.jsonl"


def array(folder: Path, count: int) -> Path:
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Ausgang"}]
    row = json.dumps({"conversations": turns, "images": ["a.png"], "source_lang": "en", "target_lang": "de"})
    with (folder / "x.json").open("w") as file:
        file.write("[")
        file.writelines(lines(count - 1, lambda k: row + ","))
        file.write(row + "]")
    return folder / "x.json"


def parquet(folder: Path, count: int) -> Path:
    schema = pa.schema([("picture", pa.binary()), ("target", pa.string())])
    with pq.ParquetWriter(folder / "x.parquet", schema) as writer:
        for start in range(0, count, 1000):
            rows = range(start, min(start + 1000, count))
            pictures = [k.to_bytes(4, "little") * 256 for k in rows]
            writer.write_table(pa.table([pictures, [f"Ausgang {k}" for k in rows]], schema=schema))
    return folder / "x.parquet"


def parallel(folder: Path, count: int) -> Path:
    for language in ("en", "de"):
        with (folder / f"train.{language}").open("w") as file:
            file.writelines(lines(count, lambda k: f"Exit {k}"))
    return folder


def mit10m(folder: Path, count: int) -> Path:
    row = {"img": "a.png", "src_lang": "EN", "tgt_lang": "DE", "src_text": "Exit", "tgt_text": "Ausgang"}
    (folder / "train").mkdir()
    with (folder / "train/EN.jsonl").open("w") as file:
        file.writelines(lines(count, lambda k: json.dumps({"id": f"{k}_EN-DE", **row})))
    return folder


def peak(records: Iterator) -> tuple[int, int]:
    """Return how many records there are, and the most bytes that Python held while they were read."""
    tracemalloc.start()
    try:
        count = sum(isinstance(record, Example) for _, record in records)
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LAYOUTS = {"parquet": {"columns": {"image": "picture"}, "pairs": ("en-de",)}}


@pytest.mark.parametrize("write", [jsonl, array, parquet, parallel], ids=lambda write: write.__name__)
def test_eight_times_the_records_take_the_same_memory(write, tmp_path):
    peaks = []
    for count in (200, 1600):
        folder = tmp_path / str(count)
        folder.mkdir()
        found, most = peak(read_source(write(folder, count), Layout(**LAYOUTS.get(write.__name__, {}))))
        assert found == count
        peaks.append(most)
    # Held at once, 1,400 more would take 1 MiB and more.
    assert peaks[1] < peaks[0] + 0.15 * MIB


@pytest.mark.slow
@pytest.mark.turns
def test_hundreds_of_thousands_of_records_stream(tmp_path):
    peak(read_source(jsonl(tmp_path, 10)))  # the names of languages are loaded once
    found, most = peak(read_source(jsonl(tmp_path, 200_000)))
    assert found == 200_000
    assert most < 2 * MIB


@pytest.mark.slow
@pytest.mark.turns
def test_ids_cost_little(tmp_path):
    """Whoever looks for repeated ids remembers them: 16 bytes each, and some more while they are sorted in."""
    found, most = peak(read_source(mit10m(tmp_path, 150_000)))
    assert found == 150_000
    assert most < 24 * MIB
