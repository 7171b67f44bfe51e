"""The verb that compares two selections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import Json, app, show_facts


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A run's folder, or a selection's file.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    as_json: Json = False,
) -> None:
    """Compare two selections: what they share, and what chance would make them share."""
    from neuroglot.neurons.selecting.sets import compare
    from neuroglot.selection import open_selection

    show_facts({"a": str(a), "b": str(b), **compare(open_selection(a), open_selection(b))}, as_json)
