"""Pictograms of what is one or several, man or woman, day or night."""

from __future__ import annotations

import math
from collections.abc import Callable

from neuroglot.data.embedded.pictures import OBJECTS
from neuroglot.data.scenes.pen import Pen, box


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
"""Scene, or, where one or several are drawn, thing -> its pictogram."""
