"""The letters of a text: one font, or, where none has all of them, a font for each stretch."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageDraw

from neuroglot.data.rendering.fonts import covers, is_bundled, load_font

REFERENCE = 64
"""Words are measured once, at this size in pixels, and scaled: measuring at every size would cost most of the time."""


@dataclass(frozen=True)
class Face:
    """Font files in the order in which they are asked for a character; nearly always one.

    Several fonts are for text that runs from left to right; `neuroglot.data.rendering.fonts.font_files` sees to that.
    """

    paths: tuple[str, ...]

    def length(self, text: str, size: int, direction: str | None = None) -> float:
        """Return how far a text reaches, in pixels."""
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
        """Draw a line whose left end and middle height are given; all fonts stand on the first one's baseline."""
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
        """Yield stretches of a text and the font of each; spaces and marks go with what they follow."""
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
    """Width at a size of one pixel."""
    return face.length(word, REFERENCE) / REFERENCE


def leading(face: Face, size: int, grid: int) -> int:
    """Line height: the whole number of grid rows that a size needs, as in type set on a baseline grid."""
    return -(-round(size * _line_height(face)) // grid) * grid


@lru_cache(maxsize=1024)
def _line_height(face: Face) -> float:
    """Height of a line at a size of one pixel: 1.2, and more where marks stand above and below the letters."""
    if all(is_bundled(path) for path in face.paths):
        return 1.2
    return max(1.2, *(sum(load_font(path, REFERENCE).getmetrics()) / REFERENCE for path in face.paths))
