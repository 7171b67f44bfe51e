"""What rendering can be asked for: scripts, lines, grounds, effects, and what is said when it cannot."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from neuroglot.errors import UserError
from neuroglot.synthetic import fonts
from neuroglot.synthetic.background import CONTRAST, colours, contrast, ground, legible, luminance
from neuroglot.synthetic.fonts import font_file, font_files
from neuroglot.synthetic.render import perspective, render
from neuroglot.synthetic.style import GROUNDS, RANGES, Style, parse_style, style_texts
from neuroglot.synthetic.typesetting import NOT_FIRST, NOT_LAST, base_direction, breakable

PLAIN = {"plain": "yes", "width": "300", "height": "300", "size": "30"}
JAPANESE = "東京（日本）では、二〇二六年十一月二十二日に「美術館」が開きます。入場料は500円です！"
THAI = "ยินดีต้อนรับสู่พิพิธภัณฑ์แห่งชาติ เปิดทุกวันเวลา 9:00 น."
PHOTOGRAPHS = Path(matplotlib.get_data_path()) / "sample_data"
"""Matplotlib's wheel has a photograph."""


@pytest.fixture(scope="session")
def blocks(tmp_path_factory):
    """A font in which every character of the texts above is a block; marks above and below have no width."""
    pen = TTGlyphPen(None)
    for corner in ((50, 0), (50, 700), (850, 700), (850, 0)):
        (pen.lineTo if corner != (50, 0) else pen.moveTo)(corner)
    pen.closePath()
    glyph = pen.glyph()
    characters = sorted({*JAPANESE, *THAI} - {" "})
    names = {ord(c): f"u{ord(c):04X}" for c in characters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "space", *names.values()])
    builder.setupCharacterMap({32: "space", **names})
    builder.setupGlyf(dict.fromkeys((".notdef", "space", *names.values()), glyph))
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "space", *names.values()), (900, 50)))
    builder.setupHorizontalHeader(ascent=900, descent=-300)
    builder.setupNameTable({"familyName": "Blocks", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path_factory.mktemp("font") / "blocks.ttf"
    builder.save(path)
    return str(path)


def rows(rendered):
    """The lines as they stand, top to bottom."""
    found = {}
    for character in rendered.characters:
        found.setdefault(character.y, []).append(character)
    return [found[y] for y in sorted(found)]


def dark(image):
    return np.asarray(image.convert("L")) < 128


# ---- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [12, 20, 30, 40])
def test_japanese_is_broken_anywhere_but_before_a_closing_or_after_an_opening_mark(blocks, size):
    for index in range(6):
        found = rows(render(JAPANESE, 0, index, {**PLAIN, "font": blocks, "size": str(size)}))
        assert "".join(c.text for row in found for c in row) == JAPANESE
        assert len(found) > 2 or size < 20
        for row in found[1:]:
            assert row[0].text not in NOT_FIRST
        for row in found[:-1]:
            assert row[-1].text not in NOT_LAST
        for before, after in itertools.pairwise(found):
            assert not (before[-1].text.isdigit() and after[0].text.isdigit()), "a number stays whole"
    widest = max(row[-1].x + row[-1].width / 2 for row in found)
    assert widest <= 300


def test_thai_marks_stay_with_their_letter(blocks):
    for index in range(6):
        found = rows(render(THAI, 0, index, {**PLAIN, "font": blocks}))
        assert len(found) > 2
        assert all(row[0].text not in "ัิีึืุู่้๊๋์ํะาำ" for row in found)
        assert all(row[-1].text not in "เแโใไ" for row in found)
    assert breakable("สวัสดีเพื่อน") == ["ส", "วั", "ส", "ดี", "เพื่", "อ", "น"]


def test_korean_and_latin_words_are_not_broken_where_a_line_ends():
    assert breakable("2026年11月") == ["2026", "年", "11", "月"]
    assert breakable("(株)ABC社、") == ["(株)ABC", "社、"]


@pytest.mark.parametrize("margin", [0.1, 0.3])
def test_a_margin_is_kept_free_on_every_side(margin):
    for index in range(8):
        image = render("Mind the gap", 0, index, {**PLAIN, "margin": str(margin)}).image
        found = np.argwhere(dark(image))
        edge = margin * 300 - 3
        assert found.min() >= edge
        assert found.max() <= 300 - edge


# ---- right to left --------------------------------------------------------------------------------------------------


def test_hebrew_and_arabic_lines_end_at_the_right():
    text = "שלום עולם הכניסה פתוחה עד הערב"
    aligned = 0
    for index in range(12):
        found = rows(render(text, 0, index, PLAIN))
        assert len(found) > 1
        ends = [row[0].x + row[0].width / 2 for row in found]
        aligned += max(ends) - min(ends) <= 1
        for row in found:
            assert all(a.x > b.x for a, b in itertools.pairwise(row)), "the next letter stands to the left"
    assert aligned > 3, "the others are centred"
    left = rows(render(text, 0, 0, {**PLAIN, "align": "left"}))
    begins = [row[-1].x - row[-1].width / 2 for row in left]
    assert max(begins) - min(begins) <= 1


def test_characters_that_run_against_the_line_stand_where_they_are_seen():
    row = rows(render("הכניסה 17:30", 0, 0, {**PLAIN, "size": "20"}))[0]
    places = {c.text: c.x for c in row}
    assert places["1"] < places["7"] < places["3"] < places["0"] < places["ה"]
    row = rows(render("Hotel שלום", 0, 0, {**PLAIN, "size": "20"}))[0]
    places = {c.text: c.x for c in row}
    assert places["H"] < places["l"] < places["ם"] < places["ש"]


def test_ink_is_where_right_to_left_characters_are_said_to_be():
    for index in range(6):
        drawn = render("שלום 2026 Paris", 0, index, PLAIN)
        ink = dark(drawn.image)
        for c in drawn.characters:
            box = ink[
                int(c.y - c.height / 2) : int(c.y + c.height / 2) + 1, int(c.x - c.width / 2) : int(c.x + c.width / 2)
            ]
            assert box.any(), c


def test_the_first_strong_letter_decides():
    assert base_direction("12: שלום Paris") == "rtl"
    assert base_direction("Paris שלום") == "ltr"
    assert base_direction("Žluťoučký 12:30") is None


# ---- fonts ----------------------------------------------------------------------------------------------------------


def test_what_one_font_lacks_another_gives(blocks, monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: {"Blocks": blocks})
    font_file.cache_clear()
    font_files.cache_clear()
    try:
        files = font_files("DejaVu Serif", False, "Café 東京 Łódź")
        assert set(map(str, files)) == {font_file("DejaVu Serif", False, "a"), blocks}
        drawn = render("Café 東京", 0, 0, {**PLAIN, "font": "DejaVu Serif"})
        assert "".join(c.text for c in drawn.characters) == "Café東京"
        assert all(a.x < b.x for row in rows(drawn) for a, b in itertools.pairwise(row))
        with pytest.raises(UserError, match="no single installed font has every character of 'שלום 東京'"):
            font_files("DejaVu Serif", False, "שלום 東京")  # as it is not known in which order they stand
    finally:
        font_file.cache_clear()
        font_files.cache_clear()


def test_a_script_without_a_font_is_named_with_the_package_that_has_one(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", dict)
    font_file.cache_clear()
    font_files.cache_clear()
    try:
        for text, script, package in (("สวัสดี", "Thai", "core"), ("東京", "Han", "cjk"), ("서울", "Hangul", "cjk")):
            with pytest.raises(UserError, match=f"of the {script} script .* fonts-noto-{package}") as caught:
                render(text, 0, 0)
            assert "\n" not in str(caught.value)
    finally:
        font_file.cache_clear()
        font_files.cache_clear()


# ---- ground ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [*GROUNDS, str(PHOTOGRAPHS)])
def test_ink_stands_out_from_every_ground(background):
    style = parse_style({"background": background, "width": "160", "height": "96"})
    different = set()
    for index in range(30):
        rng = random.Random(index)
        colour, ink = colours(rng)
        made = ground(rng, 0, index, style, colour, ink)
        assert made.size == (160, 96)
        assert made.mode == "RGB"
        if background in ("texture", str(PHOTOGRAPHS)):
            assert contrast(made, luminance(ink)) > CONTRAST
        different.add(made.tobytes())
    assert len(different) > 25


def test_a_photograph_that_is_legible_already_is_left_alone():
    bright = Image.fromarray(np.random.default_rng(0).integers(200, 256, (64, 64, 3), dtype=np.uint8))
    assert legible(bright, 10.0) is bright
    for ink in (0.0, 90.0, 127.0, 128.0, 200.0, 255.0):
        grey = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        changed = legible(grey, ink)
        assert contrast(changed, ink) > CONTRAST
        was, now = (np.asarray(i, dtype=float).mean() for i in (grey, changed))
        assert now > was if ink < 128 else now < was


def test_photographs_are_looked_for_in_the_folder_and_complained_of_if_there_are_none(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\26\7")  # what a Mac leaves beside a.jpg
    with pytest.raises(UserError, match=r"background: .* holds no photographs; expected \.jpg"):
        render("Exit", 0, 0, {"background": str(tmp_path)})
    Image.new("RGB", (50, 40), (0, 200, 0)).save(tmp_path / "deep" / "green.png")
    fresh = tmp_path / "again"
    (tmp_path / "deep").rename(fresh)
    image = np.asarray(render("I", 0, 0, {"background": str(fresh), "noise": "0"}).image, dtype=int)
    assert (image[..., 1] - image[..., 0]).mean() > 20
    (fresh / "green.png").write_bytes(b"no image")
    other = tmp_path / "third"
    fresh.rename(other)
    with pytest.raises(UserError, match=r"green\.png cannot be read"):
        render("I", 0, 0, {"background": str(other)})


# ---- effects --------------------------------------------------------------------------------------------------------


def test_boxes_follow_the_perspective():
    inside = total = 0
    for index in range(12):
        flat = render("Mind the gap between train and platform", 0, index, PLAIN)
        seen = render("Mind the gap between train and platform", 0, index, {**PLAIN, "perspective": "0.25"})
        assert [c.text for c in seen.characters] == [c.text for c in flat.characters]
        assert seen.image.tobytes() != flat.image.tobytes()
        ink = np.asarray(seen.image.convert("L")) < 160
        covered = np.zeros_like(ink)
        for c in seen.characters:
            left, right = int(c.x - c.width / 2) - 2, int(c.x + c.width / 2) + 3
            top, bottom = int(c.y - c.height / 2) - 2, int(c.y + c.height / 2) + 3
            assert ink[top:bottom, left:right].any(), c
            covered[top:bottom, left:right] = True
        inside += (ink & covered).sum()
        total += ink.sum()
    assert inside == total, "no ink outside of the boxes"


def test_a_homography_takes_the_corners_where_it_should():
    moves = [0.1, 0.2, 0.3, 0.0, 0.05, 0.4, 0.0, 0.1]
    view = perspective(200, 100, moves)
    x, y = view.at(np.array([0.0, 200, 200, 0]), np.array([0.0, 0, 100, 100]))
    assert np.allclose(np.stack([x, y], 1), [(20, 20), (140, 0), (190, 60), (0, 90)])
    assert np.allclose(perspective(200, 100, [0.0] * 8).forward, np.eye(3))


@pytest.mark.parametrize(
    ("style", "changed"),
    [({"blur": "3"}, True), ({"jpeg": "10"}, True), ({"perspective": "0.3"}, True), ({"background": "texture"}, True),
     ({"blur": "0"}, False), ({"perspective": "0"}, False)],
)  # fmt: skip
def test_effects_follow_from_seed_and_index_and_leave_all_else_alone(style, changed):
    for index in range(6):
        bare, drawn = render("Exit", 1, index), render("Exit", 1, index, style)
        assert render("Exit", 1, index, style).image.tobytes() == drawn.image.tobytes()
        assert (bare.image.tobytes() != drawn.image.tobytes()) == changed
        if style.keys() <= {"blur", "jpeg"}:
            assert drawn.characters == bare.characters, "the same sign, seen worse"


def test_blur_and_noise_are_as_strong_as_asked():
    edges, spread = [], []
    for strength in ("0", "4", "8"):
        images = [render("HHHH", 0, k, {"plain": "yes", "blur": strength}).image.convert("L") for k in range(10)]
        edges.append(np.mean([np.abs(np.diff(np.asarray(i, dtype=float))).max() for i in images]))
    assert edges[0] > edges[1] > edges[2]
    for amplitude in ("0", "14", "60"):
        images = [render("I", 0, k, {"background": "plain", "noise": amplitude}).image for k in range(20)]
        corners = [np.asarray(i, dtype=float)[:9, :9] for i in images]
        spread.append(max(np.ptp(c, axis=(0, 1)).max() for c in corners))
    assert spread[0] == 0
    assert 20 < spread[1] <= 28
    assert 80 < spread[2] <= 120


@pytest.mark.parametrize(("width", "height"), [(96, 96), (448, 448), (640, 200), (100, 500)])
def test_images_need_not_be_square(width, height):
    style = {"width": str(width), "height": str(height), "perspective": "0.1", "background": "texture"}
    for index in range(4):
        drawn = render("Platform 7", 0, index, style)
        assert drawn.image.size == (width, height)
        assert all(0 < c.x < width and 0 < c.y < height for c in drawn.characters)


# ---- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", RANGES)
def test_numbers_out_of_range_are_refused_with_the_range(key):
    low, high, unit = RANGES[key]
    for value in (low, high):
        assert getattr(parse_style({key: f"{value:g}"}), key) == value
    for value in (low - 1, high + 1):
        with pytest.raises(UserError, match=rf"render style {key} must be from {low:g} to {high:g} \({unit}\), got "):
            parse_style({key: f"{value:g}"})
    for value in ("many", "nan", "1e999", ""):
        with pytest.raises(UserError, match=f"render style {key} must be"):
            parse_style({key: value})


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"widht": 3}, "'widht' is not known; did you mean width"),
        ({"background": "textre"}, "'textre' is neither plain, gradient, plate, texture nor a folder .* mean texture"),
        ({"background": ["plain", "marble"]}, "'marble' is neither"),
        ({"align": "middle"}, "align must be left, centre, right, got 'middle'"),
        ({"plain": "maybe"}, "plain must be yes or no, got 'maybe'"),
        ({"plain": True, "background": "plate"}, "leave one of them out"),
    ],
)
def test_wrong_styles_are_refused_in_a_line(style, message):
    with pytest.raises(UserError, match=message) as caught:
        style_texts(style)
    assert "\n" not in str(caught.value)


def test_what_yaml_makes_of_a_style_is_put_into_strings():
    texts = style_texts({"width": 448, "perspective": 0.2, "plain": False, "background": ["plain", "texture"]})
    assert list(texts.items()) == sorted(texts.items())
    expected = Style(width=448, perspective=0.2, background=("plain", "texture"))
    assert parse_style(texts) == expected
    assert style_texts(texts) == texts
