"""The profile as a value: what it computes, and its file."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from neuroglot.errors import UserError
from neuroglot.neurons.layers import activation_similarity
from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.selecting.select import select
from neuroglot.pair import Condition

DE, FR = "image_translation:en-de", "image_translation:en-fr"


@pytest.fixture(scope="module")
def found(kit):
    samples = kit.make_samples(4)
    batches = [
        (kit.collate(samples[:2]), DE, ("a", "b")),
        (kit.collate(samples[2:]), FR, ("a", "b")),
        (kit.collate(samples[1:]), "ocr:en-en"),
    ]
    return profile(kit.make_llava(), batches, ("taylor_token", "gradient"), ("all", "image"))


def test_a_profile_survives_its_file(found, tmp_path):
    path = tmp_path / "profile.safetensors"
    found.save(path)
    read = Profile.load(path)
    for what in ("model", "fingerprint", "layers", "conditions", "scores", "classes"):
        assert getattr(read, what) == getattr(found, what), what
    assert torch.equal(read.counts, found.counts)
    for what in ("sums", "squares", "share_sums", "share_squares"):
        a, b = getattr(read, what), getattr(found, what)
        assert a.keys() == b.keys()
        for name in b:
            assert a[name].dtype == torch.float64
            torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=0)
    assert read.blocks.keys() == {"image_translation"}
    for name, x in found.blocks["image_translation"].items():
        torch.testing.assert_close(read.blocks["image_translation"][name], x, rtol=1e-6, atol=0)
    assert read.block_counts["image_translation"].tolist() == [2, 2]
    for name, x in found.static["weight"].items():
        assert torch.equal(read.static["weight"][name].double(), x)
    again = tmp_path / "again.safetensors"
    read.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_what_varies_little_beside_its_mean_keeps_its_variance_in_the_file(kit, tmp_path):
    """Means of 1 and spreads of 1e-5: as sums of squares in float32 nothing of the variance would be left."""
    generator = torch.Generator().manual_seed(0)
    z = 1 + 1e-5 * torch.randn(2, 50, 1, 1, 7, generator=generator, dtype=torch.float64)  # (pairs, items, S, C, N)
    made = kit.make_profile({"l": torch.ones(2, 7)}, kit.conditions_of("de fr"), samples=50)
    sums, squares, block = z.sum(1), z.square().sum(1), z.mean(0).square().sum(0)
    found = replace(
        made, sums={"l": sums}, squares={"l": squares}, share_sums={"l": sums}, share_squares={"l": squares},
        blocks={"image_translation": {"l": block}}, block_counts={"image_translation": torch.tensor([50])},
    )  # fmt: skip
    found.save(tmp_path / "p.safetensors")
    read = Profile.load(tmp_path / "p.safetensors")
    torch.testing.assert_close(read.variance("taylor_token")["l"], z.var(1)[:, 0, 0], rtol=1e-5, atol=0)
    counts, moments, items = read.moments("image_translation", "taylor_token")
    assert counts.tolist() == [50, 50]
    assert items == 50
    totals, squared, blocks = moments["l"]
    centred = (squared - totals**2 / 50).sum(0)
    torch.testing.assert_close(centred, ((z - z.mean(1, keepdim=True)) ** 2).sum((0, 1))[0, 0], rtol=1e-5, atol=0)
    of_items = 2 * (blocks - 50 * (totals / 50).mean(0) ** 2)
    expected = 2 * ((z.mean(0) - z.mean((0, 1))) ** 2).sum(0)[0, 0]
    torch.testing.assert_close(of_items, expected, rtol=1e-5, atol=0)


def test_a_variance_of_one_sample_is_refused(kit):
    made = kit.make_profile({"l": torch.ones(2, 3)}, kit.conditions_of("de fr"), samples=1)
    for ask in (lambda: made.variance("taylor_token"), lambda: made.moments("image_translation", "taylor_token")):
        with pytest.raises(UserError, match="en-de, which has 1 sample of token class all; expected 2 or more"):
            ask()


def test_mean_and_variance_are_those_of_the_samples(kit):
    model, samples = kit.make_llava(), kit.make_samples(5)
    found = profile(model, [(kit.collate(samples[:3]), DE), (kit.collate(samples[3:]), DE)], ("gradient",))
    each = kit.brute_force(model, samples, found.layers)["gradient"]
    for name, x in each.items():
        torch.testing.assert_close(found.mean("gradient")[name][0], x.mean(0))
        torch.testing.assert_close(found.variance("gradient")[name][0], x.var(0), rtol=1e-5, atol=1e-12)


def test_normalised_importance_sums_to_one_in_each_part(found):
    importance = found.importance("taylor_token")
    for part in ("vision", "connector", "language"):
        total = sum(importance[layer.name].sum(1) for layer in found.layers if layer.part == part)
        torch.testing.assert_close(total, torch.ones(3).double())
    raw = found.importance("taylor_token", normalise="none")
    assert all(torch.equal(x, found.mean("taylor_token")[n]) for n, x in raw.items())


def test_a_part_without_importance_stays_zero(kit):
    made = kit.make_profile(
        {"v": torch.zeros(2, 3), "l": torch.ones(2, 3)}, kit.conditions_of("de fr"), {"v": "vision"}
    )
    assert made.importance("taylor_token")["v"].tolist() == [[0, 0, 0]] * 2


def test_weight_needs_no_pass(found, kit):
    model = kit.make_llava()
    for name, x in found.mean("weight").items():
        assert x.shape == (3, len(found.static["weight"][name]))
        torch.testing.assert_close(x[1], model.get_submodule(name).weight.norm(dim=1).detach(), rtol=1e-5, atol=0)


def test_what_a_profile_lacks_is_named(found):
    with pytest.raises(UserError, match="score 'gradients' is not in the profile; did you mean gradient"):
        found.mean("gradients")
    with pytest.raises(UserError, match="token class 'target' is not in the profile; known: all, image"):
        found.mean("gradient", "target")
    with pytest.raises(UserError, match="condition image_translation:en-cs is not in the profile"):
        found.mean("gradient", conditions=[Condition.parse("image_translation:en-cs")])
    with pytest.raises(UserError, match="normalise 'l2' is not known"):
        found.importance("gradient", normalise="l2")


LAYER = "model.language_model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("an image of infinities", "they come in with the input pixel_values (432 of 864 values are not finite"),
        ("a weight of 1e38", f"and not all scores are finite (first {LAYER} ("),
        (
            "a weight of NaN",
            f"its loss is nan, and not all scores are finite (.*; they arise first in what {LAYER} puts",
        ),
    ],
)
def test_what_is_not_finite_gets_into_no_profile(kit, fault, expected):
    model, samples = kit.make_llava(dtype=torch.float32), kit.make_samples(4, dtype=torch.float32)
    if fault == "an image of infinities":
        samples[3]["pixels"].fill_(float("inf"))
    else:
        model.get_submodule(LAYER).weight.data[3, 5] = float(fault.rpartition(" ")[2])
    batches = [(kit.collate(samples[:2]), DE, ("a", "b")), (kit.collate(samples[2:]), FR, ("c", "d"))]
    names = "image_translation:en-fr, items c, d" if "image" in fault else "image_translation:en-"
    with pytest.raises(UserError) as error:
        profile(model, batches)
    assert names in str(error.value)
    before, _, after = expected.partition(".*")
    assert before in str(error.value)
    assert after in str(error.value)
    if "1e38" not in fault:
        with pytest.raises(UserError, match=r"R of .* for en-.. is not finite"):
            activation_similarity(model, batches, nullcontext, nullcontext)


@pytest.mark.parametrize("method", ["mnaft", "neumt-paper", "gradient", "random-layers"])
@pytest.mark.parametrize("which", ["sums", "share_sums"])
def test_nothing_is_chosen_from_a_profile_with_a_nan(found, method, which):
    values = {name: x.clone() for name, x in getattr(found, which).items()}
    values[LAYER][1, :, :, 7] = float("nan")
    options = {"ranking": "relevance"} if which == "sums" else {"ranking": "relevance", "specific": "auto"}
    with pytest.raises(UserError, match=rf"of layer {LAYER} is not finite for 1 of its \d+ neurons \(.*en-fr\)"):
        select(replace(found, **{which: values}), method, **options)


def test_a_ranking_without_a_number_ranks_no_layer(found):
    similarities = {layer.name: {"en-de": float("nan") if layer.name == LAYER else 0.9} for layer in found.layers}
    with pytest.raises(UserError, match=rf"the layer ranking has no number for {LAYER} but nan"):
        select(found, "neumt", similarities=similarities)
