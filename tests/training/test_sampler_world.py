"""Several processes: the sampler's runs, and what accelerate makes of them."""

from __future__ import annotations

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard

from neuroglot.errors import UserError
from neuroglot.training import OnePairBatchSampler

PAIRS = ["en-de"] * 23 + ["en-fr"] * 8 + ["en-cs"] * 1


def shards(world: int, size: int = 3, epoch: int = 0) -> list[list[list[int]]]:
    """Return each process's batches, by the class that accelerate prepares a DataLoader with."""
    found = []
    for rank in range(world):
        sampler = OnePairBatchSampler(PAIRS, size, seed=5, world=world)
        sampler.set_epoch(epoch)
        shard = BatchSamplerShard(sampler, world, rank)
        found.append(list(shard))
        assert len(found[-1]) == len(shard)
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_every_micro_step_is_of_one_pair_on_all_processes(world: int, size: int) -> None:
    ranks = shards(world, size)
    assert len({len(batches) for batches in ranks}) == 1
    for step in zip(*ranks, strict=True):
        assert len({PAIRS[index] for batch in step for index in batch}) == 1
        assert all(len(batch) == size for batch in step)


def test_every_item_is_seen_and_few_are_seen_again() -> None:
    seen = Counter(index for batches in shards(2) for batch in batches for index in batch)
    assert set(seen) == set(range(len(PAIRS)))
    assert sum(seen.values()) == 24 + 12 + 6, "each pair is filled up to whole runs of two batches of three"
    assert {PAIRS[index]: set() for index in seen}.keys() == {"en-de", "en-fr", "en-cs"}
    assert seen[31] == 6, "a pair of one item fills its run by itself"
    assert max(seen[index] for index in range(31)) == 2


def test_short_batches_would_be_lost_without_runs() -> None:
    """What the filling up is for: accelerate drops a run that ends in a short batch and mixes pairs between ranks."""
    ranks = [list(BatchSamplerShard(OnePairBatchSampler(PAIRS, 3, seed=5), 2, rank)) for rank in range(2)]
    lost = set(range(len(PAIRS))) - {index for batches in ranks for batch in batches for index in batch}
    mixed = [
        step for step in zip(*ranks, strict=False) if len({PAIRS[index] for batch in step for index in batch}) > 1
    ]
    assert lost or mixed


def test_the_order_follows_seed_and_epoch() -> None:
    assert shards(2) == shards(2)
    assert shards(2) != shards(2, epoch=1)


def test_length_and_mistakes() -> None:
    sampler = OnePairBatchSampler(PAIRS, 3, world=2)
    assert len(sampler) == len(list(sampler)) == 8 + 4 + 2
    with pytest.raises(UserError, match="world must be 1 or more, got 0"):
        OnePairBatchSampler(PAIRS, 3, world=0)
