"""Specificity: how many neurons differ between pairs by more than noise, how much, and what the test finds in noise.

The null check permutes the pair labels within each item, on the recorded neurons: nothing is left for the test to find
then, so what it still finds is its error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from neuroglot.analysis import figures
from neuroglot.analysis.context import Figure, Found, Kind, Setting, Table, Work, text_pairs
from neuroglot.analysis.profiles import Records
from neuroglot.neurons import Layer, Profile
from neuroglot.pair import Condition

FDR = 0.05
PERMUTATIONS = 20
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
BINS = 40


def _work(setting: Setting) -> Work:
    return Work(records=True)


def _measure(setting: Setting) -> Found:
    from neuroglot.neurons.selecting.statistics import specificity

    profile, task = setting.profile, setting.task
    if len(text_pairs(profile, task)) < 2:
        return {"skipped": "the run has one pair, and neurons cannot differ between pairs"}
    result = specificity(profile, task, setting.score, setting.token_class)
    parts = _by(profile, result, lambda layer: layer.part)
    kinds = _by(profile, result, lambda layer: f"{layer.part} {layer.name.rpartition('.')[2]}")
    records = setting.records
    shares: dict[str, float] = {}
    null: list[dict[str, float]] = []
    small: list[dict[str, float]] = []
    if records.parallel:
        shares = _significant(records, task, None)
        for seed in range(PERMUTATIONS):
            null.append(_significant(records, task, seed))
            small.append(_significant(records, task, seed, raw=True))
    return {
        "fdr": FDR,
        "items": profile.moments(task, setting.score, setting.token_class)[2],
        "parts": parts,
        "kinds": kinds,
        "histogram": _histogram(profile, result),
        "recorded": shares,
        "null": {"permutations": PERMUTATIONS, "q": _range(null), "p": _range(small)} if null else None,
        "interval": f"of the null check, smallest and largest of {PERMUTATIONS} permutations of labels within items",
    }


def _by(profile: Profile, result: Mapping[str, Any], key: Any) -> list[dict[str, Any]]:
    groups: dict[str, list[str]] = {}
    for layer in profile.layers:
        groups.setdefault(key(layer), []).append(layer.name)
    rows = []
    for name, layers in groups.items():
        q, effect, lower = (
            np.concatenate([np.asarray(getattr(result[layer], field)) for layer in layers])
            for field in ("q", "effect", "lower")
        )
        own = q <= FDR
        rows.append(
            {
                "name": name,
                "neurons": len(q),
                "significant": float(own.mean()),
                "effect": dict(zip(map(str, QUANTILES), np.quantile(effect, QUANTILES).tolist(), strict=True)),
                "effect_significant": float(np.median(effect[own])) if own.any() else None,
                "lower_significant": float(np.median(lower[own])) if own.any() else None,
                "large": float((own & (lower > LARGE)).mean()),
            }
        )
    return rows


LARGE = 0.25
"""Lower bound of the coefficient of variation from which on an effect is called large."""


def _histogram(profile: Profile, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the distribution of effects per part, in percent of its neurons."""
    effects = {
        part: np.concatenate([np.asarray(result[x.name].effect) for x in profile.layers if x.part == part])
        for part in dict.fromkeys(layer.part for layer in profile.layers)
    }
    top = float(np.quantile(np.concatenate(list(effects.values())), 0.99)) or 1.0
    edges = np.linspace(0, top, BINS + 1)
    return {
        "edges": edges.tolist(),
        "parts": {
            part: (100 * np.histogram(np.clip(x, 0, top), edges)[0] / len(x)).tolist() for part, x in effects.items()
        },
    }


def relabelled(records: Records, task: str, seed: int | None) -> Profile:
    """Return the profile of recorded neurons; with a seed, each item's pairs in an order of its own.

    The shares of an item stay together, so its mean over pairs, the block of the test, does not change.
    """
    items = {item: index for index, item in enumerate(dict.fromkeys(records.items.tolist()))}
    pairs = {pair: index for index, pair in enumerate(dict.fromkeys(records.pairs.tolist()))}
    table = np.zeros((len(items), len(pairs), records.shares.shape[1]))
    for share, item, pair in zip(records.shares, records.items.tolist(), records.pairs.tolist(), strict=True):
        table[items[item], pairs[pair]] = share
    if seed is not None:
        rng = np.random.default_rng(seed)
        table = np.stack([item[rng.permutation(len(pairs))] for item in table])
    names = list(dict.fromkeys(records.layers.tolist()))
    places = {name: np.flatnonzero(records.layers == name) for name in names}
    parts = {name: str(records.parts[places[name][0]]) for name in names}

    def put(values: np.ndarray) -> dict[str, torch.Tensor]:
        """[K, N] -> layer -> [K, 1, 1, n], or [N] -> layer -> [1, 1, n]."""
        lead = values.shape[:-1]
        return {n: torch.from_numpy(values[..., rows].reshape(*lead, 1, 1, -1).copy()) for n, rows in places.items()}

    sums, squares = put(table.sum(0)), put((table**2).sum(0))
    return Profile(
        model="", fingerprint="",
        layers=tuple(Layer(name, parts[name], len(places[name]), 1, False) for name in names),
        conditions=tuple(Condition.parse(f"{task}:{pair}") for pair in pairs),
        scores=("taylor_token",), classes=("all",), counts=torch.full((len(pairs), 1), len(items)),
        sums=sums, squares=squares, share_sums=sums, share_squares=squares,
        blocks={task: put((table.mean(1) ** 2).sum(0))}, block_counts={task: torch.tensor([len(items)])},
    )  # fmt: skip


def _significant(records: Records, task: str, seed: int | None, raw: bool = False) -> dict[str, float]:
    """Return per part the share of recorded neurons with q (or, raw, p) of at most 5 %."""
    from neuroglot.neurons.selecting.statistics import specificity

    profile = relabelled(records, task, seed)
    result = specificity(profile, task, "taylor_token")
    return {
        part: float(
            np.concatenate(
                [np.asarray(result[x.name].p if raw else result[x.name].q) for x in profile.layers if x.part == part]
            ).__le__(FDR).mean()
        )
        for part in dict.fromkeys(layer.part for layer in profile.layers)
    }  # fmt: skip


def _range(draws: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        part: {
            "mean": float(np.mean([draw[part] for draw in draws])),
            "low": min(draw[part] for draw in draws),
            "high": max(draw[part] for draw in draws),
        }
        for part in draws[0]
    }


def _sentence(result: Found) -> str:
    text = "; ".join(
        f"{100 * row['significant']:.0f} % of the {row['name']} neurons"
        + (f" (median effect {row['effect_significant']:.2f})" if row["effect_significant"] is not None else "")
        for row in result["parts"]
    )
    text = f"Importance differs between pairs by more than noise in {text}"
    if result["null"]:
        most = max(row["mean"] for row in result["null"]["q"].values())
        text += f"; with the pairs' labels permuted the same test finds {100 * most:.1f} %"
    large = sum(row["large"] * row["neurons"] for row in result["parts"]) / sum(r["neurons"] for r in result["parts"])
    return f"{text}. The difference is surely large (coefficient of variation above {LARGE}) in {100 * large:.1f} %."


def _tables(result: Found) -> list[Table]:
    head = ["", "neurons", "significant, %", f"surely above {LARGE}, %", "median effect", "of the significant",
            "effect, 10 to 90 %"]  # fmt: skip

    def rows(members: list[dict[str, Any]]) -> list[list[str]]:
        return [
            [
                row["name"],
                f"{row['neurons']:,}",
                f"{100 * row['significant']:.1f}",
                f"{100 * row['large']:.1f}",
                f"{row['effect']['0.5']:.3f}",
                "none" if row["effect_significant"] is None else f"{row['effect_significant']:.3f}",
                f"{row['effect']['0.1']:.3f} to {row['effect']['0.9']:.3f}",
            ]
            for row in members
        ]

    tables = [Table("Neurons whose importance differs between pairs, by part", [head, *rows(result["parts"])])]
    if result["null"]:
        title = f"Share of recorded neurons found, %: as it is, and of {result['null']['permutations']} permutations"
        null = [["", "as it is, q", "permuted, q", "permuted, p"]]
        for part, share in result["recorded"].items():
            permuted = [result["null"][kind][part] for kind in ("q", "p")]
            null.append([part, f"{100 * share:.1f}", *(_percent(value) for value in permuted)])
        tables.append(Table(title, null))
    return [*tables, Table("The same by kind of layer", [head, *rows(result["kinds"])])]


def _percent(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def _figures(result: Found) -> list[Figure]:
    histogram = result["histogram"]
    alt = "Distribution of effect sizes by part. " + _sentence(result)
    draw = figures.steps(
        histogram["edges"], histogram["parts"], "effect: coefficient of variation over pairs (last step: and above)"
    )
    return [Figure("specificity", alt, draw)]


KIND = Kind(
    name="specificity",
    title="Specificity: how many neurons differ between pairs",
    question="In how many neurons does importance differ between pairs by more than noise, and by how much?",
    version=1,
    work=_work,
    measure=_measure,
    sentence=_sentence,
    tables=_tables,
    figures=_figures,
    options=("items",),
)
