"""Pictograms of the readings of ambiguous words: silhouettes in one ink, in the unit square, y down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from neuroglot.synthetic.pictures import OBJECTS, Point

# ---- The pen --------------------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]


class Pen(Protocol):
    """Draws in the unit square; `hole` takes the background's colour instead of the ink."""

    def __call__(self, shape: str, points: Sequence[Point] | Box) -> None:
        """Fill a `polygon` or an `ellipse` (left, top, right, bottom), as for `pictures.OBJECTS`."""

    def fill(self, *points: Point, hole: bool = False) -> None:
        """Fill a polygon."""

    def oval(self, left: float, top: float, right: float, bottom: float, hole: bool = False) -> None:
        """Fill an ellipse."""

    def stroke(self, *points: Point, width: float = 0.08, hole: bool = False) -> None:
        """Draw a line with round ends and corners."""


def box(pen: Pen, left: float, top: float, right: float, bottom: float, hole: bool = False) -> None:
    pen.fill((left, top), (right, top), (right, bottom), (left, bottom), hole=hole)


def arc(x: float, y: float, radius: float, start: float, end: float, squash: float = 1.0) -> list[Point]:
    """Return points of an arc; degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * k / 16) for k in range(17)]
    return [(x + radius * math.cos(a), y + squash * radius * math.sin(a)) for a in angles]


# ---- One or several, man or woman, day or night ---------------------------------------------------------------------


def _man(pen: Pen) -> None:
    pen.oval(0.38, 0.0, 0.62, 0.22)
    box(pen, 0.34, 0.26, 0.66, 0.62)
    for x in (0.39, 0.61):
        pen.stroke((x, 0.6), (x, 0.96), width=0.12)
    for x in (0.26, 0.74):
        pen.stroke((x, 0.32), (x, 0.58), width=0.09)
    pen.stroke((0.3, 0.3), (0.7, 0.3), width=0.1)


def _woman(pen: Pen) -> None:
    pen.oval(0.38, 0.0, 0.62, 0.22)
    pen.fill((0.42, 0.26), (0.58, 0.26), (0.8, 0.74), (0.2, 0.74))
    for side in (-1, 1):
        pen.stroke((0.5 + side * 0.09, 0.7), (0.5 + side * 0.09, 0.96), width=0.09)
        pen.stroke((0.5 + side * 0.1, 0.3), (0.5 + side * 0.33, 0.56), width=0.07)


def _sun(pen: Pen) -> None:
    pen.oval(0.26, 0.26, 0.74, 0.74)
    for k in range(8):
        x, y = math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)
        pen.stroke((0.5 + 0.32 * x, 0.5 + 0.32 * y), (0.5 + 0.47 * x, 0.5 + 0.47 * y), width=0.07)


def _moon(pen: Pen) -> None:
    pen.oval(0.08, 0.02, 0.96, 0.98)
    pen.oval(0.36, -0.06, 1.1, 0.8, hole=True)


def _fish(pen: Pen) -> None:
    OBJECTS["fish"][1](pen)
    pen.oval(0.12, 0.4, 0.2, 0.48, hole=True)


def _sheep(pen: Pen) -> None:
    for x, y in ((0.3, 0.36), (0.46, 0.3), (0.62, 0.32), (0.74, 0.44), (0.34, 0.54), (0.5, 0.56), (0.66, 0.56)):
        pen.oval(x - 0.14, y - 0.14, x + 0.14, y + 0.14)
    pen.oval(0.04, 0.26, 0.28, 0.54)
    pen.oval(0.1, 0.34, 0.15, 0.39, hole=True)
    for x in (0.34, 0.46, 0.6, 0.7):
        pen.stroke((x, 0.64), (x, 0.9), width=0.07)


def _deer(pen: Pen) -> None:
    pen.oval(0.28, 0.46, 0.86, 0.7)
    pen.fill((0.3, 0.58), (0.2, 0.32), (0.32, 0.3), (0.46, 0.5))
    pen.fill((0.02, 0.36), (0.18, 0.22), (0.34, 0.24), (0.28, 0.38))
    for tip in ((0.14, 0.0), (0.3, 0.02), (0.44, 0.04)):
        pen.stroke((0.28, 0.26), ((0.3 + tip[0]) / 2, 0.14), tip, width=0.035)
    for x in (0.36, 0.46, 0.7, 0.8):
        pen.stroke((x, 0.64), (x, 0.98), width=0.05)
    pen.fill((0.82, 0.5), (0.96, 0.42), (0.88, 0.62))


def _aircraft(pen: Pen) -> None:
    pen.stroke((0.5, 0.08), (0.5, 0.9), width=0.13)
    pen.fill((0.5, 0.3), (1.0, 0.6), (1.0, 0.7), (0.5, 0.56), (0.0, 0.7), (0.0, 0.6))
    pen.fill((0.5, 0.76), (0.72, 0.92), (0.72, 0.99), (0.28, 0.99), (0.28, 0.92))


def _squid(pen: Pen) -> None:
    pen.fill((0.5, 0.0), (0.8, 0.26), (0.64, 0.3), (0.66, 0.58), (0.34, 0.58), (0.36, 0.3), (0.2, 0.26))
    for k, x in enumerate((0.37, 0.455, 0.545, 0.63)):
        pen.stroke((x, 0.56), (x + 0.06 * (-1) ** k, 0.74), (x + (k - 1.5) * 0.08, 0.97), width=0.05)
    for x in (0.43, 0.57):
        pen.oval(x - 0.04, 0.44, x + 0.04, 0.52, hole=True)


def _bison(pen: Pen) -> None:
    pen.fill(
        (0.08, 0.5), (0.2, 0.26), (0.4, 0.16), (0.62, 0.34), (0.94, 0.42), (0.94, 0.72), (0.4, 0.76), (0.12, 0.72)
    )
    pen.oval(0.0, 0.42, 0.3, 0.84)
    pen.stroke((0.22, 0.44), (0.28, 0.3), width=0.05)
    pen.oval(0.08, 0.54, 0.14, 0.6, hole=True)
    for x in (0.36, 0.48, 0.78, 0.9):
        pen.stroke((x, 0.7), (x, 0.96), width=0.07)
    pen.stroke((0.94, 0.46), (1.0, 0.7), width=0.03)


BEINGS: dict[str, Callable[[Pen], None]] = {
    "person:man": _man,
    "person:woman": _woman,
    "sky:day": _sun,
    "sky:night": _moon,
    "fish": _fish,
    "sheep": _sheep,
    "deer": _deer,
    "aircraft": _aircraft,
    "squid": _squid,
    "bison": _bison,
}
"""Scene, or thing if one or several are drawn -> its pictogram."""


# ---- Ambiguous nouns ------------------------------------------------------------------------------------------------


def _bat_animal(pen: Pen) -> None:
    pen.oval(0.42, 0.3, 0.58, 0.75)
    pen.fill((0.43, 0.38), (0.44, 0.2), (0.5, 0.3), (0.56, 0.2), (0.57, 0.38))
    for side in (-1, 1):
        wing = [(0.0, 0.42), (0.2, 0.3), (0.34, 0.18), (0.5, 0.42), (0.44, 0.62), (0.34, 0.75), (0.28, 0.6),
                (0.16, 0.7), (0.1, 0.55)]  # fmt: skip
        pen.fill(*((0.5 + side * x, y) for x, y in wing))


def _bat_club(pen: Pen) -> None:
    pen.fill((0.62, 0.02), (0.94, 0.3), (0.36, 0.74), (0.28, 0.66))
    pen.oval(0.6, 0.0, 0.97, 0.34)
    pen.stroke((0.34, 0.68), (0.1, 0.9), width=0.08)
    pen.oval(0.02, 0.82, 0.18, 0.98)


def _crane_bird(pen: Pen) -> None:
    pen.oval(0.3, 0.38, 0.8, 0.62)
    pen.fill((0.7, 0.42), (1.0, 0.62), (0.68, 0.6))
    pen.stroke((0.36, 0.48), (0.26, 0.34), (0.3, 0.18), (0.24, 0.1), width=0.06)
    pen.oval(0.18, 0.04, 0.32, 0.17)
    pen.fill((0.2, 0.06), (0.0, 0.14), (0.21, 0.14))
    pen.stroke((0.5, 0.58), (0.5, 0.98), width=0.035)
    pen.stroke((0.6, 0.58), (0.66, 0.78), (0.6, 0.98), width=0.035)


def _crane_machine(pen: Pen) -> None:
    box(pen, 0.26, 0.1, 0.4, 1.0)
    box(pen, 0.0, 0.18, 1.0, 0.28)
    pen.stroke((0.33, 0.02), (0.95, 0.2), width=0.03)
    pen.stroke((0.33, 0.02), (0.05, 0.2), width=0.03)
    box(pen, 0.0, 0.26, 0.14, 0.42)
    pen.stroke((0.84, 0.28), (0.84, 0.55), width=0.03)
    box(pen, 0.72, 0.55, 0.96, 0.75)
    box(pen, 0.12, 0.92, 0.54, 1.0)


def _nail_finger(pen: Pen) -> None:
    pen.oval(0.24, 0.0, 0.76, 0.6)
    box(pen, 0.24, 0.3, 0.76, 1.0)
    pen.oval(0.33, 0.06, 0.67, 0.3, hole=True)
    box(pen, 0.33, 0.18, 0.67, 0.36, hole=True)
    pen.oval(0.33, 0.26, 0.67, 0.46, hole=True)
    for y in (0.66, 0.74):
        pen.stroke((0.38, y), (0.62, y), width=0.03, hole=True)


def _nail_metal(pen: Pen) -> None:
    box(pen, 0.24, 0.02, 0.76, 0.14)
    box(pen, 0.42, 0.1, 0.58, 0.8)
    pen.fill((0.42, 0.8), (0.58, 0.8), (0.5, 1.0))


def _key_door(pen: Pen) -> None:
    OBJECTS["key"][1](pen)
    pen.oval(0.1, 0.4, 0.28, 0.6, hole=True)


def _key_keyboard(pen: Pen) -> None:
    box(pen, 0.0, 0.2, 1.0, 0.8)
    for row, y in enumerate((0.27, 0.44)):
        for column in range(5 - row):
            left = 0.07 + 0.09 * row + column * 0.18
            box(pen, left, y, left + 0.13, y + 0.12, hole=True)
    box(pen, 0.22, 0.62, 0.78, 0.72, hole=True)


def _glasses_spectacles(pen: Pen) -> None:
    for left in (0.02, 0.56):
        pen.oval(left, 0.36, left + 0.42, 0.78)
        pen.oval(left + 0.07, 0.43, left + 0.35, 0.71, hole=True)
    pen.stroke(*arc(0.5, 0.53, 0.08, 180, 360), width=0.05)
    pen.stroke((0.05, 0.5), (0.12, 0.22), width=0.05)
    pen.stroke((0.95, 0.5), (0.88, 0.22), width=0.05)


def _glasses_tumblers(pen: Pen) -> None:
    for left in (0.02, 0.54):
        pen.fill((left, 0.15), (left + 0.44, 0.15), (left + 0.36, 0.9), (left + 0.08, 0.9))
        pen.fill((left + 0.06, 0.2), (left + 0.38, 0.2), (left + 0.34, 0.45), (left + 0.1, 0.45), hole=True)


def _spring_season(pen: Pen) -> None:
    OBJECTS["flower"][1](pen)
    pen.oval(0.42, 0.26, 0.58, 0.42, hole=True)
    pen.fill((0.5, 0.95), (0.2, 0.85), (0.12, 0.62), (0.36, 0.7))
    pen.fill((0.5, 0.95), (0.8, 0.85), (0.88, 0.62), (0.64, 0.7))


def _spring_coil(pen: Pen) -> None:
    turns = [(0.22 if k % 2 else 0.78, 0.14 + 0.09 * k) for k in range(9)]
    pen.stroke((0.5, 0.06), *turns, (0.5, 0.94), width=0.07)
    box(pen, 0.2, 0.0, 0.8, 0.08)
    box(pen, 0.2, 0.92, 0.8, 1.0)


def _bow_ribbon(pen: Pen) -> None:
    for side in (-1, 1):
        pen.fill(*((0.5 + side * x, y) for x, y in [(0.0, 0.4), (0.42, 0.12), (0.5, 0.2), (0.5, 0.6), (0.42, 0.68)]))
        pen.fill(*((0.5 + side * x, y) for x, y in [(0.2, 0.36), (0.4, 0.27), (0.4, 0.52)]), hole=True)
        pen.fill(*((0.5 + side * x, y) for x, y in [(0.0, 0.42), (0.36, 0.94), (0.24, 0.9), (0.16, 1.0)]))
    pen.oval(0.39, 0.28, 0.61, 0.54)


def _bow_archery(pen: Pen) -> None:
    pen.stroke(*arc(0.2, 0.5, 0.48, -85, 85), width=0.08)
    pen.stroke((0.24, 0.03), (0.24, 0.97), width=0.025)
    pen.stroke((0.02, 0.5), (0.9, 0.5), width=0.04)
    pen.fill((0.84, 0.4), (1.0, 0.5), (0.84, 0.6))


def _letter_mail(pen: Pen) -> None:
    box(pen, 0.0, 0.2, 1.0, 0.84)
    pen.stroke((0.04, 0.25), (0.5, 0.56), (0.96, 0.25), width=0.05, hole=True)
    pen.stroke((0.04, 0.79), (0.36, 0.5), width=0.04, hole=True)
    pen.stroke((0.96, 0.79), (0.64, 0.5), width=0.04, hole=True)


def _letter_character(pen: Pen) -> None:
    pen.stroke((0.12, 0.95), (0.5, 0.05), (0.88, 0.95), width=0.14)
    pen.stroke((0.27, 0.65), (0.73, 0.65), width=0.12)


def _seal_animal(pen: Pen) -> None:
    pen.fill((0.34, 0.26), (0.5, 0.3), (0.66, 0.6), (0.92, 0.8), (0.9, 0.9), (0.3, 0.9), (0.2, 0.7), (0.24, 0.45))
    pen.oval(0.18, 0.22, 0.5, 0.5)
    pen.fill((0.24, 0.26), (0.12, 0.2), (0.2, 0.4))
    pen.fill((0.84, 0.84), (1.0, 0.6), (1.0, 0.94))
    pen.fill((0.3, 0.72), (0.1, 0.96), (0.4, 0.92))
    pen.oval(0.0, 0.0, 0.22, 0.22)
    pen.oval(0.28, 0.3, 0.34, 0.36, hole=True)


def _seal_wax(pen: Pen) -> None:
    box(pen, 0.06, 0.0, 0.84, 0.9)
    for y in (0.14, 0.27, 0.4):
        box(pen, 0.16, y, 0.74, y + 0.06, hole=True)
    pen.oval(0.4, 0.5, 0.94, 1.04, hole=True)
    pen.fill(*((0.67 + r * math.cos(a), 0.77 + r * math.sin(a))
               for k in range(20) for r, a in [(0.23 if k % 2 else 0.19, k * math.pi / 10)]))  # fmt: skip
    pen.oval(0.57, 0.67, 0.77, 0.87, hole=True)


def _palm_tree(pen: Pen) -> None:
    pen.stroke((0.42, 1.0), (0.47, 0.7), (0.54, 0.34), width=0.08)
    for tip in ((0.06, 0.42), (0.14, 0.14), (0.5, 0.0), (0.86, 0.12), (0.98, 0.42)):
        middle = ((0.54 + tip[0]) / 2, min(0.34, tip[1]) - 0.02)
        pen.fill((0.5, 0.38), middle, tip, (middle[0], middle[1] + 0.15))
    pen.oval(0.4, 0.34, 0.52, 0.46)
    pen.oval(0.54, 0.36, 0.66, 0.48)


def _palm_hand(pen: Pen) -> None:
    box(pen, 0.3, 0.5, 0.76, 0.88)
    pen.oval(0.3, 0.74, 0.76, 1.0)
    for x, top in ((0.345, 0.2), (0.465, 0.08), (0.585, 0.1), (0.705, 0.22)):
        pen.stroke((x, 0.55), (x, top), width=0.1)
    pen.stroke((0.34, 0.76), (0.12, 0.5), width=0.11)


def _bank_river(pen: Pen) -> None:
    pen.fill((0.0, 0.48), (0.42, 0.48), (0.66, 0.98), (0.0, 0.98))
    for top in (0.0, 0.16):
        pen.fill((0.22, top), (0.4, top + 0.26), (0.04, top + 0.26))
    box(pen, 0.18, 0.4, 0.26, 0.5)
    for y, start in ((0.6, 0.58), (0.74, 0.65), (0.88, 0.72)):
        steps = int((1.0 - start) / 0.035)
        pen.stroke(*((start + 0.035 * k, y + 0.025 * math.sin(k * 1.4)) for k in range(steps)), width=0.045)


def _bank_money(pen: Pen) -> None:
    pen.fill((0.0, 0.34), (0.5, 0.04), (1.0, 0.34))
    pen.oval(0.43, 0.16, 0.57, 0.3, hole=True)
    for x in (0.08, 0.32, 0.56, 0.8):
        box(pen, x, 0.4, x + 0.12, 0.8)
    box(pen, 0.04, 0.78, 0.96, 0.86)
    box(pen, 0.0, 0.89, 1.0, 0.97)


def _match_stick(pen: Pen) -> None:
    pen.stroke((0.12, 0.96), (0.58, 0.42), width=0.07)
    pen.oval(0.5, 0.32, 0.68, 0.5)
    pen.fill((0.56, 0.44), (0.46, 0.24), (0.6, 0.18), (0.64, 0.0), (0.82, 0.2), (0.84, 0.38), (0.7, 0.5))
    pen.fill((0.62, 0.4), (0.6, 0.3), (0.68, 0.2), (0.74, 0.34), (0.68, 0.42), hole=True)


def _match_game(pen: Pen) -> None:
    pen.oval(0.0, 0.0, 1.0, 1.0)
    pen.oval(0.06, 0.06, 0.94, 0.94, hole=True)
    corners = [(0.5 + 0.2 * math.sin(k * math.tau / 5), 0.5 - 0.2 * math.cos(k * math.tau / 5)) for k in range(5)]
    pen.fill(*corners)
    for k, corner in enumerate(corners):
        angle = k * math.tau / 5
        pen.stroke(corner, (0.5 + 0.34 * math.sin(angle), 0.5 - 0.34 * math.cos(angle)), width=0.05)
        pen.fill(*((0.5 + r * math.sin(angle + d), 0.5 - r * math.cos(angle + d))
                   for r, d in ((0.32, 0.0), (0.4, 0.32), (0.48, 0.22), (0.48, -0.22), (0.4, -0.32))))  # fmt: skip


def _date_fruit(pen: Pen) -> None:
    pen.stroke((0.5, 0.0), (0.5, 0.2), (0.2, 0.42), width=0.05)
    pen.stroke((0.5, 0.2), (0.8, 0.42), width=0.05)
    pen.stroke((0.5, 0.2), (0.5, 0.5), width=0.05)
    for x, y in ((0.17, 0.38), (0.5, 0.46), (0.83, 0.38)):
        pen.oval(x - 0.14, y, x + 0.14, y + 0.5)
        pen.stroke((x - 0.05, y + 0.14), (x - 0.05, y + 0.34), width=0.03, hole=True)


def _date_calendar(pen: Pen) -> None:
    box(pen, 0.04, 0.1, 0.96, 1.0)
    box(pen, 0.11, 0.34, 0.89, 0.93, hole=True)
    for x in (0.26, 0.74):
        pen.stroke((x, 0.03), (x, 0.2), width=0.1)
    for row in range(3):
        for column in range(4):
            box(pen, 0.18 + 0.17 * column, 0.41 + 0.17 * row, 0.29 + 0.17 * column, 0.52 + 0.17 * row)


def _plant_leaves(pen: Pen) -> None:
    pen.fill((0.26, 0.66), (0.74, 0.66), (0.66, 1.0), (0.34, 1.0))
    box(pen, 0.2, 0.6, 0.8, 0.7)
    pen.stroke((0.5, 0.62), (0.5, 0.3), width=0.05)
    for side in (-1, 1):
        pen.fill(*((0.5 + side * x, y) for x, y in [(0.0, 0.56), (0.16, 0.3), (0.44, 0.24), (0.34, 0.46)]))
    pen.fill((0.5, 0.4), (0.36, 0.2), (0.5, 0.0), (0.64, 0.2))


def _plant_factory(pen: Pen) -> None:
    pen.fill((0.0, 1.0), (0.0, 0.55), (0.3, 0.38), (0.3, 0.55), (0.6, 0.38), (0.6, 0.55), (0.72, 0.48), (0.76, 0.14),
             (0.9, 0.14), (1.0, 1.0))  # fmt: skip
    for x in (0.1, 0.34, 0.58):
        box(pen, x, 0.7, x + 0.14, 0.84, hole=True)
    for smoke in ((0.66, 0.0, 0.82, 0.12), (0.46, 0.0, 0.7, 0.1), (0.3, 0.02, 0.5, 0.09)):
        pen.oval(*smoke)


def _table_furniture(pen: Pen) -> None:
    pen.fill((0.16, 0.3), (0.84, 0.3), (1.0, 0.46), (0.0, 0.46))
    box(pen, 0.0, 0.44, 1.0, 0.52)
    for x in (0.06, 0.86):
        box(pen, x, 0.5, x + 0.08, 0.95)
    for x in (0.26, 0.66):
        box(pen, x, 0.5, x + 0.07, 0.82)


def _table_chart(pen: Pen) -> None:
    box(pen, 0.02, 0.1, 0.98, 0.9)
    for row in range(3):
        for column in range(3):
            left, top = 0.08 + 0.3 * column, 0.34 + 0.18 * row
            box(pen, left, top, left + 0.24, top + 0.13, hole=True)


def _ruler_measure(pen: Pen) -> None:
    box(pen, 0.0, 0.32, 1.0, 0.68)
    for k in range(9):
        box(pen, 0.08 + 0.1 * k, 0.36, 0.115 + 0.1 * k, 0.56 if k % 2 == 0 else 0.46, hole=True)


def _ruler_crown(pen: Pen) -> None:
    pen.fill((0.04, 0.3), (0.28, 0.56), (0.5, 0.16), (0.72, 0.56), (0.96, 0.3), (0.88, 0.86), (0.12, 0.86))
    for x, y in ((0.04, 0.26), (0.5, 0.12), (0.96, 0.26)):
        pen.oval(x - 0.07, y - 0.07, x + 0.07, y + 0.07)
    box(pen, 0.16, 0.7, 0.84, 0.77, hole=True)


PICTOGRAMS: dict[str, Callable[[Pen], None]] = {
    "bank:river": _bank_river, "bank:money": _bank_money, "bat:animal": _bat_animal, "bat:club": _bat_club,
    "bow:ribbon": _bow_ribbon, "bow:archery": _bow_archery, "crane:bird": _crane_bird, "crane:machine": _crane_machine,
    "date:fruit": _date_fruit, "date:calendar": _date_calendar, "glasses:spectacles": _glasses_spectacles,
    "glasses:tumblers": _glasses_tumblers, "key:door": _key_door, "key:keyboard": _key_keyboard,
    "letter:mail": _letter_mail, "letter:character": _letter_character, "match:stick": _match_stick,
    "match:game": _match_game, "nail:finger": _nail_finger, "nail:metal": _nail_metal, "palm:tree": _palm_tree,
    "palm:hand": _palm_hand, "plant:leaves": _plant_leaves, "plant:factory": _plant_factory,
    "ruler:measure": _ruler_measure, "ruler:crown": _ruler_crown, "seal:animal": _seal_animal, "seal:wax": _seal_wax,
    "spring:season": _spring_season, "spring:coil": _spring_coil, "table:furniture": _table_furniture,
    "table:chart": _table_chart, **BEINGS,
}  # fmt: skip
"""Scene, or thing if one or several are drawn -> its pictogram."""
