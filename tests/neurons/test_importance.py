"""The profile against brute force, and what must not change it."""

from __future__ import annotations

import gc

import pytest
import torch

from neuroglot.errors import UserError
from neuroglot.neurons.inventory import inventory
from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.profiling.merge import merge
from neuroglot.neurons.profiling.scores import SCORES
from neuroglot.pair import Condition

DE, FR = "image_translation:en-de", "image_translation:en-fr"
SCORE_NAMES = tuple(SCORES)


def same(a, b, tolerance=1e-6):
    assert a.conditions == b.conditions
    assert torch.equal(a.counts, b.counts)
    for name in a.sums:
        for kind, least in (("sums", 1e-14), ("squares", 1e-20), ("share_sums", 1e-12), ("share_squares", 1e-16)):
            torch.testing.assert_close(getattr(a, kind)[name], getattr(b, kind)[name], rtol=tolerance, atol=least)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["off", "non-reentrant", "reentrant"])
@pytest.mark.parametrize("feature_layer", [-1, pytest.param(-2, marks=pytest.mark.slow)])
def test_profile_equals_brute_force(kit, side, checkpointing, feature_layer):
    """Mixed prompt lengths in one padded batch against unpadded samples one by one, every score, every layer."""
    model = kit.make_llava(feature_layer)
    samples = kit.make_samples(5)
    layers = inventory(model)
    expected = kit.brute_force(model, samples, layers)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    calls = []
    probe = model.model.language_model.layers[0].mlp.up_proj
    probe.register_forward_hook(lambda *_: calls.append(1))

    found = profile(model, [(kit.collate(samples, side), DE)], SCORE_NAMES)

    assert len(calls) == (1 if checkpointing is None else 2)  # recomputed, so checkpointing was at work
    for score in SCORE_NAMES:
        mean = found.mean(score)
        for layer in layers:
            kit.assert_relatively_close(
                mean[layer.name][0], expected[score][layer.name].mean(0), what=f"{score} {layer.name}"
            )
    for part in ("vision", "connector", "language"):
        names = [layer.name for layer in layers if layer.part == part]
        dead = [name for name in names if not bool(found.sums[name].any())]
        # The last block of the tower has no gradient where the features are taken before it.
        assert all(feature_layer == -2 and "layers.2." in name for name in dead)
        assert len(dead) < len(names)


@pytest.mark.parametrize("token_class", ["image", "prompt", "target"])
def test_token_classes_equal_brute_force(kit, llava, token_class):
    samples = kit.make_samples(4, seed=3)
    layers = inventory(llava)
    expected = kit.brute_force(llava, samples, layers, token_class)["taylor_token"]
    found = profile(llava, [(kit.collate(samples, "left"), DE)], classes=("all", token_class))
    assert found.counts.tolist() == [[4, 4]]
    for layer in layers:
        mean = found.mean("taylor_token", token_class)[layer.name][0]
        kit.assert_relatively_close(mean, expected[layer.name].mean(0), what=f"{token_class} {layer.name}")


def test_a_sample_without_the_class_counts_nowhere(kit, llava):
    full, bare = kit.make_samples(2)
    bare["labels"] = [-100 if token == kit.IMAGE else token for token in bare["ids"]]  # all target, no prompt
    found = profile(llava, [(kit.collate([full, bare]), DE)], classes=("prompt",))
    assert found.counts.tolist() == [[1]]
    same(found, profile(llava, [(kit.collate([full]), DE)], classes=("prompt",)))


def test_float32_model_meets_the_tolerance(kit):
    model = kit.make_llava(dtype=torch.float32)
    samples = kit.make_samples(4, dtype=torch.float32)
    layers = inventory(model)
    expected = kit.brute_force(model, samples, layers)["gradient"]
    found = profile(model, [(kit.collate(samples), DE)], ("gradient",)).mean("gradient")
    for layer in layers:
        kit.assert_relatively_close(found[layer.name][0], expected[layer.name].mean(0).double(), what=layer.name)


def test_bfloat16_model_is_close_and_accumulated_wider(kit):
    model = kit.make_llava(dtype=torch.bfloat16)
    found = profile(model, [(kit.collate(kit.make_samples(4, dtype=torch.bfloat16)), DE)])
    wide = profile(model.double(), [(kit.collate(kit.make_samples(4)), DE)])
    for name, x in found.mean("taylor_token").items():
        y = wide.mean("taylor_token")[name]
        assert torch.corrcoef(torch.cat([x, y]))[0, 1] > 0.9, name
        assert x.dtype == torch.float64


def test_what_padding_holds_does_not_matter(kit, llava):
    samples = kit.make_samples(4)
    for side in ("left", "right"):
        zero, other = (profile(llava, [(kit.collate(samples, side, filler), DE)]) for filler in (0, 17))
        same(zero, other)


def test_batch_size_does_not_matter(kit, llava):
    samples = kit.make_samples(6)
    whole = profile(llava, [(kit.collate(samples), DE)], SCORE_NAMES, ("all", "target"))
    parts = [(kit.collate(samples[i:j], "left"), DE) for i, j in ((0, 1), (1, 4), (4, 6))]
    # Rotary embeddings are float32 even here, and left padding moves them.
    same(whole, profile(llava, parts, SCORE_NAMES, ("all", "target")), tolerance=2e-5)


def test_samples_do_not_mix(kit, llava):
    """A sample's importance is the same whatever shares its batch, so length must not weigh either."""
    samples = kit.make_samples(5)
    alone = profile(llava, [(kit.collate(samples[:1]), DE)])
    together = profile(llava, [(kit.collate(samples), DE)])
    rest = profile(llava, [(kit.collate(samples[1:]), DE)])
    same(together, merge(alone, rest))


def test_several_images_per_sample(kit, llava):
    samples = kit.make_samples(4, images=[2, 1, 0, 3])
    layers = inventory(llava)
    with_images = [s for s in samples if len(s["pixels"])]
    language = [layer for layer in layers if layer.part == "language"]
    seeing = [layer for layer in layers if layer.part != "language"]
    found = profile(llava, [(kit.collate(samples), DE)], classes=("all", "image"))
    assert found.counts.tolist() == [[4, 3]]
    expected = kit.brute_force(llava, with_images, seeing)["taylor_token"]
    for layer in seeing:  # a sample without images counts as zero
        kit.assert_relatively_close(found.sums[layer.name][0, 0, 0], expected[layer.name].sum(0), what=layer.name)
    expected = kit.brute_force(llava, samples, language)["taylor_token"]
    for layer in language:
        kit.assert_relatively_close(found.sums[layer.name][0, 0, 0], expected[layer.name].sum(0), what=layer.name)
    given = {**kit.collate(samples), "images_per_sample": [2, 1, 0, 3]}
    same(found, profile(llava, [(given, DE)], classes=("all", "image")))
    with pytest.raises(UserError, match="images_per_sample"):
        profile(llava, [({**given, "images_per_sample": [2, 2, 0, 3]}, DE)])


def test_text_only_data_leaves_the_vision_part_at_zero(kit, llava):
    found = profile(llava, [(kit.collate(kit.make_samples(3, images=0)), "text_translation:en-de")])
    for layer in found.layers:
        assert bool(found.sums[layer.name].any()) == (layer.part == "language")


def test_blocks_equal_brute_force(kit, llava):
    """Two complete blocks of two pairs, then an incomplete one and a contrast task between them."""
    layers = inventory(llava)
    pairs = {DE: kit.make_samples(4, seed=1), FR: kit.make_samples(4, seed=2)}
    parts = {c: kit.shares(kit.brute_force(llava, s, layers)["taylor_token"], layers) for c, s in pairs.items()}

    def batch(condition, a, b, items):
        return kit.collate(pairs[condition][a:b]), condition, items

    ocr = (kit.collate(kit.make_samples(2)), "ocr:en-en", ("x", "y"))
    batches = [
        batch(DE, 0, 2, ("x", "y")), ocr, batch(FR, 0, 2, ("x", "y")),
        batch(FR, 2, 3, ("z",)), batch(DE, 2, 3, ("z",)),
        batch(DE, 3, 4, ("w",)), batch(FR, 3, 4, ("v",)), batch(DE, 0, 1, ()), batch(FR, 0, 1, ()),
    ]  # fmt: skip
    found = profile(llava, batches)
    assert list(found.blocks) == ["image_translation"]
    assert found.block_counts["image_translation"].tolist() == [3]
    for layer in layers:
        mean = (parts[DE][layer.name][:3] + parts[FR][layer.name][:3]) / 2
        kit.assert_relatively_close(
            found.blocks["image_translation"][layer.name][0, 0], (mean**2).sum(0), what=layer.name
        )
    # A third pair later on makes the blocks of two incomplete.
    more = [*batches, (batches[0][0], "image_translation:en-cs", ("x", "y"))]
    assert profile(llava, more).blocks == {}
    # A second instruction on the same items is a block of its own.
    again = profile(llava, [batches[0], batches[2], batches[0], batches[2]])
    assert again.block_counts["image_translation"].tolist() == [4]


def test_blocks_count_only_items_that_hold_the_token_class_in_every_pair(kit, llava):
    layers = [layer for layer in inventory(llava) if layer.part == "language"]
    de, fr = kit.make_samples(2, seed=1), kit.make_samples(2, seed=2, images=[1, 0])
    batches = [(kit.collate(de), DE, ("x", "y")), (kit.collate(fr), FR, ("x", "y"))]
    found = profile(llava, batches, classes=("all", "image"))
    assert found.block_counts["image_translation"].tolist() == [2, 1]
    each = [kit.shares(kit.brute_force(llava, s[:1], layers, "image")["taylor_token"], layers) for s in (de, fr)]
    for layer in layers:
        expected = ((each[0][layer.name] + each[1][layer.name]) / 2)[0] ** 2
        kit.assert_relatively_close(found.blocks["image_translation"][layer.name][0, 1], expected, what=layer.name)


def test_merge_is_the_profile_of_both(kit, llava):
    samples = kit.make_samples(6)
    a = [(kit.collate(samples[:2]), DE, ("x", "y")), (kit.collate(samples[2:4]), FR, ("x", "y"))]
    b = [
        (kit.collate(samples[3:5]), FR, ("z", "w")),
        (kit.collate(samples[4:]), DE, ("z", "w")),
        (kit.collate(samples[:3]), "ocr:en-en", ("x", "y", "z")),
    ]
    both, merged = profile(llava, a + b), merge(profile(llava, a), profile(llava, b))
    same(both, merged)
    task = "image_translation"
    assert torch.equal(both.block_counts[task], merged.block_counts[task])
    for name, x in both.blocks[task].items():
        torch.testing.assert_close(x, merged.blocks[task][name])
    with pytest.raises(UserError, match="scores differ"):
        merge(both, profile(llava, b, ("gradient",)))
    with pytest.raises(UserError, match="fingerprint differ"):
        merge(both, profile(kit.make_llava(seed=1), b))


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["off", "non-reentrant", "reentrant"])
def test_an_output_changed_in_place_keeps_its_activation(kit, checkpointing):
    model = kit.make_llava()
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    batch = (kit.collate(kit.make_samples(3)), DE)
    expected = profile(model, [batch], SCORE_NAMES)
    for block in model.model.language_model.layers:
        block.mlp.act_fn = kit.OverwritingActivation(block.mlp.act_fn)
    same(profile(model, [batch], SCORE_NAMES), expected)


def test_a_matrix_used_twice_adds_up(kit):
    model = kit.make_llava()
    mlps = [block.mlp for block in model.model.language_model.layers]
    mlps[1].up_proj.weight = mlps[0].up_proj.weight
    samples = kit.make_samples(3)
    names = [layer.name for layer in inventory(model)]
    assert "model.language_model.layers.1.mlp.up_proj" not in names
    found = profile(model, [(kit.collate(samples), DE)], ("gradient",)).sums
    apart = kit.make_llava()
    with torch.no_grad():
        apart.model.language_model.layers[1].mlp.up_proj.weight.copy_(mlps[0].up_proj.weight)
    each = profile(apart, [(kit.collate(samples), DE)], ("gradient",)).sums
    first, second = (f"model.language_model.layers.{i}.mlp.up_proj" for i in (0, 1))
    torch.testing.assert_close(found[first], each[first] + each[second])


def test_the_model_is_left_as_it_was(kit):
    model = kit.make_llava()
    model.train()
    model.model.vision_tower.eval()
    model.lm_head.weight.requires_grad_(False)
    model.gradient_checkpointing_enable()
    batch = (kit.collate(kit.make_samples(3)), DE)
    model(**batch[0])  # transformers puts hooks of its own into the tower at the first forward

    def state():
        modes = [module.training for module in model.modules()]
        hooks = [(len(module._forward_hooks), len(module._backward_hooks)) for module in model.modules()]
        grads = [(p.requires_grad, p.grad is None) for p in model.parameters()]
        return modes, hooks, grads

    before, values = state(), [p.clone() for p in model.parameters()]
    seen = []
    profile(model, [batch], progress=seen.append)
    assert seen == [1]
    assert state() == before
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), values, strict=True))

    def failing():
        yield batch
        raise RuntimeError("reader died")

    with pytest.raises(RuntimeError, match="reader died"):
        profile(model, failing())
    assert state() == before
    assert not batch[0]["pixel_values"].requires_grad


def test_dropout_is_off_and_no_weight_gradient_is_computed(kit):
    model = kit.make_llava()
    for block in model.model.language_model.layers:
        block.self_attn.attention_dropout = 0.5
    model.train()
    batch = (kit.collate(kit.make_samples(3)), DE)
    touched = []
    for parameter in model.parameters():
        parameter.register_hook(lambda g: touched.append(1))
    same(profile(model, [batch]), profile(model, [batch]), tolerance=0)
    assert not touched


@pytest.mark.slow
def test_nothing_of_a_batch_is_left_behind_it(kit):
    """The tower's last layer has no gradient here, so that no backward pass lets go of what its graph holds."""
    model = kit.make_llava(-2)
    held = []

    def count(done):
        gc.collect()
        # Exact types: what a compiler elsewhere in this process left, tensors without data, are others.
        tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
        held.append(sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values()))

    profile(model, [(kit.collate(kit.make_samples(3)), DE)] * 5, SCORE_NAMES, progress=count)
    assert held[4] == held[3] == held[2]


def test_parts_and_include(kit, llava):
    batch = (kit.collate(kit.make_samples(2)), Condition.parse(DE))
    whole = profile(llava, [batch])
    found = profile(llava, [batch], parts=("language",), include=("lm_head",))
    assert {layer.part for layer in found.layers} == {"language"}
    assert found.layers[-1].name == "lm_head"
    assert bool(found.sums["lm_head"].any())
    for layer in found.layers[:-1]:
        torch.testing.assert_close(found.sums[layer.name], whole.sums[layer.name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": ("taylor",)}, "score 'taylor' cannot be profiled; did you mean taylor"),
        ({"scores": ("weight",)}, "it needs no profile"),
        ({"classes": ("images",)}, "token class 'images' cannot be profiled; did you mean image"),
        ({"parts": ("visual",)}, "part 'visual' is not known"),
        ({"batches": []}, "no batches to profile"),
        ({"batches": [({}, DE)]}, "has no input_ids"),
    ],
)
def test_mistakes_are_explained(llava, change, message):
    with pytest.raises(UserError, match=message):
        profile(llava, **{"batches": [], **change})


def test_bad_batches_are_explained(kit, llava):
    inputs = kit.collate(kit.make_samples(2))
    empty = {**inputs, "labels": torch.cat([inputs["labels"][:1], torch.full_like(inputs["labels"][1:], -100)])}
    with pytest.raises(UserError, match="sample 1 of a batch of image_translation:en-de has no target token"):
        profile(llava, [(empty, DE)])
    with pytest.raises(UserError, match="names 1 items for 2 samples"):
        profile(llava, [(inputs, DE, ("x",))])
    with pytest.raises(UserError, match="task 'translate' is not known"):
        profile(llava, [(inputs, "translate:en-de")])
