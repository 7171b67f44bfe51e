"""Quality above and retention below, over what is varied, with 95 % intervals; what stands beside is a line across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroglot.compare.picture import COLOURS, STYLE

PANELS = (
    ("bleu", "BLEU"),
    ("nll", "nll on the task"),
    ("retention", "kept, exact match in percent"),
    ("retention_nll", "nll on what should be kept"),
)
"""Figure, and what its axis says; lower is better of a nll, higher of the others."""


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write an SVG with a panel for each figure that there is."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    entries = found["contenders"]
    own = [entry for entry in entries if entry["variant"] is not None]
    beside = [entry for entry in entries if entry["variant"] is None]
    panels = [panel for panel in PANELS if any(panel[0] in entry["figures"] for entry in own)]
    places = found["places"] or list(range(len(own)))
    rows = (len(panels) + 1) // 2
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, 2, figsize=(9.6, 3.4 * rows + 0.6), layout="constrained", squeeze=False, sharex=True
        )
        for panel, (name, label) in zip(axes.flat, panels, strict=False):
            _panel(panel, name, own, beside, places, joined=found["places"] is not None)
            panel.set_ylabel(label)
        for panel in axes.flat[len(panels) :]:
            panel.set_visible(False)
        names = [entry["name"] for entry in own]
        long = max(map(len, names)) > 6
        for panel in axes[-1]:
            panel.set_xticks(places, names, rotation=25 if long else 0, ha="right" if long else "center")
            panel.set_xlabel(found["label"])
        handles, labels = axes[0][0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _panel(
    axes: Any,
    name: str,
    own: Sequence[Mapping[str, Any]],
    beside: Sequence[Mapping[str, Any]],
    places: Sequence[float],
    joined: bool,
) -> None:
    points = [(x, entry["figures"][name]) for x, entry in zip(places, own, strict=True) if name in entry["figures"]]
    xs, means = [x for x, _ in points], [p["mean"] for _, p in points]
    spans = [[0 if p["low"] is None else abs(p["mean"] - p[end]) for _, p in points] for end in ("low", "high")]
    line = {"linestyle": "-" if joined else "none", "linewidth": 1.4, "capsize": 3}
    axes.errorbar(xs, means, yerr=spans, marker="o", markersize=5, color=COLOURS[0], **line)
    for number, entry in enumerate(entry for entry in beside if name in entry["figures"]):
        p, colour = entry["figures"][name], COLOURS[1:][number % (len(COLOURS) - 1)]
        axes.axhline(p["mean"], color=colour, linestyle="--", linewidth=1, label=entry["name"])
        if p["low"] is not None:
            axes.axhspan(p["low"], p["high"], color=colour, alpha=0.08, linewidth=0)
