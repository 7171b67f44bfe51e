"""benchmarks/data.py at toy size: what it writes, and that its ratios are those of its records; no times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "data.py"


def test_it_writes_every_way_and_a_summary_of_the_slowest(tmp_path):
    file = tmp_path / "made" / "data.json"
    command = [sys.executable, BENCHMARK, "--json", file, "--size", "small", "--rounds", 2]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    ways = {(r["what"], r["side"], r["name"]): r for r in found["records"]}
    for side in (96, 448):
        names = {name for what, at, name in ways if (what, at) == ("render", side)}
        assert {"default", "no noise", "texture", "photograph", "perspective", "blur", "jpeg", "all"} == names
        assert sum((what, at) == ("processor", side) for what, at, _ in ways) == 1
    for record in ways.values():
        assert len(record["rates"]) == 2
        low, high = record["spread"]
        assert low <= record["images_per_second"] <= high
        assert min(record["rates"]) <= record["images_per_second"] <= max(record["rates"])
    for side, trained in ((96, ("train", 120, "embedded model")), (448, ("train", 448, "vision tower"))):
        slowest = min(r["images_per_second"] for (what, at, _), r in ways.items() if (what, at) == ("render", side))
        ratio = slowest / ways[trained]["images_per_second"]
        assert found["summary"][f"slowest_render_over_train_{side}"] == pytest.approx(ratio)
