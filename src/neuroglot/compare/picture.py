"""Quality against retention: above, each contender's learning rates as a line on dev; below, the chosen one on test.

One column a budget, so that a column compares equals; what has no budget is in every column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
