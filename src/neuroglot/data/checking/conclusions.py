"""What follows from the counts and hashes of a whole corpus: repeats, leaks from split to split, splits too small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.checking.findings import SHOWN, Finding, finding
from neuroglot.data.checking.repeats import Columns, alike, mixed, repeated, rows_of, shared
from neuroglot.data.corpus.parts import RETAINED
from neuroglot.errors import nearest

Rows = NDArray[np.intp]
ORDER = (("train", "dev"), ("train", "test"), ("train", "heldout"), ("dev", "test"))
"""Earlier and later split: what the later one has should be new."""

SOME = 0.01
"""Share of a test split above which inputs seen in training make its score wrong."""

FEW_TRAIN, FEW_TEST = 50, 20
"""Examples of a pair below which training, or a score's interval, says little."""


@dataclass(frozen=True)
class Plan:
    """What a recipe wants of its data.

    Attributes:
        source: what it is called.
        task: the task that is trained.
        pairs: in text form; empty for all.
        train: source items that are taken.
        max_bad: records that may be left out.
        made: whether the examples are made here, so that none of them can be missing.
        replays: whether other tasks are trained, too.
    """

    source: str
    task: str
    pairs: tuple[str, ...] = ()
    train: int = 10**9
    max_bad: int = 0
    made: bool = False
    replays: bool = False


class Cell(NamedTuple):
    """Examples that are counted together."""

    task: str
    pair: str
    split: str


def counts(cells: Sequence[Cell], columns: Columns, plan: Plan) -> list[dict[str, Any]]:
    """Return a row a cell: task, pair, split, examples, different items, and whether the recipe uses it."""
    cell = columns["cell"].astype(np.int64)
    examples = np.bincount(cell, minlength=len(cells))
    _, first = np.unique(mixed(columns["cell"], columns["item"]), return_index=True)
    items = np.bincount(cell[first], minlength=len(cells))
    return [
        {**c._asdict(), "examples": int(n), "items": int(m),
         "used": c.task == plan.task and (not plan.pairs or c.pair in plan.pairs)}
        for c, n, m in zip(cells, examples, items, strict=True)
    ]  # fmt: skip


def repeats(columns: Columns) -> Iterator[Finding]:
    """Yield what repeats an earlier example of its task, pair and split; examples by the ordinals of their records."""
    cell, image, source, target = (columns[name] for name in ("cell", "image", "source", "target"))
    every = np.arange(len(columns))
    total = len(columns)
    known = every[columns["shown"] != 0]
    whole, first = repeated(mixed(cell, columns["shown"], source, target), known)
    yield from _found("repeated_example", whole, first, total, columns)
    rest = np.setdiff1d(every, whole, assume_unique=True)
    later, first = repeated(mixed(cell, image, target), rest[image[rest] != 0])
    yield from _found("repeated_image", later, first, total, columns)
    later, first = repeated(mixed(cell, source, target), rest[(source[rest] != 0) & (image[rest] != 0)])
    yield from _found("repeated_text", later, first, total, columns)


def leaks(cells: Sequence[Cell], columns: Columns) -> Iterator[Finding]:
    """Yield what a later split shares with an earlier one, task by task.

    An example counts once: for its whole input, else for its source text, else for its image, else for an image that
    looks alike.
    """

    def rows(task: str, split: str) -> Rows:
        return rows_of(columns["cell"], [n for n, c in enumerate(cells) if (c.task, c.split) == (task, split)])

    for task in dict.fromkeys(c.task for c in cells):
        for earlier, later in ORDER:
            before, after = rows(task, earlier), rows(task, later)
            rest, where = after, f"{task}, {earlier} and {later}"
            for kind, (name, what) in _LEAKS.items():
                key = columns[name]
                hits, first = shared(key, rest[key[rest] != 0], before)
                rest = np.setdiff1d(rest, hits, assume_unique=True)
                severity = ""
                if kind == "leaked_input" and not (earlier == "train" and later != "dev" and _many(hits, after)):
                    severity = "warning"
                distinct = len(np.unique(key[hits]))
                remark = f"{distinct:,} different {what}{'s' * (distinct > 1)}" if distinct < len(hits) else ""
                options = {"where": where, "severity": severity, "remark": remark}
                yield from _found(kind, hits, first, len(after), columns, **options)
            hits, first = alike(columns["look"], rest, before)
            yield from _found("leaked_near_image", hits, first, len(after), columns, where=where)


def replayed(cells: Sequence[Cell], columns: Columns, plan: Plan) -> Iterator[Finding]:
    """Yield what other tasks, where they are trained too, share with what a different task tests."""
    if not plan.replays:
        return
    for task in dict.fromkeys(c.task for c in cells if c.task in RETAINED and c.task != plan.task):
        numbers = [number for number, c in enumerate(cells) if (c.task, c.split) == (task, "train")]
        others = [number for number, c in enumerate(cells) if c.task != task and c.split not in ("train", "")]
        trained, tested = rows_of(columns["cell"], numbers), rows_of(columns["cell"], others)
        found: dict[int, int] = {}
        for name in ("item", "source", "image"):
            key = columns[name]
            hits, first = shared(key, trained[key[trained] != 0], tested)
            for hit, other in zip(hits.tolist(), first.tolist(), strict=True):
                found.setdefault(hit, other)
        later = np.array(sorted(found), dtype=np.intp)
        first = np.array([found[row] for row in later.tolist()], dtype=np.intp)
        yield from _found("leaked_replay", later, first, len(trained), columns, where=f"{task}, replayed")


_LEAKS = {
    "leaked_input": ("shown", "input"),
    "leaked_source": ("source", "source text"),
    "leaked_image": ("image", "image"),
}
"""Kind -> what is compared, and its name."""


def _many(hits: Rows, rows: Rows) -> bool:
    return len(hits) > SOME * len(rows)


def _found(kind: str, later: Rows, first: Rows, total: int, columns: Columns, **options: Any) -> Iterator[Finding]:
    if not len(later):
        return
    ordinal = columns["ordinal"]
    _, fresh = np.unique(columns["item"][later], return_index=True)  # an item of several pairs is shown once
    fresh = np.sort(fresh)[:SHOWN]
    shown = zip(later[fresh], first[fresh], strict=True)
    examples = tuple({"ordinal": int(ordinal[a]), "earlier": int(ordinal[b])} for a, b in shown)
    yield finding(kind, len(later), total, examples=examples, **options)


def splits(table: Sequence[Mapping[str, Any]], plan: Plan) -> Iterator[Finding]:
    """Yield what a run would refuse for want of examples, and what it would have too few of."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in table:
        if row["task"] == plan.task:
            found.setdefault(row["pair"], {})[row["split"]] = row
    if not found:
        tasks = ", ".join(sorted({row["task"] for row in table})) or "nothing"
        yield finding("no_examples", 1, subject="tasks", where=plan.task, remark=f"the data have {tasks}")
        return
    for pair in plan.pairs:
        if pair not in found:
            yield finding("no_examples", 1, subject="pairs", where=pair, remark=nearest(pair, found))
    for split, few in (("train", FEW_TRAIN), ("test", FEW_TEST)):
        rows = {pair: found[pair].get(split) for pair in plan.pairs or found if pair in found}
        counted = {pair: row["examples"] if row else 0 for pair, row in rows.items()}
        lacking = {pair: n for pair, n in counted.items() if n < few and not (plan.made and n)}
        empty, small = [p for p, n in lacking.items() if not n], [f"{p} {n}" for p, n in lacking.items() if n]
        if empty:
            yield finding("empty_split", len(empty), subject="pairs", where=f"{_some(empty)}, {split}")
        if small:
            remark = f"{few} would say something"
            yield finding("small_split", len(small), subject="pairs", where=f"{_some(small)}, {split}", remark=remark)
    most = max((by_split["train"]["items"] for by_split in found.values() if "train" in by_split), default=0)
    if most > plan.train:
        remark = f"data.train is {plan.train:,}"
        yield finding("unused", most - plan.train, most, subject="training items of a pair", remark=remark)


def _some(names: Sequence[str]) -> str:
    """Return names as a list of which the tail is counted."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
