"""Killed at a random moment of a random stage, the next `run` goes on and ends the same, bit for bit.

What is killed is a process of its own that runs the real command; a server that has imported everything forks it, so
that a kill costs no seven seconds of imports. `NEUROGLOT_KILLS=30 pytest -m slow tests/test_kills.py` runs 30 kills,
`NEUROGLOT_SEED` repeats those of a run that failed.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuroglot.compare.workers import PRELOAD as PRELOADED

KILLS = int(os.environ.get("NEUROGLOT_KILLS", "2"))
SEED = int(os.environ.get("NEUROGLOT_SEED", random.SystemRandom().randrange(10**6)))

COMMAND = ["run", "quickstart", "--scale", "smoke", "name=cut", "method=neumt", "data.pairs=[en-de]", "probe.steps=4",
           "train.steps=12", "train.save_steps=2", "train.batch_size=3", "train.accumulation=2", "data.retention=0",
           "train.scheduler=constant", "train.weight_decay=0.1", "evaluate.cascade=false"]  # fmt: skip
STAGES = ("profile", "probe", "select", "train", "evaluate", "report")
WAYS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "SIGINT": 130, "disk full": 2}
"""How it ends, and the exit code that this makes."""

EQUAL = ("profile.safetensors", "selection.safetensors", "adapter/adapter_model.safetensors",
         "adapter/adapter_config.json", "adapter/neuroglot.json", "train_log.jsonl", "hypotheses.jsonl")  # fmt: skip

PRELOAD = ["neuroglot.pipeline.run", *PRELOADED]

pytestmark = pytest.mark.slow


def child(arguments: list[str], said: str) -> None:
    """Be the command, with its output in a file."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from neuroglot.cli import main

    main(arguments)


def start(runs: Path) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=child, args=([*COMMAND, "--runs", str(runs)], str(runs) + ".said"))
    process.start()
    return process


def finish(runs: Path) -> int:
    process = start(runs)
    process.join()
    return process.exitcode


def said(runs: Path) -> str:
    return Path(str(runs) + ".said").read_text()


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in EQUAL}


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """An uninterrupted run, and how many seconds each stage takes."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    assert finish(runs) == 0, said(runs)
    records = {stage: runs / "cut" / ".stages" / f"{stage}.json" for stage in STAGES}
    return runs / "cut", {stage: json.loads(path.read_text())["seconds"] for stage, path in records.items()}


def kill(runs: Path, stage: str, after: float, way: str) -> int:
    """Send a signal some seconds into a stage; return the exit code."""
    process = start(runs)
    begun = runs / "cut" / ".stages" / f"{stage}.begun"
    while not begun.exists() and process.is_alive():
        time.sleep(0.002)
    time.sleep(after)
    if process.is_alive():
        os.kill(process.pid, getattr(signal, way))
    process.join()
    return process.exitcode


@contextmanager
def small_disk(folder: Path, size: int):
    """Mount a file system of so many bytes; yields a function that enlarges it."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def may_mount(folder: Path) -> bool:
    try:
        with small_disk(folder, 4096):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def check_words(runs: Path, way: str) -> None:
    """What ends it in an orderly way ends it in one line; what was half written is not there."""
    last = (said(runs).splitlines() or [""])[-1]
    word = {"SIGTERM": "terminated", "SIGINT": "interrupted"}.get(way)
    if word:
        assert last == f"neuroglot: {word}; run the same command again to resume"
    if way == "disk full":
        assert last.startswith("neuroglot: ")
        assert last.endswith("; make room, then run it again")
    if way != "SIGKILL":
        assert "Traceback" not in said(runs)
        assert not [name for name in names(runs) if name.endswith((".part", ".tmp"))]


@pytest.mark.parametrize("number", range(KILLS))
def test_a_kill(whole, tmp_path, number):
    reference, seconds = whole
    rng = random.Random(f"{SEED} {number}")
    ways = [way for way in WAYS if way != "disk full" or may_mount(tmp_path / "try")]
    way, stage = ways[number % len(ways)], STAGES[rng.randrange(len(STAGES))]
    runs = tmp_path / "runs"
    if way == "disk full":
        most = 2 * sum(p.stat().st_size for p in reference.rglob("*"))
        size = round(math.exp(rng.uniform(math.log(20_000), math.log(most))))
        while not filled(runs, size, reference, number):  # checkpoints come on top of what is left in the end
            size = size * 3 // 4
        return
    after = rng.uniform(0, seconds[stage])
    where = f"{way} {after:.2f} s into {stage}"
    while (code := kill(runs, stage, after, way)) == 0:  # it was done before
        shutil.rmtree(runs)
        after /= 2
    assert code == WAYS[way], (where, said(runs))
    check_words(runs, way)
    end(runs, reference, number, where)


def filled(runs: Path, size: int, reference: Path, number: int) -> bool:
    """Run on a disk of some bytes, then on a larger one; return whether the first was too small."""
    with small_disk(runs, size) as enlarge:
        code = finish(runs)
        if code == 0:
            return False
        assert code == WAYS["disk full"], said(runs)
        check_words(runs, "disk full")
        stage = ([line.split(":")[0] for line in said(runs).splitlines() if line.endswith(" s")] or ["the start"])[-1]
        enlarge()
        end(runs, reference, number, f"disk full at {size:,} bytes, after {stage}")
        return True


def end(runs: Path, reference: Path, number: int, where: str) -> None:
    """Go on to the end and compare."""
    assert finish(runs) == 0, (SEED, where, said(runs))
    assert hashes(runs / "cut") == hashes(reference), (SEED, where)
    assert names(runs / "cut") == names(reference), (SEED, where)
    print(f"\nseed {SEED}, kill {number + 1}: {where}; the same, bit for bit")
