"""What a grid came to: figures with intervals, differences that survive correction, retention at matched quality.

Notable: seeds and source items are drawn together (`evaluation.resample`), the same draws for every system, so that a
difference is paired. A p-value is that of t = difference / spread of its draws with S - 1 degrees of freedom for S
seeds: the bootstrap of six seeds is too narrow in its tails, the t distribution is not. The spread is widened by
sqrt(S / (S - 1)), for draws of S seeds spread less than seeds do. Holm's correction is over all the
comparisons of one figure.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroglot.compare.grid import Contender
from neuroglot.compare.runner import Grid, Outcome, cell_folder
from neuroglot.compare.workers import SAID, mean_of, read_losses
from neuroglot.errors import UserError
from neuroglot.evaluation import metrics
from neuroglot.evaluation.bootstrap import Array, Draws, Row, reason, resample
from neuroglot.evaluation.bootstrap import interval as ends
from neuroglot.evaluation.metrics import has_lines
from neuroglot.evaluation.tokenize import Tokenise
from neuroglot.file_format import TRAINING, read_json

CHANCE = ("random", "random-layers")
"""The controls that a choice is held against: the first that the grid has."""
LEVEL = 0.05
FEWEST = 6
"""Seeds from which on p-values are given."""
LOWER_IS_BETTER = ("nll", "retention_nll", "heldout_nll", "ter")


def figures_of(rows: Sequence[Row], task: str, moses: bool = False) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return figure -> (metric, splits): quality on the test split and the held-out one, retention on the others.

    Args:
        rows: of a system that was scored on everything.
        task: the test split.
        moses: whether the recipe asks for lower-cased, Moses-tokenised BLEU.

    A figure that means nothing of these references is left out; in place of BLEU on held-out items stands chrF++ then.
    TER and what is said of lines are of references with several lines; elsewhere they would only widen the table.
    """
    splits = tuple(dict.fromkeys(row["split"] for row in rows))
    heldout = f"{task}_heldout"
    kept = tuple(split for split in splits if split not in (task, heldout))
    figures: dict[str, tuple[str, tuple[str, ...]]] = {n: (n, (task,)) for n in ("bleu", "chrf", "exact", "nll")}
    if moses:
        figures[metrics.MOSES] = (metrics.MOSES, (task,))
    if any(has_lines(row["reference"]) for row in rows if row["split"] == task):
        figures |= {name: (name, (task,)) for name in ("ter", "lines", "bleu_lines")}
    if any(row.get("alternative_nll") for row in rows):
        figures["contrastive"] = ("contrastive", (task,))
    if heldout in splits:
        figures |= {"heldout_bleu": ("bleu", (heldout,)), "heldout_nll": ("nll", (heldout,))}
        if reason(rows, "bleu", (heldout,)):
            figures["heldout_chrf"] = ("chrf", (heldout,))
    if kept:
        figures |= {"retention": ("exact", kept), "retention_nll": ("nll", kept)}
    return figures


def summarise(grid: Grid, folder: Path, outcomes: Sequence[Outcome], draws: int = 2000) -> dict[str, Any]:
    """Return the comparison: one entry per contender, the comparisons between them, matched quality, wins.

    A contender whose training diverged at every rate has no entry; `diverged` names it.

    Raises:
        UserError: every contender's training diverged.
    """
    task = grid.recipe.task
    diverged = [o.contender.name for o in outcomes if o.contender.trained and o.chosen is None]
    outcomes = [o for o in outcomes if o.contender.name not in diverged]
    if not outcomes:
        raise UserError(
            f"training diverged at every rate that was tried of {', '.join(diverged)}; there is nothing to compare; "
            "give lower --rates"
        )
    seeds = {o.contender: range(grid.seeds) if o.contender.trained else (None,) for o in outcomes}
    runs = {o.contender: [_rows(cell_folder(folder, o.contender, o.chosen, s)) for s in seeds[o.contender]]
            for o in outcomes}  # fmt: skip
    widest = max((rows[0] for rows in runs.values()), key=len)
    figures = figures_of(widest, task, grid.recipe.evaluate.moses)
    drawn = Draws.make(widest, grid.seeds, draws)
    values: dict[Contender, dict[str, Array]] = {}
    tokenise = grid.recipe.evaluate.tokenise
    for contender, rows in runs.items():
        made = {name: resample(rows, metric, splits, drawn, tokenise) for name, (metric, splits) in figures.items()}
        values[contender] = {name: x for name, x in made.items() if x is not None}
    entries = []
    for outcome in outcomes:
        contender = outcome.contender
        folders = [cell_folder(folder, contender, outcome.chosen, s) for s in seeds[contender]]
        entries.append(
            {
                "name": contender.name,
                "method": contender.method,
                "budget": contender.budget,
                "variant": contender.variant,
                "rate": outcome.chosen,
                "at_edge": len(outcome.tried) > 1 and outcome.chosen in (min(outcome.tried), max(outcome.tried)),
                "seeds": len(folders),
                "figures": {name: interval(x) for name, x in values[contender].items()},
                "cost": _cost(folders),
                "said": _said(folders[0]),
                "sweep": [{"rate": lr, "nll": losses[task], "retention_nll": mean_of(losses, task)}
                          for lr, losses in outcome.tried.items()],
            }
        )  # fmt: skip
    comparisons = compare_all(values, grid.seeds, grid.reference)
    base = next((o for o in outcomes if o.contender.method == "base"), None)
    start = None
    if base is not None:
        losses = read_losses(cell_folder(folder, base.contender, None, None))
        start = {"nll": losses[task], "retention_nll": mean_of(losses, task)}
    return {
        "task": task,
        "seeds": grid.seeds,
        "retain": grid.retain,
        "draws": draws,
        "diverged": diverged,
        "kept": list(figures.get("retention", ("", ()))[1]),
        "signatures": _signatures(figures, [row for row in widest if row["split"] == task], tokenise),
        "reasons": {
            name: why
            for name, (metric, splits) in figures.items()
            if not any(name in own for own in values.values()) and (why := reason(widest, metric, splits, tokenise))
        },
        "contenders": entries,
        "comparisons": comparisons,
        "wins": wins({c: rows for c, rows in runs.items() if c.trained}, figures, tokenise),
        "base": start,
        "matched": matched(entries, start),
    }


def _signatures(
    figures: Mapping[str, tuple[str, tuple[str, ...]]], rows: Sequence[Row], tokenise: Tokenise
) -> dict[str, str]:
    """Return how the figures of the test split can be computed again."""
    result = {
        metric: metrics.signature_of(metric, rows, tokenise)
        for metric in dict.fromkeys(m for m, _ in figures.values())
    }
    return {metric: text for metric, text in result.items() if text}


def _rows(folder: Path) -> list[dict[str, Any]]:
    with (folder / "hypotheses.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def interval(draws: Array) -> dict[str, float | None]:
    """Return a figure and its 95 % interval: the first draw is the data, the others are resamples."""
    low, high = ends(draws) or (None, None)
    return {"mean": float(draws[0]), "low": low, "high": high}


def _cost(folders: Sequence[Path]) -> dict[str, float] | None:
    """Return means over seeds of what training took; None for a baseline."""
    if not (folders[0] / "training.json").exists():
        return None
    facts = [read_json(folder / "training.json", TRAINING) for folder in folders]
    names = ("trainable_parameters", "seconds", "peak_memory_bytes", "saved_bytes")
    return {name: sum(fact[name] for fact in facts) / len(facts) for name in names}


def _said(folder: Path) -> list[str]:
    """Return what a system had to say when it was done, such as its cost; most say nothing."""
    return (folder / SAID).read_text(encoding="utf-8").splitlines() if (folder / SAID).exists() else []


def compare_all(
    values: Mapping[Contender, Mapping[str, Array]], seeds: int, reference: Contender | None = None
) -> list[dict[str, Any]]:
    """Return every contender's difference to what it is held against, corrected per figure.

    That is, in a grid of methods, chance and LoRA of its budget, and `full`; of variants, the reference alone.
    """
    result: list[dict[str, Any]] = []
    chance = chance_of(values)
    for contender, own in values.items():
        if not contender.trained:
            continue
        others = (Contender(chance, contender.budget), Contender("lora", contender.budget), Contender("full"))
        for other in others if reference is None else (reference,):
            if other == contender or other not in values:
                continue
            for name, draws in own.items():
                if name in values[other]:
                    difference = draws - values[other][name]
                    result.append({"figure": name, "of": contender.name, "to": other.name,
                                  "difference": interval(difference), "p": p_value(difference, seeds)})  # fmt: skip
    for name in {entry["figure"] for entry in result}:
        family = [entry for entry in result if entry["figure"] == name]
        for entry, kept in zip(family, holm([e["p"] for e in family]), strict=True):
            better = (entry["difference"]["mean"] < 0) == (name in LOWER_IS_BETTER)
            entry["survives"] = ("better" if better else "worse") if kept else None
    return result


def chance_of(contenders: Iterable[Contender]) -> str:
    """Return the control that choices are held against: `random`, or `random-layers` where there is no `random`."""
    methods = {contender.method for contender in contenders}
    return next((method for method in CHANCE if method in methods), CHANCE[0])


def p_value(draws: Array, seeds: int) -> float | None:
    """Return the two-sided p of a difference, see the module; None with fewer than six seeds, which prove little."""
    from scipy.stats import t

    if seeds < FEWEST:
        return None
    spread = float(np.nanstd(draws[1:])) * math.sqrt(seeds / (seeds - 1))
    if spread == 0:
        return 1.0 if draws[0] == 0 else 0.0
    return float(2 * t.sf(abs(float(draws[0])) / spread, seeds - 1))


def holm(ps: Sequence[float | None], level: float = LEVEL) -> list[bool]:
    """Return which hypotheses are rejected by Holm's step-down procedure; a missing p never is.

    Examples:
        >>> holm([0.01, 0.04, 0.03, None])
        [True, False, False, False]
    """
    known = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    rejected = [False] * len(ps)
    for rank, (p, index) in enumerate(known):
        if p > level / (len(known) - rank):
            break
        rejected[index] = True
    return rejected


def wins(
    runs: Mapping[Contender, Sequence[Sequence[Row]]], figures: Mapping[str, Any], tokenise: Tokenise = None
) -> list[dict[str, Any]]:
    """Return in how many seeds a contender was ahead of the chance control of its budget and seed, per figure."""
    result, chance = [], chance_of(runs)
    held = {c: Contender(chance, c.budget) for c in runs if c.method != chance and c.budget is not None}
    held = {contender: other for contender, other in held.items() if other in runs}
    needed = dict.fromkeys((*held, *held.values()))
    for name, (metric, splits) in figures.items():
        at = {c: [_figure(rows, metric, splits, tokenise) for rows in runs[c]] for c in needed}
        for contender, other in held.items():
            pairs = [(a, b) for a, b in zip(at[contender], at[other], strict=True) if a is not None and b is not None]
            won = sum(a < b if name in LOWER_IS_BETTER else a > b for a, b in pairs)
            if pairs:
                result.append({"of": contender.name, "than": chance, "figure": name, "won": won, "seeds": len(pairs)})
    order = [contender.name for contender in held]
    return sorted(result, key=lambda entry: order.index(entry["of"]))


def _figure(rows: Sequence[Row], metric: str, splits: Sequence[str], tokenise: Tokenise) -> float | None:
    """Return a figure of one cell; None where it lacks it."""
    result = resample([rows], metric, splits, Draws.make(rows, 1, draws=1), tokenise)
    return None if result is None else float(result[0])


def matched(entries: Sequence[Mapping[str, Any]], base: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the loss on what should be kept, at one loss on the task that all contenders of a budget reach on dev.

    Each sweep, in order of its rates and begun by the untuned model (a rate of 0), is a line from worse to better
    quality; retention is read off it where it first reaches the quality of the least able contender's best rate.
    """
    result = []
    for budget in sorted({e["budget"] for e in entries if e["budget"] is not None}):
        group = [e for e in entries if e["sweep"] and e["budget"] in (budget, None)]
        lines = {e["name"]: _line(e["sweep"], base) for e in group}
        lines = {name: line for name, line in lines.items() if len(line) > 1}
        if len(lines) < 2:
            continue
        level = max(min(quality for quality, _ in line) for line in lines.values())
        at = {name: _crossing(line, level) for name, line in lines.items()}
        result.append({"budget": budget, "nll": level, "retention_nll": at})
    return result


def _line(sweep: Sequence[Mapping[str, Any]], base: Mapping[str, Any] | None) -> list[tuple[float, float]]:
    points = [*([base] if base else []), *sweep]
    return [(p["nll"], p["retention_nll"]) for p in points if p["nll"] is not None and p["retention_nll"] is not None]


def _crossing(line: Sequence[tuple[float, float]], level: float) -> float | None:
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        if x1 <= level <= x0:
            share = (x0 - level) / (x0 - x1) if x0 > x1 else 1.0
            return y0 + share * (y1 - y0)
    return None
