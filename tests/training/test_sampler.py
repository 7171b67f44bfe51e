"""One pair a batch, every item once an epoch, the same order for the same seed and epoch."""

from __future__ import annotations

import itertools

import pytest

from neuroglot.errors import UserError
from neuroglot.training import OnePairBatchSampler

PAIRS = ["en-de", "en-fr", "en-de", "en-cs"] * 10


def test_batches_are_of_one_pair_and_cover_everything_once() -> None:
    sampler = OnePairBatchSampler(PAIRS, 4, seed=3)
    batches = list(sampler)
    assert all(len({PAIRS[i] for i in batch}) == 1 for batch in batches)
    assert sorted(i for batch in batches for i in batch) == list(range(40))
    assert len(batches) == len(sampler) == 5 + 3 + 3
    assert sorted(map(len, batches)) == [2, 2] + [4] * 9


def test_pairs_are_mixed_over_the_epoch() -> None:
    pairs = PAIRS * 5
    order = [pairs[batch[0]] for batch in OnePairBatchSampler(pairs, 4)]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes > len(order) // 3


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def epoch(seed: int, number: int) -> list[list[int]]:
        sampler = OnePairBatchSampler(PAIRS, 4, seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(1, 2) == epoch(1, 2)
    assert epoch(1, 2) != epoch(1, 3)
    assert epoch(1, 2) != epoch(2, 2)
    sampler = OnePairBatchSampler(PAIRS, 4, 1)
    assert list(sampler) == list(sampler) == epoch(1, 0)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="no examples"):
        OnePairBatchSampler([], 4)
    with pytest.raises(UserError, match="batch_size must be 1 or more, got 0"):
        OnePairBatchSampler(PAIRS, 0)
