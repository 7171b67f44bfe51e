"""Placing lines on an image, drawing them, and telling where each character stands."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw

from neuroglot.data.rendering.face import Face, leading
from neuroglot.data.rendering.style import ALIGNMENTS, Style


@dataclass(frozen=True)
class Character:
    """A drawn character, and the centre and the size of its box in pixels.

    The box is as wide as the character's advance and as high as its line; seen in perspective, the smallest upright
    box around what becomes of it.
    """

    text: str
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Line:
    """A line of text and the left end of its box, in pixels; `y` is the middle, where letters are anchored."""

    text: str
    x: int
    y: int
    direction: str | None


@dataclass(frozen=True)
class Placed:
    """The lines of an image; sizes in pixels."""

    lines: tuple[Line, ...]
    face: Face
    size: int
    leading: int


def gutter(width: int, height: int) -> int:
    """Space at either side, for letters such as J that reach out of their box."""
    return max(2, min(width, height) // 48)


def margins(style: Style) -> tuple[int, int]:
    """Return the space kept free at the sides and at top and bottom, in pixels."""
    wide = round((style.margin or 0.0) * min(style.width, style.height))
    return max(gutter(style.width, style.height), wide), wide


def place(rng: random.Random, lines: list[str], text: str, face: Face, size: int, style: Style, grid: int) -> Placed:
    """Choose where the lines stand: on the grid, so that neither patch nor line is cut more often than it must."""
    height = leading(face, size, grid)
    direction = base_direction(text)
    widths = [face.length(line, size, direction) for line in lines]
    align = rng.choice((0.0, 0.5))
    if style.align is not None:
        align = ALIGNMENTS.index(style.align) / 2
    elif direction == "rtl" and align == 0.0:
        align = 1.0
    side, above = margins(style)
    free = max(0, int(style.width - 2 * side - max(widths)) // grid)
    left = side + grid * rng.randint(0, free)
    top = above + grid * rng.randint(0, (style.height - 2 * above - height * len(lines)) // grid)
    placed = []
    for number, line in enumerate(lines):
        indent = int(align * (max(widths) - widths[number]))
        x = left + (indent if align == 1.0 else indent // grid * grid)
        placed.append(Line(line, x, top + number * height + height // 2, direction))
    return Placed(tuple(placed), face, size, height)


def write(placed: Placed, image: Image.Image, ink: tuple[int, int, int] | int) -> None:
    """Draw the lines."""
    pen = ImageDraw.Draw(image)
    for line in placed.lines:
        placed.face.write(pen, (line.x, line.y), line.text, placed.size, ink, line.direction)


def characters(placed: Placed) -> list[Character]:
    """Return every visible character, in reading order."""
    found = []
    for line in placed.lines:
        y = line.y - placed.leading // 2 + placed.leading / 2
        for character, (left, right) in zip(
            line.text, edges(line.text, placed.face, placed.size, line.direction), strict=True
        ):
            if not character.isspace():
                wide = abs(right - left)
                found.append(Character(character, line.x + (left + right) / 2, y, wide, float(placed.leading)))
    return found


def base_direction(text: str) -> str | None:
    """Return `rtl` or `ltr` by the first letter that has a direction (Unicode's P2); None where none runs leftwards.

    Examples:
        >>> base_direction("שלום Paris"), base_direction("Paris שלום"), base_direction("Paris")
        ('rtl', 'ltr', None)
    """
    if text.isascii():
        return None
    classes = [unicodedata.bidirectional(c) for c in text]
    if not any(c in ("R", "AL", "AN") for c in classes):
        return None
    return next(("rtl" if c != "L" else "ltr" for c in classes if c in ("R", "AL", "L")), "rtl")


def edges(line: str, face: Face, size: int, direction: str | None) -> list[tuple[float, float]]:
    """Return for each character of a line its left and right edge, in pixels from the line's left end.

    Characters that run against the line (a number or a Latin word in an Arabic line) are placed as one block, and a
    mark on a letter at its end. That is less than Unicode's bidirectional algorithm (UAX 9), which draws the line: of
    a number that follows Arabic letters in a Latin line the place told here is that beside them, not before.
    """
    ends = [0.0, *(face.length(line[: k + 1], size, direction) for k in range(len(line)))]
    if direction is None:
        return [(ends[k], ends[k + 1]) for k in range(len(line))]
    total = ends[-1]
    forward = direction == "ltr"
    placed: list[tuple[float, float]] = []
    for start, stop, with_line in _runs(line, forward):
        for k in range(start, stop):
            low, high = ends[k], ends[k + 1]
            if not with_line:  # mirrored within the block
                low, high = ends[start] + ends[stop] - high, ends[start] + ends[stop] - low
            placed.append((low, high) if forward else (total - high, total - low))
    return placed


def _runs(line: str, forward: bool) -> Iterator[tuple[int, int, bool]]:
    """Yield stretches of a line: start, stop, whether they run with it. Neutral signs take the line's direction,
    unless both neighbours run against it."""
    way: list[bool | None] = []
    for c in line:
        kind = unicodedata.bidirectional(c)
        runs_right = {"L": True, "EN": True, "AN": True, "R": False, "AL": False}.get(kind)
        if kind == "NSM":
            runs_right = None if not way or way[-1] is None else way[-1] == forward
        way.append(None if runs_right is None else runs_right == forward)
    start = 0
    while start < len(line):
        with_line = way[start] is not False
        stop = start + 1
        while stop < len(line):
            after = next((w for w in way[stop:] if w is not None), True)
            here = way[stop] if way[stop] is not None else (with_line if after == with_line else True)
            if here != with_line:
                break
            stop += 1
        yield start, stop, with_line
        start = stop
