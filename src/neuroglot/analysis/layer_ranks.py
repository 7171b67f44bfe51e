"""Layers: do the ways of ranking them agree, with each other and with themselves, and what does each cost?

`similarity` tunes briefly and compares activations before and after; what is tuned (everything, low-rank factors, a
tenth of the neurons) is the estimator. `relevance` reads the profile. Each is repeated with other seeds: another order
of the training data, or other items to profile.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from neuroglot.analysis import figures
from neuroglot.analysis.context import Figure, Found, Kind, Setting, Table, Work, interval, known
from neuroglot.analysis.statistics import kendall, mean_interval, spearman
from neuroglot.data.corpus import first_items
from neuroglot.file_format import remove
from neuroglot.neurons.layers import mean_similarity, relevance

ESTIMATORS = ("full", "lora", "neurons")
RELEVANCE = "relevance"
SEEDS = 3
"""Repetitions at most: each is a training."""
STEPS = 20
"""Of a tuning, at most."""
BATCH = 12
"""Samples of a step, at most."""
COMPARED = 8
"""Source items that activations are compared on, at most."""

Ranking = dict[str, float]
"""Layer -> value, the higher the sooner it is kept."""


def _probe(setting: Setting) -> Any:
    """Return the recipe's probe, made short: it is repeated for each estimator and seed."""
    probe = setting.recipe.probe
    most = {"steps": STEPS, "batch_size": BATCH, "items": min(COMPARED, setting.items)}
    return probe.model_copy(update={name: min(getattr(probe, name), value) for name, value in most.items()})


def _seeds(setting: Setting) -> int:
    return min(SEEDS, setting.seeds)


def _compared(setting: Setting) -> int:
    return len(first_items(setting.context.corpus.profile, _probe(setting).items))


def _work(setting: Setting) -> Work:
    times, probe = len(ESTIMATORS) * _seeds(setting), _probe(setting)
    return Work(
        forward=2 * times * _compared(setting),
        backward=times * probe.steps * probe.batch_size,
        chunks=True,
    )


def _measure(setting: Setting) -> Found:
    chunks = setting.chunks
    layers = setting.profile.layers
    parts = list(dict.fromkeys(layer.part for layer in layers))
    probe = _probe(setting)
    rankings: dict[str, list[Ranking]] = {}
    cost: dict[str, dict[str, float]] = {}
    for estimator in ESTIMATORS:
        began = time.perf_counter()
        rankings[estimator] = [_similarity(setting, estimator, seed) for seed in range(_seeds(setting))]
        cost[estimator] = {
            "seconds": (time.perf_counter() - began) / _seeds(setting),
            "forward": probe.steps * probe.batch_size + 2 * _compared(setting),
            "backward": probe.steps * probe.batch_size,
        }
    chunks.make(setting.model)
    share = max(1, chunks.count // _seeds(setting))
    order = np.random.default_rng(0).permutation(chunks.count).tolist()
    rankings[RELEVANCE] = []
    for seed in range(min(_seeds(setting), chunks.count)):
        profile = chunks.merged(setting.model, order[seed * share : (seed + 1) * share])
        conditions = profile.of_task(setting.task)
        rankings[RELEVANCE].append(relevance(profile, setting.score, setting.token_class, conditions))
    part_of_all = share / max(1, chunks.count)
    samples = round(chunks.samples * part_of_all)
    cost[RELEVANCE] = {"seconds": chunks.seconds(setting.model) * part_of_all, "forward": samples, "backward": samples}
    names = {part: [x.name for x in layers if x.part == part and x.name in rankings["lora"][0]] for part in parts}
    return {
        "parts": {part: len(members) for part, members in names.items() if len(members) > 1},
        "methods": list(rankings),
        "seeds": _seeds(setting),
        "steps": probe.steps,
        "items": share * chunks.size,
        "agreement": _agreement(rankings, {p: members for p, members in names.items() if len(members) > 1}),
        "cost": cost,
        "interval": "95 % bootstrap interval over seeds: of a method with itself over pairs of seeds, of two methods "
        "over all pairs of their runs",
    }


def _similarity(setting: Setting, estimator: str, seed: int) -> Ranking:
    """Return 1 - R of each layer: how far a short tuning moves it."""
    from neuroglot.pipeline.neurons import probed

    recipe = setting.recipe
    section = _probe(setting).model_copy(update={"estimator": estimator})
    other = replace(setting.context, recipe=recipe.model_copy(update={"probe": section}))
    loaded = ("processor", "skeleton", "batcher", "data", "examples", "corpus")
    other.__dict__.update({n: setting.context.__dict__[n] for n in loaded if n in setting.context.__dict__})
    try:
        result = probed(other, other.model(), seed).similarity
    finally:
        remove(other.path(".probe"))
    setting.progress(section.steps * section.batch_size + 2 * _compared(setting))
    return {name: 1 - value for name, value in mean_similarity(result).items()}


def _agreement(rankings: dict[str, list[Ranking]], names: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Return part -> `method, method` -> Kendall's tau and Spearman's rho, with intervals."""
    result: dict[str, dict[str, Any]] = {}
    for part, members in names.items():
        result[part] = {}
        for a, b in [(m, m) for m in rankings] + list(combinations(rankings, 2)):
            if a == b:
                runs = list(combinations(rankings[a], 2))
            else:
                runs = [(x, y) for x in rankings[a] for y in rankings[b]]
            both = [tuple(np.asarray([run[name] for name in members]) for run in pair) for pair in runs]
            result[part][f"{a}, {b}"] = {
                "tau": mean_interval([kendall(*pair) for pair in both]),
                "rho": mean_interval([spearman(*pair) for pair in both]),
            }
    return result


def _sentence(result: Found) -> str:
    part = "language" if "language" in result["parts"] else next(iter(result["parts"]), None)
    if part is None:
        return "No part has two layers to rank."
    agreement = result["agreement"][part]

    def tau(a: str, b: str) -> str:
        value = agreement[f"{a}, {b}"]["tau"]["mean"]
        return f"{value:.2f}" if known(value) else "unknown"

    own = ", ".join(f"{method} {tau(method, method)}" for method in result["methods"])
    between = ", ".join(f"{a} {tau(a, RELEVANCE)}" for a in ESTIMATORS)
    took = {m: result["cost"][m]["seconds"] for m in result["methods"]}
    cheapest = min(took, key=lambda method: took[method])
    return (
        f"In the {part} part, rankings repeat with another seed at Kendall's tau of {own}; of the cheaper probes, "
        f"lora agrees with full at {tau('full', 'lora')} and neurons at {tau('full', 'neurons')}; similarity agrees "
        f"with relevance at {between}. A ranking took {took[cheapest]:.0f} s by {cheapest}, and "
        + ", ".join(f"{took[m]:.0f} s by {m}" for m in took if m != cheapest)
        + "."
    )


def _tables(result: Found) -> list[Table]:
    parts = result["parts"].items()
    head = ["", *(f"{part} ({count} layers), {name}" for part, count in parts for name in ("tau", "rho"))]
    rows = []
    for key in next(iter(result["agreement"].values()), {}):
        a, b = key.split(", ")
        label = f"{a}, other seeds" if a == b else f"{a} and {b}"
        cells = []
        for part in result["parts"]:
            for name in ("tau", "rho"):
                value = result["agreement"][part][key][name]
                cells.append(interval(value))
        rows.append([label, *cells])
    cost = [["", "seconds", "samples forward", "samples backward"]]
    cost += [
        [method, f"{row['seconds']:.1f}", f"{row['forward']:,}", f"{row['backward']:,}"]
        for method, row in result["cost"].items()
    ]
    title = f"Rank agreement of layers ({result['steps']} steps a probe, {result['items']} items for relevance)"
    return [Table(title, [head, *rows]), Table("Cost of one ranking", cost)]


def _figures(result: Found) -> list[Figure]:
    methods = result["methods"]
    panels = {}
    for part, agreement in result["agreement"].items():
        panels[part] = [[_either(agreement, a, b) for b in methods] for a in methods]
    if not panels:
        return []
    draw = figures.heat(panels, methods, methods, "Kendall's tau", limit=1.0, numbers=True)
    return [Figure("layers", "Heat maps of rank agreement between methods. " + _sentence(result), draw)]


def _either(agreement: dict[str, Any], a: str, b: str) -> float:
    key = f"{a}, {b}" if f"{a}, {b}" in agreement else f"{b}, {a}"
    value = agreement[key]["tau"]["mean"]
    return float("nan") if value is None else float(value)


KIND = Kind(
    name="layers",
    title="Layers: do the rankings agree",
    question="Do similarity (by what is tuned) and relevance rank layers alike, are they stable, what do they cost?",
    version=1,
    work=_work,
    measure=_measure,
    sentence=_sentence,
    tables=_tables,
    figures=_figures,
)
