"""One finished run of the embedded model at smoke scale, made once for all tests (and all pytest workers)."""

from __future__ import annotations

import atexit
import datetime
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers with a thread for every core would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if "NEUROGLOT_CACHE" not in os.environ:  # of all workers, which inherit it
    os.environ["NEUROGLOT_CACHE"] = tempfile.mkdtemp(prefix="neuroglot-")
    atexit.register(shutil.rmtree, os.environ["NEUROGLOT_CACHE"], ignore_errors=True)

HERE = Path(__file__).parent
# The tiny models of every family (`families`) are for all rooms.
sys.path.append(str(HERE / "tuner"))

SMOKE_RUN = ["name=smoke", "data.pairs=[en-de, en-fr]", "train.weight_decay=0.1", "train.optimizer=adamw_torch_fused"]


TURNS = 5
"""Slow tests that repeat one thing for every family, method or optimiser run in turn: on a day a fifth of them."""

LONG = 4
"""Single tests of minutes run in turn with each other: on a day a quarter of them."""


def pytest_configure(config):
    config.addinivalue_line("markers", "turns: not every day; see conftest.py")


def pytest_collection_modifyitems(config, items):
    """Leave out what has its turn another day, of slow tests marked `turns`; `NEUROGLOT_TESTS=all` leaves out none.

    Of each function with several cases every fifth has its turn on a day, of all others every fourth.
    """
    if config.option.markexpr != "slow":
        return
    items.sort(key=lambda item: item.path.parent != HERE)  # whole runs take longest: at the end one worker would wait
    if os.environ.get("NEUROGLOT_TESTS") == "all":
        return
    today = datetime.datetime.now(tz=datetime.UTC).toordinal()
    places: Counter[str] = Counter()
    later = set()
    for item in items:
        if item.get_closest_marker("turns") and item.get_closest_marker("slow"):
            function = item.nodeid.partition("[")[0]
            queue, turns = ("long", LONG) if function == item.nodeid else (function, TURNS)
            if (places[queue] + today) % turns:
                later.add(item)
            places[queue] += 1
    config.hook.pytest_deselected(items=list(later))
    items[:] = [item for item in items if item not in later]


def silent(label, total):
    """Show no progress bar."""
    return lambda done: None


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> Path:
    """The folder of a finished run; nobody writes there."""
    from neuroglot.config.load import load_recipe
    from neuroglot.errors import UserError
    from neuroglot.pipeline.run import execute

    base = tmp_path_factory.getbasetemp()
    runs = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-runs"
    while True:
        try:  # of several workers one makes it, and the others find it unchanged
            return execute(load_recipe("quickstart", SMOKE_RUN, "smoke"), runs, silent, print)
        except UserError as error:
            if "in use by process" not in str(error):
                raise
            time.sleep(0.5)


@pytest.fixture
def own_run(smoke_run, tmp_path) -> Path:
    """A copy of the finished run to write in, under `tmp_path / "runs"`."""
    return Path(shutil.copytree(smoke_run, tmp_path / "runs" / smoke_run.name))


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Return a function that runs a command line in an empty folder: (exit code, stdout, stderr)."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    import neuroglot.cli

    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            neuroglot.cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call
