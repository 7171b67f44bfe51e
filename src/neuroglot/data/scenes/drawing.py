"""Scenes: a picture that shows one reading of an ambiguous word, beside shapes that decide nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from neuroglot.data.embedded.pictures import OBJECTS, Point
from neuroglot.data.render import SIZE
from neuroglot.data.scenes.pen import Box
from neuroglot.data.scenes.pictograms import PICTOGRAMS
from neuroglot.errors import UserError, nearest

SEVERAL = (2, 3, 4)
BYSTANDERS = ("square", "triangle", "heart", "arrow")
"""Shapes that no reading is drawn with."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Pen:
    """A `pictograms.Pen`: the unit square laid on a place of the canvas (pixels)."""

    canvas: ImageDraw.ImageDraw
    left: float
    top: float
    extent: float
    ink: Colour
    paper: Colour

    def __call__(self, shape: str, points: Sequence[Point] | Box) -> None:
        if shape == "polygon":
            self.fill(*points)
        else:
            self.oval(*points)

    def fill(self, *points: Point, hole: bool = False) -> None:
        self.canvas.polygon([self._at(p) for p in points], fill=self.paper if hole else self.ink)

    def oval(self, left: float, top: float, right: float, bottom: float, hole: bool = False) -> None:
        self.canvas.ellipse([self._at((left, top)), self._at((right, bottom))], fill=self.paper if hole else self.ink)

    def stroke(self, *points: Point, width: float = 0.08, hole: bool = False) -> None:
        colour = self.paper if hole else self.ink
        self.canvas.line([self._at(p) for p in points], fill=colour, width=max(1, round(width * self.extent)))
        for x, y in points:  # round ends and corners
            self.oval(x - width / 2, y - width / 2, x + width / 2, y + width / 2, hole=hole)

    def _at(self, point: Point) -> Point:
        return self.left + point[0] * self.extent, self.top + point[1] * self.extent


def draw_scene(text: str, seed: int, index: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Draw a scene; colours, places, sizes and bystanders follow from (seed, index).

    Args:
        text: a pictogram's name (`bat:animal`), or a thing and how many (`sheep:one`, `sheep:several`).
        seed: corpus seed.
        index: place in the corpus.
        width: image width in pixels.
        height: image height in pixels.

    Raises:
        UserError: the text names no scene.
    """
    thing, _, number = text.partition(":")
    counted = thing in PICTOGRAMS and number in ("one", "several")
    if not counted and (text not in PICTOGRAMS or not number):
        known = [name for k in PICTOGRAMS for name in ([k] if ":" in k else [f"{k}:one", f"{k}:several"])]
        raise UserError(f"{text!r} names no scene; {nearest(text, known)}")
    rng = random.Random(f"scene:{seed}:{index}")
    paper = _colour(rng)
    image = Image.new("RGB", (2 * width, 2 * height), paper)  # drawn at twice the size, so that edges are smooth
    canvas = ImageDraw.Draw(image)
    side = 2 * min(width, height)
    ink = _colour(rng, paper)
    taken: list[Box] = []
    count = rng.choice(SEVERAL) if number == "several" else 1
    # One thing may be as small as one of several: only the number tells.
    smallest, largest = (0.34, 0.44) if count > 1 else (0.36, 0.7) if counted else (0.66, 0.84)
    for _ in range(count):
        left, top, extent = _place(rng, taken, rng.uniform(smallest, largest) * side, 2 * width, 2 * height)
        PICTOGRAMS[thing if counted else text](_Pen(canvas, left, top, extent, ink, paper))
    for _ in range(rng.choice((1, 2))):
        left, top, extent = _place(rng, taken, rng.uniform(0.1, 0.16) * side, 2 * width, 2 * height)
        OBJECTS[rng.choice(BYSTANDERS)][1](_Pen(canvas, left, top, extent, _colour(rng, paper), paper))
    return image.resize((width, height), Image.Resampling.BOX)


def _colour(rng: random.Random, other: Colour | None = None) -> Colour:
    """Draw a colour that can be told from another."""
    while True:
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if other is None or sum(abs(a - b) for a, b in zip(colour, other, strict=True)) > 300:
            return colour


def _place(rng: random.Random, taken: list[Box], extent: float, width: int, height: int) -> tuple[float, float, float]:
    """Find a free square, shrinking it while there is none; returns left, top and extent in pixels."""
    while True:
        for _ in range(60):
            left, top = rng.uniform(0, width - extent), rng.uniform(0, height - extent)
            if all(left > r or left + extent < x or top > b or top + extent < y for x, y, r, b in taken):
                taken.append((left, top, left + extent, top + extent))
                return left, top, extent
        extent *= 0.9
