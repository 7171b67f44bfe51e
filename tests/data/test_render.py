"""Rendering: the same sample is the same pixels, all of the text is inside the image, and its places are right."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import ImageDraw

from neuroglot.errors import UserError
from neuroglot.synthetic.fonts import BUNDLED
from neuroglot.synthetic.render import render
from neuroglot.synthetic.signs import signs
from neuroglot.synthetic.style import SIZE
from neuroglot.synthetic.typesetting import SMALLEST

PLAIN = {"plain": "yes"}


@pytest.fixture(scope="module")
def texts():
    return [sign.text("en") for sign in signs("train", 80)]


@pytest.fixture
def lines(monkeypatch):
    """Records every line drawn: its box in pixels and its font."""
    drawn = []
    text = ImageDraw.ImageDraw.text

    def record(self, xy, line, *, font, anchor, **options):
        drawn.append((line, self.textbbox(xy, line, font=font, anchor=anchor), font))
        text(self, xy, line, font=font, anchor=anchor, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return drawn


def read(rendered):
    return "".join(character.text for character in rendered.characters)


def ink(rendered):
    return np.asarray(rendered.image.convert("L")) < 128


def test_everything_follows_from_seed_and_index():
    text = "Monday, 9:00 AM"
    images = {(s, i): render(text, s, i) for s in (0, 1) for i in range(12)}
    for (seed, index), first in images.items():
        again = render(text, seed, index)
        assert again.image.tobytes() == first.image.tobytes()
        assert again.characters == first.characters
        assert first.image.mode == "RGB"
        assert first.image.size == (SIZE, SIZE)
    assert len({first.image.tobytes() for first in images.values()}) == len(images)


def test_another_process_draws_the_same_pixels(texts):
    program = (
        "import hashlib, sys\nfrom neuroglot.synthetic.render import render\n"
        "for k, t in enumerate(sys.argv[1:]): print(hashlib.sha256(render(t, 0, k).image.tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program, *texts[:10]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    expected = [hashlib.sha256(render(t, 0, k).image.tobytes()).hexdigest() for k, t in enumerate(texts[:10])]
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize("side", [SIZE, 448])
def test_every_line_lies_inside_the_image_and_every_character_is_told(side, texts, lines):
    for index, text in enumerate(texts):
        lines.clear()
        rendered = render(text, 3, index, PLAIN, side, side)
        assert read(rendered) == text.replace(" ", "")
        assert " ".join(line for line, _, _ in lines) == text
        for line, (left, top, right, bottom), font in lines:
            assert left >= -1, (line, font.getname())
            assert right <= side + 1, (line, font.getname())
            assert top >= -1, (line, font.getname())
            assert bottom <= side + 1, (line, font.getname())
        for character in rendered.characters:
            assert 0 < character.x < side
            assert 0 < character.y < side
        for (_, _, _, low), (_, high, _, _) in itertools.pairwise(box for _, box, _ in lines):
            assert low <= high + 2, "lines overlap"


def test_letters_that_reach_out_of_their_box_are_not_cut(lines):
    for index in range(40):
        render("January or\nJune jj", 1, index, {**PLAIN, "font": "DejaVu Serif"}, 448, 448)
    assert min(box[0] for _, box, _ in lines) >= -1
    assert len({font.size for _, _, font in lines}) > 10


def test_characters_stand_where_they_are_said_to(texts):
    for index, text in enumerate(texts[:40]):
        rendered = render(text, 4, index, PLAIN, 448, 448)
        dark = ink(rendered)
        rows: dict[float, list] = {}
        for character in rendered.characters:
            rows.setdefault(character.y, []).append(character)
        for y, row in rows.items():
            assert all(a.x < b.x for a, b in itertools.pairwise(row)), "not in reading order"
            for character in row:
                column = dark[max(0, int(y) - 60) : int(y) + 60, int(character.x) - 8 : int(character.x) + 8]
                assert column.any(), (text, character)
        assert list(rows) == sorted(rows)


def test_wrapping(lines):
    one = render("Exit", 0, 0, PLAIN)
    assert len({c.y for c in one.characters}) == 1
    text = "Wednesday, September 30, 2026"
    rendered = render(text, 0, 1, PLAIN)
    rows = {c.y for c in rendered.characters}
    assert len(rows) > 1
    position = 0
    for word in text.split():  # words stay whole
        assert len({c.y for c in rendered.characters[position : position + len(word)]}) == 1, word
        position += len(word)
    kept = render("A\nB", 0, 2, PLAIN)
    assert kept.characters[0].y < kept.characters[1].y
    lines.clear()
    render("Open\n\nMon – Fri 9:00", 0, 3, PLAIN)
    assert lines[0][0] == "Open"


@pytest.mark.parametrize(
    "text",
    ["Donaudampfschifffahrtsgesellschaft", "x" * 150, "W" * 60, "9" * 100, "Ab\n" + "longlong" * 10, "a b\t" * 9],
)
def test_words_longer_than_the_image_are_broken(text, lines):
    for index in range(8):
        lines.clear()
        rendered = render(text, 0, index, PLAIN)
        assert read(rendered) == "".join(text.split())
        assert all(box[0] >= -1 and box[2] <= SIZE + 1 and box[3] <= SIZE + 1 for _, box, _ in lines)


def test_right_to_left_scripts_are_drawn():
    rendered = render("مرحبا", 0, 0, PLAIN)
    assert read(rendered) == "مرحبا"
    assert ink(rendered).any()
    # Joined letters: the word is narrower than its letters side by side.
    apart = render(" ".join("مرحبا"), 0, 0, {**PLAIN, "size": "20"})
    together = render("مرحبا", 0, 0, {**PLAIN, "size": "20"})
    assert np.ptp(np.flatnonzero(ink(together).any(0))) < np.ptp(np.flatnonzero(ink(apart).any(0)))


@pytest.mark.parametrize("text", ["word " * 400, "x" * 3000, "a\n" * 60])
def test_a_text_that_cannot_fit(text):
    with pytest.raises(UserError, match=rf"a text of {len(text)} characters does not fit 120 x 120 pixels") as caught:
        render(text, 0, 0)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_an_empty_text(text):
    with pytest.raises(UserError, match="cannot render an empty text"):
        render(text, 0, 0)


def test_a_missing_glyph_reaches_the_caller():
    with pytest.raises(UserError, match=r"no installed font has a glyph for .*U\+0378"):
        render("Exit \u0378", 0, 0)


def test_fonts_vary_and_can_be_fixed(lines):
    for index in range(60):
        render("Exit", 0, index)
    faces = {font.getname()[0].replace("cmb", "cmr") for _, _, font in lines}
    assert len(faces) == len(BUNDLED)
    assert len({font.path for _, _, font in lines}) > len(BUNDLED) + 1, "bold faces are used too"
    lines.clear()
    for index in range(8):
        render("Exit", 0, index, {"font": "DejaVu Serif"})
    assert {font.getname()[0] for _, _, font in lines} == {"DejaVu Serif"}


def test_sizes_vary_and_can_be_fixed(lines):
    for index in range(40):
        render("Exit", 0, index)
    sizes = {font.size for _, _, font in lines}
    assert len(sizes) > 3
    assert max(sizes) <= 0.24 * SIZE
    lines.clear()
    for index in range(4):
        render("Exit", 0, index, {"size": "14"})
        render("Wednesday September thirtieth two thousand and twenty-six, ten to nine", 0, index, {"size": "28"})
    sizes = [font.size for _, _, font in lines]
    assert sizes[0] == 14
    assert all(SMALLEST <= size <= 28 for size in sizes)
    lines.clear()
    render("Exit", 0, 0, {"size": "2"})
    assert lines[0][2].size == SMALLEST


def test_large_images_are_drawn_large(lines):
    render("Exit", 0, 0, PLAIN, 448, 448)
    assert lines[0][2].size > 448 * 0.15


def test_noise_colours_and_layout_vary_unless_plain(texts):
    colours = [len(np.unique(np.asarray(render(texts[0], 0, k).image).reshape(-1, 3), axis=0)) for k in range(40)]
    noisy = sum(count > 3000 for count in colours)
    assert 8 < noisy < 32, "about half of the signs are noisy"
    plain = [np.asarray(render(texts[0], 0, k, PLAIN).image) for k in range(10)]
    for image in plain:
        assert (image == image[..., :1]).all(), "grey"
        assert (image == 255).mean() > 0.5, "on white"
        assert image.min() < 60, "black ink"
    corners = {(r.characters[0].x, r.characters[0].y) for r in (render("Exit", 0, k, PLAIN) for k in range(20))}
    assert len(corners) > 10


def test_ink_can_be_told_from_the_background(texts):
    for index in range(40):
        rendered = render("IIII", 5, index, {"size": "28"})
        grey = np.asarray(rendered.image.convert("L"), dtype=float)
        y = int(rendered.characters[0].y)
        x = [int(c.x) for c in rendered.characters]
        stroke = grey[y - 3 : y + 4, x[0] - 4 : x[-1] + 5]
        assert np.ptp(np.median(stroke, axis=0)) > 50


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"fnot": "x"}, "render style 'fnot' is not known; did you mean font"),
        ({"colour": "red"}, "render style 'colour' is not known; did you mean"),
        ({"font": "Comic Sens"}, "font 'Comic Sens' is not installed"),
        ({"size": "big"}, "render style size must be a whole number of pixels, got 'big'"),
        ({"size": "-3"}, r"size must be from 1 to 1024 \(pixels\), got '-3'"),
    ],
)
def test_wrong_styles(style, message):
    with pytest.raises(UserError, match=message):
        render("Exit", 0, 0, style)
