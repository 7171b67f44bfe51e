"""Which font can draw a text: families, their files, and the characters they cover.

The bundled families come inside matplotlib's wheel, so the same text is the same pixels on every machine; other
scripts are looked up among the fonts installed on the system.
"""

from __future__ import annotations

import contextlib
import logging
import unicodedata
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

from neuroglot.errors import UserError, nearest

BUNDLED: dict[str, tuple[str, ...]] = {
    "DejaVu Sans Mono": ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
    "DejaVu Sans": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "DejaVu Serif": ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    "STIX General": ("STIXGeneral.ttf", "STIXGeneralBol.ttf"),
    "Computer Modern": ("cmr10.ttf", "cmb10.ttf"),
}
"""Family -> (regular, bold) files of matplotlib's wheel; one monospaced family, four proportional ones."""

MONOSPACED = "DejaVu Sans Mono"


@cache
def _bundled_folder() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@cache
def _coverage(path: str) -> frozenset[int]:
    from fontTools.agl import AGL2UV
    from fontTools.ttLib import TTFont, TTLibError

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of odd dates in the head table

    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            glyphs: dict[int, str] = font.getBestCmap() or {}
    except (TTLibError, OSError) as error:
        raise UserError(f"font file {path} cannot be read: {error}; expected a TrueType or OpenType font") from None
    if Path(path).name.startswith("cm"):
        # TeX's own encoding: where Unicode has £ it has Θ. Only what the glyph's name confirms is taken.
        return frozenset(code for code, name in glyphs.items() if AGL2UV.get(name) == code)
    return frozenset(glyphs)


def covers(path: str, text: str) -> bool:
    """Whether a font file has a glyph for every visible character of a text."""
    known = _coverage(path)
    return all(ord(c) in known or c.isspace() for c in text)


@cache
def _system_fonts() -> dict[str, str]:
    """Family name -> file of the regular face, for every font that the system has, in a stable order."""
    from matplotlib import font_manager

    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - listed):  # installed since matplotlib last looked
        with contextlib.suppress(Exception):  # it takes no bitmap fonts, and says so in many ways
            font_manager.fontManager.addfont(path)
    found: dict[str, str] = {}
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda e: (e.name, abs(int(e.weight) - 400), e.fname)):
        if entry.style == "normal" and Path(entry.fname).exists():
            found.setdefault(entry.name, entry.fname)
    return found


@lru_cache(maxsize=4096)
def font_file(family: str, bold: bool, text: str) -> str:
    """Return the file that draws a text in a family, falling back to a system font where the family lacks the script.

    Raises:
        UserError: an unknown family, or a character that no installed font covers, named with how to get one.
    """
    if family in BUNDLED:
        path = str(_bundled_folder() / BUNDLED[family][bold])
    elif Path(family).suffix.lower() in (".ttf", ".otf", ".ttc") and Path(family).exists():
        path = family
    elif family in _system_fonts():
        path = _system_fonts()[family]
    else:
        raise UserError(f"font {family!r} is not installed; {nearest(family, {*BUNDLED, *_system_fonts()})}")
    if covers(path, text):
        return path
    for candidate in (str(_bundled_folder() / files[bold]) for files in BUNDLED.values()):
        if covers(candidate, text):
            return candidate
    for name, candidate in _system_fonts().items():
        if name != "Last Resort High-Efficiency" and covers(candidate, text):
            return candidate
    raise UserError(_missing(text))


def _missing(text: str) -> str:
    """Say which character has no font, or that no single font has them all."""
    files = [str(_bundled_folder() / files[0]) for files in BUNDLED.values()] + list(_system_fonts().values())
    files = [f for f in files if "LastResort" not in f]
    hint = "install one (Debian: apt-get install fonts-noto-core fonts-noto-cjk)"
    for character in dict.fromkeys(text):
        if not character.isspace() and not any(ord(character) in _coverage(f) for f in files):
            name = unicodedata.name(character, "no name")
            return f"no installed font has a glyph for {character!r} (U+{ord(character):04X}, {name}); {hint}"
    return f"no single installed font has every character of {text!r}; {hint}"


@lru_cache(maxsize=1024)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font face at a size in pixels."""
    return ImageFont.truetype(path, size)
