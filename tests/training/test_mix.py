"""What an epoch is made of: pairs by temperature, kinds that no batch mixes, other tasks in their share."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import accumulate

import pytest
from accelerate.data_loader import BatchSamplerShard

from neuroglot.errors import UserError
from neuroglot.training import Mix, OnePairBatchSampler
from neuroglot.training.sampler import quotas

SIZES = {"en-de": 810, "en-fr": 160, "en-cs": 30}
PAIRS = [pair for pair, size in SIZES.items() for _ in range(size)]


def epochs(sampler: OnePairBatchSampler, count: int = 1) -> list[list[int]]:
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found += list(sampler)
    return found


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0, 5.0, 100.0])
@pytest.mark.parametrize("size", [1, 16])
def test_pairs_share_an_epoch_by_temperature(temperature: float, size: int) -> None:
    sampler = OnePairBatchSampler(PAIRS, size, seed=2, mix=Mix(temperature=temperature))
    batches = epochs(sampler)
    assert len(batches) == len(sampler)
    drawn = Counter(PAIRS[index] for batch in batches for index in batch)
    assert sum(drawn.values()) == len(PAIRS)
    weights = {pair: count ** (1 / temperature) for pair, count in SIZES.items()}
    for pair, weight in weights.items():
        assert abs(drawn[pair] - len(PAIRS) * weight / sum(weights.values())) < 1
    seen = Counter(index for batch in batches for index in batch)
    for pair, count in SIZES.items():
        times = [seen[index] for index, own in enumerate(PAIRS) if own == pair]
        assert max(times) - min(times) <= 1, "all items of a pair before any of them again"
        assert sum(times) == drawn[pair]
        assert temperature > 1 or times == [1] * count


def test_square_roots_in_whole_numbers() -> None:
    """At T = 2 the roots of 810, 160 and 90 are as 9 : 4 : 3, so that 1060 items are 596.25, 265 and 198.75."""
    sizes = {("a", ""): 810, ("b", ""): 160, ("c", ""): 90}
    assert quotas(sizes, 1.0) == sizes
    assert quotas(sizes, 2.0) == {("a", ""): 596, ("b", ""): 265, ("c", ""): 199}
    assert quotas({("a", ""): 81, ("b", ""): 16}, 4.0) == {("a", ""): 58, ("b", ""): 39}  # 97 in 3 : 2
    kinds = {("a", ""): 60, ("a", "image"): 21, ("b", ""): 16}
    assert quotas(kinds, 4.0) == {("a", ""): 43, ("a", "image"): 15, ("b", ""): 39}
    assert set(quotas(sizes, 1e9).values()) == {353, 354}


def test_a_pair_that_gets_less_shows_other_items_every_epoch() -> None:
    sampler = OnePairBatchSampler(PAIRS, 8, mix=Mix(temperature=100.0))
    first, both = ({i for b in epochs(sampler, n) for i in b if PAIRS[i] == "en-de"} for n in (1, 2))
    assert 320 <= len(first) <= 345
    assert len(both) > 1.4 * len(first)


def test_no_batch_mixes_kinds() -> None:
    kinds = ["image" if index % 3 else "" for index in range(len(PAIRS))]
    batches = epochs(OnePairBatchSampler(PAIRS, 8, mix=Mix(kinds)))
    assert all(len({(PAIRS[i], kinds[i]) for i in batch}) == 1 for batch in batches)
    assert sorted(i for batch in batches for i in batch) == list(range(len(PAIRS)))


REPLAYED = [("ocr image", "en-de")] * 50 + [("ocr image", "en-fr")] * 20 + [("text ", "en-fr")] * 7
MIXED = PAIRS + [pair for _, pair in REPLAYED]
KINDS = ["image"] * len(PAIRS) + [kind for kind, _ in REPLAYED]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("world", [1, 2])
def test_exactly_the_share_is_replayed_and_evenly(share: float, world: int) -> None:
    sampler = OnePairBatchSampler(MIXED, 1, seed=4, world=world, mix=Mix(KINDS, 1.0, len(REPLAYED), share))
    batches = epochs(sampler)
    assert len(batches) == len(sampler)
    replayed = [batch[0] >= len(PAIRS) for batch in batches[::world]]
    own = len(replayed) - sum(replayed)
    assert own == len(PAIRS) // world
    assert abs(Fraction(share).limit_denominator(100) - Fraction(sum(replayed), len(replayed))) < Fraction(1, own)
    for number, so_far in enumerate(accumulate(replayed), start=1):
        assert abs(so_far - share * number) < 1.01, "after any number of batches"
    if share in (0.5, 0.9) or (share == 0.25 and world == 1):
        assert abs(sum(replayed) / len(replayed) - share) < 1e-3


def test_a_tenth_of_every_hundred_batches() -> None:
    pairs = ["en-de"] * 900 + ["en-de"] * 40
    kinds = ["image"] * 900 + ["ocr image"] * 40
    batches = epochs(OnePairBatchSampler(pairs, 10, mix=Mix(kinds, 1.0, 40, 0.1)))
    samples = Counter(index >= 900 for batch in batches for index in batch)
    assert samples == {False: 900, True: 100}
    for start in range(0, 100, 10):
        assert sum(batch[0] >= 900 for batch in batches[start : start + 10]) == 1


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("items", [1, 3, 4, 11])
@pytest.mark.parametrize("world", [1, 2])
def test_few_batches_replay_their_share_too(share: float, items: int, world: int) -> None:
    pairs, kinds = ["en-de"] * (items + 5), ["image"] * items + ["ocr image"] * 5
    sampler = OnePairBatchSampler(pairs, 1, seed=3, world=world, mix=Mix(kinds, 1.0, 5, share))
    found, lengths = [], set()
    while len(found) < 400 * world:
        epoch = list(sampler)
        sampler.set_epoch(sampler.epoch + 1)
        found += epoch
        lengths.add(len(epoch))
        assert len(epoch) == len(sampler)
        seen = Counter(index for batch in epoch for index in batch if index < items)
        assert max(seen.values()) - min(seen.values()) <= sampler.passes * (world > 1 and items % 2)
        assert world > 1 or set(seen.values()) == {sampler.passes}
    assert len(lengths) == 1, "the Trainer finds its place by the length of an epoch"
    replayed = [batch[0] >= items for batch in found[::world]]
    assert abs(sum(replayed) / len(replayed) - share) < 0.011 * share + 1 / len(replayed)
    again = OnePairBatchSampler(pairs, 1, seed=3, world=world, mix=Mix(kinds, 1.0, 5, share))
    again.set_epoch(sampler.epoch - 1)
    assert list(again) == found[-len(again) :], "a function of seed and epoch alone"


def test_replayed_batches_are_full_and_of_one_task_and_pair() -> None:
    sampler = OnePairBatchSampler(MIXED, 8, seed=1, mix=Mix(KINDS, 1.0, len(REPLAYED), 0.4))
    batches = [batch for batch in epochs(sampler, 3) if max(batch) >= len(PAIRS)]
    assert all(min(batch) >= len(PAIRS) and len(batch) == 8 for batch in batches)
    assert all(len({(MIXED[i], KINDS[i]) for i in batch}) == 1 for batch in batches)
    tasks = Counter(KINDS[batch[0]] for batch in batches)
    assert abs(tasks["ocr image"] - tasks["text "]) <= 3, "tasks in turn, however many examples each has"
    assert {i for batch in batches for i in batch} == set(range(len(PAIRS), len(MIXED))), "all of them in the end"


def test_replay_leaves_the_rest_as_it_was() -> None:
    plain = OnePairBatchSampler(PAIRS, 8, seed=6)
    mixed = OnePairBatchSampler(MIXED, 8, seed=6, mix=Mix(None, 1.0, len(REPLAYED), 0.3))
    assert [batch for batch in epochs(mixed, 2) if batch[0] < len(PAIRS)] == epochs(plain, 2)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_replay_together(world: int) -> None:
    ranks = []
    for rank in range(world):
        sampler = OnePairBatchSampler(MIXED, 4, seed=5, world=world, mix=Mix(KINDS, 2.0, len(REPLAYED), 0.2))
        ranks.append(list(BatchSamplerShard(sampler, world, rank)))
    assert len({len(batches) for batches in ranks}) == 1
    for step in zip(*ranks, strict=True):
        assert len({(MIXED[i], KINDS[i]) for batch in step for i in batch}) == 1
        assert all(len(batch) == 4 for batch in step)


def test_mistakes() -> None:
    for mix, message in (
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0; 1 draws pairs by their size"),
        ({"share": 1.0}, r"replay must be in \[0, 1\), got 1.0"),
        ({"share": 0.1}, "replay is 0.1, and there are no items to replay"),
    ):
        with pytest.raises(UserError, match=message):
            Mix(**mix)
    with pytest.raises(UserError, match="there are no examples to train on"):
        OnePairBatchSampler(PAIRS, 4, mix=Mix(replayed=len(PAIRS)))
