"""Instruction contrast: does the model use other neurons to translate an image than to transcribe or describe it?

On the same images, importance for translating is ranked against importance for another task. Two things say how to
read that: the same task on other images (what noise leaves of a perfect agreement), and one pair against the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from neuroglot.analysis import figures
from neuroglot.analysis.context import Figure, Found, Kind, Setting, Table, Work, interval, known
from neuroglot.analysis.profiles import contrast_of
from neuroglot.analysis.statistics import jackknife, mean_interval, spearman

if TYPE_CHECKING:
    from neuroglot.neurons import Profile
    from neuroglot.selection import Selection

TITLES = {"ocr": "transcribing", "describe": "describing"}


def _work(setting: Setting) -> Work:
    return Work(chunks=bool(contrast_of(setting.context)))


def _measure(setting: Setting) -> Found:
    if not contrast_of(setting.context):
        return {"skipped": f"a run of {setting.task} has no other task on the same images"}
    chunks, model = setting.chunks, setting.model
    chunks.make(model)
    if chunks.count < 2:
        return {"skipped": f"there are too few items for two chunks of {chunks.size}; raise data.train"}
    whole = chunks.merged(model, range(chunks.count))
    tasks = [task for task in contrast_of(setting.context) if whole.of_task(task)]
    if not tasks:
        return {"skipped": "the base model says nothing when asked to transcribe or to describe these images"}
    figures_of = contrasts(whole, setting, tasks)
    left_out = []
    for number in range(chunks.count):
        rest = without(whole, chunks.merged(model, [number]))
        if bool((rest.counts > 0).all()):
            left_out.append(contrasts(rest, setting, tasks))
    halves = []
    for seed in range(setting.seeds):
        order = np.random.default_rng(seed).permutation(chunks.count).tolist()
        half = chunks.count // 2
        one, other = chunks.merged(model, order[:half]), chunks.merged(model, order[half : 2 * half])
        halves.append(ceiling(one, other, setting))
    parts = list(dict.fromkeys(layer.part for layer in whole.layers))
    return {
        "tasks": tasks,
        "parts": parts,
        "items": chunks.count * chunks.size,
        "figures": {name: jackknife(figures_of, left_out, name) for name in figures_of},
        "same_task": {part: mean_interval([half[part] for half in halves]) for part in parts},
        "layers": by_layer(whole, setting, tasks),
        "interval": f"95 % jackknife interval over {chunks.count} chunks of {chunks.size} items; of the same task on "
        "other images, bootstrap over random halves",
    }


def without(whole: Profile, part: Profile) -> Profile:
    """Return a profile less another that is in it; only what importance needs."""
    rows = [whole.conditions.index(condition) for condition in part.conditions]

    def less(x: Tensor, y: Tensor) -> Tensor:
        left = x.clone()
        left[rows] -= y
        return left

    sums = {layer.name: less(whole.sums[layer.name], part.sums[layer.name]) for layer in whole.layers}
    return replace(whole, counts=less(whole.counts, part.counts), sums=sums)


def means(profile: Profile, setting: Setting, tasks: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Return layer -> importance [N], the mean over the pairs of each task."""
    x = profile.importance(setting.score, setting.token_class)
    rows = [[profile.conditions.index(condition) for condition in profile.of_task(task)] for task in tasks]
    return [{name: values[own].mean(0).numpy() for name, values in x.items()} for own in rows]


def joined(values: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return the values of some layers, one after the other."""
    return np.concatenate([values[name] for name in names])


def contrasts(profile: Profile, setting: Setting, tasks: Sequence[str]) -> dict[str, float]:
    """Return per part and task the rank correlation, the overlap of the top neurons, and that of the chosen ones."""
    x, *others = means(profile, setting, [setting.task, *tasks])
    own = [profile.conditions.index(condition) for condition in profile.of_task(setting.task)]
    importance = profile.importance(setting.score, setting.token_class) if len(own) > 1 else {}
    sizes = {layer.name: layer.neurons for layer in profile.layers}
    result: dict[str, float] = {}
    for part, names in _by_part(profile).items():
        quota = quotas_of(setting.selection, names)
        for task, y in zip(tasks, others, strict=True):
            result[f"{part}/{task}/rank"] = spearman(joined(x, names), joined(y, names))
            result[f"{part}/{task}/top"], result[f"{part}/{task}/chosen"] = shared(x, y, quota, setting.selection)
        if len(own) > 1:
            pairs = np.concatenate([importance[name][own].numpy() for name in names], axis=1)  # (K, N)
            rest = (pairs.sum(0) - pairs) / (len(own) - 1)
            result[f"{part}/pairs/rank"] = float(np.mean([spearman(a, b) for a, b in zip(pairs, rest, strict=True)]))
        total = sum(quota.values())
        # Of q random neurons out of N, q / N are among the top q.
        result[f"{part}/chance"] = sum(q * q / sizes[name] for name, q in quota.items()) / total if total else np.nan
    return result


def _by_part(profile: Profile) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for layer in profile.layers:
        parts.setdefault(layer.part, []).append(layer.name)
    return parts


def quotas_of(selection: Selection, names: Sequence[str]) -> dict[str, int]:
    """Return how many neurons of each of these layers are chosen."""
    counts = {name: sum(len(index) for index in selection.rows.get(name, {}).values()) for name in names}
    return {name: count for name, count in counts.items() if count}


def shared(
    x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray], quota: Mapping[str, int], selection: Selection
) -> tuple[float, float]:
    """Return what share of x's top neurons, and of the chosen ones, is among y's top; layer by layer, same counts."""
    top = chosen = 0
    for name, count in quota.items():
        other = set(np.argsort(-y[name], kind="stable")[:count].tolist())
        top += len(set(np.argsort(-x[name], kind="stable")[:count].tolist()) & other)
        chosen += len({int(i) for index in selection.rows[name].values() for i in index} & other)
    total = sum(quota.values())
    return (top / total, chosen / total) if total else (float("nan"), float("nan"))


def ceiling(one: Profile, other: Profile, setting: Setting) -> dict[str, float]:
    """Return per part the rank correlation of translating with itself, on other images."""
    (x,), (y,) = (means(profile, setting, [setting.task]) for profile in (one, other))
    return {part: spearman(joined(x, names), joined(y, names)) for part, names in _by_part(one).items()}


def by_layer(profile: Profile, setting: Setting, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return the same figures for each layer."""
    x, *others = means(profile, setting, [setting.task, *tasks])
    rows = []
    for layer in profile.layers:
        quota = quotas_of(setting.selection, [layer.name])
        row: dict[str, Any] = {"layer": layer.name, "part": layer.part}
        for task, y in zip(tasks, others, strict=True):
            row[f"{task}/rank"] = spearman(x[layer.name], y[layer.name])
            row[f"{task}/top"], row[f"{task}/chosen"] = shared(x, y, quota, setting.selection)
        rows.append(row)
    return rows


def _sentence(result: Found) -> str:
    clauses = []
    for task in result["tasks"]:
        ranks = ", ".join(f"{result['figures'][f'{p}/{task}/rank']['mean']:.2f} ({p})" for p in result["parts"])
        clauses.append(f"for {TITLES.get(task, task)} {ranks}")
    same = ", ".join(f"{result['same_task'][p]['mean']:.2f} ({p})" for p in result["parts"])
    text = "Rank correlation of importance for translating with that on the same images " + "; ".join(clauses)
    text += f"; with itself on other images {same}."
    task = result["tasks"][0]
    shares = [
        f"{100 * result['figures'][f'{p}/{task}/chosen']['mean']:.0f} % in the {p} part "
        f"(random neurons {100 * result['figures'][f'{p}/chance']['mean']:.0f} %)"
        for p in result["parts"]
        if known(result["figures"][f"{p}/{task}/chosen"]["mean"])
    ]
    if shares:
        text += f" Of the chosen neurons, also top for {TITLES.get(task, task)}: {', '.join(shares)}."
    return text


def _tables(result: Found) -> list[Table]:
    head = ["", "rank correlation", "top neurons shared", "chosen neurons also top", "by chance"]
    rows = []
    for part in result["parts"]:
        chance = result["figures"][f"{part}/chance"]["mean"]
        for task in result["tasks"]:
            cells = [result["figures"][f"{part}/{task}/{name}"] for name in ("rank", "top", "chosen")]
            shown = [interval(cell) if known(cell["mean"]) else "none" for cell in cells]
            rows.append([f"{part}, {TITLES.get(task, task)}", *shown, _two(chance)])
        if f"{part}/pairs/rank" in result["figures"]:
            rows.append(
                [f"{part}, one pair and the others", interval(result["figures"][f"{part}/pairs/rank"]), "", "", ""]
            )
        rows.append([f"{part}, same task, other images", interval(result["same_task"][part]), "", "", ""])
    layers = [["layer", *(f"{TITLES.get(t, t)}, {n}" for t in result["tasks"] for n in ("rank", "chosen also top"))]]
    layers += [
        [row["layer"], *(_two(row[f"{t}/{n}"]) for t in result["tasks"] for n in ("rank", "chosen"))]
        for row in result["layers"]
    ]
    return [Table("Translating against other tasks on the same images", [head, *rows]), Table("By layer", layers)]


def _two(value: float | None) -> str:
    return f"{value:.2f}" if value is not None and known(value) else "none"


def _figures(result: Found) -> list[Figure]:
    rows = []
    for part in result["parts"]:
        rows += [
            (f"{part}, {TITLES.get(task, task)}", result["figures"][f"{part}/{task}/rank"], part)
            for task in result["tasks"]
        ]
        if f"{part}/pairs/rank" in result["figures"]:
            rows.append((f"{part}, pair and other pairs", result["figures"][f"{part}/pairs/rank"], part))
        rows.append((f"{part}, same task, other images", result["same_task"][part], part))
    draw = figures.dots(rows, "rank correlation with importance for translating", marks=(1.0,))
    return [Figure("instruction", "Dots with intervals: " + _sentence(result), draw)]


KIND = Kind(
    name="instruction",
    title="Instruction contrast: translating, transcribing, describing",
    question="Are the neurons that matter for translating an image others than those for reading or naming it?",
    version=1,
    work=_work,
    measure=_measure,
    sentence=_sentence,
    tables=_tables,
    figures=_figures,
)
