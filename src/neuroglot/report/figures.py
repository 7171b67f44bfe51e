"""The figures of the page: numbers in, a function out that draws them at a given width; and a figure as SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroglot.report.importance import Curve, ImportanceView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ---- SVG ------------------------------------------------------------------------------------------------------------
# Notable: matplotlib draws (plotly's script alone would be 4 MB of a page that should open anywhere and print well),
# text as paths, so that a figure looks the same on every machine. Colours are placeholders that end as CSS variables,
# so one drawing serves the light and the dark page; each figure is drawn twice, wide and narrow, so that letters keep
# their size on a telephone. matplotlib is loaded inside the functions: the command line must not wait for it.

WIDE, NARROW = 9.6, 3.6
"""Width of the two drawings in inches."""

STEPS = 9
"""Colours of a scale."""

# Placeholder -> CSS variable. No figure uses these near-black colours for anything else.
INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
SYSTEMS = {f"system-{place}": f"#0102{place:02x}" for place in range(6)}
PARTS = {"vision": "#010301", "connector": "#010302", "language": "#010303"}
SEQUENTIAL = tuple(f"#0104{step:02x}" for step in range(STEPS))
DIVERGING = tuple(f"#0105{step:02x}" for step in range(STEPS))
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "line",
    PAPER: "paper",
    **{colour: name for name, colour in SYSTEMS.items()},
    **{colour: part for part, colour in PARTS.items()},
    **{colour: f"seq-{step}" for step, colour in enumerate(SEQUENTIAL)},
    **{colour: f"div-{step}" for step, colour in enumerate(DIVERGING)},
}

Draw = Callable[[float], "Figure"]
"""Draws a figure of the given width; figures of this kind are what `neuroglot.report.figures` returns."""


def both(name: str, draw: Draw) -> dict[str, str]:
    """Draw a figure wide and narrow; returns two `<svg>` elements without size, for a page to place."""
    import matplotlib as mpl

    style: Any = {  # matplotlib types its settings as literals
        "svg.fonttype": "path",
        "svg.hashsalt": name,
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "text.color": INK,
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.titlecolor": INK,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    drawings = {}
    for kind, width in (("wide", WIDE), ("narrow", NARROW)):
        with mpl.rc_context({**style, "font.size": 8.5 if kind == "wide" else 7.5}):
            drawings[kind] = _svg(draw(width), f"{name}-{kind}")
    return drawings


def _svg(figure: Figure, prefix: str) -> str:
    """Serialise: colours become CSS variables, identifiers unique in the page, nothing is left that names a host."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")  # the constrained layout leaves no margin to trim
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"(?=[^>]*viewBox)', "", text)
    text = re.sub(r'(<svg[^>]*viewBox="[^"]*")[^>]*>', r'\1 aria-hidden="true" focusable="false">', text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r"#01\w{4}\b", lambda match: f"var(--{VARIABLES[match[0]]})", text)
    # A hundredth of a point is finer than any screen; six decimals are half of the file.
    text = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), text)
    return re.sub(r"\n\s*", "\n", text).strip()


# ---- Figures --------------------------------------------------------------------------------------------------------

MOST_LINES = 40
"""Thin lines of a panel."""


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as NewFigure  # no pyplot: no global state and no display

    return NewFigure(figsize=(width, height), layout="constrained")


def _percent_rows(axis: Axes, labels: Sequence[str], end: float) -> None:
    """Named rows from the top down, on a grid of percent that ends at `end`, where the figures have room."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xlim(0, end)
    axis.set_xticks(range(0, 101, 25))
    axis.set_axisbelow(True)
    axis.grid(axis="x")
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(length=0)


def score_bars(panels: Mapping[str, Mapping[str, Mapping[str, float]]], systems: Mapping[str, str], unit: str) -> Draw:
    """Grouped bars with their values.

    Args:
        panels: panel title -> pair -> system -> percent.
        systems: system -> name of its colour, in the order of the bars from the top.
        unit: what the figures are.
    """

    def draw(width: float) -> Figure:
        wide = width == WIDE
        rows = max(len(pairs) for pairs in panels.values())
        height = 0.62 + rows * (0.17 * len(systems) + 0.14)
        count = len(panels)
        figure = _figure(width, height if wide else count * height)
        axes = figure.subplots(*((1, count) if wide else (count, 1)), squeeze=False).flat
        for axis, (title, pairs) in zip(axes, panels.items(), strict=False):
            names = list(pairs)
            for index, (system, colour) in enumerate(systems.items()):
                offset = (index - (len(systems) - 1) / 2) * 0.84 / len(systems)
                for row, pair in enumerate(names):
                    if system not in pairs[pair]:
                        continue
                    value = pairs[pair][system]
                    axis.barh(row + offset, value, height=0.76 / len(systems), color=SYSTEMS[colour])
                    axis.text(value + 1.2, row + offset, f"{value:.1f}", va="center")
            _percent_rows(axis, names, 112)
            for label in axis.get_yticklabels():
                label.set_fontweight("bold" if label.get_text() == "average" else "normal")
            axis.set_title(title)
            axis.set_xlabel(unit)
        for axis in list(axes):
            axis.set_visible(False)
        return figure

    return draw


def retention_dumbbells(rows: Sequence[Mapping[str, Any]]) -> Draw:
    """Before (ring) and after (diamond) of each kept ability: rows of label, before, after (percent) and note."""

    def draw(width: float) -> Figure:
        figure = _figure(width, 0.55 + 0.27 * len(rows))
        axis = figure.subplots()
        for index, row in enumerate(rows):
            axis.plot([row["before"], row["after"]], [index, index], color=MUTED, linewidth=2.2, zorder=2)
            axis.plot(row["before"], index, "o", ms=7, mfc=PAPER, mec=SYSTEMS["system-0"], mew=1.8, zorder=3)
            axis.plot(row["after"], index, "D", ms=6, color=SYSTEMS["system-5"], zorder=4)
            axis.text(103, index, row["note"], va="center")
        _percent_rows(axis, [row["label"] for row in rows], 101.5)
        axis.set_xlabel("percent")
        return figure

    return draw


def importance_map(view: ImportanceView) -> Draw:
    """Layers x pairs: importance on the left, how a pair differs from the mean over pairs on the right."""
    values = np.stack([row.values for row in view.rows])  # (rows, pairs)
    mean = values.mean(axis=1, keepdims=True)
    logs = np.log2(np.maximum(values, 1e-9))
    differs = np.divide(100 * (values - mean), mean, out=np.zeros_like(values), where=mean > 0)
    # A few extreme layers must not leave the others one colour; zeros must not stretch the scale.
    spread = max(0.5, float(np.quantile(np.abs(logs[values > 1e-6]), 0.96))) if (values > 1e-6).any() else 1.0
    limit = max(1.0, float(np.quantile(np.abs(differs), 0.98)))

    def draw(width: float) -> Figure:
        several = len(view.pairs) > 1
        room = (0.42 if several else 0.85) * width / len(view.pairs)  # inches a column, of which a letter takes 0.08
        crowded = max(map(len, view.pairs)) * 0.08 > room
        parts = list(dict.fromkeys(row.part for row in view.rows))
        sizes = [sum(row.part == part for row in view.rows) for part in parts]
        figure = _figure(width, (1.75 if crowded else 1.35) + 0.155 * len(view.rows) + 0.22 * len(parts))
        grid = figure.add_gridspec(len(parts) + 1, 2 if several else 1, height_ratios=[*sizes, 0.9])
        panels = [(logs, spread, SEQUENTIAL)] + ([(differs, limit, DIVERGING)] if several else [])
        for column, (matrix, scale, colours) in enumerate(panels):
            start = 0
            for index, (part, size) in enumerate(zip(parts, sizes, strict=True)):
                axis = figure.add_subplot(grid[index, column])
                members = view.rows[start : start + size]
                _cells(axis, matrix[start : start + size], scale, colours)
                start += size
                labels = [f"{row.label} {'●' if row.kept else '○'}" for row in members]
                axis.set_yticks(np.arange(size) + 0.5, labels if column == 0 else [], size="small")
                axis.set_xticks(np.arange(len(view.pairs)) + 0.5, view.pairs, rotation=90 if crowded else 0)
                axis.tick_params(length=0, labelbottom=index == len(parts) - 1)
                if column == 0:
                    axis.set_title(part, loc="left")
            key = figure.add_subplot(grid[len(parts), column])
            title = "importance (1 = average)" if column == 0 else "difference from the mean"
            ends = (f"{2**-scale:.2g}×", "1×", f"{2**scale:.2g}×")
            if column:
                ends = (f"−{scale:.0f} %", "0", f"+{scale:.0f} %")
            _key(key, colours, title, ends)
        return figure

    return draw


def _cells(axis: Axes, matrix: Any, scale: float, colours: Sequence[str]) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    step = np.clip(np.floor((matrix + scale) / (2 * scale) * STEPS), 0, STEPS - 1).astype(int)
    rows, columns = matrix.shape
    cells = [Rectangle((x, y), 1, 1) for y in range(rows) for x in range(columns)]
    faces = [colours[step[y, x]] for y in range(rows) for x in range(columns)]
    axis.add_collection(PatchCollection(cells, facecolors=faces, edgecolors=PAPER, linewidths=0.6))
    axis.set_xlim(0, columns)
    axis.set_ylim(rows, 0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _key(axis: Axes, colours: Sequence[str], title: str, ends: tuple[str, str, str]) -> None:
    from matplotlib.patches import Rectangle

    for index, colour in enumerate(colours):
        axis.add_patch(Rectangle((index, 0), 1, 1, facecolor=colour, edgecolor=PAPER, linewidth=0.6))
    axis.set_xlim(-1, STEPS + 1)
    axis.set_ylim(0, 1)
    axis.set_xticks([0.5, STEPS / 2, STEPS - 0.5], ends)
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.set_title(title, loc="center", fontweight="normal", size="medium", color=MUTED, pad=3)
    for spine in axis.spines.values():
        spine.set_visible(False)


def dispersion_curves(curves: Sequence[Curve]) -> Draw:
    """Coefficient of variation by rank, a line a layer: the first 10 % dashed, the other 90 % solid."""
    parts = list(dict.fromkeys(curve.part for curve in curves))
    top = max(float(curve.values.max()) for curve in curves) * 1.08 or 1.0

    def draw(width: float) -> Figure:
        wide = width == WIDE
        shape = (1, len(parts)) if wide else (len(parts), 1)
        figure = _figure(width, 2.9 if wide else 2.1 * len(parts))
        axes = figure.subplots(*shape, squeeze=False, sharey=True)
        for axis, part in zip(axes.flat, parts, strict=True):
            lines = [curve.values for curve in curves if curve.part == part]
            rank = np.linspace(0, 100, len(lines[0]))
            first, rest = rank <= 10, rank >= 10
            # Beyond some number single lines are a smear: every so many is enough, from the flattest to the steepest.
            shown = sorted(lines, key=lambda line: float(line.mean()))[:: -(-len(lines) // MOST_LINES)]
            for line in shown:
                _two_strokes(axis, rank, line, first, rest, linewidth=0.7, alpha=0.35, color=PARTS.get(part, INK))
            middle = np.median(lines, axis=0)
            _two_strokes(axis, rank, middle, first, rest, linewidth=2.4, alpha=1.0, color=PARTS.get(part, INK))
            axis.axvline(10, color=MUTED, linewidth=0.8, linestyle=":")
            axis.set_title(f"{part} · {len(lines)} layer{'s' if len(lines) > 1 else ''}")
            axis.set_xlim(0, 100)
            axis.set_ylim(0, top)
            axis.set_xticks([0, 10, 50, 100], ["0", "10", "50", "100"])
            axis.grid(axis="y")
            axis.tick_params(length=0, labelcolor=MUTED)
            if axis is axes.flat[len(parts) - 1] or wide:
                axis.set_xlabel("rank in the layer, %")
        axes.flat[0].set_ylabel("coefficient of variation")
        return figure

    return draw


def _seen(axis: Axes, looks: Sequence[tuple[int, float, float]]) -> None:
    steps, chrf, exact = zip(*looks, strict=True)
    axis.plot(steps, chrf, color=SYSTEMS["system-5"], linewidth=2.2, marker="o" if len(looks) < 3 else None)
    axis.plot(steps, exact, color=SYSTEMS["system-1"], linestyle="none", marker="o", markersize=3.5)
    axis.set_ylim(bottom=0)
    axis.set_axisbelow(True)
    axis.grid(axis="y")
    axis.tick_params(length=0, labelcolor=MUTED)
    axis.set_xlabel("optimiser step")
    axis.set_ylabel("dev, %")
    axis.margins(x=0.01)


def _two_strokes(axis: Axes, x: Any, y: Any, first: Any, rest: Any, **style: Any) -> None:
    axis.plot(x[first], y[first], linestyle=(0, (3, 1.6)), **style)
    axis.plot(x[rest], y[rest], linestyle="-", **style)


def loss_curve(steps: Sequence[int], losses: Sequence[float], looks: Sequence[tuple[int, float, float]] = ()) -> Draw:
    """Training loss: every logged step thin, a centred moving median bold; beside it what was seen on dev items.

    Args:
        steps: logged steps.
        losses: at these.
        looks: (step, chrF++, exact match) of each validation run on dev items.
    """
    window = max(1, len(losses) // 25) | 1
    padded = np.pad(np.asarray(losses, float), window // 2, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1)
    positive = min(losses) > 0

    def draw(width: float) -> Figure:
        wide = width == WIDE
        figure = _figure(width, 2.5 if wide else 4.2 if looks else 2.2)
        axis = figure.subplots()
        if looks:
            figure.clear()
            axis, beside = figure.subplots(*((1, 2) if wide else (2, 1)))
            _seen(beside, looks)
        marker = "o" if len(losses) < 3 else None
        axis.plot(steps, losses, color=SYSTEMS["system-5"], linewidth=0.7, alpha=0.45, marker=marker)
        axis.plot(steps, smooth, color=SYSTEMS["system-5"], linewidth=2.2)
        if positive and max(losses) > 30 * min(losses):
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0 if positive else None)
        axis.set_axisbelow(True)
        axis.grid(axis="y")
        axis.tick_params(length=0, labelcolor=MUTED)
        axis.set_xlabel("optimiser step")
        axis.set_ylabel("loss")
        axis.margins(x=0.01)
        return figure

    return draw
