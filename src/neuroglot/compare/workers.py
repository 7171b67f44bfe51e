"""Cells in processes of their own, several at a time: each starts fresh, so that its memory is its own.

Processes are forked from a server that has imported the libraries once. A worker whose parent is gone stops too, so
that a killed comparison does not keep its cells locked. A cell that runs out of memory does not end the others.
"""

from __future__ import annotations

import heapq
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from neuroglot.config import Recipe
from neuroglot.errors import UserError, ran_out

PATIENCE = 10
"""Seconds that a process has to end by itself; inside a long operation of a library it does not hear the signal."""


@dataclass(frozen=True, order=True)
class Task:
    """A cell to do; lower priorities first.

    Attributes:
        priority: what comes first.
        recipe: the cell's.
        system: method or baseline.
        examined: whether it is scored on the test split.
    """

    priority: tuple[int, ...]
    recipe: Recipe = field(compare=False)
    system: str = field(compare=False)
    examined: bool = field(compare=False)


def drain(
    tasks: Iterable[Task], folder: Path, jobs: int, trust_remote_code: bool, done: Callable[[Task, float], list[Task]]
) -> None:
    """Do tasks until none is left.

    Args:
        tasks: to begin with.
        folder: of the grid.
        jobs: processes at a time; the processor's cores are divided among them.
        trust_remote_code: let code that comes with the model run.
        done: called after each task with the seconds that it took; returns the tasks that follow from it.

    Raises:
        UserError: a cell's, with its name; or, once all others are done, that some ran out of memory.
        RuntimeError: a cell failed otherwise.
    """
    context: Any = mp.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["neuroglot.compare.preload"])
    threads = max(1, (os.cpu_count() or 1) // jobs)
    ready, running, short = list(tasks), dict[Any, tuple[Any, Any, Task, float]](), dict[str, str]()
    heapq.heapify(ready)
    try:
        while ready or running:
            while ready and len(running) < jobs:
                task = heapq.heappop(ready)
                ours, theirs = context.Pipe(duplex=False)
                given = (task, folder, threads, trust_remote_code, theirs)
                process = context.Process(target=_do, args=given, daemon=True)
                process.start()
                theirs.close()
                running[process.sentinel] = process, ours, task, time.monotonic()
            for sentinel in wait(list(running)):
                process, ours, task, began = running.pop(sentinel)
                process.join()
                lacked = _check(task, process.exitcode, ours)
                if lacked is not None:
                    short[task.recipe.name] = lacked
                    continue
                for follower in done(task, time.monotonic() - began):
                    heapq.heappush(ready, follower)
    finally:
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.join(PATIENCE)
            process.kill()
            process.join()

    if short:
        raise UserError(out_of_memory_message(short))


def _check(task: Task, code: int, message: Any) -> str | None:
    """Return what torch said of a cell that ran out of memory; None if the cell is done."""
    if code == 0:
        return None
    said = message.recv() if message.poll() else None
    if said is None:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise UserError(f"cell {task.recipe.name} {how}; run the same command again to resume")
    kind, text = said
    if kind == "memory":
        return str(text)
    if kind == "mistake":
        raise UserError(f"cell {task.recipe.name}: {text}")
    raise RuntimeError(f"cell {task.recipe.name} failed:\n{text}")


def out_of_memory_message(short: Mapping[str, str]) -> str:
    """Return the line about cells that ran out of memory: cell -> what was said there."""
    name, said = next(iter(short.items()))
    first = ". ".join(" ".join(said.split()).split(". ")[:2]).rstrip(".")
    which = f"cell {name}" if len(short) == 1 else f"{len(short)} cells ({', '.join(short)})"
    return (
        f"{which} ran out of memory ({first or 'nothing more was said'}), the cells that do not need it are done; "
        "try a smaller train.batch_size with more train.accumulation, train.gradient_checkpointing=true or fewer "
        "--jobs, or leave the cell out (compare: --methods; sweep: sweep.values or variants); finished cells are kept"
    )


def _do(task: Task, folder: Path, threads: int, trust: bool, message: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # gives back semaphores, such as tqdm's
    parent = mp.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    import torch

    from neuroglot.compare.cells import work

    torch.set_num_threads(threads)
    try:
        work(task.recipe, task.system, folder, task.examined, trust)
    except UserError as error:
        message.send(("mistake", str(error)))
        sys.exit(2)
    except Exception as error:
        message.send(("memory", str(error)) if ran_out(error) else ("bug", traceback.format_exc()))
        sys.exit(1)


def _end_with(parent: Any) -> None:
    wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)
