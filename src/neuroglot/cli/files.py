"""Verbs over files of neurons: selections compared, profiles joined."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import Json, app, check_out, show_facts
from neuroglot.errors import UserError
from neuroglot.printing import print_line


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


@app.command("merge-profiles")
def merge_profiles(
    files: Annotated[list[Path], typer.Argument(help="Two or more profiles, then the file to write.")],
) -> None:
    """Join profiles of the same model on different data into one: A B ... OUT."""
    *parts, out = files
    if len(parts) < 2:
        raise UserError(
            f"got {len(files)} file{'s' * (len(files) != 1)}; expected two or more profiles, then the file to write"
        )
    if out.exists():
        raise UserError(f"{out} is there already and is not overwritten; the last file is the one to write")
    check_out(out)
    from neuroglot.artefact import fresh
    from neuroglot.neurons.profiling.pieces import merge
    from neuroglot.neurons.profiling.profile import Profile

    merged = Profile.load(parts[0])
    for part in parts[1:]:
        other = Profile.load(part)
        try:
            merged = merge(merged, other)
        except UserError as error:
            raise UserError(f"{part}: {error}") from None
    with fresh(out) as file:
        merged.save(file)
    samples = int(merged.counts.sum())
    print_line(f"{out}: {len(parts)} profiles, {len(merged.conditions)} conditions, {samples:,} samples")
