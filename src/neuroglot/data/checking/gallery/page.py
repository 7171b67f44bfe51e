"""The page: what was found, how long things are, and the batch; one HTML file in the style of a run's report."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from neuroglot.artefact import write_text
from neuroglot.data.checking.check import Report
from neuroglot.data.checking.gallery.seen import Sample, Seen
from neuroglot.data.checking.lengths import Histogram
from neuroglot.report.svg import INK, MUTED, SYSTEMS, WIDE, Draw, both

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = 2_000_000
"""Most bytes of images on the page."""

TITLES = {
    "source_characters": "characters of the source",
    "target_characters": "characters of the target",
    "prompt_tokens": "tokens of the prompt's text",
    "target_tokens": "tokens of the target",
    "image_tokens": "tokens of the images",
    "tokens": "tokens in all",
}
"""Histogram -> what it is of."""


def write_page(path: Path, report: Report, seen: Seen | None, pair: str = "") -> None:
    """Write the page.

    Args:
        path: the file.
        report: what was found.
        seen: a batch; None to leave it out.
        pair: of the batch.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("neuroglot.data.checking.gallery").joinpath("page.html").read_text(encoding="utf-8")
    shown = environment.from_string(template).render(
        report=report,
        counts=report.table(),
        style=_style(),
        figure=_histograms(report),
        titles=TITLES,
        lengths={
            name: h.facts() for name, h in sorted(report.lengths.items(), key=lambda e: list(TITLES).index(e[0]))
        },
        seen=seen,
        cards=_cards(seen) if seen else [],
        pair=pair,
    )
    write_text(path, shown.strip() + "\n")


@cache
def _style() -> str:
    template = resources.files("neuroglot.report").joinpath("page.html").read_text(encoding="utf-8")
    return template[template.index("<style>") + len("<style>") : template.index("</style>")]


def _cards(seen: Seen) -> list[dict[str, Any]]:
    """Return what the page shows of each sample; images as long as there is room."""
    cards, room = [], PICTURES
    for sample in seen.samples:
        pictures = []
        for pixels in sample.pictures:
            encoded = _png(pixels)
            room -= len(encoded)
            if room > 0:
                pictures.append({"data": encoded, "size": f"{pixels.shape[1]} × {pixels.shape[0]}"})
        cards.append({"sample": sample, "pictures": pictures, "counts": _counts(sample),
                      "left_out": len(sample.pictures) - len(pictures)})  # fmt: skip
    return cards


def _counts(sample: Sample) -> dict[str, int]:
    kinds = ("trained", "masked", "image", "padding")
    return {kind: sum(len(chip.ids) for chip in sample.chips if chip.kind == kind) for kind in kinds}


def _png(pixels: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


# ---- histograms ---------------------------------------------------------------------------------------------------


def _histograms(report: Report) -> dict[str, str] | None:
    found = {name: report.lengths[name] for name in TITLES if name in report.lengths}
    if not found:
        return None
    medians = "; ".join(f"{TITLES[name]}: median {h.quantile(0.5)}" for name, h in found.items())
    return {"alt": f"Histograms. {medians}.", **both("lengths", _draw(found, report.context))}


def _draw(found: Mapping[str, Histogram], context: int) -> Draw:
    def draw(width: float) -> Figure:
        from matplotlib.figure import Figure as NewFigure  # no pyplot: no global state and no display

        columns = min(3 if width == WIDE else 1, len(found))
        rows = -(-len(found) // columns)
        figure = NewFigure(figsize=(width, 1.9 * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, (name, histogram) in zip(axes, found.items(), strict=False):
            _bars(axis, TITLES[name], histogram, context if name == "tokens" else 0)
        for axis in axes[len(found) :]:
            axis.set_visible(False)
        return figure

    return draw


def _bars(axis: Axes, title: str, histogram: Histogram, context: int) -> None:
    edges, bins = histogram.bins()
    widths = [b - a for a, b in itertools.pairwise(edges)]
    axis.bar(edges[:-1], bins, width=[0.92 * w for w in widths], align="edge", color=SYSTEMS["system-5"])
    if context and context <= 1.5 * edges[-1]:
        axis.axvline(context, color=INK, linewidth=1.2, linestyle=(0, (3, 1.6)))
        axis.text(context, 0.97, " context", transform=axis.get_xaxis_transform(), va="top", color=INK)
    if len(bins) < 3:  # one length for all is a bar, not a wall
        axis.set_xlim(edges[0] - 3 * widths[0], edges[-1] + 3 * widths[0])
    axis.set_title(title)
    axis.set_ylim(bottom=0)
    axis.set_axisbelow(True)
    axis.grid(axis="y")
    axis.tick_params(length=0, labelcolor=MUTED)
    axis.locator_params(axis="y", nbins=4, integer=True)
    axis.locator_params(axis="x", nbins=5, integer=True)
