"""An ablation as tables: a row per variant, in the order of what is varied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuroglot.compare.table import as_markdown, cost, quality, signed

if TYPE_CHECKING:
    from rich.console import Console

LEGEND = (
    "Mean [95 % interval] over {seeds} seeds and the source items, both resampled. ▲ better, ▼ worse than "
    "{reference}: differences that survive Holm's correction over all comparisons of the figure (from six seeds on). "
    "A rate marked * was the lowest or highest tried. kept: the mean over {kept}."
)


def legend(found: Mapping[str, Any]) -> str:
    """Return what the marks mean."""
    kept = ", ".join(found["kept"]) or "nothing"
    text = LEGEND.format(seeds=found["seeds"], reference=repr(found["reference"]), kept=kept)
    return text + signed(found)


def figures(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of figures, header first."""
    head, *rows = quality(found)
    return [[found["label"], *head[1:]], *rows]


def markdown(found: Mapping[str, Any]) -> str:
    """Return the whole ablation as Markdown."""
    return "\n\n".join([as_markdown(figures(found)), legend(found), as_markdown(cost(found))]) + "\n"


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the ablation."""
    from rich.table import Table

    for title, (head, *body) in {
        "quality and retention on test": figures(found),
        "cost of training": cost(found),
    }.items():
        table = Table(*head, title=title, title_justify="left")
        for row in body:
            table.add_row(*row)
        console.print(table)
    console.print(legend(found).replace("`", ""), highlight=False, markup=False)
