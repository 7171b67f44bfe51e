"""Scenes: each reading has a picture of its own, and only what it shows decides."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from neuroglot.data.example import RenderSpec
from neuroglot.data.image import open_image
from neuroglot.errors import UserError
from neuroglot.synthetic.pictograms import PICTOGRAMS
from neuroglot.synthetic.scenes import _Pen, draw_scene

NAMES = [name for key in PICTOGRAMS for name in ([key] if ":" in key else [f"{key}:one", f"{key}:several"])]


def silhouette(name: str) -> np.ndarray:
    """A pictogram alone, black on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (100, 100), "white")
    PICTOGRAMS[name](_Pen(ImageDraw.Draw(image), 0, 0, 100, (0, 0, 0), (255, 255, 255)))
    return np.asarray(image)[..., 0] < 128


def test_no_two_pictograms_look_alike():
    shapes = {name: silhouette(name) for name in PICTOGRAMS}
    for one, other in itertools.combinations(shapes, 2):
        union = (shapes[one] | shapes[other]).sum()
        assert (shapes[one] & shapes[other]).sum() < 0.8 * union, (one, other)
    for name, shape in shapes.items():
        assert 0.05 < shape.mean() < 0.8, name


@pytest.mark.parametrize("name", NAMES)
def test_every_scene_draws(name):
    image = open_image(RenderSpec(name, 4, 1, kind="scene"))
    assert (image.mode, image.size) == ("RGB", (120, 120))
    paper = image.getpixel((0, 0))
    assert (np.asarray(image) != paper).any(-1).mean() > 0.01


def things(name: str, index: int) -> int:
    """How many connected things there are in a scene, bystanders included: flood fill, by rows."""
    image = np.asarray(draw_scene(name, 0, index), dtype=int)
    values, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    left = np.abs(image - values[counts.argmax()]).sum(-1) > 60
    found = 0
    while left.any():
        found += 1
        edge = {tuple(map(int, np.argwhere(left)[0]))}
        while edge:
            for y, x in edge:
                left[y, x] = False
            edge = {(y + dy, x + dx) for y, x in edge for dy in (-1, 0, 1) for dx in (-1, 0, 1)
                    if 0 <= y + dy < 120 and 0 <= x + dx < 120 and left[y + dy, x + dx]}  # fmt: skip
    return found


def test_one_is_one_and_several_are_several():
    """A fish is one connected thing; beside it stand one or two others."""
    assert all(2 <= things("fish:one", k) <= 3 for k in range(6))
    counts = {things("fish:several", k) for k in range(12)}
    assert min(counts) >= 3
    assert max(counts) >= 5


def test_everything_follows_from_seed_and_index():
    first = draw_scene("bat:animal", 3, 7)
    assert first.tobytes() == draw_scene("bat:animal", 3, 7).tobytes()
    for other in (("bat:club", 3, 7), ("bat:animal", 3, 8), ("bat:animal", 4, 7)):
        assert first.tobytes() != draw_scene(*other).tobytes()
    assert draw_scene("bat:animal", 3, 7, 60, 40).size == (60, 40)


@pytest.mark.parametrize("name", ["bat", "bat:animals", "sheep", "sheep:two", "bat:one", ""])
def test_what_names_no_scene(name):
    with pytest.raises(UserError, match="names no scene"):
        draw_scene(name, 0, 0)
