"""Boxes of text into lines in reading order: top to bottom, and along each line.

Notable: a text detector gives boxes in no order that can be relied on, several to a line where words are far apart,
and tilted with the sign. The tilt is taken out first, so that a line of a slanted sign stays a line. Columns are not
told apart: a line goes across the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

OVERLAP = 0.5
"""A box belongs to a line if they share this much of the lower of their heights."""


def reading_order(boxes: ArrayLike, right_to_left: bool = False) -> list[list[int]]:
    """Group boxes into lines.

    Args:
        boxes: corners (N, 4, 2) as (x, y) in pixels, clockwise from the upper left of the text.
        right_to_left: how a line is read.

    Returns:
        The indices of the boxes of each line, in reading order; lines from top to bottom.

    >>> left, right, below = [[0, 0], [9, 0], [9, 9], [0, 9]], [[20, 1], [30, 1], [30, 9], [20, 9]], None
    >>> below = [[0, 12], [9, 12], [9, 20], [0, 20]]
    >>> reading_order([right, below, left])
    [[2, 0], [1]]
    """
    corners = np.asarray(boxes, dtype=float).reshape(-1, 4, 2)
    if not len(corners):
        return []
    upright = corners @ _rotation(-_tilt(corners)).T  # (N, 4, 2)
    tops, bottoms = upright[:, :, 1].min(axis=1), upright[:, :, 1].max(axis=1)
    starts = upright[:, :, 0].mean(axis=1)
    lines: list[list[int]] = []
    for index in np.argsort((tops + bottoms) / 2, kind="stable"):
        line = next((line for line in reversed(lines) if _shared(index, line, tops, bottoms) >= OVERLAP), None)
        if line is None:
            lines.append([int(index)])
        else:
            line.append(int(index))
    sign = -1 if right_to_left else 1
    return [sorted(line, key=lambda index: sign * starts[index]) for line in lines]


def _shared(index: int, line: Sequence[int], tops: NDArray, bottoms: NDArray) -> float:
    """Return the overlap of a box's height with the mean height of a line, as a share of the lower of the two."""
    top, bottom = tops[list(line)].mean(), bottoms[list(line)].mean()
    both = min(bottom, bottoms[index]) - max(top, tops[index])
    return float(both / max(1e-9, min(bottom - top, bottoms[index] - tops[index])))


def _tilt(corners: NDArray) -> float:
    """Return the angle of the text in radians: the median over boxes, those that are long counting more."""
    along = corners[:, 1] - corners[:, 0]  # (N, 2), the upper edges
    lengths = np.hypot(along[:, 0], along[:, 1])
    angles = np.arctan2(along[:, 1], along[:, 0])
    order = np.argsort(angles)
    half = np.searchsorted(np.cumsum(lengths[order]), lengths.sum() / 2)
    return float(angles[order[min(half, len(order) - 1)]])


def _rotation(angle: float) -> NDArray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
