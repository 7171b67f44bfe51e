"""Fonts for a text: families, their files, and the characters that they cover."""

from __future__ import annotations

import contextlib
import logging
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from neuroglot.errors import UserError, nearest, refusing

# ---- Fonts and their characters -------------------------------------------------------------------------------------
# The bundled families are in matplotlib's wheel, so that a text has the same pixels on every machine; for other
# scripts, the fonts installed on the system are searched.


class MissingGlyphError(UserError):
    """No font has a character of a text, or no single font has all of them where one is needed."""


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
def _bundled(family: str, bold: bool) -> str:
    return str(_bundled_folder() / BUNDLED[family][bold])


@lru_cache(maxsize=1024)
def is_bundled(path: str) -> bool:
    """Whether a font file is one of those that come with matplotlib's wheel."""
    return Path(path).parent == _bundled_folder()


@cache
def _coverage(path: str) -> frozenset[int]:
    from fontTools.agl import AGL2UV
    from fontTools.ttLib import TTFont

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of unusual dates in the head table

    said = f"font file {path} cannot be read"
    with (
        refusing(lambda why: f"{said}: {why}; expected a TrueType or OpenType font"),
        TTFont(path, fontNumber=0, lazy=True) as font,
    ):
        glyphs: dict[int, str] = font.getBestCmap() or {}
    if Path(path).name.startswith("cm"):
        # TeX's encoding: it has Θ at the code of £. Only characters that the glyph's name confirms are used.
        return frozenset(code for code, name in glyphs.items() if AGL2UV.get(name) == code)
    return frozenset(glyphs)


def covers(path: str, text: str) -> bool:
    """Whether a font file has a glyph for every visible character of a text."""
    known = _coverage(path)
    return all(ord(c) in known or c.isspace() for c in set(text))


@cache
def _system_fonts() -> dict[str, str]:
    """Return family name -> file of the regular face, for every font of the system, in a stable order."""
    from matplotlib import font_manager

    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - listed):  # installed since matplotlib's last search
        with contextlib.suppress(Exception):  # it refuses bitmap fonts, and raises many types of errors
            font_manager.fontManager.addfont(path)
    files: dict[str, str] = {}
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda e: (e.name, abs(int(e.weight) - 400), e.fname)):
        if entry.style == "normal" and Path(entry.fname).exists():
            files.setdefault(entry.name, entry.fname)
    return files


@lru_cache(maxsize=4096)
def font_file(family: str, bold: bool, text: str) -> str:
    """Return the font file for a text in a family, or a system font if the family lacks the script.

    Raises:
        UserError: an unknown family.
        MissingGlyphError: no installed font covers a character; the message says how to install one.
    """
    if family in BUNDLED:
        path = _bundled(family, bold)
    elif Path(family).suffix.lower() in (".ttf", ".otf", ".ttc") and Path(family).exists():
        path = family
    elif family in _system_fonts():
        path = _system_fonts()[family]
    else:
        raise UserError(f"font {family!r} is not installed; {nearest(family, {*BUNDLED, *_system_fonts()})}")
    if covers(path, text):
        return path
    for candidate in (_bundled(other, bold) for other in BUNDLED):
        if covers(candidate, text):
            return candidate
    for name, candidate in _system_fonts().items():
        if name != "Last Resort High-Efficiency" and covers(candidate, text):
            return candidate
    raise MissingGlyphError(_missing(text))


@lru_cache(maxsize=4096)
def font_files(family: str, bold: bool, text: str) -> tuple[str, ...]:
    """Return the font files for a text: one if it has all characters, else the family's and others for the rest.

    Raises:
        UserError: as `font_file`.
        MissingGlyphError: as `font_file`; and for right-to-left text, which must be drawn in one font.
    """
    try:
        return (font_file(family, bold, text),)
    except UserError:
        if any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in text):
            raise
        needed = {c for c in text if not c.isspace()}
        files: list[str] = []
        # A font for each character; the family's font is preferred.
        for character in sorted(needed):
            if not any(covers(file, character) for file in files):
                files.append(font_file(family, bold, character))
        return tuple(sorted(files, key=lambda file: -sum(covers(file, c) for c in needed)))


HINTS = {
    "Hani": "fonts-noto-cjk", "Hira": "fonts-noto-cjk", "Kana": "fonts-noto-cjk", "Hang": "fonts-noto-cjk",
    "Bopo": "fonts-noto-cjk", "Zsye": "fonts-noto-color-emoji",
}  # fmt: skip
"""Script (ISO 15924) -> Debian package, if it is not fonts-noto-core."""


def _missing(text: str) -> str:
    """Return the message: the character and script without a font and how to install one, or that no font has all."""
    from fontTools import unicodedata as scripts

    files = [_bundled(family, False) for family in BUNDLED] + list(_system_fonts().values())
    files = [f for f in files if "LastResort" not in f]
    for character in dict.fromkeys(text):
        if not character.isspace() and not any(ord(character) in _coverage(f) for f in files):
            script = scripts.script(character)
            kind = f" of the {scripts.script_name(script)} script" if script not in ("Zyyy", "Zinh", "Zzzz") else ""
            package = HINTS.get(script, "fonts-noto-core")
            name = unicodedata.name(character, "no name")
            return (
                f"no installed font has a glyph for {character!r}{kind} (U+{ord(character):04X}, {name}); install one "
                f"(Debian: apt-get install {package}), or name a font file with the style key font"
            )
    return (
        f"no single installed font has every character of {text[:40]!r}; install one (Debian: apt-get install "
        "fonts-noto-core fonts-noto-cjk)"
    )


@lru_cache(maxsize=1024)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font face at a size in pixels."""
    return ImageFont.truetype(path, size)


# ---- A font for each stretch of a text ------------------------------------------------------------------------------

REFERENCE = 64
"""Size in pixels at which words are measured once; the widths are scaled, since measuring at every size is slow."""


@dataclass(frozen=True)
class Face:
    """Font files in the order in which they are searched for a character; nearly always one.

    Several fonts are used only for left-to-right text; `neuroglot.synthetic.fonts.font_files` ensures that.
    """

    paths: tuple[str, ...]

    def length(self, text: str, size: int, direction: str | None = None) -> float:
        """Return the width of a text in pixels."""
        if len(self.paths) == 1:
            return load_font(self.paths[0], size).getlength(text, direction=direction)
        return sum(load_font(path, size).getlength(run) for path, run in self.runs(text))

    def write(
        self,
        pen: ImageDraw.ImageDraw,
        place: tuple[int, int],
        text: str,
        size: int,
        ink: tuple[int, int, int] | int,
        direction: str | None,
    ) -> None:
        """Draw a line; `place` is its left end and middle height. All fonts use the first one's baseline."""
        first = load_font(self.paths[0], size)
        if len(self.paths) == 1:
            pen.text(place, text, font=first, fill=ink, anchor="lm", direction=direction)
            return
        above, below = first.getmetrics()
        x, y = float(place[0]), place[1] + (above - below) / 2
        for path, run in self.runs(text):
            font = load_font(path, size)
            pen.text((x, y), run, font=font, fill=ink, anchor="ls")
            x += font.getlength(run)

    def runs(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield the font and the text of each run; spaces and marks belong to the character before them."""
        current, start = None, 0
        for k, character in enumerate(text):
            if current and (character.isspace() or unicodedata.category(character)[0] == "M"):
                continue
            path = next((p for p in self.paths if covers(p, character)), self.paths[0])
            if current and path != current:
                yield current, text[start:k]
                start = k
            current = path
        if current:
            yield current, text[start:]


@lru_cache(maxsize=50_000)
def word_width(face: Face, word: str) -> float:
    """Return the width of a word at a size of one pixel."""
    return face.length(word, REFERENCE) / REFERENCE


def leading(face: Face, size: int, grid: int) -> int:
    """Return the line height in pixels: a size's height rounded up to whole grid rows, as on a baseline grid."""
    return -(-round(size * _line_height(face)) // grid) * grid


@lru_cache(maxsize=1024)
def _line_height(face: Face) -> float:
    """Return the line height at a size of one pixel: 1.2, more if marks are above and below the letters."""
    if all(is_bundled(path) for path in face.paths):
        return 1.2
    return max(1.2, *(sum(load_font(path, REFERENCE).getmetrics()) / REFERENCE for path in face.paths))
