"""A whole grid by the command line: goes on where it was killed, does nothing twice, tests chosen cells only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from neuroglot.cli import main

ARGUMENTS = ["compare", "quickstart", "name=grid", "data.pairs=[en-de, en-fr]", "data.heldout=0", "--scale", "smoke",
             "--methods", "base,cascade,random,mnaft", "--budgets", "0.1", "--seeds", "2",
             "--rates", "1e-3,1e-2", "--jobs", "2"]  # fmt: skip


def state(folder):
    """Every file of the cells that a stage wrote, by content and time."""
    files = [p for p in (folder / "cells").rglob("*") if p.is_file() and p.name != ".lock"]
    return {p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files}


def run(runs, capsys):
    with pytest.raises(SystemExit) as end:
        main([*ARGUMENTS, "--runs", str(runs), "--json"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, capsys):
    command = [sys.executable, "-m", "neuroglot", *ARGUMENTS, "--runs", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    cells = tmp_path / "grid" / "cells"
    while process.poll() is None and len(list(cells.glob("*/.stages/develop.json"))) < 3:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {p: s for p, s in state(tmp_path / "grid").items() if p.parent.name in ("adapter", "model")}
    found, said = run(tmp_path, capsys)
    lines = [line for line in said.splitlines() if line.startswith("cell ")]
    assert re.fullmatch(r"cell \S+: (unchanged|\d+ s); 1 done, \d+ to do; (about \d+ \w+|how long).*", lines[0])
    assert lines[-1].endswith("; 8 done, 0 to do")  # two yardsticks, and of two methods two rates and one more seed

    after = state(tmp_path / "grid")
    kept = [p for p in before if before[p] == after.get(p)]
    assert kept  # what was finished was not done again
    again, said = run(tmp_path, capsys)
    assert again == found
    assert said.count(": unchanged; ") == said.count("cell ") == len(lines)
    assert state(tmp_path / "grid") == after  # nothing at all was
    trained = {c["name"]: c for c in found["contenders"]}
    assert list(trained) == ["base", "cascade", "random 10 %", "mnaft 10 %"]
    for entry in found["contenders"][2:]:
        assert [p["rate"] for p in entry["sweep"]] == [0.001, 0.01]
        assert entry["rate"] == min(entry["sweep"], key=lambda p: p["nll"])["rate"]
        assert entry["cost"]["peak_memory_bytes"] > 0
        for point in entry["sweep"]:  # only chosen cells ever saw the test split
            cell = cells / f"{entry['method']}-{entry['budget']:g}-{point['rate']:g}-0"
            assert (cell / "scores.json").exists() == (point["rate"] == entry["rate"])
    profiles = {os.stat(p).st_ino for p in cells.glob("*/profile.safetensors")}
    assert profiles == {(tmp_path / "grid" / "profile.safetensors").stat().st_ino}  # one serves them all
    draws = {(cells / f"random-0.1-{trained['random 10 %']['rate']:g}-{s}" / "selection.safetensors").read_bytes()
             for s in range(2)}  # fmt: skip
    assert len(draws) == 2  # redrawn for each seed
    assert {p.name for p in (tmp_path / "grid").glob("comparison.*")} == {
        "comparison.json", "comparison.md", "comparison.svg"
    }  # fmt: skip
    assert not [p for p in (tmp_path / "grid").rglob(".*") if p.suffix in (".part", ".tmp")]
