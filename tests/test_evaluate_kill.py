"""An evaluation killed with SIGKILL goes on with what is missing, says so, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETTINGS = ["name=smoke", "data.pairs=[en-de, en-fr]", "train.weight_decay=0.1", "train.optimizer=adamw_torch_fused",
            "data.test=8", "evaluate.batch_size=1", "evaluate.cascade=false"]  # fmt: skip

pytestmark = pytest.mark.slow


def start(runs: Path, said: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "neuroglot", "evaluate", "quickstart", "--scale", "smoke", *SETTINGS]
    with said.open("w") as file:
        return subprocess.Popen([*command, "--runs", str(runs)], stdout=file, stderr=file)


def finish(runs: Path, said: Path) -> str:
    assert start(runs, said).wait() == 0, said.read_text()
    return said.read_text()


def test_a_killed_evaluation_goes_on(smoke_run, tmp_path):
    for name in ("whole", "cut"):
        shutil.copytree(smoke_run, tmp_path / name / "smoke")
    finish(tmp_path / "whole", tmp_path / "said-whole")
    whole, cut = tmp_path / "whole" / "smoke", tmp_path / "cut" / "smoke"
    expected = (whole / "hypotheses.jsonl").read_bytes()
    before = (cut / "hypotheses.jsonl").read_bytes()

    partial = cut / ".evaluate" / "said.jsonl"
    for kills, least in enumerate((4, 20), start=1):
        process = start(tmp_path / "cut", tmp_path / "said-cut")
        while process.poll() is None and (not partial.exists() or partial.read_bytes().count(b"\n") < least):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was killed, not done"
        assert partial.read_bytes().count(b"\n") >= least
        assert (cut / "hypotheses.jsonl").read_bytes() == before, f"after kill {kills} nothing is half written"

    kept = [json.loads(line)["row"] for line in partial.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    said = finish(tmp_path / "cut", tmp_path / "said-cut")
    rows = [json.loads(line) for line in expected.decode().splitlines()]
    reused = int(said.split("evaluate: ")[1].split(" of ")[0])
    assert 20 <= reused <= len(kept) < len(rows), said
    assert f"{reused} of {len(rows)} answers were there already" in said
    assert all(row in rows for row in kept[:reused])
    assert (cut / "hypotheses.jsonl").read_bytes() == expected
    scores = [json.loads((folder / "scores.json").read_text())["systems"] for folder in (whole, cut)]
    assert scores[0] == scores[1]
    assert not partial.parent.exists()
