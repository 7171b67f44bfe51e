"""Fonts: every character has a glyph of its own, or the text is refused; never a box, never another sign."""

from __future__ import annotations

import random
import shutil
import string
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from neuroglot.errors import UserError
from neuroglot.synthetic import fonts
from neuroglot.synthetic.fonts import BUNDLED, covers, font_file, load_font
from neuroglot.synthetic.signs import signs

UNASSIGNED = "\u0378"


@pytest.fixture(scope="module")
def alphabet():
    """Every character of English signs, and what the lessons' random strings hold."""
    texts = (sign.text("en") for sign in signs("train", 250))
    return sorted({*"".join(texts), *string.ascii_letters, *string.digits, *".,:-/%()$–"} - {" "})


@pytest.mark.parametrize("bold", [False, True])
@pytest.mark.parametrize("family", BUNDLED)
def test_no_character_of_a_sign_is_drawn_as_a_box(family, bold, alphabet):
    box_of: dict[str, bytes] = {}
    for character in alphabet:
        path = font_file(family, bold, character)
        assert covers(path, character)
        face = load_font(path, 32)
        box = box_of.setdefault(path, bytes(face.getmask(UNASSIGNED)))
        drawn = bytes(face.getmask(character))
        assert drawn != box, (family, character)
        assert any(drawn), (family, character)


def test_a_family_is_left_only_for_what_it_lacks():
    for family, files in BUNDLED.items():
        assert [Path(font_file(family, bold, "Monday 9:00")).name for bold in (False, True)] == list(files)
    # Computer Modern has no en dash; another bundled family has, so that the pixels are the same on every machine.
    dashed = Path(font_file("Computer Modern", False, "Mon – Tue"))
    assert dashed.name in {files[0] for files in BUNDLED.values()} - {"cmr10.ttf"}
    assert covers(str(dashed), "Mon – Tue")
    assert Path(font_file("Computer Modern", True, "Mon – Tue")).name in {files[1] for files in BUNDLED.values()}


@pytest.mark.parametrize("character", [*"<>{}|_\\~^", *"°Äµ¼£¥"])
def test_texs_own_encoding_is_not_taken_for_unicode(character):
    """At these code points Computer Modern holds other signs, such as an inverted exclamation mark for <."""
    assert not Path(font_file("Computer Modern", False, f"a{character}b")).name.startswith("cm")


@pytest.mark.parametrize("text", [UNASSIGNED, f"Exit {UNASSIGNED} 5"])
def test_a_missing_glyph_is_an_error_that_names_the_character(text):
    message = r"no installed font has a glyph for '\\u0378' \(U\+0378, no name\)"
    for family in BUNDLED:
        with pytest.raises(UserError, match=message) as caught:
            font_file(family, False, text)
        assert "\n" not in str(caught.value)
        assert "fonts-noto" in str(caught.value)


def test_characters_that_only_different_fonts_have(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", dict)
    for character in ("מ", "ᶁ"):  # in DejaVu Sans alone, in STIX alone
        assert covers(font_file("Computer Modern", False, character), character)
    with pytest.raises(UserError, match="no single installed font has every character of 'מᶁ'"):
        font_file("DejaVu Sans", False, "מᶁ")


def test_a_named_font_file(tmp_path):
    copy = tmp_path / "Shop Sign.ttf"
    shutil.copy(font_file("DejaVu Serif", False, "a"), copy)
    assert font_file(str(copy), False, "abc") == str(copy)
    assert font_file(str(copy), True, "abc") == str(copy)
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font at all")
    with pytest.raises(UserError, match=r"font file .*broken\.ttf cannot be read: .*expected a TrueType"):
        font_file(str(broken), False, "a")


def test_an_unknown_family():
    with pytest.raises(UserError, match="font 'DejaVu Sens' is not installed; did you mean DejaVu Sans"):
        font_file("DejaVu Sens", False, "a")
    with pytest.raises(UserError, match="is not installed"):
        font_file("/nowhere/font.ttf", False, "a")


def test_a_font_installed_a_minute_ago_is_found(tmp_path, monkeypatch):
    """Matplotlib keeps its list of fonts for ever; whoever installs the font that an error asked for must get it."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((0, 500))
    pen.lineTo((400, 0))
    pen.closePath()
    glyph = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "strange"])
    builder.setupCharacterMap({0x378: "strange"})
    builder.setupGlyf({".notdef": glyph, "strange": glyph})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "strange": (500, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Neuroglot Test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "strange.ttf"
    builder.save(path)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path), str(tmp_path / "gone.ttf")])
    fonts._system_fonts.cache_clear()
    try:
        assert font_file("DejaVu Sans", False, UNASSIGNED) == str(path)
        assert font_file("Neuroglot Test", False, UNASSIGNED) == str(path)
    finally:
        fonts._system_fonts.cache_clear()
        font_file.cache_clear()


def test_a_damaged_font_is_read_or_refused_in_one_line(tmp_path):
    """Bytes of the tables and of their directory changed at random: fontTools raises what it likes."""
    from neuroglot.synthetic.fonts import _coverage

    data = Path(font_file("DejaVu Sans", False, "a")).read_bytes()
    draws, messages = random.Random(0), []
    for number in range(150):
        changed = bytearray(data if number % 5 else data[: draws.randrange(4, len(data))])
        for _ in range(draws.randrange(1, 30)):
            changed[draws.randrange(min(len(changed), draws.choice((300, len(changed)))))] = draws.randrange(256)
        path = tmp_path / f"{number}.ttf"
        path.write_bytes(changed)
        try:
            _coverage(str(path))
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(map(str.isprintable, messages))
