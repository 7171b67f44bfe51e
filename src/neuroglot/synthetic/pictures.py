"""Simple pictures and their English names: one to three drawn objects; what the embedded model can describe."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from neuroglot.errors import UserError
from neuroglot.synthetic.style import SIZE

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40), "green": (44, 150, 60), "blue": (40, 80, 210), "yellow": (240, 205, 40),
    "black": (25, 25, 25), "white": (245, 245, 245), "orange": (240, 130, 30), "purple": (130, 50, 160),
}  # fmt: skip
COUNTS = ("one", "two", "three")

Point = tuple[float, float]
Pen = Callable[[str, Sequence[Point] | tuple[float, float, float, float]], None]
"""Draws `polygon` (points) or `ellipse` (left, top, right, bottom) in the object's colour; unit square, y down."""


def _star(pen: Pen) -> None:
    pen("polygon", [(0.5 + (0.5 if k % 2 == 0 else 0.2) * math.sin(k * math.pi / 5),
                     0.5 - (0.5 if k % 2 == 0 else 0.2) * math.cos(k * math.pi / 5)) for k in range(10)])  # fmt: skip


def _heart(pen: Pen) -> None:
    pen("ellipse", (0.0, 0.05, 0.54, 0.6))
    pen("ellipse", (0.46, 0.05, 1.0, 0.6))
    pen("polygon", [(0.05, 0.45), (0.95, 0.45), (0.5, 1.0)])


def _house(pen: Pen) -> None:
    pen("polygon", [(0.0, 0.45), (0.5, 0.0), (1.0, 0.45)])
    pen(
        "polygon",
        [(0.12, 0.5), (0.88, 0.5), (0.88, 1.0), (0.62, 1.0), (0.62, 0.7), (0.38, 0.7), (0.38, 1.0), (0.12, 1.0)],
    )


def _tree(pen: Pen) -> None:
    for top in (0.0, 0.25):
        pen("polygon", [(0.5, top), (0.9, top + 0.5), (0.1, top + 0.5)])
    pen("polygon", [(0.42, 0.75), (0.58, 0.75), (0.58, 1.0), (0.42, 1.0)])


def _fish(pen: Pen) -> None:
    pen("ellipse", (0.0, 0.25, 0.75, 0.75))
    pen("polygon", [(0.65, 0.5), (1.0, 0.2), (1.0, 0.8)])


def _car(pen: Pen) -> None:
    pen(
        "polygon",
        [(0.0, 0.45), (0.22, 0.45), (0.35, 0.2), (0.7, 0.2), (0.82, 0.45), (1.0, 0.45), (1.0, 0.68), (0.0, 0.68)],
    )
    pen("ellipse", (0.12, 0.58, 0.36, 0.84))
    pen("ellipse", (0.64, 0.58, 0.88, 0.84))


def _boat(pen: Pen) -> None:
    pen("polygon", [(0.0, 0.7), (1.0, 0.7), (0.8, 0.95), (0.2, 0.95)])
    pen("polygon", [(0.5, 0.05), (0.9, 0.62), (0.5, 0.62)])


def _cup(pen: Pen) -> None:
    pen("polygon", [(0.05, 0.2), (0.7, 0.2), (0.62, 0.9), (0.13, 0.9)])
    pen(
        "polygon",
        [(0.7, 0.3), (1.0, 0.3), (1.0, 0.65), (0.66, 0.65), (0.66, 0.55), (0.88, 0.55), (0.88, 0.4), (0.7, 0.4)],
    )


def _flower(pen: Pen) -> None:
    for k in range(5):
        x, y = 0.5 + 0.27 * math.sin(k * 2 * math.pi / 5), 0.33 - 0.22 * math.cos(k * 2 * math.pi / 5)
        pen("ellipse", (x - 0.15, y - 0.14, x + 0.15, y + 0.14))
    pen("polygon", [(0.47, 0.5), (0.53, 0.5), (0.53, 1.0), (0.47, 1.0)])


def _key(pen: Pen) -> None:
    pen("ellipse", (0.0, 0.3, 0.4, 0.7))
    pen("polygon", [(0.35, 0.45), (1.0, 0.45), (1.0, 0.75), (0.9, 0.75), (0.9, 0.55), (0.78, 0.55), (0.78, 0.7),
                    (0.68, 0.7),
                    (0.68, 0.55), (0.35, 0.55)])  # fmt: skip


def _umbrella(pen: Pen) -> None:
    pen(
        "polygon",
        [(0.5 + 0.5 * math.cos(math.pi * k / 12), 0.55 - 0.5 * math.sin(math.pi * k / 12)) for k in range(13)],
    )
    pen("polygon", [(0.47, 0.5), (0.53, 0.5), (0.53, 1.0), (0.47, 1.0)])


def _cloud(pen: Pen) -> None:
    for box in ((0.0, 0.4, 0.4, 0.8), (0.2, 0.2, 0.7, 0.7), (0.55, 0.35, 1.0, 0.8), (0.2, 0.5, 0.8, 0.82)):
        pen("ellipse", box)


OBJECTS: dict[str, tuple[str, Callable[[Pen], None]]] = {
    "circle": ("circles", lambda pen: pen("ellipse", (0.0, 0.0, 1.0, 1.0))),
    "square": ("squares", lambda pen: pen("polygon", [(0.05, 0.05), (0.95, 0.05), (0.95, 0.95), (0.05, 0.95)])),
    "triangle": ("triangles", lambda pen: pen("polygon", [(0.5, 0.0), (1.0, 0.95), (0.0, 0.95)])),
    "arrow": ("arrows", lambda pen: pen("polygon", [(0.0, 0.38), (0.55, 0.38), (0.55, 0.15), (1.0, 0.5), (0.55, 0.85),
                                                    (0.55, 0.62), (0.0, 0.62)])),
    "star": ("stars", _star), "heart": ("hearts", _heart), "house": ("houses", _house), "tree": ("trees", _tree),
    "fish": ("fish", _fish), "car": ("cars", _car), "boat": ("boats", _boat), "cup": ("cups", _cup),
    "flower": ("flowers", _flower), "key": ("keys", _key), "umbrella": ("umbrellas", _umbrella),
    "cloud": ("clouds", _cloud),
}  # fmt: skip


def name(count: int, colour: str, thing: str) -> str:
    """Return the English name of a picture.

    Examples:
        >>> name(2, "red", "fish")
        'two red fish'
    """
    return f"{COUNTS[count - 1]} {colour} {OBJECTS[thing][0] if count > 1 else thing}"


def names(split: str) -> list[str]:
    """Return the names of one split: `pretrain` has four fifths of the combinations, `test` the others."""
    if split not in ("pretrain", "test"):
        raise UserError(f"picture split {split!r} is not known; expected pretrain or test")
    every = [name(n, c, t) for n in (1, 2, 3) for c in COLOURS for t in OBJECTS]
    return [e for e in every if (hashlib.sha256(e.encode()).digest()[0] < 51) == (split == "test")]


def draw_picture(text: str, seed: int, index: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Draw the picture of a name; position, size and background depend on (seed, index).

    Raises:
        UserError: the text is no name of a picture.
    """
    count, colour, thing = _parse(text)
    rng = random.Random(f"picture:{seed}:{index}")
    ink = COLOURS[colour]
    while True:
        paper = tuple(rng.randrange(256) for _ in range(3))
        if sum(abs(a - b) for a, b in zip(ink, paper, strict=True)) > 220:
            break
    image = Image.new("RGB", (width * 2, height * 2), paper)  # drawn at twice the size, so that edges are smooth
    canvas = ImageDraw.Draw(image)
    side = min(width, height) * 2
    cells = rng.sample([(x, y) for x in range(2) for y in range(2)], count)
    for column, row in cells:
        extent = rng.uniform(0.3, 0.46) * side if count > 1 else rng.uniform(0.34, 0.8) * side
        room_x, room_y = (width, height) if count > 1 else (2 * width, 2 * height)
        left = (column * width if count > 1 else 0) + rng.uniform(0, max(0.0, room_x - extent))
        top = (row * height if count > 1 else 0) + rng.uniform(0, max(0.0, room_y - extent))

        def pen(shape: str, points: Sequence, left: float = left, top: float = top, extent: float = extent) -> None:
            flat = [v for p in points for v in p] if shape == "polygon" else list(points)
            placed = [(left if k % 2 == 0 else top) + v * extent for k, v in enumerate(flat)]
            getattr(canvas, shape)(placed, fill=ink)

        OBJECTS[thing][1](pen)
    return image.resize((width, height), Image.Resampling.BOX)


def _parse(text: str) -> tuple[int, str, str]:
    words = text.split()
    singular = {many: one for one, (many, _) in OBJECTS.items()}
    if len(words) == 3 and words[0] in COUNTS and words[1] in COLOURS:
        thing = words[2] if words[0] == "one" else singular.get(words[2], "")
        if thing in OBJECTS:
            return COUNTS.index(words[0]) + 1, words[1], thing
    raise UserError(f"{text!r} names no picture; expected count, colour and object, such as 'two red stars'")
