"""Layer rankings: relevance, activation similarity, and keeping a share of each part."""

from __future__ import annotations

import copy
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from neuroglot.errors import UserError
from neuroglot.neurons.inventory import Layer, inventory
from neuroglot.neurons.layers import activation_similarity, distance, keep, mean_similarity, relevance

DE, FR = "image_translation:en-de", "image_translation:en-fr"


def cosine(x, y):
    """Eq. 3 as it is printed, in numbers with more digits than float64 has: of each row."""
    x, y = (np.asarray(z.double().numpy(), np.longdouble) for z in (x, y))
    return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_layers_that_hardly_moved_are_ranked_by_how_far(size):
    """Twenty layers whose outputs moved by 1e-6 of their length and 10 % more each, outputs large and small.

    In float32 all of these R are 1, and with the paper's eps of 1e-8 the small outputs' R would be that of eps.
    """
    g = torch.Generator().manual_seed(0)
    moved = []
    for k in range(20):
        x = (torch.randn(1, 50, 64, generator=g) * size).double()
        y = x + 1e-6 * 1.1**k * size * torch.randn(1, 50, 64, generator=g)
        found = distance(x, y)[..., 0]
        np.testing.assert_allclose(found.numpy(), np.asarray(1 - cosine(x, y), float), rtol=1e-4)
        moved.append(1 - float(found.mean()))
    assert sorted(moved, reverse=True) == moved
    silent = torch.zeros(1, 1, 64).double()
    assert [float(distance(a, b)) for a, b in ((silent, x[:, :1]), (x[:, :1], silent), (silent, silent))] == [1, 1, 0]


def outputs(model, samples, layers, kit):
    """Layer -> a list over samples of the output rows, by plain unpadded forwards."""
    out = {layer.name: [] for layer in layers}
    hooks = [
        model.get_submodule(layer.name).register_forward_hook(
            lambda m, a, o, name=layer.name: out[name].append(o.detach().reshape(-1, o.shape[-1]))
        )
        for layer in layers
    ]
    with torch.no_grad():
        for sample in samples:
            inputs = kit.collate([sample])
            inputs.pop("labels")
            model(**inputs)
    for hook in hooks:
        hook.remove()
    return out


@pytest.fixture(scope="module")
def adapted(kit):
    """A model, its layers, and the same model with a random LoRA in all of them."""
    plain = kit.make_llava()
    layers = inventory(plain)
    names = [
        layer.name for layer in layers if "language_model.layers.1.mlp" in layer.name or layer.part == "connector"
    ]
    peft_model = get_peft_model(copy.deepcopy(plain), LoraConfig(r=2, target_modules=names))
    torch.manual_seed(3)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    return plain, layers, peft_model


@pytest.mark.parametrize("side", ["left", "right"])
def test_similarity_equals_brute_force_with_an_adapter(kit, adapted, side):
    plain, layers, peft_model = adapted
    model = peft_model.get_base_model()
    data = {DE: kit.make_samples(4, seed=1), FR: kit.make_samples(3, seed=2)}
    batches = [(kit.collate(s[:2], side), c) for c, s in data.items()]
    batches += [(kit.collate(s[2:], side), c) for c, s in data.items()]
    found = activation_similarity(model, batches, peft_model.disable_adapter, nullcontext, layers)

    assert set(found) == {layer.name for layer in layers}
    for condition, samples in data.items():
        before, after = outputs(plain, samples, layers, kit), outputs(model, samples, layers, kit)
        for layer in layers:
            values = [cosine(x, y).mean() for x, y in zip(before[layer.name], after[layer.name], strict=True)]
            assert found[layer.name][condition.split(":")[1]] == pytest.approx(float(np.mean(values)), abs=1e-6)
    first = [layer.name for layer in layers if layer.part == "vision"]
    assert all(found[name]["en-de"] == pytest.approx(1) for name in first)  # nothing below the connector changed
    assert found["model.multi_modal_projector.linear_1"]["en-de"] < 0.999


def test_similarity_counts_only_samples_with_images(kit, adapted):
    _, layers, peft_model = adapted
    samples = kit.make_samples(3, images=[1, 0, 2])
    model = peft_model.get_base_model()
    both = activation_similarity(model, [(kit.collate(samples), DE)], peft_model.disable_adapter, nullcontext, layers)
    seeing = activation_similarity(
        model, [(kit.collate([samples[0], samples[2]]), DE)], peft_model.disable_adapter, nullcontext, layers
    )
    name = "model.multi_modal_projector.linear_2"
    assert both[name]["en-de"] == pytest.approx(seeing[name]["en-de"])


def test_similarity_compares_what_a_layer_returned(kit):
    model = kit.make_llava()
    for block in model.model.language_model.layers:
        block.mlp.act_fn = kit.OverwritingActivation(block.mlp.act_fn)
    found = activation_similarity(model, [(kit.collate(kit.make_samples(2)), DE)], nullcontext, nullcontext)
    assert all(by_pair["en-de"] == pytest.approx(1) for by_pair in found.values())


def test_a_layer_that_no_forward_uses_has_not_adapted(kit):
    model = kit.make_llava()
    model.model.vision_tower.head = torch.nn.Linear(16, 4).double()
    found = activation_similarity(model, [(kit.collate(kit.make_samples(2)), DE)], nullcontext, nullcontext)
    assert found["model.vision_tower.head"] == {"en-de": 1.0}


def test_similarity_leaves_the_model_alone_and_needs_images(kit):
    model = kit.make_llava().train()
    batch = (kit.collate(kit.make_samples(2)), DE)
    states = []

    @contextmanager
    def state(name):
        states.append(name)
        yield

    model(**batch[0])
    hooks = [len(m._forward_hooks) for m in model.modules()]
    found = activation_similarity(model, [batch, batch], lambda: state("before"), lambda: state("after"))
    assert states == ["before", "after"] * 2
    assert all(r == pytest.approx(1) for by_pair in found.values() for r in by_pair.values())
    assert model.training
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    blind = (kit.collate(kit.make_samples(2, images=0)), DE)
    with pytest.raises(UserError, match="never reach the vision part"):
        activation_similarity(model, [blind], nullcontext, nullcontext)
    with pytest.raises(UserError, match="no batches"):
        activation_similarity(model, [], nullcontext, nullcontext)


def test_relevance_is_the_mean_normalised_importance_in_the_part(kit):
    made = kit.make_profile(
        {
            "v": torch.tensor([[3.0, 1.0], [300.0, 100.0]]),  # all of the vision part, so it sums to one
            "a": torch.tensor([[1.0, 1.0], [10.0, 20.0]]),
            "b": torch.tensor([[6.0], [70.0]]),
        },
        kit.conditions_of("de fr"),
        {"v": "vision"},
    )
    found = relevance(made)
    assert found["v"] == pytest.approx(0.5)
    assert found["a"] == pytest.approx((0.125 + 0.15) / 2)
    assert found["b"] == pytest.approx((0.75 + 0.7) / 2)
    assert relevance(made, normalise="none")["b"] == pytest.approx(38)
    assert relevance(made, conditions=made.conditions[:1])["b"] == pytest.approx(0.75)


def layers_of(**counts):
    return tuple(Layer(f"{part}.{i}", part, 4, 4, False) for part, n in counts.items() for i in range(n))


def test_keep_ranks_within_each_part(kit):
    layers = layers_of(vision=4, connector=2, language=5)
    ranking = {layer.name: float(i) for i, layer in enumerate(layers)}
    assert keep(ranking, 0.5, layers) == [
        "vision.2",
        "vision.3",
        "connector.1",
        "language.2",
        "language.3",
        "language.4",
    ]
    assert keep(ranking, 0.5, layers, lowest=True)[:2] == ["vision.0", "vision.1"]
    # At least one layer of a part that is not left out; ties go to the first.
    assert keep(dict.fromkeys(ranking, 1.0), 0.01, layers) == ["vision.0", "connector.0", "language.0"]
    some = keep(ranking, {"vision": 0, "connector": 1.0, "language": 0.2}, layers)
    assert some == ["connector.0", "connector.1", "language.4"]
    # A part that is left out needs no values.
    del ranking["vision.0"]
    assert keep(ranking, {"vision": 0, "connector": 1, "language": 1}, layers)[0] == "connector.0"
    with pytest.raises(UserError, match=r"no value for vision\.0"):
        keep(ranking, 0.5, layers)


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (1.5, r"layers.vision must be in \[0, 1\], got 1.5; use 0 to leave the vision part out"),
        ({"vision": 0.5}, "layers gives no share for the connector part"),
        ({"vision": 1, "connectors": 1}, "layers names part 'connectors'; did you mean connector"),
    ],
)
def test_keep_explains_mistakes(fraction, message):
    layers = layers_of(vision=1, connector=1)
    with pytest.raises(UserError, match=message):
        keep({layer.name: 1.0 for layer in layers}, fraction, layers)


def test_mean_similarity_averages_pairs():
    assert mean_similarity({"a": {"en-de": 0.5, "en-fr": 1.0}, "b": {}}) == {"a": 0.75}
