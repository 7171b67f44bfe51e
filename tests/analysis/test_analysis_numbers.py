"""The statistics: each against its definition or a simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from neuroglot.analysis.statistics import (
    chance_overlap,
    finite,
    jaccard,
    jackknife,
    kendall,
    mean_interval,
    overlap,
    resamples,
    spearman,
    spearman_brown,
    times_needed,
)


def test_rank_correlations_are_scipys_with_ties():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 8, 60).astype(float)
    y = x + rng.normal(0, 3, 60)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))


def test_jaccard_by_chance_is_that_of_random_sets():
    rng = np.random.default_rng(1)
    layers = [(30, 24, 60), (5, 9, 40), (16, 16, 200)]  # sizes of the two sets, and of what they are drawn from
    seen = []
    for _ in range(2000):
        pieces = [
            overlap(*(set(rng.choice(n, size, replace=False).tolist()) for size in (a, b))) for a, b, n in layers
        ]
        seen.append(jaccard(pieces))
    expected = jaccard([chance_overlap(a, b, n) for a, b, n in layers])
    assert expected == pytest.approx(np.mean(seen), abs=0.01)
    assert jaccard([overlap({1, 2, 3}, {2, 3, 4}), overlap({7}, {7})]) == pytest.approx(3 / 5)
    assert np.isnan(jaccard([(0, 0)]))


def test_spearman_brown_predicts_longer_sums():
    rng = np.random.default_rng(2)
    signal, n = rng.normal(size=4000), 6
    noisy = signal + rng.normal(0, 2, (4 * n, 4000))  # parallel measurements
    few = np.corrcoef(noisy[:n].mean(0), noisy[n : 2 * n].mean(0))[0, 1]
    many = np.corrcoef(noisy[: 2 * n].mean(0), noisy[2 * n :].mean(0))[0, 1]
    assert spearman_brown(few, 2) == pytest.approx(many, abs=0.03)
    assert spearman_brown(few, times_needed(few, 0.9)) == pytest.approx(0.9)
    assert np.isnan(times_needed(-0.1, 0.9))


def test_jackknife_of_a_mean_is_the_t_interval():
    x = np.random.default_rng(3).normal(size=9)
    left_out = [{"mean": float(np.delete(x, place).mean())} for place in range(len(x))]
    found = jackknife({"mean": float(x.mean())}, left_out, "mean")
    low, high = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
    assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_bootstrap_interval_covers_the_mean():
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(200):
        found = mean_interval(rng.normal(5, 2, 30).tolist(), seed=trial)
        hits += found["low"] <= 5 <= found["high"]
    assert 175 <= hits <= 199  # 95 % less what a percentile interval of 30 values lacks
    assert (resamples(7, 50).sum(1) == 7).all()
    assert (resamples(7, 50)[0] == 1).all()


def test_json_has_no_number_that_is_none():
    found = finite({"a": np.float64("nan"), "b": (1, np.int64(2)), "c": {"d": np.array([1.5, np.inf])}, 5: np.True_})
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "a": None,
        "b": [1, 2],
        "c": {"d": [1.5, None]},
        "5": True,
    }
