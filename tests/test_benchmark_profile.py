"""benchmarks/profile.py at toy size: what it writes, and that its name is in nobody's way; no times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_it_writes_a_summary_and_the_records(tmp_path):
    file = tmp_path / "made" / "profile.json"
    command = [sys.executable, BENCHMARKS / "profile.py", "--json", file, "--size", "small", "--rounds", 2]
    done = subprocess.run([*map(str, command), "--threads", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["summary"].keys() == {"time_ratio", "memory_ratio"}
    records = found["records"]
    assert [(r["model"], r["way"]) for r in records] == [
        ("llava", "bare"), ("llava", "profile"), ("tiny", "bare"), ("tiny", "profile")]  # fmt: skip
    for bare, profiled in zip(records[::2], records[1::2], strict=True):
        assert bare["time_ratio"] == bare["memory_ratio"] == 1.0
        assert len(profiled["time_ratios"]) == 2
        # logits of the batch in float32 are held at some point in either way
        assert bare["peak_bytes"] > 4 * bare["tokens"] / bare["batches"] * 512 / 2
        whole = (profiled["peak_bytes"] + bare["weight_bytes"]) / (bare["peak_bytes"] + bare["weight_bytes"])
        assert profiled["memory_ratio"] == pytest.approx(whole)
        assert profiled["weight_bytes"] == 4 * profiled["parameters"]
    assert found["summary"]["memory_ratio"] == records[1]["memory_ratio"]


def test_the_standard_librarys_module_of_this_name_is_still_found():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import cProfile, profile; cProfile.run('1'); profile.Profile"
    done = subprocess.run([sys.executable, "-c", code, str(BENCHMARKS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
