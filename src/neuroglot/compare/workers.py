"""One cell: the stages of a run up to training, then its loss on dev, then, for the chosen rate, the test split.

    profile, probe (the grid's own, linked) -> select -> train -> develop -> examine

The test split is a stage of its own, so that only chosen cells ever see it.
"""

from __future__ import annotations

import heapq
import multiprocessing as mp
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from neuroglot.config import CLASSIC, METHODS, Recipe
from neuroglot.errors import UserError, ran_out
from neuroglot.file_format import LOSSES, read_json, write_json, write_text
from neuroglot.finite import DivergedError
from neuroglot.pipeline.context import Context, quiet
from neuroglot.pipeline.evaluation import load_classic, load_trained, train_classic
from neuroglot.pipeline.run import Stage, execute, stages

# ---- One cell -------------------------------------------------------------------------------------------------------

SHARED = ("profile.safetensors", "layers.json", ".stages/profile.json", ".stages/probe.json")
"""Made once for the grid."""
SAID = "said.txt"
"""What a system of the recipe's has to say when it is done, such as its cost."""


def cell_stages(system: str, examined: bool) -> Callable[[Recipe], list[Stage]]:
    """Return the table of stages for the cells of a method or a baseline."""

    def table(recipe: Recipe) -> list[Stage]:
        whole = {stage.name: stage for stage in stages(recipe)}
        tested, reads = whole["evaluate"].fields, whole["evaluate"].reads
        made = [whole[name] for name in ("profile", "probe", "select", "align", "train") if name in whole]
        if system in CLASSIC:
            own = tuple(field for field in whole["train"].fields if field != "method")
            made, reads = [_classic(system, (*own, "data.dev", "classic"))], ("classic",)
        elif system not in METHODS:
            made, reads = [], ()
        fields = tuple(field for field in tested if field not in ("method", "report"))
        settings = ("data.dev", "data.retention")
        on_dev = (*(field for field in fields if field not in ("data.test", "data.heldout", *settings)), *settings)
        made.append(Stage("develop", on_dev, reads, ("dev.json",), partial(_develop, system=system)))
        if examined:
            files = ("scores.json", "hypotheses.jsonl", *((SAID,) if system in recipe.systems else ()))
            made.append(Stage("examine", fields, reads, files, partial(_examine, system=system)))
        return made

    return table


def _classic(kind: str, fields: tuple[str, ...]) -> Stage:
    """The training of a classic system, in place of all stages of a method."""
    return Stage("train", fields, (), ("classic", "training.json"), lambda c: train_classic(c, kind, _features(c)))


def _features(context: Context) -> Path:
    """Where the cells of a grid keep what the vision tower makes of images."""
    return context.folder.parent.parent / "features"


def _translates_only(context: Context, system: str) -> bool:
    """Whether a contender does nothing but the task, and so has nothing to retain."""
    return system in context.recipe.systems or system in CLASSIC


def work(
    recipe: Recipe,
    system: str,
    folder: Path,
    examined: bool,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Do a cell, as far as it is not done.

    Args:
        recipe: the cell's.
        system: its method, or `base`, `cascade` or the name of one of the recipe's systems.
        folder: the grid's: profile and probe are there, cells are made under `cells/`.
        examined: whether it is scored on the test split too.
        trust_remote_code: let code that comes with the model run.
        say: prints a line.
    """
    own = folder / "cells" / recipe.name
    if system in METHODS and recipe.uses_neurons:
        (own / ".stages").mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            if (folder / name).exists() and not _same(folder / name, own / name):
                (own / name).unlink(missing_ok=True)
                _link(folder / name, own / name)
    table = cell_stages(system, examined)
    unseen = lambda label, total: lambda done: None  # noqa: E731
    try:
        execute(recipe, folder / "cells", unseen, say, trust_remote_code=trust_remote_code, table=table)
    except DivergedError as error:  # a value of the sweep: this rate is too high
        own.mkdir(parents=True, exist_ok=True)
        write_json(own / "dev.json", LOSSES, {"nll": {recipe.task: None}, "diverged": str(error)})


def _same(a: Path, b: Path) -> bool:
    return b.exists() and os.path.samefile(a, b)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _system(context: Context, system: str, say: Callable[[str], None] = lambda text: None) -> Any:
    from neuroglot.systems import Cascade, Lazy

    if system in context.recipe.systems:
        size = context.recipe.evaluate.batch_size
        untrained = Lazy("base", lambda: context.system(context.model(), "base"), batch_size=size)
        return context.builder(untrained, say).build(system, context.recipe.systems[system])
    if system in CLASSIC:
        return load_classic(context, _features(context))
    if system in METHODS:
        tuned = load_trained(context.recipe.model, context.folder, context.trust_remote_code)
        return context.system(tuned, system)
    base = context.system(context.model(), "base")
    return Cascade(base, base) if system == "cascade" else base


def _develop(context: Context, system: str) -> None:
    """Write the loss on the dev split and on what should be kept: nats per reference character, by split and pair."""
    from neuroglot.evaluation import average_nll
    from neuroglot.systems import close

    quiet()
    corpus, made = context.corpus, _system(context, system)
    splits = {context.recipe.task: corpus.dev, **({} if _translates_only(context, system) else corpus.dev_retention)}
    losses: dict[str, Any] = {}
    for split, examples in splits.items():
        nats = made.nll(examples) if examples else None
        losses[split] = None if nats is None else average_nll(examples, nats)
    close(made)
    write_json(context.path("dev.json"), LOSSES, {"nll": losses})


def _examine(context: Context, system: str) -> None:
    """Score the test split, the held-out split and what should be kept."""
    from neuroglot.evaluation import Partial, evaluate, write_hypotheses, write_scores
    from neuroglot.systems import close

    quiet()
    corpus = context.corpus
    further = system in context.recipe.systems
    alone = system == "cascade" or _translates_only(context, system)
    splits = dict(corpus.splits) if alone else {**corpus.splits, **context.kept}
    said: list[str] = []
    made = _system(context, system, said.append)
    partial = Partial(context.path(".examine") / "said.jsonl", system)  # a run forgets it when the stage is done
    settings = context.recipe.evaluate
    scores, rows = evaluate(made, splits, partial=partial, moses=settings.moses, tokenise=settings.tokenise)
    write_hypotheses(context.path("hypotheses.jsonl"), rows)
    decoding = {system: getattr(made, "decoding", {})}
    write_scores(
        context.path("scores.json"), {system: scores}, rows=rows, tokenise=settings.tokenise, decoding=decoding
    )
    close(made)
    if further:
        write_text(context.path(SAID), "".join(f"{line}\n" for line in said))


def read_losses(folder: Path) -> dict[str, float | None]:
    """Read what `develop` wrote; the task's loss is None where the cell diverged."""
    losses: dict[str, float | None] = read_json(folder / "dev.json", LOSSES)["nll"]
    return losses


def mean_of(losses: Mapping[str, float | None], task: str) -> float | None:
    """Return the mean loss over the tasks that should be kept; None without any, or where one diverged."""
    kept = [loss for split, loss in losses.items() if split != task]
    return None if not kept or None in kept else sum(kept) / len(kept)  # type: ignore[arg-type]


# ---- Cells in processes of their own --------------------------------------------------------------------------------
# Several at a time; each starts fresh, so that its memory is its own.
# Processes are forked from a server that has imported the libraries once. A worker whose parent is gone stops too, so
# that a killed comparison does not keep its cells locked. A cell that runs out of memory does not end the others.

PRELOAD = (
    "neuroglot.compare.workers", "neuroglot.data.batch", "neuroglot.synthetic.scenes", "neuroglot.evaluation",
    "neuroglot.models.load", "neuroglot.neurons", "neuroglot.report", "neuroglot.systems", "neuroglot.training",
    "neuroglot.tuner", "transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava", "transformers.models.auto.processing_auto",
)  # fmt: skip
"""What the server imports once, so that no cell has to: whatever a stage imports when it runs."""
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
        context.set_forkserver_preload(list(PRELOAD))
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
