"""What is read off profiles: noise, specificity and instruction contrast, against brute force on a real run."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from analysis_kit import setting_of
from scipy import stats
from test_analysis_difficulty import make_records

from neuroglot.analysis import instruction, noise, specificity
from neuroglot.analysis.profiles import Records
from neuroglot.data.corpus import items_in_turn
from neuroglot.neurons import profile
from neuroglot.neurons.selecting.statistics import specificity as f_test
from neuroglot.pipeline.neurons import profile_examples
from neuroglot.selection import Selection


@pytest.fixture(scope="module")
def chunked(smoke_run, tmp_path_factory):
    """A setting with two chunks of three items, profiled once for this file."""
    folder = tmp_path_factory.mktemp("chunks") / smoke_run.name
    shutil.copytree(smoke_run, folder)
    setting = setting_of(folder, items=3)
    assert setting.chunks.size == 3
    assert setting.chunks.count == 2
    setting.chunks.make(setting.model)
    return setting


@pytest.mark.slow
def test_chunks_add_up_to_the_profile_of_all_their_items(chunked):
    together = chunked.chunks.merged(chunked.model, [0, 1])
    examples = profile_examples(chunked.context, 6)
    batches = chunked.context.batcher.batches(examples, 3, chunked.recipe.profile.instructions)
    whole = profile(chunked.model, batches, scores=(chunked.score,))
    assert {str(c): int(n) for c, n in zip(together.conditions, together.counts[:, 0], strict=True)} == {
        str(c): int(n) for c, n in zip(whole.conditions, whole.counts[:, 0], strict=True)
    }
    pairs = whole.of_task(chunked.task)
    found, expected = (p.importance(chunked.score, conditions=pairs) for p in (together, whole))
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=2e-3, atol=1e-9)


def test_chunks_that_are_there_are_not_profiled_again(chunked):
    stamps = [file.stat().st_mtime_ns for file in chunked.chunks.make(chunked.model)]
    assert [file.stat().st_mtime_ns for file in chunked.chunks.make(chunked.model)] == stamps
    assert chunked.chunks.seconds(chunked.model) > 0


def test_agreement_of_two_profiles_is_what_scipy_and_sets_say(chunked):
    one, other = (chunked.chunks.merged(chunked.model, [k]) for k in range(2))
    found = noise.compare(one, other, chunked)
    pairs = one.of_task(chunked.task)
    x, y = (p.importance(chunked.score, conditions=pairs) for p in (one, other))
    names = [layer.name for layer in one.layers if layer.part == "language"]
    a, b = (torch.cat([values[name] for name in names], 1).numpy() for values in (x, y))
    assert found["importance/language"] == pytest.approx(stats.spearmanr(a.mean(0), b.mean(0)).statistic, abs=1e-9)

    sets = []
    for p in (one, other):
        chosen = chunked.choose(p)
        every = {(module, int(i)) for module, _, index in chosen for i in index}
        own = {(module, g, int(i)) for module, g, index in chosen for i in index if g != chosen.agnostic}
        sets.append((every, own, set(chosen.rows)))
    for place, name in enumerate(("sets", "specific", "layers")):
        p, q = sets[0][place], sets[1][place]
        assert found[name] == pytest.approx(len(p & q) / len(p | q))
    again = noise.compare(one, one, chunked)
    assert again["sets"] == again["layers"] == 1
    assert 0 < found["sets_chance"] < 1


def test_chance_of_random_sets_is_what_random_sets_give(chunked):
    rng = np.random.default_rng(0)
    whole = chunked.chunks.merged(chunked.model, [0])
    layers = {layer.name: layer.neurons for layer in whole.layers if layer.part == "language"}
    pairs = ("en-de", "en-fr")

    def random_selection():
        rows = {}
        for name, size in layers.items():
            order = torch.from_numpy(rng.permutation(size))
            rows[name] = {frozenset(pairs): order[: size // 3], frozenset(["en-de"]): order[-size // 8 :]}
        return Selection(pairs, rows)

    seen = [noise.compare_sets(random_selection(), random_selection(), whole) for _ in range(20)]
    for name in ("sets", "specific"):
        expected = seen[0][f"{name}_chance"]
        assert np.mean([one[name] for one in seen]) == pytest.approx(expected, rel=0.06)


def test_sizes_double_up_to_one_half():
    assert noise.sizes(16) == [1, 2, 4, 8]
    assert noise.sizes(12) == [1, 2, 4, 6]
    assert noise.sizes(2) == [1]
    assert noise.sizes(1) == []


def test_taking_a_chunk_off_is_the_others(chunked):
    whole = chunked.chunks.merged(chunked.model, [0, 1])
    one, other = (chunked.chunks.merged(chunked.model, [k]) for k in range(2))
    left = instruction.without(whole, one)
    assert torch.equal(left.counts, other.counts)
    found, expected = (p.importance(chunked.score) for p in (left, other))
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_contrast_of_tasks_is_what_brute_force_says(chunked):
    whole = chunked.chunks.merged(chunked.model, [0, 1])
    found = instruction.contrasts(whole, chunked, ["ocr", "describe"])
    x = whole.importance(chunked.score)
    rows = {task: [whole.conditions.index(c) for c in whole.of_task(task)] for task in (chunked.task, "ocr")}
    layers = [layer for layer in whole.layers if layer.part == "vision"]
    a, b = (torch.cat([x[layer.name][own].mean(0) for layer in layers]).numpy() for own in rows.values())
    assert found["vision/ocr/rank"] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)

    top = chosen = total = 0
    chance = 0.0
    for layer in layers:
        picked = {int(i) for index in chunked.selection.rows.get(layer.name, {}).values() for i in index}
        ours, theirs = (x[layer.name][own].mean(0).tolist() for own in rows.values())
        best = [set(sorted(range(layer.neurons), key=lambda i: -v[i])[: len(picked)]) for v in (ours, theirs)]
        top, chosen, total = top + len(best[0] & best[1]), chosen + len(picked & best[1]), total + len(picked)
        chance += len(picked) ** 2 / layer.neurons
    assert found["vision/ocr/top"] == pytest.approx(top / total)
    assert found["vision/ocr/chosen"] == pytest.approx(chosen / total)
    assert found["vision/chance"] == pytest.approx(chance / total)


@pytest.mark.slow
def test_records_are_the_shares_of_single_samples(chunked):
    records = Records.make(chunked.context, chunked.model, 2, chunked.score, lambda done: None)
    assert records.parallel
    assert records.shares.shape[0] == 2 * 2
    example = items_in_turn(chunked.context.corpus.profile, 2)[1]
    alone = profile(chunked.model, chunked.context.batcher.batches([example], 1), scores=(chunked.score,))
    share = alone.importance(chunked.score)
    row = records.shares[(records.items == example.item) & (records.pairs == str(example.pair))][0]
    for layer in alone.layers[:8]:
        own = row[records.layers == layer.name]
        known = share[layer.name][0].numpy()
        assert all(np.isclose(value, known, rtol=1e-3, atol=1e-12).any() for value in own)
    nats = chunked.context.system(chunked.model, "base").nll([example])[0]
    at = int(np.flatnonzero((records.items == example.item) & (records.pairs == str(example.pair)))[0])
    assert records.losses[at] * records.lengths[at] == pytest.approx(nats, rel=1e-4)
    labels = chunked.context.batcher.encode([example])["labels"]
    assert records.lengths[at] == int((labels != -100).sum())


def test_the_null_check_finds_nothing_where_the_test_found_what_was_planted():
    records = make_records(items=24, neurons=200, by_pair=0.0, seed=1)
    planted = np.arange(0, 200, 10)
    shares = np.abs(records.shares)
    shares[np.ix_(np.flatnonzero(records.pairs == "en-de"), planted)] += 0.5
    records = Records(**{**records.__dict__, "shares": shares})
    found = f_test(specificity.relabelled(records, "image_translation", None), "image_translation", "taylor_token")
    q = np.concatenate([found[name].q.numpy() for name in ("a", "b")])
    assert (q[planted] <= 0.05).all()
    assert specificity._significant(records, "image_translation", None)["vision"] == pytest.approx(0.1, abs=0.02)
    null = [specificity._significant(records, "image_translation", seed) for seed in range(10)]
    assert np.mean([one["vision"] for one in null]) < 0.01
    raw = [specificity._significant(records, "image_translation", seed, raw=True)["language"] for seed in range(10)]
    assert 0.02 < np.mean(raw) < 0.08


def test_relabelling_keeps_the_blocks_and_moves_the_pairs():
    records = make_records(items=5, neurons=6)
    as_it_is, moved = (specificity.relabelled(records, "image_translation", seed) for seed in (None, 3))
    by_hand = records.shares[records.pairs == "en-de"][:, records.layers == "a"].sum(0)
    row = [str(c.pair) for c in as_it_is.conditions].index("en-de")
    np.testing.assert_allclose(as_it_is.share_sums["a"][row, 0, 0].numpy(), by_hand)
    task = "image_translation"
    torch.testing.assert_close(as_it_is.blocks[task]["b"], moved.blocks[task]["b"])
    torch.testing.assert_close(as_it_is.share_squares["b"].sum(0), moved.share_squares["b"].sum(0))
    assert not torch.allclose(as_it_is.share_sums["b"], moved.share_sums["b"])


def test_sets_of_pairs_take_turns_where_items_are_not_parallel(setting):
    examples = setting.heldout
    pairs = sorted({str(e.pair) for e in examples})
    first = [e for e in examples if str(e.pair) == pairs[0]]
    second = [e for e in examples if str(e.pair) == pairs[1]]
    apart = [replace(e, item=f"{e.item}-{e.pair}") for e in first + second]
    taken = items_in_turn(apart, 2)
    assert {str(e.pair) for e in taken} == set(pairs)
    assert items_in_turn(examples, 1) == [e for e in examples if e.item == examples[0].item]
