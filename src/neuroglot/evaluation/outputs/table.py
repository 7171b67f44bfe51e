"""What was scored, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuroglot.evaluation.metrics import LOWER_IS_BETTER
from neuroglot.printing import plain

if TYPE_CHECKING:
    from rich.console import Console

LABELS = {
    "bleu": "BLEU", "chrf": "chrF++", "ter": "TER", "exact": "exact", "nll": "nll", "contrastive": "contrastive",
    "lines": "lines, F1", "bleu_lines": "BLEU, lines by best match", "bleu_moses": "BLEU, lower-cased, Moses",
    "comet": "COMET", "chrf0": "chrF",
}  # fmt: skip


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print a table for each system, split and pair, and the signatures beneath them."""
    from rich.table import Table

    compared = found["against"] is not None
    signatures: dict[str, dict[str, None]] = {}
    for result in found["results"]:
        for pair, part in result["pairs"].items():
            names = [result["system"], result["split"], "" if pair == "und-und" else pair]
            title = f"{', '.join(filter(None, names))}: {part['n']:,} segments, {part['items']:,} items"
            table = Table(
                title=plain(title), title_justify="left", title_style="bold", header_style="", pad_edge=False
            )
            table.add_column("figure")
            heads = ["", "95 % interval", *([f"{found['against']}", "difference", "95 %", "p"] if compared else [])]
            for head in heads:
                table.add_column(plain(head), justify="right", overflow="fold")
            for name, figure in part["figures"].items():
                table.add_row(*map(plain, _cells(name, figure, compared)))
                signatures.setdefault(LABELS[name], {})[figure["signature"]] = None
            console.print(table)
            for name, figure in part["figures"].items():
                if "reason" in figure:
                    line = f"No {LABELS[name]}: {figure['reason']}."
                    console.print(plain(line), soft_wrap=True)
    for label, texts in signatures.items():
        for text in texts:
            console.print(plain(f"{label}: {text}"), soft_wrap=True)
    console.print(
        f"Intervals and p by {found['resamples']:,} bootstrap draws of source items"
        + ("; difference = the first less the other; p two-sided, not corrected for the number of figures"
           if compared else "") + ".",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _cells(name: str, figure: Mapping[str, Any], compared: bool) -> list[str]:
    digits = 3 if name == "nll" else 1

    def number(value: float | None, sign: str = "") -> str:
        return "–" if value is None else f"{value:{sign}.{digits}f}"

    def interval(low: float | None, high: float | None, sign: str = "") -> str:
        return "–" if low is None else f"{number(low, sign)} to {number(high, sign)}"

    cells = [
        f"{LABELS[name]}{' (lower is better)' if name in LOWER_IS_BETTER else ''}",
        number(figure["value"]),
        interval(figure["low"], figure["high"]),
    ]
    if compared:
        cells += [
            number(figure["other"]),
            number(figure["difference"], "+"),
            interval(figure["difference_low"], figure["difference_high"], "+"),
            "–" if figure["p"] is None else f"{figure['p']:.3f}",
        ]
    return cells
