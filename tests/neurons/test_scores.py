"""Scores against brute force or their source's definition; feed-forward units; scores that need no data."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from neuroglot.errors import UserError
from neuroglot.models.families import family_of
from neuroglot.neurons.ffn import feed_forwards, ffn_layers
from neuroglot.neurons.inventory import inventory
from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.profiling.positions import Positions
from neuroglot.neurons.profiling.scores import (
    SCORES,
    LayerUse,
    adapter_movement,
    lape,
    movement,
    neuron_norms,
    random_scores,
    weight_of,
    with_static,
)

DE, FR = "image_translation:en-de", "image_translation:en-fr"
UNIT_SCORES = ("taylor_token", "taylor_sample", "gradient", "activation", "activation_probability")


def brute_units(kit, model, samples, blocks, token_class="all"):
    """Score -> block -> [samples, N]: retain_grad on what the writing matrix takes in, one sample at a time."""
    out: dict[str, dict[str, list]] = {}
    for sample in samples:
        inputs = kit.collate([sample])
        labels = inputs.pop("labels")
        taken, gates, hooks = {}, {}, []
        for block in blocks:

            def keep(module, args, name=block.name, taken=taken):
                args[0].retain_grad()
                taken[name] = args[0]

            hooks.append(model.get_submodule(block.writes).register_forward_pre_hook(keep))
            gate = model.get_submodule(block.reads[0])

            def see(module, args, output, name=block.name, gates=gates):
                gates[name] = output.detach().reshape(-1, output.shape[-1])

            hooks.append(gate.register_forward_hook(see))
        model(**inputs, labels=labels).loss.backward()
        for hook in hooks:
            hook.remove()
        for block in blocks:
            a = taken[block.name].detach().reshape(-1, block.neurons)
            g = taken[block.name].grad.reshape(-1, block.neurons)
            gate = gates[block.name]
            if block.part == "language" and token_class == "target":
                mask = labels[0] != -100
                a, g, gate = a[mask], g[mask], gate[mask]
            values = {
                "taylor_token": (a * g).abs().mean(0), "taylor_sample": (a * g).mean(0).abs(),
                "gradient": g.abs().mean(0), "activation": a.abs().mean(0),
                "activation_probability": (torch.nn.functional.silu(gate) > 0).double().mean(0),
            }  # fmt: skip
            for score, value in values.items():
                out.setdefault(score, {}).setdefault(block.name, []).append(value)
    return {s: {n: torch.stack(v) for n, v in by.items()} for s, by in out.items()}


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["off", "non-reentrant", "reentrant"])
def test_feed_forward_units_equal_brute_force(kit, checkpointing):
    model = kit.make_llava()
    samples = kit.make_samples(4)
    blocks = ffn_layers(model)
    assert [b.part for b in blocks] == ["vision"] * 3 + ["connector"] + ["language"] * 2
    expected = {c: brute_units(kit, model, samples, blocks, c) for c in ("all", "target")}
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    batch = (kit.collate(samples, "left"), DE)
    found = profile(model, [batch], UNIT_SCORES, ("all", "target"), neurons="ffn")
    assert found.layers == blocks
    for token_class, by_score in expected.items():
        for score in UNIT_SCORES:
            mean = found.mean(score, token_class)
            for block in blocks:
                value = by_score[score][block.name].mean(0)
                kit.assert_relatively_close(mean[block.name][0], value, what=f"{token_class} {score} {block.name}")
    # A gate's unit is on where its gate is, whatever the sign of what goes up with it.
    name = blocks[-1].name
    positive = found.sums[name][0, UNIT_SCORES.index("activation_probability"), 0]
    assert not torch.equal(positive, torch.zeros_like(positive))


def test_rows_and_units_in_one_pass_are_those_of_two(kit, llava):
    batches = [(kit.collate(kit.make_samples(3)), DE, ("a", "b", "c"))]
    both, rows, units = (profile(llava, batches, neurons=which) for which in ("both", "rows", "ffn"))
    assert both.layers == (*rows.layers, *units.layers)
    assert both.fingerprint == rows.fingerprint == units.fingerprint
    for kind in ("sums", "squares", "share_sums", "share_squares"):
        for apart in (rows, units):  # rows share among rows, units among units
            for name, x in getattr(apart, kind).items():
                torch.testing.assert_close(getattr(both, kind)[name], x, rtol=1e-12, atol=0)
    for part in ("vision", "connector", "language"):
        total = sum(both.importance("taylor_token")[x.name].sum() for x in both.layers if x.part == part)
        assert float(total) == pytest.approx(2.0)


def test_a_units_weight_is_its_rows_and_its_column(kit, llava):
    found = profile(llava, [(kit.collate(kit.make_samples(2)), DE)], neurons="both").static["weight"]
    for block in feed_forwards(llava):
        matrices = [llava.get_submodule(name).weight for name in block.reads]
        whole = torch.cat([*matrices, llava.get_submodule(block.writes).weight.T], 1)
        torch.testing.assert_close(found[block.name], whole.norm(dim=1).detach(), rtol=1e-6, atol=0)
    for layer in inventory(llava):
        weight = llava.get_submodule(layer.name).weight
        torch.testing.assert_close(found[layer.name], weight.norm(dim=1).detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("tokens", ["image", "prompt", "target"])
def test_row_gradient_of_a_token_class(kit, llava, tokens):
    """Of the masked tokens alone: sum over them of gradient times input, by plain autograd, a sample at a time."""
    samples = kit.make_samples(3)
    layers = [x for x in inventory(llava) if x.part == "language"]
    expected = {layer.name: [] for layer in layers}
    for sample in samples:
        inputs = kit.collate([sample])
        labels, ids = inputs.pop("labels"), inputs["input_ids"][0]
        held, hooks = {}, []
        for layer in layers:

            def keep(module, args, output, name=layer.name, held=held):
                output.retain_grad()
                held[name] = args[0].detach(), output

            hooks.append(llava.get_submodule(layer.name).register_forward_hook(keep))
        llava(**inputs, labels=labels).loss.backward()
        for hook in hooks:
            hook.remove()
        image, target = ids == kit.IMAGE, labels[0] != -100
        mask = {"image": image, "target": target, "prompt": ~image & ~target}[tokens]
        for name, (x, y) in held.items():
            expected[name].append((y.grad[0, mask].T @ x[0, mask]).norm(dim=1))
    llava.zero_grad()
    found = profile(llava, [(kit.collate(samples, "left"), DE)], ("row_gradient",), (tokens,))
    for name, rows in expected.items():
        kit.assert_relatively_close(
            found.mean("row_gradient", tokens)[name][0], torch.stack(rows).mean(0), 2e-5, what=name
        )


@pytest.mark.parametrize("tokens", [2, 60])
def test_row_gradient_is_the_same_by_either_product(kit, tokens):
    """Few tokens go through their products with each other, many through the weight gradient."""
    model = kit.make_llava()
    layer = next(x for x in inventory(model) if x.name.endswith("layers.1.mlp.gate_proj"))
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(6, 60, (2, tokens), generator=g)
    labels = ids.clone()
    positions = Positions(model, family_of(model),
                          {"input_ids": ids, "labels": labels}, ("all",))  # fmt: skip
    gradient = torch.randn(2, tokens, layer.neurons, generator=g, dtype=torch.float64)
    taken = torch.randn(2, tokens, layer.inputs, generator=g, dtype=torch.float64)
    found = SCORES["row_gradient"].per_sample(positions, layer, LayerUse(gradient, None, taken), gradient)
    torch.testing.assert_close(found[:, 0], (gradient.transpose(1, 2) @ taken).norm(dim=2))


def test_lape_is_the_entropy_of_activation_probabilities(kit):
    """Tang et al. 2024, Eq. 4 to 6: probabilities over languages, divided by their sum; low is specific."""
    p = torch.tensor([[0.8, 0.3, 0.0, 0.0], [0.0, 0.3, 0.0, 0.1], [0.0, 0.3, 0.0, 0.3]])
    made = kit.make_profile({"l": p}, kit.conditions_of("de fr cs"), activation_probability={"l": p})
    found = lape(made)["l"]
    uneven = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(
        found, torch.tensor([0.0, math.log(3), math.log(3), uneven]).double(), rtol=1e-6, atol=0
    )
    assert int(found.argmin()) == 0
    two = lape(made, conditions=made.conditions[1:])["l"]
    torch.testing.assert_close(two[1], torch.tensor(math.log(2)).double())
    with pytest.raises(UserError, match="score 'activation_probability' is not in the profile"):
        lape(kit.make_profile({"l": p}, kit.conditions_of("de fr cs")))


def test_movement_is_the_norm_of_what_changed(kit):
    before, after = kit.make_llava(), kit.make_llava()
    layers = (*inventory(before), *ffn_layers(before))
    block = feed_forwards(before)[-1]
    with torch.no_grad():
        after.get_submodule(block.reads[0]).weight[3] += 0.5
        after.get_submodule(block.writes).weight[:, 5] += 0.25
    found = movement(weight_of(before), weight_of(after), layers)
    inputs, outputs = after.get_submodule(block.reads[0]).in_features, after.get_submodule(block.writes).out_features
    moved = {name: x for name, x in found.items() if bool((x > 1e-6).any())}
    assert moved.keys() == {block.reads[0], block.writes, block.name}
    assert found[block.reads[0]].nonzero().tolist() == [[3]]
    assert float(found[block.reads[0]][3]) == pytest.approx(0.5 * inputs**0.5)
    assert found[block.writes].tolist() == pytest.approx([0.25] * outputs)
    assert found[block.name].nonzero()[:, 0].tolist() == [3, 5]
    assert float(found[block.name][5]) == pytest.approx(0.25 * outputs**0.5)


def test_movement_of_lora_is_that_of_the_merged_weights(kit):
    names = [x.name for x in inventory(kit.make_llava()) if "language" in x.name]
    tuned = get_peft_model(kit.make_llava(), LoraConfig(r=2, target_modules=names, lora_alpha=6))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    base = kit.make_llava()
    layers = (*inventory(base), *ffn_layers(base))
    found = adapter_movement(tuned, layers)
    expected = movement(weight_of(base), weight_of(tuned.merge_and_unload()), layers)
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=1e-5, atol=1e-6)
        assert bool(x.any()) == ("language" in name)


def test_static_scores_are_those_of_every_condition_and_survive_the_file(kit, tmp_path):
    made = kit.make_profile({"l": torch.ones(2, 3)}, kit.conditions_of("de fr"))
    with pytest.raises(UserError, match="score 'movement' is not known for l, which nobody has measured"):
        made.mean("movement")
    moved = with_static(made, movement={"l": torch.tensor([1.0, 2.0, 3.0])})
    moved.save(tmp_path / "p.safetensors")
    read = type(made).load(tmp_path / "p.safetensors")
    assert read.mean("movement")["l"].tolist() == [[1, 2, 3]] * 2
    assert read.mean("weight")["l"].tolist() == [[3, 2, 1]] * 2


def test_random_scores_depend_on_seed_and_name_alone(llava):
    layers = inventory(llava)
    one, again, other = random_scores(layers, 0), random_scores(layers[5:], 0), random_scores(layers, 1)
    assert all(torch.equal(x, one[name]) for name, x in again.items())
    assert not any(torch.equal(x, other[name]) for name, x in one.items())


def test_a_quantised_weight_has_no_norm(llava):
    layers = inventory(llava)[:2]
    weights = {layers[0].name: torch.zeros(4, 4, dtype=torch.uint8), layers[1].name: torch.ones(16, 16)}
    assert list(neuron_norms(weights.__getitem__, layers)) == [layers[1].name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neurons": "units"}, "neurons 'units' is not known; known: both, ffn, rows"),
        ({"neurons": "ffn", "scores": ("row_gradient",)}, "score 'row_gradient' is one of rows, got neurons=ffn"),
    ],
)
def test_mistakes_with_neurons_are_explained(llava, change, message):
    with pytest.raises(UserError, match=message):
        profile(llava, **{"batches": [], **change})
