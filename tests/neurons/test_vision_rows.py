"""Whose image a vision row belongs to: packed patches, tiles and crops against one image at a time, by plain autograd.

Samples have several images of different sizes, one, or none, so that a row given to the wrong sample shows.
"""

from __future__ import annotations

import types
from contextlib import contextmanager, nullcontext
from functools import partial

import families
import pytest
import torch
from torch import nn
from transformers.vision_utils import get_vision_window_index

from neuroglot.errors import UserError
from neuroglot.models.families import family_of
from neuroglot.neurons import inventory
from neuroglot.neurons.inventory import module_of
from neuroglot.neurons.layers import activation_similarity
from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.profiling.positions import VisionRows

DE = "image_translation:en-de"
PACKED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
GRIDS = [[(8, 12), (4, 8)], [], [(12, 4)], [(4, 4), (8, 12), (4, 8)]]
"""Height and width of each sample's images in patches; four patches are merged into a token, four tokens a window."""

SCORES = ("taylor_token", "taylor_sample", "gradient", "activation")


def packed(samples: list[list[tuple[int, int]]], patch: int = 96) -> list[dict]:
    """Return one sample's inputs each, unpadded."""
    g = torch.Generator().manual_seed(5)
    made = []
    for number, grids in enumerate(samples):
        ids: list[int] = [1]
        for h, w in grids:
            ids += [families.START, *[families.IMAGE] * (h * w // 4), families.END]
        ids += torch.randint(3, 59, (7 + number,), generator=g).tolist()
        row = torch.tensor([ids])
        labels = torch.full_like(row, -100)
        labels[:, -4:] = row[:, -4:]
        inputs = {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": labels}
        inputs["mm_token_type_ids"] = (row == families.IMAGE).int()
        if grids:
            pixels = torch.randn(sum(h * w for h, w in grids), patch, generator=g, dtype=torch.float64)
            inputs |= {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, h, w] for h, w in grids])}
        made.append(inputs)
    return made


def together(samples: list[dict]) -> dict:
    """Return the samples as one batch, padded on the right."""
    width = max(s["input_ids"].shape[1] for s in samples)
    batch = {}
    for key in samples[0]:
        if samples[0][key].shape == samples[0]["input_ids"].shape:
            fill = -100 if key == "labels" else 0
            batch[key] = torch.cat(
                [nn.functional.pad(s[key], (0, width - s[key].shape[1]), value=fill) for s in samples]
            )
    for key in {k for s in samples for k in s} - set(batch):
        batch[key] = torch.cat([s[key] for s in samples if key in s])
    return batch


class OneByOne(nn.Module):
    """A Qwen vision tower to which every image is shown by itself."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.spatial_merge_size, self.dtype, self.config = tower.spatial_merge_size, tower.dtype, tower.config

    def forward(self, hidden_states, grid_thw, **kwargs):
        pictures = hidden_states.split(grid_thw.prod(1).tolist())
        outputs = [self.tower(x, grid_thw=grid[None], **kwargs) for x, grid in zip(pictures, grid_thw, strict=True)]
        whole = outputs[0]
        whole["pooler_output"] = torch.cat([x.pooler_output for x in outputs])
        if getattr(whole, "deepstack_features", None) is not None:
            levels = zip(*(x.deepstack_features for x in outputs), strict=True)
            whole["deepstack_features"] = [torch.cat(level) for level in levels]
        return whole


def kept(outputs: dict, name: str, module, args, output) -> None:
    output.retain_grad()
    outputs.setdefault(name, []).append(output)


def one_at_a_time(model: nn.Module, samples: list[dict], layers) -> dict[str, dict[str, torch.Tensor]]:
    """Score -> layer -> [N], summed over samples: each sample by itself, each image alone in the tower."""
    sums = {score: {layer.name: torch.zeros(layer.neurons).double() for layer in layers} for score in SCORES}
    for sample in samples:
        outputs: dict[str, list] = {}
        hooks = [module_of(model, x).register_forward_hook(partial(kept, outputs, x.name)) for x in layers]
        tower = model.model.visual
        model.model.visual = OneByOne(tower)
        model(**sample).loss.backward()
        model.model.visual = tower
        for hook in hooks:
            hook.remove()
        model.zero_grad()
        for layer in layers:
            uses = outputs.get(layer.name, [])
            if uses:
                a = torch.cat([x.detach().reshape(-1, layer.neurons) for x in uses])
                g = torch.cat([x.grad.reshape(-1, layer.neurons) for x in uses])
                sums["taylor_token"][layer.name] += (a * g).abs().mean(0)
                sums["taylor_sample"][layer.name] += (a * g).mean(0).abs()
                sums["gradient"][layer.name] += g.abs().mean(0)
                sums["activation"][layer.name] += a.abs().mean(0)
    return sums


def compare(kit, found, expected, layers) -> None:
    for s, score in enumerate(SCORES):
        for layer in layers:
            what = f"{score} of {layer.name}"
            kit.assert_relatively_close(found.sums[layer.name][0, s, 0], expected[score][layer.name], 1e-4, what)


@pytest.fixture(scope="module", params=PACKED)
def case(request):
    """A family's model in float64, its samples, and what one image at a time gives."""
    model, _ = families.build(request.param)
    model = model.double()
    layers = inventory(model)
    samples = packed(GRIDS)
    return types.SimpleNamespace(
        family=request.param, model=model, layers=layers, samples=samples,
        expected=one_at_a_time(model, samples, layers),
    )  # fmt: skip


def test_packed_images_profile_as_one_image_at_a_time(case, kit):
    """Several a sample, of different sizes, a sample without any, in batches of four, of two, and of one."""
    names = [layer.name for layer in case.layers]
    assert any(".merger." in name for name in names)
    assert (case.family == "qwen3_vl") == any("deepstack" in name for name in names)
    batches = {size: [case.samples[i : i + size] for i in range(0, 4, size)] for size in (1, 2, 4)}
    for several in batches.values():
        found = profile(case.model, [(together(samples), DE) for samples in several], SCORES)
        compare(kit, found, case.expected, case.layers)


def test_the_windows_reorder_rows_and_a_wrong_map_shows(case, kit, monkeypatch):
    """The comparison above could fail: rows given out in raster order across images give another profile."""
    batch = together(case.samples)
    if case.family == "qwen2_5_vl":
        vision = case.model.config.vision_config
        order, _ = get_vision_window_index(
            batch["image_grid_thw"], vision.spatial_merge_size, vision.window_size, vision.patch_size
        )
        assert not torch.equal(order, order.sort().values)
        bounds = (batch["image_grid_thw"].prod(1) // 4).cumsum(0).tolist()
        for start, end in zip([0, *bounds], bounds, strict=False):  # but within each image
            assert sorted(order[start:end].tolist()) == list(range(start, end))
    right = VisionRows._owners

    def off_by_a_window(self, layer, value, count):
        owners = right(self, layer, value, count)
        by = 16 * count // len(batch["pixel_values"])
        return owners[by:] + owners[:by]

    monkeypatch.setattr(VisionRows, "_owners", off_by_a_window)
    found = profile(case.model, [(batch, DE)], SCORES)
    for layer in case.layers:
        if layer.part != "language":
            with pytest.raises(AssertionError, match="relative error"):
                compare(kit, found, case.expected, [layer])


def test_similarity_of_packed_images_is_that_of_one_sample_at_a_time(case):
    """R, too, is averaged over each sample's own rows; samples without images do not count in the vision part."""
    model = case.model
    turned = [p for n, p in model.named_parameters() if n.endswith(("qkv.weight", "q_proj.weight"))]

    @contextmanager
    def changed():
        try:
            for p in turned:
                p.data[::2] *= -1
            yield
        finally:
            for p in turned:
                p.data[::2] *= -1

    whole = activation_similarity(model, [(together(case.samples), DE)], nullcontext, changed)
    alone = activation_similarity(model, [(sample, DE) for sample in case.samples], nullcontext, changed)
    for name in whole:
        assert whole[name]["en-de"] == pytest.approx(alone[name]["en-de"], rel=1e-6)
    assert min(r["en-de"] for r in whole.values()) < 0.9


def test_pixtral_packs_by_size(kit):
    """Two images of different sizes in a frame, as samples of their own, against each by itself."""
    model, inputs = families.build("mistral3")
    model = model.double()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    alone = [{key: x[i : i + 1] for key, x in inputs.items()} for i in range(2)]
    whole, parts = profile(model, [(inputs, DE)]), profile(model, [(sample, DE) for sample in alone])
    for layer in whole.layers:
        found, expected = whole.sums[layer.name][0, 0, 0], parts.sums[layer.name][0, 0, 0]
        kit.assert_relatively_close(found, expected, 1e-4, layer.name)
        assert expected.any()


@pytest.fixture(scope="module")
def qwen():
    return families.build("qwen2_vl")[0].double()


def test_images_that_do_not_fit_are_refused(qwen):
    batch = together(packed(GRIDS))
    layer = next(layer for layer in inventory(qwen) if layer.part == "vision")
    rows = VisionRows(qwen, family_of(qwen), batch, [32, 0, 14, 34], 4)
    with pytest.raises(
        UserError, match=r"6 images do not fit image tokens per sample of \[32, 0, 14, 34\]; the images"
    ):
        rows.mean(layer, torch.zeros(320, layer.neurons))
    with pytest.raises(UserError, match="yields 321 rows for 6 images that have 320 in all"):
        rows.mean(layer, torch.zeros(321, layer.neurons))
    with pytest.raises(UserError, match="images_per_sample is .* expected 4 counts that add up to 6 images"):
        profile(qwen, [({**batch, "images_per_sample": [2, 0, 1, 2]}, DE)])
    given = profile(qwen, [({**batch, "images_per_sample": [2, 0, 1, 3]}, DE)])
    found = profile(qwen, [(batch, DE)])
    assert all(torch.equal(given.sums[name], found.sums[name]) for name in found.sums)
    videos = VisionRows(
        qwen, family_of(qwen), {**batch, "pixel_values_videos": batch["pixel_values"]}, [32, 0, 12, 36], 4
    )
    with pytest.raises(UserError, match="a batch holds videos"):
        videos.mean(layer, torch.zeros(640, layer.neurons))


def test_tiles_need_the_sizes_of_their_images():
    model, inputs = families.build("llava_next")
    found = profile(model, [(inputs, DE)])
    for given in ([1, 1], [3, 5]):  # images, or tiles
        same = profile(model, [({**inputs, "images_per_sample": given}, DE)])
        assert all(torch.equal(same.sums[name], found.sums[name]) for name in found.sums)
    del inputs["image_sizes"]
    with pytest.raises(UserError, match="a batch of llava_next has images but no image_sizes"):
        profile(model, [(inputs, DE)])
