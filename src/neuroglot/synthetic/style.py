"""The style of a rendering: its keys, their ranges, and the errors for wrong values.

A style is a mapping of strings, as in a render spec; a recipe's `data.render` may also have numbers. This file has
only fast imports, so that a recipe can be checked before anything is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from neuroglot.errors import UserError, nearest
from neuroglot.file_format import given_path

SIZE = 120
"""Side of the embedded model's images, in pixels."""

GROUNDS = ("plain", "gradient", "plate", "texture")
"""Backgrounds that are drawn; the other kind is a folder of photographs."""

ALIGNMENTS = ("left", "centre", "right")

RANGES: dict[str, tuple[float, float, str]] = {
    "width": (32, 4096, "pixels"),
    "height": (32, 4096, "pixels"),
    "size": (1, 1024, "pixels"),
    "noise": (0, 96, "grey levels"),
    "jpeg": (5, 100, "quality"),
    "margin": (0, 0.4, "share of the smaller side"),
    "perspective": (0, 0.4, "share of the side"),
    "blur": (0, 8, "pixels"),
}
"""Key with a number -> smallest value, largest value, unit."""

WHOLE = ("width", "height", "size", "noise", "jpeg")

STYLE_KEYS = ("align", "background", "font", "plain", *RANGES)


@dataclass(frozen=True)
class Style:
    """Fixed settings of a rendering; the others depend on (seed, index).

    Attributes:
        font: a family or a font file.
        size: the largest font size tried, in pixels.
        plain: black on white without noise.
        width: width of the image, in pixels.
        height: height of the image, in pixels.
        background: kinds from which one is chosen: of `GROUNDS`, or one folder of photographs.
        perspective: how far a corner may move, as a share of the side; each moves by another amount.
        blur: largest radius in pixels.
        noise: largest deviation in grey levels; every second image has noise.
        jpeg: lowest quality that an image is compressed to.
        margin: space kept free on every side, as a share of the smaller side.
        align: `left`, `centre` or `right`; unset, one of the first two, and `right` for right-to-left scripts.
    """

    font: str | None = None
    size: int | None = None
    plain: bool = False
    width: int = SIZE
    height: int = SIZE
    background: tuple[str, ...] = ()
    perspective: float = 0.0
    blur: float = 0.0
    noise: int = 14
    jpeg: int | None = None
    margin: float | None = None
    align: str | None = None


def parse_style(style: Mapping[str, str] | None, width: int = SIZE, height: int = SIZE) -> Style:
    """Return a style, checked.

    Args:
        style: key -> text.
        width: width of the image if the style has none, in pixels.
        height: height of the image if the style has none, in pixels.

    Raises:
        UserError: an unknown key, or a value that is no number, out of range, or no background.
    """
    return _parse(tuple((style or {}).items()), width, height)


def style_texts(given: Mapping[str, Any]) -> dict[str, str]:
    """Return a style from YAML values as strings, checked and sorted by key.

    Examples:
        >>> style_texts({"width": 448, "perspective": 0.2, "plain": False})
        {'perspective': '0.2', 'plain': 'no', 'width': '448'}

    Raises:
        UserError: as `parse_style`.
    """
    words = {True: "yes", False: "no"}
    texts = {
        str(key): words[value]
        if isinstance(value, bool)
        else ", ".join(map(str, value))
        if isinstance(value, list | tuple)
        else str(value)
        for key, value in given.items()
    }
    parse_style(texts)
    return dict(sorted(texts.items()))


@lru_cache(maxsize=256)
def _parse(items: tuple[tuple[str, str], ...], width: int, height: int) -> Style:
    fields: dict[str, Any] = {"width": width, "height": height}
    for key, value in items:
        if key not in STYLE_KEYS:
            raise UserError(f"render style {key!r} is not known; {nearest(key, STYLE_KEYS)}")
        if key in RANGES:
            fields[key] = _number(key, str(value))
        elif key == "background":
            fields[key] = _background(str(value))
        elif key == "plain":
            if value not in ("yes", "no"):
                raise UserError(f"render style plain must be yes or no, got {value!r}")
            fields[key] = value == "yes"
        else:
            fields[key] = str(value)
    style = Style(**fields)
    if style.align is not None and style.align not in ALIGNMENTS:
        raise UserError(
            f"render style align must be {', '.join(ALIGNMENTS)}, got {style.align!r}; leave it out to vary"
        )
    if style.plain and style.background:
        raise UserError(
            "render style plain is black on white, to which background adds nothing; leave one of them out"
        )
    return style


def _number(key: str, value: str) -> float | int:
    low, high, unit = RANGES[key]
    is_whole = key in WHOLE
    try:
        number = int(value) if is_whole else float(value)
    except ValueError:
        kind = f"a whole number of {unit}" if is_whole else f"a number ({unit})"
        raise UserError(f"render style {key} must be {kind}, got {value!r}") from None
    if not low <= number <= high:  # also true for NaN
        raise UserError(f"render style {key} must be from {low:g} to {high:g} ({unit}), got {value!r}")
    return number


def _background(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(","))
    if all(name in GROUNDS for name in names):
        return names
    if given_path(value).is_dir():
        return (str(given_path(value)),)
    wrong = next(name for name in names if name not in GROUNDS)
    raise UserError(
        f"render style background {wrong!r} is neither {', '.join(GROUNDS)} nor a folder of photographs; "
        f"{nearest(wrong, GROUNDS)}"
    )
