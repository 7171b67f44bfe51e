"""A million records and one epoch of them, within 1 GiB of resident memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

million = pytest.importorskip("resource") and Path(__file__).with_name("million.py")

RECORDS = 1_000_000


def run(folder: Path, records: int, checked: int) -> dict[str, float]:
    """Take so many records through in a fresh process, and return what it measured."""
    sys.path.insert(0, str(million.parent))
    try:
        from million import write
    finally:
        sys.path.pop(0)
    write(folder / "data.jsonl", records)
    command = [sys.executable, str(million), str(folder), str(records), str(checked)]
    done = subprocess.run(command, env={**os.environ, "NEUROGLOT_CACHE": str(folder / "cache")}, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(found)
    return found


def holds(found: dict[str, float], records: int) -> None:
    """Compare what came out with what went in."""
    assert found["records"] == records
    assert 0.77 < found["train"] / records < 0.83, "four fifths of the items"
    assert found["replayed"] == found["train"], "every training item's text, to translate without its picture"
    own = 0.9 * found["samples"]
    assert 0.99 * own < found["train"] < 1.01 * own, "an epoch, and a tenth of it replayed"
    assert found["tokens"] > 0


@pytest.mark.slow
@pytest.mark.turns
def test_a_million_records_fit_into_a_gibibyte(tmp_path):
    found = run(tmp_path, RECORDS, 2000)
    holds(found, RECORDS)
    assert found["peak"] < 2**30
    assert found["peak"] - found["at_start"] < 400 * RECORDS, "bytes a record, all stages together"
