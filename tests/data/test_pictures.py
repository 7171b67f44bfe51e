"""Pictures: every name can be drawn and read back, and no two look alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from neuroglot.data.example import RenderSpec
from neuroglot.data.image import open_image
from neuroglot.errors import UserError
from neuroglot.synthetic.pictures import COLOURS, COUNTS, OBJECTS, _parse, draw_picture, name, names

EVERY = list(itertools.product(range(1, len(COUNTS) + 1), COLOURS, OBJECTS))


def ink(image, colour):
    """How many pixels have (nearly) the colour."""
    return (np.abs(np.asarray(image, dtype=int) - COLOURS[colour]).sum(-1) < 12).sum()


def test_names_are_unique_and_parse_back():
    assert len({name(*parts) for parts in EVERY}) == len(EVERY) == 3 * 8 * 16
    for parts in EVERY:
        assert _parse(name(*parts)) == parts
    assert name(1, "red", "house") == "one red house"
    assert name(3, "blue", "fish") == "three blue fish"


def test_every_object_draws_in_every_colour_and_count():
    for number, (count, colour, thing) in enumerate(EVERY):
        image = draw_picture(name(count, colour, thing), 0, number, width=48, height=48)
        assert image.mode == "RGB"
        assert image.size == (48, 48)
        assert ink(image, colour) > 12 * count, (count, colour, thing)


def test_objects_differ_in_shape():
    """A name must be readable from the pixels: two objects never have the same outline."""
    drawn = {}
    for thing in OBJECTS:
        image = np.asarray(draw_picture(f"one black {thing}", 0, 0), dtype=int)
        drawn[thing] = np.abs(image - COLOURS["black"]).sum(-1) < 12
    for one, other in itertools.combinations(drawn, 2):
        union = (drawn[one] | drawn[other]).sum()
        assert (drawn[one] & drawn[other]).sum() < 0.97 * union, (one, other)


def test_three_objects_stand_apart():
    for k in range(8):
        red = (np.asarray(draw_picture("three red circles", 0, k)) == COLOURS["red"]).all(-1)
        quarters = [red[y : y + 60, x : x + 60].any() for y in (0, 60) for x in (0, 60)]
        assert sum(quarters) == 3


def test_place_size_and_background_follow_from_seed_and_index():
    first = draw_picture("two red stars", 3, 7)
    assert first.tobytes() == draw_picture("two red stars", 3, 7).tobytes()
    assert first.tobytes() != draw_picture("two red stars", 3, 8).tobytes()
    assert first.tobytes() != draw_picture("two red stars", 4, 7).tobytes()
    opened = open_image(RenderSpec("two red stars", 3, 7, kind="picture"))
    assert opened.tobytes() == first.tobytes()


def test_splits():
    train, test = set(names("pretrain")), set(names("test"))
    assert not train & test
    assert train | test == {name(*parts) for parts in EVERY}
    assert 0.1 < len(test) / len(EVERY) < 0.3
    # What is asked in the test was named in pretraining, in other combinations.
    words = {word for text in train for word in text.split()}
    assert {word for text in test for word in text.split()} <= words


@pytest.mark.parametrize("text", ["", "two red", "two red star", "one red stars", "four red stars", "one pink star",
                                  "one red dog", "Two red stars now"])  # fmt: skip
def test_what_names_no_picture_is_refused(text):
    with pytest.raises(UserError, match="names no picture; expected count, colour and object"):
        draw_picture(text, 0, 0)


def test_unknown_split():
    with pytest.raises(UserError, match="picture split 'train' is not known"):
        names("train")
