"""Noise: would other items have given the same importances, the same layers and the same neurons?

Two profiles of n items each that share no item are compared, for growing n and several random divisions of one pool.
What they agree on beyond chance is what n items can tell; the rest is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroglot.analysis import figures
from neuroglot.analysis.context import Figure, Found, Kind, Setting, Table, Work, interval, known
from neuroglot.analysis.statistics import (
    chance_overlap,
    jaccard,
    mean_interval,
    overlap,
    spearman,
    spearman_brown,
    times_needed,
)

if TYPE_CHECKING:
    from neuroglot.neurons import Profile
    from neuroglot.selection import Selection

ENOUGH = 0.9
"""Rank correlation of two profiles at which they are called alike."""
WITHIN = (("sets", "neurons chosen"), ("specific", "specific neurons, with their pairs"), ("layers", "layers kept"))


def _work(setting: Setting) -> Work:
    return Work(chunks=True)


def sizes(chunks: int) -> list[int]:
    """Return numbers of chunks to compare, doubling, the last one half of all."""
    half = chunks // 2
    result = [1 << power for power in range(half.bit_length()) if 1 << power <= half]
    return [*result, half] if result and result[-1] * 1.3 < half else result


def _measure(setting: Setting) -> Found:
    chunks, model = setting.chunks, setting.model
    chunks.make(model)
    if chunks.count < 2:
        return {"skipped": f"there are too few items for two chunks of {chunks.size}; raise data.train"}
    rows: list[dict[str, Any]] = []
    for size in sizes(chunks.count):
        splits: list[dict[str, float]] = []
        for seed in range(setting.seeds):
            order = np.random.default_rng(seed).permutation(chunks.count)
            one, other = (chunks.merged(model, order[k * size : (k + 1) * size].tolist()) for k in range(2))
            if one.of_task(setting.task) != other.of_task(setting.task):
                continue  # a few items of data that is not parallel may miss a pair
            splits.append(compare(one, other, setting))
        if splits:
            figures_of = {name: mean_interval([split[name] for split in splits]) for name in splits[0]}
            rows.append({"items": size * chunks.size, "splits": len(splits), **figures_of})
    if not rows:
        return {"skipped": "no two sets of items hold the same pairs; give parallel items, or more of them"}
    parts = list(dict.fromkeys(layer.part for layer in setting.profile.layers))
    largest = rows[-1]
    needed = {part: largest["items"] * times_needed(largest[f"importance/{part}"]["mean"], ENOUGH) for part in parts}
    return {
        "parts": parts,
        "rows": rows,
        "seeds": setting.seeds,
        "own_items": setting.recipe.profile.items,
        "needed": needed,
        "doubled": {p: spearman_brown(largest[f"importance/{p}"]["mean"], 2) for p in parts},
        "interval": "95 % bootstrap interval of the mean over random divisions of the same items",
    }


def compare(one: Profile, other: Profile, setting: Setting) -> dict[str, float]:
    """Return how alike two profiles are, and the selections made from them."""
    conditions = one.of_task(setting.task)
    x, y = (p.importance(setting.score, setting.token_class, conditions) for p in (one, other))
    result: dict[str, float] = {}
    for part in dict.fromkeys(layer.part for layer in one.layers):
        names = [layer.name for layer in one.layers if layer.part == part]
        a, b = (np.concatenate([values[name].numpy() for name in names], axis=1) for values in (x, y))
        result[f"importance/{part}"] = spearman(a.mean(0), b.mean(0))
        if len(conditions) > 1:
            result[f"pattern/{part}"] = spearman(pattern(a).ravel(), pattern(b).ravel())
    return result | compare_sets(setting.choose(one), setting.choose(other), one)


def pattern(importance: np.ndarray) -> np.ndarray:
    """Return how a neuron's importance for a pair differs from its mean over pairs, of that mean: [K, N]."""
    mean = importance.mean(0)
    return np.divide(importance - mean, mean, out=np.zeros_like(importance), where=mean > 0)


def compare_sets(one: Selection, other: Selection, profile: Profile) -> dict[str, float]:
    """Return Jaccard overlaps of two selections, and those of random sets with the same counts in each layer."""
    sizes_of = {layer.name: layer.neurons for layer in profile.layers}
    kept, kept_chance, every, every_chance, own, own_chance = (list[tuple[float, float]]() for _ in range(6))
    for part in dict.fromkeys(layer.part for layer in profile.layers):
        names = [layer.name for layer in profile.layers if layer.part == part]
        a, b = ({position for position, name in enumerate(names) if name in s.rows} for s in (one, other))
        kept.append(overlap(a, b))
        kept_chance.append(chance_overlap(len(a), len(b), len(names)))
    for module in {**one.rows, **other.rows}:
        groups = [s.rows.get(module, {}) for s in (one, other)]
        rows = [{int(i) for index in g.values() for i in index} for g in groups]
        many = sizes_of.get(module, 1 + max((max(r) for r in rows if r), default=0))
        every.append(overlap(*rows))
        # A layer that only one of the two kept is no matter of which rows: chance is given the layers.
        every_chance.append(chance_overlap(len(rows[0]), len(rows[1]), many))
        for group in {**groups[0], **groups[1]}:
            if group != one.agnostic:
                a, b = ({int(i) for i in g.get(group, ())} for g in groups)
                own.append(overlap(a, b))
                own_chance.append(chance_overlap(len(a), len(b), many))
    pieces = {"layers": kept, "layers_chance": kept_chance, "sets": every, "sets_chance": every_chance,
              "specific": own, "specific_chance": own_chance}  # fmt: skip
    return {name: jaccard(value) for name, value in pieces.items()}


def _sentence(result: Found) -> str:
    rows, parts = result["rows"], result["parts"]
    last = rows[-1]
    enough = next(
        (row["items"] for row in rows if all((row[f"importance/{p}"]["mean"] or 0) >= ENOUGH for p in parts)), None
    )
    if enough is not None:
        first = f"from {enough} items on, two profiles that share no item rank the neurons of every part alike"
    else:
        needed = [value for value in result["needed"].values() if known(value)]
        first = f"{last['items']} items are not enough for two profiles that share none to rank the neurons alike"
        if needed:
            first += f"; extrapolated by Spearman and Brown's formula, {max(needed):.0f} would be"
    text = f"{first} (rank correlation {ENOUGH} or more). With {last['items']} items they choose "
    text += f"{100 * last['sets']['mean']:.0f} % the same neurons (Jaccard; random rows of the same layers "
    text += f"{100 * last['sets_chance']['mean']:.0f} %)"
    own = last["specific"]["mean"]
    if known(own):
        text += f", and {100 * own:.0f} % the same specific neurons for the same pairs"
        text += f" (random {100 * last['specific_chance']['mean']:.0f} %)"
    return text[0].upper() + text[1:] + "."


def _tables(result: Found) -> list[Table]:
    parts, rows = result["parts"], result["rows"]
    patterned = [part for part in parts if f"pattern/{part}" in rows[0]]
    head = ["items"] + [f"importance, {p}" for p in parts] + [f"differences between pairs, {p}" for p in patterned]
    ranks = [[str(row["items"])] + [interval(row[f"importance/{p}"]) for p in parts]
             + [interval(row[f"pattern/{p}"]) for p in patterned] for row in rows]  # fmt: skip
    sets = [
        [str(row["items"])]
        + [cell for name, _ in WITHIN for cell in (_cell(row[name]), _cell(row[f"{name}_chance"], short=True))]
        for row in rows
    ]
    heads = ["items", *(cell for _, title in WITHIN for cell in (title, "by chance"))]
    needed = [["part", f"items for {ENOUGH}", "correlation with twice the items"]] + [
        [part, _number(result["needed"][part]), _number(result["doubled"][part], 2)] for part in parts
    ]
    return [
        Table("Rank correlation of two profiles that share no item", [head, *ranks]),
        Table("Jaccard overlap of what is chosen from them", [heads, *sets]),
        Table("Extrapolated from the largest by Spearman and Brown's formula", needed),
    ]


def _number(value: float | None, digits: int = 0) -> str:
    return f"{value:.{digits}f}" if value is not None and known(value) else "unknown"


def _cell(value: dict[str, float], short: bool = False) -> str:
    if not known(value["mean"]):
        return "none"
    return f"{value['mean']:.2f}" if short else interval(value)


def _figures(result: Found) -> list[Figure]:
    rows: Sequence[Found] = result["rows"]
    x = [row["items"] for row in rows]
    panels: dict[str, list[figures.Line]] = {"importance, rank correlation": [], "pairs, rank correlation": []}
    for part in result["parts"]:
        for title, name in zip(panels, ("importance", "pattern"), strict=True):
            if f"{name}/{part}" in rows[0]:
                panels[title].append(figures.Line(part, x, [row[f"{name}/{part}"] for row in rows], part))
    panels["what is chosen, Jaccard"] = [
        figures.Line(short, x, [row[name] for row in rows], colour, dashed)
        for name, short, colour, dashed in (
            ("layers", "layers", "system-1", False),
            ("sets", "neurons", "system-5", False),
            ("sets_chance", "neurons, chance", "system-5", True),
            ("specific", "specific", "system-3", False),
            ("specific_chance", "specific, chance", "system-3", True),
        )
        if any(known(row[name]["mean"]) for row in rows)
    ]
    panels = {title: lines for title, lines in panels.items() if lines}
    alt = f"Lines of agreement against the number of items, from {x[0]} to {x[-1]}. " + _sentence(result)
    return [Figure("noise", alt, figures.lines(panels, "items in each profile", top=1.0, log=True))]


KIND = Kind(
    name="noise",
    title="Noise: how many items are enough",
    question="Would other items have given the same importances, layers and neurons?",
    version=1,
    work=_work,
    measure=_measure,
    sentence=_sentence,
    tables=_tables,
    figures=_figures,
)
