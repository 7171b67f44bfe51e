"""Figures of a comparison and of an ablation: quality against retention, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# ---- Comparison -----------------------------------------------------------------------------------------------------
# One column a budget, so that a column compares equals; what has no budget is in every column.

COLOURS = ("#1b6ca8", "#5a5a5a", "#2a8f5b", "#8e5ea2", "#c28f0e", "#17a2a2", "#c8553d", "#d1478c")
STYLE: Any = {
    "svg.hashsalt": "neuroglot",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def draw(comparison: Mapping[str, Any], path: Path) -> None:
    """Write an SVG; towards the lower left is better above, towards the upper left below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    entries = comparison["contenders"]
    colours = dict(zip(dict.fromkeys(e["method"] for e in entries), COLOURS * 9, strict=False))
    budgets = sorted({e["budget"] for e in entries if e["budget"] is not None}) or [None]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(budgets), figsize=(4.6 * len(budgets) + 0.6, 8.4), layout="constrained",
                                    squeeze=False, sharex="row", sharey="row")  # fmt: skip
        for column, budget in enumerate(budgets):
            group = [e for e in entries if e["budget"] in (budget, None)]
            _sweeps(axes[0][column], group, comparison["base"], colours)
            _tested(axes[1][column], group, colours)
            share = "" if budget is None else f"{100 * budget:g} % of neurons: "
            # Where nothing is kept, or what is compared has nothing to keep, there is no point and no log of one.
            scale = "log" if any(len(line.get_xdata()) for line in axes[0][column].lines) else "linear"
            axes[0][column].set(title=f"{share}every rate tried, first seed, dev", xscale=scale, yscale=scale,
                                xlabel="nll on the task")  # fmt: skip
            axes[1][column].set(title=f"{share}chosen rate, all seeds, test", xlabel="nll on the task")
        axes[0][0].set_ylabel("nll on what should be kept")
        axes[1][0].set_ylabel("kept, exact match in percent")
        shown = [e["method"] for e in entries if "nll" in e["figures"]]
        handles = {m: plt.Line2D([], [], color=colours[m], marker="o", markersize=4) for m in dict.fromkeys(shown)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4 * len(budgets), frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _sweeps(axes: Any, entries: Sequence[Mapping[str, Any]], base: Mapping[str, Any] | None, colours: Any) -> None:
    for entry in entries:
        points = [p for p in entry["sweep"] if p["nll"] is not None and p["retention_nll"] is not None]
        xs, ys = [p["nll"] for p in points], [p["retention_nll"] for p in points]
        axes.plot(xs, ys, color=colours[entry["method"]], marker="o", markersize=3, linewidth=1.2)
        for point in points:
            if point["rate"] == entry["rate"]:
                axes.plot(point["nll"], point["retention_nll"], "o", color=colours[entry["method"]], markersize=7)
    if base and base["nll"] is not None and base["retention_nll"] is not None:
        axes.plot(base["nll"], base["retention_nll"], "*", color=colours["base"], markersize=10)


def _tested(axes: Any, entries: Sequence[Mapping[str, Any]], colours: Any) -> None:
    for entry in entries:
        x, y = entry["figures"].get("nll"), entry["figures"].get("retention")
        if x is None or y is None:
            continue
        spans = {
            name: [[0 if of["low"] is None else abs(of["mean"] - of[end])] for end in ("low", "high")]
            for name, of in (("xerr", x), ("yerr", y))
        }
        colour = colours[entry["method"]]
        axes.errorbar(x["mean"], y["mean"], **spans, fmt="o", color=colour, markersize=6, linewidth=0.8)
        axes.annotate(entry["method"], (x["mean"], y["mean"]), xytext=(6, 5), textcoords="offset points",
                      fontsize=8, color=colour)  # fmt: skip


# ---- Ablation -------------------------------------------------------------------------------------------------------

PANELS = (
    ("bleu", "BLEU"),
    ("nll", "nll on the task"),
    ("retention", "kept, exact match in percent"),
    ("retention_nll", "nll on what should be kept"),
)
"""Figure, and what its axis says; lower is better of a nll, higher of the others."""


def draw_ablation(result: Mapping[str, Any], path: Path) -> None:
    """Write an SVG with a panel for each figure that there is."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    entries = result["contenders"]
    own = [entry for entry in entries if entry["variant"] is not None]
    beside = [entry for entry in entries if entry["variant"] is None]
    panels = [panel for panel in PANELS if any(panel[0] in entry["figures"] for entry in own)]
    places = result["places"] or list(range(len(own)))
    rows = (len(panels) + 1) // 2
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, 2, figsize=(9.6, 3.4 * rows + 0.6), layout="constrained", squeeze=False, sharex=True
        )
        for panel, (name, label) in zip(axes.flat, panels, strict=False):
            _panel(panel, name, own, beside, places, joined=result["places"] is not None)
            panel.set_ylabel(label)
        for panel in axes.flat[len(panels) :]:
            panel.set_visible(False)
        names = [entry["name"] for entry in own]
        long = max(map(len, names)) > 6
        for panel in axes[-1]:
            panel.set_xticks(places, names, rotation=25 if long else 0, ha="right" if long else "center")
            panel.set_xlabel(result["label"])
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
