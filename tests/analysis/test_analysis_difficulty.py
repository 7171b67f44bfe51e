"""Difficulty: least squares by hand, and data of which it is known what makes the difference."""

from __future__ import annotations

import numpy as np
import pytest

from neuroglot.analysis.difficulty import demeaned, pair_spread, remaining
from neuroglot.analysis.profiles import Records, draw_neurons

PAIRS = ("en-cs", "en-de", "en-fr", "en-hi")


def make_records(items=30, neurons=40, by_pair=0.0, by_length=0.0, seed=0):
    rng = np.random.default_rng(seed)
    names = [(f"i{item}", pair) for item in range(items) for pair in PAIRS]
    pair = np.array([PAIRS.index(p) for _, p in names])
    lengths = np.exp(2 + 0.3 * pair + rng.normal(0, 0.3, len(names)))
    losses = rng.normal(1, 0.2, len(names)) + 0.2 * pair
    own = rng.normal(size=(len(PAIRS), neurons))
    shares = 1 + by_pair * own[pair] + by_length * np.log(lengths)[:, None] * rng.normal(1, 0.2, neurons)
    shares += 0.3 * np.repeat(rng.normal(size=(items, neurons)), len(PAIRS), 0) + rng.normal(0, 0.1, shares.shape)
    return Records(
        shares=shares,
        parts=np.repeat(["vision", "language"], neurons // 2),
        layers=np.repeat(["a", "b"], neurons // 2),
        items=np.array([item for item, _ in names]),
        pairs=np.array([p for _, p in names]),
        lengths=lengths,
        losses=losses,
    )


def figures(records):
    rows = np.arange(len(records.items))
    blocks = np.unique(records.items, return_inverse=True)[1]
    return remaining(records.shares, records, rows, blocks, records.parts)


def test_pair_effects_are_those_of_a_whole_regression():
    records = make_records(by_pair=0.2, by_length=0.4)
    items = np.unique(records.items, return_inverse=True)[1]
    covariates = np.stack([np.log(records.lengths), records.losses], 1)
    pair = np.stack([records.pairs == p for p in PAIRS], 1).astype(float)
    whole = np.concatenate([pair, covariates, np.eye(items.max() + 1)[items][:, 1:]], 1)  # a constant for each item
    solution, residual, rank, _ = np.linalg.lstsq(whole, records.shares, rcond=None)
    assert rank == whole.shape[1]
    scatter = np.linalg.inv(whole.T @ whole)[:4, :4]
    noise = residual / (len(items) - rank) * (np.trace(scatter) - scatter.mean() * 4) / 4

    own = [demeaned(x, items) for x in (records.shares, pair[:, 1:], covariates)]
    found, taken_off = pair_spread(*own, items)
    np.testing.assert_allclose(found, solution[:4].var(0), rtol=1e-8)
    np.testing.assert_allclose(taken_off, noise, rtol=1e-8)


def test_length_explains_all_or_nothing_where_it_is_known_to():
    only_length = figures(make_records(by_length=0.5))
    assert only_length["vision/pairs beyond noise"] > 0.1
    assert only_length["vision/length and loss"] < 0.02
    only_pair = figures(make_records(by_pair=0.3))
    assert only_pair["language/length and loss"] == pytest.approx(1, abs=0.05)
    neither = np.mean([figures(make_records(seed=seed))["vision/pairs beyond noise"] for seed in range(20)])
    assert abs(neither) < 2e-4  # the variance of the noise is taken off, on average all of it


def test_drawn_neurons_are_of_their_layer_and_distinct():
    layers = [("vision", "a", 5), ("vision", "b", 30), ("language", "c", 700)]
    drawn = draw_neurons(layers, count=20, seed=3)
    sizes = {name: n for _, name, n in layers}
    for part in ("vision", "language"):
        assert sum(len(rows) for p, _, rows in drawn if p == part) == 20
    for _, name, rows in drawn:
        assert len(set(rows.tolist())) == len(rows)
        assert 0 <= rows.min() <= rows.max() < sizes[name]
    whole = draw_neurons([("vision", "a", 5), ("vision", "b", 3)], count=20)
    assert [rows.tolist() for _, _, rows in whole] == [[0, 1, 2, 3, 4], [0, 1, 2]]


def test_not_parallel_is_seen():
    records = make_records(items=3)
    assert records.parallel
    some = np.arange(len(records.items)) != 4
    fields = {name: getattr(records, name)[some] for name in ("shares", "items", "pairs", "lengths", "losses")}
    assert not Records(parts=records.parts, layers=records.layers, **fields).parallel
