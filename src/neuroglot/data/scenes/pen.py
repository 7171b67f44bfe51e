"""What pictograms are drawn with: silhouettes in one ink, with holes, in the unit square, y down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from neuroglot.data.embedded.pictures import Point

Box = tuple[float, float, float, float]


class Pen(Protocol):
    """Draws in the unit square; `hole` takes the background's colour instead of the ink."""

    def __call__(self, shape: str, points: Sequence[Point] | Box) -> None:
        """Fill a `polygon` or an `ellipse` (left, top, right, bottom): what `pictures.OBJECTS` are drawn with."""

    def fill(self, *points: Point, hole: bool = False) -> None:
        """Fill a polygon."""

    def oval(self, left: float, top: float, right: float, bottom: float, hole: bool = False) -> None:
        """Fill an ellipse."""

    def stroke(self, *points: Point, width: float = 0.08, hole: bool = False) -> None:
        """Draw a line with round ends and corners."""


def box(pen: Pen, left: float, top: float, right: float, bottom: float, hole: bool = False) -> None:
    pen.fill((left, top), (right, top), (right, bottom), (left, bottom), hole=hole)


def arc(x: float, y: float, radius: float, start: float, end: float, squash: float = 1.0) -> list[Point]:
    """Points of an arc; degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * k / 16) for k in range(17)]
    return [(x + radius * math.cos(a), y + squash * radius * math.sin(a)) for a in angles]
