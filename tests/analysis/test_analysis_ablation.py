"""Ablation: what hooks do is what editing weights by hand does, and planted units show on the diagonal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analysis_kit import own_outputs, setting_of

from neuroglot.analysis import ablation
from neuroglot.analysis.ablation import (
    Losses,
    Place,
    _taken,
    ablated,
    exchanged,
    mean_units,
    measure_trained,
    place_of,
    size_of,
)
from neuroglot.errors import UserError
from neuroglot.neurons import Layer, feed_forwards
from neuroglot.pipeline.evaluation import with_adapter
from neuroglot.selection import Selection
from neuroglot.systems import HFSystem
from neuroglot.tuner import Adapter

LANGUAGE = "model.language_model.layers.1"


@pytest.fixture(scope="module")
def losses(setting):
    return Losses(setting, setting.model)


def edited(model, edits, losses):
    """The nats with some weights set to zero by hand: (parameter, axis, indices)."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    try:
        with torch.no_grad():
            for name, axis, index in edits:
                model.get_parameter(name).index_fill_(axis, index, 0)
        return losses.nats()
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(kept[name])


def test_zero_is_what_zeroing_weights_by_hand_gives(setting, losses):
    model, rows = setting.model, torch.tensor([0, 3, 17])
    vision = next(layer for layer in setting.profile.layers if layer.part == "vision" and layer.bias)
    block = next(block for block in feed_forwards(model, ("language",)) if block.name.startswith(LANGUAGE))
    units = Layer(block.name, "language", block.units, 0, False, reads=block.reads, writes=block.writes)
    cases = [
        ({place_of(model, f"{LANGUAGE}.self_attn.v_proj"): rows}, [(f"{LANGUAGE}.self_attn.v_proj.weight", 0, rows)]),
        (
            {place_of(model, vision): rows},
            [(f"{vision.name}.weight", 0, rows), (f"{vision.name}.bias", 0, rows)],
        ),
        ({place_of(model, block.writes, 1): rows}, [(f"{block.writes}.weight", 1, rows)]),  # columns of a selection
        ({place_of(model, units): rows}, [(f"{name}.weight", 0, rows) for name in block.reads]),  # a block's units
    ]
    base = losses.nats()
    for units_of, edits in cases:
        with ablated(model, units_of):
            found = losses.nats()
        np.testing.assert_allclose(found, edited(model, edits, losses), rtol=1e-5)
        assert np.abs(found - base).max() > 1e-4, "the ablation did nothing"
        assert (losses.nats() == base).all(), "something stayed silent"


def test_a_bare_matrix_is_zeroed_and_put_back(setting):
    model = torch.nn.Module()
    model.matrix = torch.nn.Parameter(torch.randn(4, 6))
    before = model.matrix.detach().clone()
    place = place_of(model, Layer("matrix", "connector", 6, 4, False, axis=1))
    assert place == Place("matrix", "matrix", 1)
    assert size_of(model, place) == 6
    with ablated(model, {place: torch.tensor([1, 5])}):
        assert (model.matrix[:, [1, 5]] == 0).all()
        assert (model.matrix[:, [0, 2, 3, 4]] == before[:, [0, 2, 3, 4]]).all()
    assert (model.matrix == before).all()
    with pytest.raises(UserError, match="--ablate zero"), ablated(model, {place: torch.tensor([1])}, {}):
        pass
    with pytest.raises(UserError, match="no layer"):
        place_of(setting.model, "model.nothing")


def test_means_are_those_of_single_samples_and_replace_the_output(setting, losses):
    model, name, rows = setting.model, f"{LANGUAGE}.self_attn.o_proj", torch.tensor([2, 9])
    examples = setting.heldout[:5]
    place = place_of(model, name)
    means = mean_units(model, {place: "language"}, setting.context.batcher.batches(examples, 3))
    expected = own_outputs(model, name, [b for e in examples for b in setting.context.batcher.batches([e], 1)])
    torch.testing.assert_close(means[place], expected, rtol=1e-4, atol=1e-6)
    seen = []
    with ablated(model, {place: rows}, means):
        handle = model.get_submodule(name).register_forward_hook(lambda m, a, output: seen.append(output[..., rows]))
        losses.nats()
        handle.remove()
    assert all((x == means[place][rows]).all() for x in seen)


def test_losses_are_those_of_the_evaluation(setting, losses):
    fresh = HFSystem(setting.model, setting.context.batcher, "base", 1).nll(losses.examples)
    np.testing.assert_allclose(losses.nats(), losses.spread(fresh), rtol=1e-4)
    items = {e.item for e in losses.examples}
    assert not items & {e.item for e in setting.context.corpus.train}
    ones = np.ones(len(losses.items))
    pair = losses.pairs[0]
    mine = [(nats, e) for nats, e in zip(fresh, losses.examples, strict=True) if str(e.pair) == pair]
    expected = sum(nats for nats, _ in mine) / sum(len(e.target) for _, e in mine)
    assert losses.per_character(losses.nats(), ones)[0] == pytest.approx(expected, rel=1e-4)


def test_random_groups_have_the_same_size_in_each_layer_and_come_from_the_pool():
    units = {"a": torch.arange(5), "b": torch.arange(2)}
    pool = {"a": torch.arange(40), "b": torch.tensor([3, 5, 8, 9])}
    one, other = (ablation.drawn_like(units, pool, seed) for seed in (1, 2))
    assert {name: len(index) for name, index in one.items()} == {"a": 5, "b": 2}
    assert set(one["b"].tolist()) <= {3, 5, 8, 9}
    assert not torch.equal(one["a"], other["a"])
    assert all(len(index.unique()) == len(index) for index in one.values())


def test_a_fragile_pair_does_not_make_a_diagonal():
    masks = np.array([[True, False, False], [False, True, False], [False, False, True], [True, True, True]])
    fragile = np.tile([0.1, 5.0, 0.3], (4, 1))
    assert ablation.diagonal(fragile, masks) == pytest.approx(0)
    assert ablation.diagonal(fragile + 2.0 * np.eye(4, 3), masks) == pytest.approx(2)
    assert np.isnan(ablation.diagonal(fragile[3:], masks[3:]))


def two_letter_texts(tokenizer, count):
    """Texts such as `abababab`, a token a letter, that share no letter."""
    found, free = [], "abcdefghijklmnopqrstuvwxyz"
    for x, y in zip(free[::2], free[1::2], strict=True):
        ids = tokenizer(4 * (x + y), add_special_tokens=False)["input_ids"]
        if len(ids) == 8 and len(set(ids)) == 2:
            found.append((4 * (x + y), ids[:2]))
    return found[:count]


def planted(setting, tokens):
    """A model that says nothing but what units of its last feed-forward block say: after x, y, and after y, x."""
    model = setting.context.model()
    block = feed_forwards(model, ("language",))[-1]
    layers = model.get_submodule(block.name.rpartition(".")[0].rpartition(".")[0])
    flat = [token for pair in tokens for token in pair]
    answers = [token for x, y in tokens for token in (y, x)]
    with torch.no_grad():
        for layer in layers:  # the residual holds the token itself and nothing else
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        seen = layers[-1].post_attention_layernorm(model.get_input_embeddings().weight[flat])
        gate, up, down = (model.get_parameter(f"{name}.weight") for name in (*block.reads, block.writes))
        directions = torch.linalg.pinv(seen)  # column u is 1 on token u, 0 on the others
        head = model.get_output_embeddings().weight
        for unit, answer in enumerate(answers):
            gate[unit], up[unit] = 5 * directions[:, unit], 5 * directions[:, unit]
            down[:, unit] = 4 * head[answer] / head[answer].norm()
    return model, block.reads[0]


def test_planted_units_show_on_the_diagonal(setting):
    made = two_letter_texts(setting.context.batcher.tokenizer, 2)
    texts = dict(zip(("en-de", "en-fr"), made, strict=True))
    examples = [replace(e, target=texts[str(e.pair)][0]) for e in setting.heldout]
    model, module = planted(setting, [tokens for _, tokens in texts.values()])
    units = {pair: torch.tensor([2 * place, 2 * place + 1]) for place, pair in enumerate(texts)}
    ours = setting_of(setting.context.folder)
    ours.__dict__.update({"model": model, "heldout": examples})
    losses = Losses(ours, model)
    base = losses.nats()
    groups = {pair: (frozenset([pair]), {module: own}) for pair, own in units.items()}
    place = place_of(model, module)
    found = ablation.matrix(
        losses,
        base,
        groups,
        lambda units: ablated(model, {place: units[module]}),
        {module: torch.arange(size_of(model, place))},
        draws=5,
    )
    matrix = np.asarray(found["matrix"])
    own, other = np.diag(matrix), matrix[~np.eye(2, dtype=bool)]
    assert (own > 0.2).all()
    assert np.abs(other).max() < 0.1 * own.min()
    assert found["diagonal"]["mean"] == pytest.approx(own.mean() - other.mean())
    assert found["diagonal"]["low"] > 0
    assert found["diagonal_beyond_random"]["low"] > 0
    assert found["own_highest"] == found["specific_groups"] == 2
    assert abs(found["diagonal_random"]["mean"]) < 0.1 * found["diagonal"]["mean"]


def test_taking_out_what_a_group_learned_leaves_the_base_and_the_others(setting):
    base = setting.context.model()
    groups = ablation.groups_of(setting)
    known = {n: torch.cat([g[n] for _, g in groups.values() if n in g]).sort().values for n in setting.selection.rows}
    axes = dict.fromkeys(known, 0)
    before = {name: _taken(base, name, 0, index) for name, index in known.items()}
    original = {name: x.clone() for name, x in base.state_dict().items()}
    adapter = Adapter.load(setting.context.path("adapter"))
    trained = with_adapter(base, setting.context.path("adapter"))
    merged = {name: x.clone() for name, x in trained.state_dict().items()}
    assert any(not torch.equal(merged[name], original[name]) for name in original)

    every = {name: index[torch.randperm(len(index))] for name, index in known.items()}
    with exchanged(trained, every, axes, known, before):
        assert all(torch.equal(x, original[name]) for name, x in trained.state_dict().items())
    assert all(torch.equal(x, merged[name]) for name, x in trained.state_dict().items())

    _name, (group, units) = next((n, g) for n, g in groups.items() if n != ablation.AGNOSTIC)
    with exchanged(trained, units, axes, known, before):
        left = {key: x.clone() for key, x in trained.state_dict().items()}
    for module, text, learned in adapter:  # by hand: the base, and the deltas of the other groups
        expected = original[f"{module}.weight"][learned.rows.long()]
        if frozenset(text.split(",")) != group:
            expected = expected + learned.dense
        torch.testing.assert_close(left[f"{module}.weight"][learned.rows.long()], expected, rtol=0, atol=1e-6)


def test_an_adapter_of_another_selection_is_left_alone(own_setting):
    selection = own_setting.selection
    fewer = dict(list(selection.rows.items())[:-1])
    Selection(selection.pairs, fewer, selection.meta).save(own_setting.context.path("selection.safetensors"))
    assert measure_trained(own_setting, {}) == {"skipped": "the adapter was trained on another selection"}


def test_ranking_for_a_pair_puts_its_neurons_first_and_dead_ones_last(setting):
    conditions = setting.profile.of_task(setting.task)
    importance = setting.profile.importance(setting.score, setting.token_class, conditions)
    ranked = ablation.ranked_for(setting, 1)
    for name, x in list(importance.items())[:40]:
        order, mean, best = ranked[name], x.mean(0), x.amax(0)
        assert sorted(order.tolist()) == list(range(x.shape[1]))
        key = (x[1] - x[0]) / mean.where(mean > 0, torch.ones_like(mean))
        alive = (best >= 0.1 * best.mean()) & (mean > 0)
        count = int(alive.sum())
        assert alive[order[:count]].all()
        assert (key[order[:count]].diff() <= 0).all()
