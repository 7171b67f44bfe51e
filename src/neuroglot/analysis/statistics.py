"""The statistics of the analysis: rank correlation, overlap with its chance level, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

DRAWS = 2000
LEVEL = 95.0
"""Per cent that an interval covers."""


def spearman(x: Array, y: Array) -> float:
    """Return the rank correlation; NaN where one of the two is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def kendall(x: Array, y: Array) -> float:
    """Return Kendall's tau-b; NaN where one of the two is constant."""
    return float(stats.kendalltau(x, y).statistic) if len(x) > 1 else float("nan")


def spearman_brown(r: float, factor: float) -> float:
    """Return the correlation expected with `factor` times as much data on both sides."""
    return factor * r / (1 + (factor - 1) * r)


def times_needed(r: float, wanted: float) -> float:
    """Return how many times as much data takes a correlation from r to `wanted`, by Spearman and Brown's formula."""
    return wanted * (1 - r) / (r * (1 - wanted)) if 0 < r < 1 else float("nan") if r <= 0 else 0.0


def overlap(a: set[int], b: set[int]) -> tuple[int, int]:
    """Return the sizes of intersection and union."""
    return len(a & b), len(a | b)


def chance_overlap(a: int, b: int, of: int) -> tuple[float, float]:
    """Return the expected sizes of intersection and union of random sets of a and b out of `of`."""
    both = a * b / of if of else 0.0
    return both, a + b - both


def jaccard(pieces: Sequence[tuple[float, float]]) -> float:
    """Return the ratio of summed intersections and summed unions; of expected sizes, the Jaccard that chance gives.

    With expected sizes it is a ratio of expectations, which for sets of more than a few is that of the ratio.
    """
    union = sum(piece[1] for piece in pieces)
    return sum(piece[0] for piece in pieces) / union if union else float("nan")


def resamples(count: int, draws: int = DRAWS, seed: int = 0) -> Array:
    """Return how often each unit is drawn: (1 + draws, count); the first row is the data as it is."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, [1 / count] * count, draws)
    return np.concatenate([np.ones((1, count)), drawn]).astype(np.float64)


def spanned(values: Array) -> dict[str, float]:
    """Return the first value as the mean and the percentile interval of the others (draws)."""
    rest = values[1:][np.isfinite(values[1:])]
    if not len(rest):
        return {"mean": float(values[0]), "low": float(values[0]), "high": float(values[0])}
    low, high = np.percentile(rest, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def mean_interval(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Return the mean of repetitions and its percentile bootstrap interval, of one none; NaN are left out."""
    x = np.asarray([value for value in values if np.isfinite(value)], dtype=np.float64)
    if len(x) < 2:
        return {"mean": float(x[0]) if len(x) else float("nan"), "low": float("nan"), "high": float("nan")}
    weights = resamples(len(x), seed=seed)
    return spanned(weights @ x / len(x))


def jackknife(whole: Mapping[str, float], left_out: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    """Return a figure and its interval, from what it is with each unit left out once (Tukey 1958).

    Unlike a bootstrap it never shows a unit twice, which a residual variance would take for less noise.
    """
    x = np.asarray([one[name] for one in left_out], dtype=np.float64)
    mean = float(whole[name])
    if len(x) < 2 or not np.isfinite(x).all():
        return {"mean": mean, "low": float("nan"), "high": float("nan")}
    error = np.sqrt((len(x) - 1) / len(x) * np.square(x - x.mean()).sum())
    reach = float(stats.t.ppf(0.5 + LEVEL / 200, len(x) - 1) * error)
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def finite(value: object) -> object:
    """Return a JSON value in which a NaN, which JSON does not know, is null."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else bool(value) if isinstance(value, np.bool_) else value
