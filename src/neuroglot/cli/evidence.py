"""The verb that says how much to believe of a run's choice of neurons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import Force, Json, Trust, app, bars


@app.command()
def evidence(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    only: Annotated[
        str, typer.Option("--only", help="Of noise, specificity, ablation, difficulty, instruction, layers.")
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", help="Repetitions with other draws.")] = 5,
    items: Annotated[
        int | None, typer.Option("--items", help="Source items of a measurement; by default those of the profile.")
    ] = None,
    ablate: Annotated[
        str, typer.Option("--ablate", help="What an ablated neuron yields: `zero` or its `mean`.")
    ] = "zero",
    force: Force = False,
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Measure how stable, specific and causal a run's choice of neurons is: numbers, intervals, a page."""
    from neuroglot.evidence import gather

    kinds = [name.strip() for name in only.split(",") if name.strip()]
    with bars() as (track, say):
        found = gather(run, kinds, seeds, items, ablate, force, trust_remote_code, track, say)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    print(f"The evidence on one page: {run / 'evidence.html'}")
