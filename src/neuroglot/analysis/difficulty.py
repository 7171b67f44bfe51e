"""Difficulty: are the differences between pairs more than longer targets and higher losses?

For each recorded neuron, share = item + pair + b1 log(length) + b2 loss + noise, by least squares over the samples
(an analysis of covariance: b1 and b2 come from what differs within pairs). What is left is the spread of the pair
effects with the two covariates, over that without them. The spread of estimates also holds their sampling variance;
that is taken off on both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neuroglot.analysis import figures
from neuroglot.analysis.context import Figure, Found, Kind, Setting, Table, Work, interval, known, text_pairs
from neuroglot.analysis.profiles import Records
from neuroglot.analysis.statistics import Array, jackknife

COVARIATES = {"length": ("length",), "loss": ("loss",), "length and loss": ("length", "loss")}


def _work(setting: Setting) -> Work:
    return Work(records=True)


def _measure(setting: Setting) -> Found:
    if len(text_pairs(setting.profile, setting.task)) < 2:
        return {"skipped": "the run has one pair, and there is no difference between pairs to explain"}
    records = setting.records
    alive = records.shares.mean(0) > 0
    relative = records.shares[:, alive] / records.shares[:, alive].mean(0)
    parts = records.parts[alive]
    items = list(dict.fromkeys(records.items.tolist()))
    members = [np.flatnonzero(records.items == item) for item in items]

    def figure(without: int | None) -> dict[str, float]:
        taken = [index for index in range(len(items)) if index != without]
        rows = np.concatenate([members[index] for index in taken])
        blocks = np.concatenate([np.full(len(members[index]), index) for index in taken])
        return remaining(relative[rows], records, rows, blocks if records.parallel else np.zeros_like(blocks), parts)

    whole, left_out = figure(None), [figure(index) for index in range(len(items))]
    result = {name: jackknife(whole, left_out, name) for name in whole}
    by_pair = {
        pair: {
            "length": float(records.lengths[records.pairs == pair].mean()),
            "loss": float(records.losses[records.pairs == pair].mean()),
        }
        for pair in dict.fromkeys(records.pairs.tolist())
    }
    return {
        "items": len(items),
        "neurons": {part: int((parts == part).sum()) for part in dict.fromkeys(parts.tolist())},
        "parallel": records.parallel,
        "pairs": by_pair,
        "figures": result,
        "interval": "95 % jackknife interval over items",
    }


def remaining(
    shares: Array, records: Records, rows: np.ndarray, blocks: np.ndarray, parts: np.ndarray
) -> dict[str, float]:
    """Return, per part and set of covariates, the share of what pairs explain that is left; and what pairs explain.

    Args:
        shares: (samples, neurons), relative to each neuron's mean.
        records: where lengths, losses and pairs of the samples are.
        rows: which samples of the records these are.
        blocks: the block of each sample, whose mean is taken off.
        parts: of the neurons.
    """
    length, loss = np.log(records.lengths[rows]), records.losses[rows]
    pairs = records.pairs[rows]
    names = list(dict.fromkeys(records.pairs.tolist()))
    dummies = np.stack([pairs == name for name in names[1:]], axis=1).astype(np.float64)
    columns = {"length": length[:, None], "loss": loss[:, None]}
    y, own_pairs = demeaned(shares, blocks), demeaned(dummies, blocks)
    spread, noise = pair_spread(y, own_pairs, None, blocks)
    total = np.square(demeaned(shares, np.zeros_like(blocks))).sum(0) / len(rows)
    result = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for part in dict.fromkeys(parts.tolist()):
            own = parts == part
            signal = float((spread - noise)[own].sum())
            result[f"{part}/pairs"] = float(spread[own].sum() / total[own].sum())
            result[f"{part}/pairs beyond noise"] = signal / float(total[own].sum())
            for title, used in COVARIATES.items():
                taken = demeaned(np.concatenate([columns[name] for name in used], axis=1), blocks)
                left, error = pair_spread(y, own_pairs, taken, blocks)
                result[f"{part}/{title}"] = float((left - error)[own].sum()) / signal if signal > 0 else float("nan")
    return result


def demeaned(x: Array, blocks: np.ndarray) -> Array:
    """Take the mean over each block off; least squares on what is left is that with a constant for each block."""
    _, index, count = np.unique(blocks, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), x.shape[1]))
    np.add.at(sums, index, x)
    return np.asarray(x - (sums / count[:, None])[index])


def pair_spread(y: Array, pairs: Array, covariates: Array | None, blocks: np.ndarray) -> tuple[Array, Array]:
    """Return the variance of the pair effects [N], and what of it sampling noise makes on average.

    Args:
        y: (samples, N), means over blocks taken off.
        pairs: (samples, K - 1), dummies of all pairs but the first, treated alike.
        covariates: (samples, C), treated alike; None without.
        blocks: the block of each sample.
    """
    design = pairs if covariates is None else np.concatenate([pairs, covariates], axis=1)
    k = pairs.shape[1] + 1
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    effects = np.concatenate([np.zeros((1, y.shape[1])), solution[: k - 1]])
    freedom = max(1, len(y) - len(np.unique(blocks)) - int(np.linalg.matrix_rank(design)))
    error = np.square(y - design @ solution).sum(0) / freedom
    scatter = np.zeros((k, k))
    scatter[1:, 1:] = np.linalg.pinv(design.T @ design)[: k - 1, : k - 1]
    centring = np.eye(k) - 1 / k
    return effects.var(0), error * float(np.trace(centring @ scatter)) / k


def _sentence(result: Found) -> str:
    figures_of = result["figures"]
    parts = [part for part in result["neurons"] if _beyond_noise(result, part)]
    silent = [part for part in result["neurons"] if part not in parts]
    text = []
    if parts:
        share = ", ".join(f"{_percent(figures_of[f'{p}/pairs beyond noise'], 1)} % ({p})" for p in parts)
        left = ", ".join(f"{_percent(figures_of[f'{p}/length and loss'])} % ({p})" for p in parts)
        text.append(
            f"Pairs explain, beyond noise, {share} of the variance of importance between samples; of that, once "
            f"target length and loss are taken into account, there remains {left}"
        )
    if silent:
        text.append(f"What pairs explain is not beyond noise in the {' and the '.join(silent)} part")
    return ". ".join(text) + "."


def _beyond_noise(result: Found, part: str) -> bool:
    """Whether there is anything to explain: a share of nothing says nothing."""
    low = result["figures"][f"{part}/pairs beyond noise"]["low"]
    return known(low) and low > 0 and known(result["figures"][f"{part}/length and loss"]["mean"])


def _tables(result: Found) -> list[Table]:
    head = [
        "",
        "neurons",
        "explained by pairs, %",
        "beyond noise, %",
        *(f"left after {title}, %" for title in COVARIATES),
    ]
    rows = []
    for part, count in result["neurons"].items():
        cells = [_percent(result["figures"][f"{part}/{name}"], 1) for name in ("pairs", "pairs beyond noise")]
        some = _beyond_noise(result, part)
        cells += [_percent(result["figures"][f"{part}/{name}"]) if some else "none to share" for name in COVARIATES]
        rows.append([part, f"{count:,}", *cells])
    pairs = [["", "target tokens", "nats a token"]]
    pairs += [[pair, f"{row['length']:.1f}", f"{row['loss']:.3f}"] for pair, row in result["pairs"].items()]
    return [Table("Variance of importance between samples", [head, *rows]), Table("How the pairs differ", pairs)]


def _percent(value: dict[str, Any], digits: int = 0) -> str:
    if not all(map(known, value.values())):
        return "unknown"
    return interval({name: 100 * number for name, number in value.items()}, digits)


def _figures(result: Found) -> list[Figure]:
    rows = [
        (f"{part}, after {title}", {n: 100 * v for n, v in result["figures"][f"{part}/{title}"].items()}, part)
        for part in result["neurons"]
        for title in COVARIATES
        if _beyond_noise(result, part)
    ]
    if not rows:
        return []
    draw = figures.dots(rows, "what pairs explain that is left, %", marks=(100.0,))
    return [Figure("difficulty", "Dots with intervals: " + _sentence(result), draw)]


KIND = Kind(
    name="difficulty",
    title="Difficulty: are pairs different, or only harder",
    question="How much of what differs between pairs is left once target length and loss are taken into account?",
    version=1,
    work=_work,
    measure=_measure,
    sentence=_sentence,
    tables=_tables,
    figures=_figures,
    options=("items",),
)
