"""Pixel and token budgets, on the families' real processors: what is promised is what the processor then makes."""

from __future__ import annotations

import functools
import io
import types

import family_processors
import numpy as np
import pytest
import torch
from PIL import Image

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.data.pixels import SMALLEST, STEP, Budget, within
from neuroglot.errors import UserError

pytestmark = [pytest.mark.turns, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]

SIZES = [(16, 16), (24, 40), (64, 64), (100, 30), (150, 90), (90, 200), (240, 240)]
BUDGETS = {
    "llava_next": (12, 16, 20),
    "llava_onevision": (36, 60, 80),
    "qwen2_vl": (4, 9, 14),
    "qwen2_5_vl": (5, 10, 13),
    "qwen3_vl": (6, 12, 15),
}
"""Families whose processors make fewer tokens of smaller images, and budgets between the least and the most."""
QUICK = ("llava_next", "qwen2_5_vl")
"""One that counts in tiles, one that counts in patches."""
FIXED = {"llava": 3, "paligemma": 10, "idefics3": 20, "gemma3": 5, "internvl": 5}
"""Those that make the same of every size, or of every size of a shape, and fewer than the least."""


@functools.cache
def png(size: tuple[int, int]) -> bytes:
    pixels = np.random.default_rng(size[0] * 1000 + size[1]).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def shown(*sizes: tuple[int, int]) -> Example:
    return Example(tuple(png(size) for size in sizes), None, "zu", "en", "de", "image_translation")


def made_of(batcher: Batcher, *sizes: tuple[int, int]) -> int:
    """Return how many tokens more the images take than their places in the prompt's text, by encoding them."""
    example = shown(*sizes)
    whole = batcher.prompts([example])["input_ids"].shape[1]
    return whole - batcher.prompt_tokens(example) + len(sizes)


@pytest.fixture(
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BUDGETS],
)
def family(request):
    processor = family_processors.processor(request.param)
    return types.SimpleNamespace(name=request.param, processor=processor, free=Batcher(processor))


def test_images_are_scaled_until_their_tokens_fit(family):
    scaled = set()
    for most in BUDGETS[family.name]:
        batcher = Batcher(family.processor, max_image_tokens=most)
        batcher.check_budget()
        for size in SIZES:
            needed = made_of(family.free, size)
            least = tuple(int(side * min(1.0, SMALLEST / min(size))) for side in size)
            if needed > most and made_of(family.free, least) > most:
                with pytest.raises(UserError, match="however small it is scaled"):
                    batcher.budget.fit(size)
                continue
            fitted = batcher.budget.fit(size)
            took = made_of(batcher, size)
            assert took == made_of(family.free, size) if needed <= most else took < needed
            assert took <= most
            assert (fitted == size) == (needed <= most), "what fits is left alone"
            assert abs(fitted[0] - size[0] * fitted[1] / size[1]) <= 1 + size[0] / size[1], "in its aspect"
            batcher.check(shown(size), [size])
            scaled.add(fitted != size)
            if fitted != size and "qwen" in family.name and min(fitted) > 1.1 * SMALLEST:
                larger = tuple(round(side / STEP**2) for side in fitted)
                assert made_of(family.free, larger) > 0.8 * most, "and no smaller than it has to be"
    assert scaled == {True, False}


def test_several_images_share_the_budget(family):
    most = 3 * max(BUDGETS[family.name])
    batcher = Batcher(family.processor, max_image_tokens=most)
    two, three = (made_of(batcher, *[(64, 64)] * count) for count in (2, 3))
    assert max(two, three) <= most
    assert batcher.budget.fit((64, 64), 3) <= batcher.budget.fit((64, 64), 2)


def test_what_fits_is_not_touched(family):
    example = shown((24, 40), (64, 64))
    free, bound = (Batcher(family.processor, **settings).encode([example])
                   for settings in ({}, {"max_image_tokens": 10_000, "max_pixels": 64 * 64}))  # fmt: skip
    assert free.keys() == bound.keys()
    assert all(torch.equal(free[key], bound[key]) for key in free if torch.is_tensor(free[key]))


@pytest.mark.parametrize("name", FIXED)
def test_a_number_that_the_processor_fixes_is_said(name):
    processor = family_processors.processor(name)
    batcher = Batcher(processor, max_image_tokens=FIXED[name])
    least = made_of(Batcher(processor), (SMALLEST, SMALLEST))
    with pytest.raises(UserError, match=f"makes {least} tokens of an image of 16 x 16 pixels, however small"):
        batcher.check_budget()
    with pytest.raises(UserError, match=f"data.max_image_tokens allows {FIXED[name]}; raise it, or use a model whose"):
        batcher.encode([shown((64, 64))])
    enough = Batcher(processor, max_image_tokens=2 * least)
    enough.check_budget()
    assert made_of(enough, (64, 64), (64, 64)) <= 2 * least
    with pytest.raises(UserError, match=rf"allows {2 * least} \({2 * least // 3} for each image of the example\)"):
        enough.check(shown(), [(64, 64)] * 3)


def test_a_recipe_whose_budget_no_image_fits_is_refused_at_once(tmp_path):
    from neuroglot.config.load import load_recipe
    from neuroglot.pipeline.context import Context

    def context(*settings):
        recipe = load_recipe("quickstart", list(settings), "smoke")
        return Context(recipe, tmp_path, lambda label, total: lambda done: None, print)

    with pytest.raises(UserError, match=r"the model's processor makes \d+ tokens .*; data\.max_image_tokens allows 3"):
        context("data.max_image_tokens=3").check()
    batcher = context("data.max_image_tokens=500", "data.max_pixels=4000").batcher
    assert (batcher.max_image_tokens, batcher.max_pixels) == (500, 4000)


def test_pixels_are_scaled_before_the_processor():
    processor = family_processors.processor("qwen2_5_vl")
    batcher = Batcher(processor, max_pixels=24 * 24)
    image = open_image(png((96, 48)))
    smaller = image.resize(within(image.size, 24 * 24), Image.Resampling.LANCZOS, reducing_gap=3.0)
    assert smaller.size == (33, 16)
    file = io.BytesIO()
    smaller.save(file, "PNG")
    by_hand = Batcher(processor).encode([Example((file.getvalue(),), None, "zu", "en", "de", "image_translation")])
    found = batcher.encode([shown((96, 48))])
    assert torch.equal(found["pixel_values"], by_hand["pixel_values"])
    assert torch.equal(found["input_ids"], by_hand["input_ids"])
    assert not torch.equal(
        found["pixel_values"].sum(), Batcher(processor).encode([shown((96, 48))])["pixel_values"].sum()
    )


def test_within_keeps_the_aspect_and_the_limit():
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height, most = (int(x) for x in rng.integers(1, 3000, 3))
        found = within((width, height), most)
        if width * height <= most:
            assert found == (width, height)
            continue
        assert 1 <= found[0] * found[1] <= most
        exact = (most / (width * height)) ** 0.5
        sides = list(zip(found, (width, height), strict=True))
        assert all(side <= max(1, whole * exact) for side, whole in sides) or 1 in found
        assert all(side > whole * exact - 1 for side, whole in sides) or 1 in found
    assert within((5000, 1), 100) == (100, 1)
    assert within((4000, 3000), 0) == (4000, 3000)


def test_a_size_is_measured_once():
    asked = []

    def tokens(size):
        asked.append(size)
        return size[0] * size[1] // 100

    budget = Budget(10_000, 50, tokens)
    first = budget.fit((1000, 500))
    assert first[0] * first[1] // 100 <= 50
    count = len(asked)
    assert budget.fit((1000, 500)) == first
    assert len(asked) == count <= 6
