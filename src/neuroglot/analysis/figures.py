"""The drawings of the analysis: lines with bands, heat maps, dots with intervals, distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroglot.report.figures import DIVERGING, INK, MUTED, PAPER, PARTS, STEPS, SYSTEMS, WIDE, Draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = Mapping[str, float]
"""`mean`, `low` and `high`."""


@dataclass(frozen=True)
class Line:
    """A line: its label, places, values with intervals, the name of its colour, and whether it is dashed."""

    label: str
    x: Sequence[float]
    y: Sequence[Interval]
    colour: str
    dashed: bool = False


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as NewFigure  # no pyplot: no global state and no display

    return NewFigure(figsize=(width, height), layout="constrained")


def _colour(name: str) -> str:
    return PARTS.get(name) or SYSTEMS.get(name, INK)


def _value(interval: Interval, name: str) -> float:
    value = interval[name]
    return float("nan") if value is None else float(value)


def lines(panels: Mapping[str, Sequence[Line]], unit: str, top: float | None = None, log: bool = False) -> Draw:
    """Lines with their intervals as bands, a panel each.

    Args:
        panels: title -> lines.
        unit: of the horizontal axis.
        top: where the vertical axis ends; by default where the values do.
        log: the horizontal axis is logarithmic, with a tick at each value.
    """

    def draw(width: float) -> Figure:
        wide, count = width == WIDE, len(panels)
        figure = _figure(width, 3.5 if wide else 3.1 * count)
        axes = figure.subplots(*((1, count) if wide else (count, 1)), squeeze=False).flat
        for axis, (title, members) in zip(axes, panels.items(), strict=True):
            for line in members:
                mean, low, high = (np.array([_value(y, name) for y in line.y]) for name in ("mean", "low", "high"))
                style: Any = {"linestyle": (0, (3, 1.6)) if line.dashed else "-", "marker": "o", "markersize": 3.5}
                axis.plot(line.x, mean, color=_colour(line.colour), linewidth=1.8, label=line.label, **style)
                axis.fill_between(line.x, low, high, color=_colour(line.colour), alpha=0.15, linewidth=0)
            axis.set_title(title)
            axis.set_xlabel(unit)
            if log:
                _ticks(axis, members[0].x)
            low_end = min([0.0, *(_value(y, "low") for line in members for y in line.y if y["low"] is not None)])
            axis.set_ylim(low_end * 1.05, top * 1.02 if top else None)
            axis.set_axisbelow(True)
            axis.grid(axis="y")
            axis.tick_params(length=0, labelcolor=MUTED)
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2 if len(members) > 3 else 3}
            axis.legend(**below, fontsize="small", handlelength=2.4)
        return figure

    return draw


def _ticks(axis: Axes, x: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(list(x), [f"{value:g}" for value in x])


def heat(
    panels: Mapping[str, Sequence[Sequence[float]]],
    rows: Sequence[str],
    columns: Sequence[str],
    unit: str,
    limit: float | None = None,
    numbers: bool = False,
) -> Draw:
    """Matrices side by side on one diverging scale around zero.

    Args:
        panels: title -> matrix.
        rows: their names.
        columns: their names.
        unit: what the values are.
        limit: where the scale ends; by default at the largest value.
        numbers: write the values into the cells.
    """
    matrices = {title: np.asarray(values, dtype=float) for title, values in panels.items()}
    scale = limit or max(float(np.nanmax(np.abs(matrix))) for matrix in matrices.values()) or 1.0

    def draw(width: float) -> Figure:
        wide, count = width == WIDE, len(panels)
        tall = 0.26 * len(rows) + 0.95
        figure = _figure(width, tall + 0.6 if wide else count * tall + 0.6)
        shape = (1, count) if wide else (count, 1)
        grid = figure.add_gridspec(shape[0] + 1, shape[1], height_ratios=[*[1.0] * shape[0], 0.21 / max(3, len(rows))])
        for index, (title, matrix) in enumerate(matrices.items()):
            axis = figure.add_subplot(grid[(0, index) if wide else (index, 0)])
            _cells(axis, matrix, scale, numbers)
            axis.set_yticks(np.arange(len(rows)) + 0.5, rows if index == 0 or not wide else [])
            rotated = max(map(len, columns)) * len(columns) * 0.075 > 0.75 * width / shape[1]
            axis.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90 if rotated else 0)
            axis.tick_params(length=0)
            axis.set_title(title)
        key = figure.add_subplot(grid[shape[0], :])
        _key(key, unit, scale)
        return figure

    return draw


def _step(value: float, scale: float) -> int:
    return int(np.clip(np.floor((value + scale) / (2 * scale) * STEPS), 0, STEPS - 1))


def _cells(axis: Axes, matrix: np.ndarray, scale: float, numbers: bool) -> None:
    from matplotlib.patches import Rectangle

    for y, row in enumerate(matrix):
        for x, value in enumerate(row):
            # The scale's warm end is low; here a loss that grows is what one looks for, so it is turned round.
            face = DIVERGING[STEPS - 1 - _step(value, scale)] if np.isfinite(value) else PAPER
            axis.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=0.8))
            if numbers and np.isfinite(value):
                strong = abs(value) > 0.6 * scale
                axis.text(x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center", color=PAPER if strong else INK)
    axis.set_xlim(0, matrix.shape[1])
    axis.set_ylim(matrix.shape[0], 0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _key(axis: Axes, unit: str, scale: float) -> None:
    from matplotlib.patches import Rectangle

    for index in range(STEPS):
        face = DIVERGING[STEPS - 1 - index]
        axis.add_patch(Rectangle((index, 0), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=0.6))
    axis.set_xlim(-STEPS, 2 * STEPS)
    axis.set_ylim(0, 1)
    axis.set_xticks([0.5, STEPS / 2, STEPS - 0.5], [f"−{scale:.2g}", "0", f"+{scale:.2g}"])
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.set_title(unit, loc="center", fontweight="normal", size="medium", color=MUTED, pad=3)
    for spine in axis.spines.values():
        spine.set_visible(False)


def dots(rows: Sequence[tuple[str, Interval, str]], unit: str, marks: Sequence[float] = ()) -> Draw:
    """Named values with their intervals, from the top down; `marks` are lines to hold them against.

    Args:
        rows: label, interval, name of the colour.
        unit: of the values.
        marks: values to mark.
    """

    def draw(width: float) -> Figure:
        figure = _figure(width, 0.7 + 0.24 * len(rows))
        axis = figure.subplots()
        ends = []
        for index, (_, interval, colour) in enumerate(rows):
            mean, low, high = (_value(interval, name) for name in ("mean", "low", "high"))
            axis.plot([low, high], [index, index], color=_colour(colour), linewidth=2.2, alpha=0.55)
            axis.plot(mean, index, "o", ms=6, color=_colour(colour))
            ends += [low, high]
        for mark in marks:
            axis.axvline(mark, color=MUTED, linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        known = [end for end in ends if np.isfinite(end)]
        left, right = min([0.0, *known]), max([*known, *marks])
        if known and min(known) > 0.5 * right:  # nothing is left of the middle
            left = 0.9 * min(known)
        axis.set_xlim(left - 0.02 * (right - left), right + 0.04 * (right - left))
        axis.set_axisbelow(True)
        axis.grid(axis="x")
        axis.tick_params(length=0)
        axis.set_xlabel(unit)
        axis.spines["bottom"].set_visible(False)
        return figure

    return draw


def steps(edges: Sequence[float], parts: Mapping[str, Sequence[float]], unit: str) -> Draw:
    """Distributions as step lines: percent of a part's neurons in each bin.

    Args:
        edges: of the bins.
        parts: part -> percent in each bin.
        unit: of the edges.
    """

    def draw(width: float) -> Figure:
        figure = _figure(width, 2.6 if width == WIDE else 2.4)
        axis = figure.subplots()
        for part, values in parts.items():
            axis.stairs(values, edges, color=_colour(part), linewidth=1.8, label=part)
        axis.set_xlabel(unit)
        axis.set_ylabel("percent of the part's neurons")
        axis.set_xlim(edges[0], edges[-1])
        axis.set_axisbelow(True)
        axis.grid(axis="y")
        axis.tick_params(length=0, labelcolor=MUTED)
        axis.legend(loc="upper right", fontsize="small")
        return figure

    return draw
