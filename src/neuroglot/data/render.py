"""Text to image: a sign in any script, with varied font, size, colours, layout and noise.

Everything that varies follows from (seed, index): the same sample is the same pixels. The layout also tells where each
character stands, which is what the embedded model's vision tower is first taught to read.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from neuroglot.data.fonts import BUNDLED, font_file, load_font
from neuroglot.errors import UserError, nearest

SIZE = 120
"""Side of the images that the embedded model takes, in pixels."""

SMALLEST = 8
"""Font size in pixels below which a text counts as not fitting."""

STYLE_KEYS = ("font", "size", "plain")


@dataclass(frozen=True)
class Character:
    """A drawn character and the centre of its box in pixels."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Rendered:
    """An image and where its characters stand, in reading order."""

    image: Image.Image
    characters: tuple[Character, ...]


def render(
    text: str, seed: int, index: int, style: Mapping[str, str] | None = None, width: int = SIZE, height: int = SIZE
) -> Rendered:
    """Draw a text on a sign.

    Args:
        text: what the sign says; any script that an installed font covers. Line breaks are kept, long lines wrapped.
        seed: corpus seed.
        index: place in the corpus; all choices follow from (seed, index).
        style: restrictions: `font` (a family or a font file), `size` (pixels, the largest tried), `plain` ("yes" for
            black on white without noise).
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        The RGB image and its characters.

    Raises:
        UserError: a style key that is not known, a character without a glyph, or a text that cannot be made to fit.
    """
    style = dict(style or {})
    for key in style:
        if key not in STYLE_KEYS:
            raise UserError(f"render style {key!r} is not known; {nearest(key, STYLE_KEYS)}")
    rng = random.Random(f"{seed}:{index}")
    families = list(BUNDLED)
    family = rng.choices(families, [2.0] + [1.0] * (len(families) - 1))[0]
    bold = rng.random() < 0.2
    family = style.get("font", family)
    path = font_file(family, bold, text)
    # A sign is made to be read: its text fills most of it, in a size that varies by a third.
    grid = max(1, min(width, height) // 10)
    font, lines = _fit(text, path, _size(style, width, height), width, height, grid)
    if "size" not in style:
        smaller = max(grid, round(font.size * rng.uniform(0.75, 1.0)))
        font, lines = _fit(text, path, smaller, width, height, grid)
    background, ink = ((255, 255, 255), (0, 0, 0)) if style.get("plain") == "yes" else _colours(rng)
    image = _background(rng, width, height, background, style.get("plain") == "yes")
    characters = _write(rng, image, font, lines, ink, grid)
    if style.get("plain") != "yes" and rng.random() < 0.5:
        image = _noise(image, rng)
    return Rendered(image, tuple(characters))


def _size(style: Mapping[str, str], width: int, height: int) -> int:
    size = str(style.get("size", int(0.24 * min(width, height))))
    if not size.isdecimal():
        raise UserError(f"render style size must be a whole number of pixels, got {size!r}")
    return int(size)


REFERENCE = 64
"""Words are measured once, at this size in pixels, and scaled: measuring at every size would cost most of the time."""


@lru_cache(maxsize=20_000)
def _word_width(path: str, word: str) -> float:
    return load_font(path, REFERENCE).getlength(word) / REFERENCE


def _wrap(text: str, path: str, size: int, width: int) -> list[str] | None:
    """Break a text into lines no wider than `width`; None if a word alone is wider."""
    space = _word_width(path, " ")
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line, used = "", 0.0
        for word in paragraph.split():
            wide = _word_width(path, word)
            if wide * size > width:
                return None
            if line and (used + space + wide) * size > width:
                lines.append(line)
                line, used = word, wide
            else:
                used += (space if line else 0.0) + wide
                line = f"{line} {word}".strip()
        if line:
            lines.append(line)
    return lines


def _split_words(text: str, path: str, size: int, width: int) -> str:
    """Insert spaces so that no word is wider than `width`: scripts that put no space between words wrap anywhere."""
    words = []
    for word in re.split(r"(\s)", text):  # line breaks are kept, and measured by no font
        piece = ""
        for character in word:
            if piece and _word_width(path, piece + character) * size > width:
                words.append(f"{piece} ")
                piece = ""
            piece += character
        words.append(piece)
    return "".join(words)


def _margin(width: int, height: int) -> int:
    """Space at either side, for letters such as J that reach out of their box."""
    return max(2, min(width, height) // 48)


def _leading(size: int, grid: int) -> int:
    """Line height: the whole number of grid rows that a size needs, as in type set on a baseline grid."""
    return -(-round(size * 1.2) // grid) * grid


def _fit(
    text: str, path: str, size: int, width: int, height: int, grid: int
) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """Return the largest face up to `size` in which the wrapped text fits, and its lines."""
    if not text.strip():
        raise UserError("cannot render an empty text; give every example a source text of at least one character")
    room = width - 2 * _margin(width, height)
    for trial in range(max(size, SMALLEST), SMALLEST - 1, -1):
        lines = _wrap(text, path, trial, room)
        if lines is None and trial == SMALLEST:
            lines = _wrap(_split_words(text, path, trial, room), path, trial, room)
        if lines is not None and len(lines) * _leading(trial, grid) <= height:
            return load_font(path, trial), lines
    raise UserError(
        f"a text of {len(text)} characters does not fit {width} x {height} pixels at {SMALLEST} pixels a line: "
        f"{text[:40]!r}; render it larger or shorten the text"
    )


def _colours(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Draw a background and an ink that can be told apart (WCAG-like luminance difference)."""
    while True:
        a, b = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
        if abs(_luminance(a) - _luminance(b)) > 95:
            return a, b  # type: ignore[return-value]


def _luminance(colour: tuple[int, ...]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _background(rng: random.Random, width: int, height: int, colour: tuple[int, int, int], plain: bool) -> Image.Image:
    """One colour, a gentle gradient, or a bordered plate."""
    image = Image.new("RGB", (width, height), colour)
    kind = rng.random()
    if plain or kind < 0.5:
        return image
    if kind < 0.8:
        slope = rng.uniform(-30, 30)
        ramp = np.linspace(-slope, slope, width if rng.random() < 0.5 else height, dtype=np.float32)
        plane = np.broadcast_to(ramp[None, :] if len(ramp) == width else ramp[:, None], (height, width))
        shaded = np.asarray(image, dtype=np.float32) + plane[..., None]
        return Image.fromarray(shaded.clip(0, 255).astype(np.uint8))
    border = tuple(min(255, max(0, c + rng.choice((-40, 40)))) for c in colour)
    ImageDraw.Draw(image).rectangle((0, 0, width - 1, height - 1), outline=border, width=rng.randrange(1, 3))
    return image


def _write(
    rng: random.Random,
    image: Image.Image,
    font: ImageFont.FreeTypeFont,
    lines: list[str],
    ink: tuple[int, int, int],
    grid: int,
) -> list[Character]:
    """Draw the lines on the grid and return where each character stands."""
    width, height = image.size
    leading = _leading(round(font.size), grid)
    widths = [font.getlength(line) for line in lines]
    align = rng.choice((0.0, 0.5))
    margin = _margin(width, height)
    free = max(0, int(width - 2 * margin - max(widths)) // grid)
    left = margin + grid * rng.randint(0, free)
    top = grid * rng.randint(0, (height - leading * len(lines)) // grid)
    pen = ImageDraw.Draw(image)
    characters = []
    for number, line in enumerate(lines):
        x = left + int(align * (max(widths) - widths[number])) // grid * grid
        y = top + number * leading
        pen.text((x, y + leading // 2), line, font=font, fill=ink, anchor="lm")
        edges = [font.getlength(line[: k + 1]) for k in range(len(line))]
        for k, character in enumerate(line):
            if not character.isspace():
                before = edges[k - 1] if k else 0.0
                characters.append(Character(character, x + (before + edges[k]) / 2, y + leading / 2))
    return characters


def _noise(image: Image.Image, rng: random.Random) -> Image.Image:
    """Add pixel noise."""
    generator = np.random.default_rng(rng.getrandbits(32))
    pixels = np.asarray(image, dtype=np.int16)
    noise = generator.integers(-14, 15, size=pixels.shape, dtype=np.int16)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
