"""From a matplotlib figure to an `<svg>` that belongs to the page.

Notable: matplotlib draws (plotly's script alone would be 4 MB of a page that should open anywhere and print well),
text as paths, so that a figure looks the same on every machine. Colours are placeholders that end as CSS variables, so
one drawing serves the light and the dark page; each figure is drawn twice, wide and narrow, so that letters keep their
size on a telephone. matplotlib is loaded inside the functions: the command line must not wait for it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
