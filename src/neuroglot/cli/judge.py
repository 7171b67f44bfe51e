"""Verbs that judge: how much to believe of a choice of neurons, and what any system said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import Force, Json, Trust, app, bars, wide
from neuroglot.printing import print_json, print_line


@app.command()
def evidence(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    only: Annotated[
        str,
        typer.Option(
            "--only",
            help="Comma-separated: noise, specificity, ablation, difficulty, instruction, layers; all by default.",
        ),
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Repetitions with other draws.")] = 5,
    items: Annotated[
        int | None,
        typer.Option("--items", min=1, help="Source items of a measurement; by default those of the profile."),
    ] = None,
    ablate: Annotated[
        str, typer.Option("--ablate", metavar="[zero|mean]", help="What an ablated neuron yields: zero, or its mean.")
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
        print_json(found)
        return
    print_line(f"The evidence on one page: {run / 'evidence.html'}")


@app.command()
def score(
    hypotheses: Annotated[Path, typer.Argument(help="What a system said: text, a line a segment, or JSONL.")],
    references: Annotated[
        list[Path] | None, typer.Argument(help="References, unless the JSONL has them; several files: any will do.")
    ] = None,
    source: Annotated[Path | None, typer.Option("--source", help="What was translated, which COMET needs.")] = None,
    pair: Annotated[str | None, typer.Option("--pair", help="Such as en-de; the target sets the tokeniser.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="Of several in the file.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of several in the file.")] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Outputs of another system, or its name in the file.")
    ] = None,
    metrics: Annotated[str, typer.Option("--metrics", help="Comma-separated; those that apply by default.")] = "",
    tokenise: Annotated[
        str | None, typer.Option("--tokenise", help="BLEU's tokeniser, such as intl, or ja=char,th=flores200.")
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=1, help="Bootstrap draws of source items.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws.")] = 0,
    comet: Annotated[
        Path | None, typer.Option("--comet", help="Virtual environment with unbabel-comet, or its python.")
    ] = None,
    comet_model: Annotated[str | None, typer.Option("--comet-model", help="A name on the hub, or a file.")] = None,
    as_json: Json = False,
) -> None:
    """Score outputs of any system: figures with intervals and signatures, and whether another is better."""
    from neuroglot.evaluation.figures.comet import MODEL
    from neuroglot.evaluation.outputs import Options, score_outputs
    from neuroglot.evaluation.outputs.table import show

    options = Options(
        source, pair, system, split, against, [name.strip() for name in metrics.split(",") if name.strip()],
        tokenise, resamples, seed, comet, comet_model or MODEL,
    )  # fmt: skip
    with bars() as (track, _):
        found = score_outputs(hypotheses, references, options, track)
    if as_json:
        print_json(found)
        return
    from rich.console import Console

    show(found, wide(Console()))
