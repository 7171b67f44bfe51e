"""An ablation as tables: a row per variant, in the order of what is varied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuroglot.compare.table import as_markdown, cost, quality, signed
from neuroglot.printing import plain, plain_table

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
    for title, (head, *body) in {
        "quality and retention on test": figures(found),
        "cost of training": cost(found),
    }.items():
        console.print(plain_table(head, body, title=plain(title), title_justify="left"))
    console.print(plain(legend(found).replace("`", "")))
