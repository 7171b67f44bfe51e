"""Verbs about results: runs, translations, analysis, and scores of any system's outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import Force, Json, Trust, app, bars, show_facts, show_run, wide
from neuroglot.errors import UserError, visible
from neuroglot.printing import print_json, print_line

# ---- show and translate ---------------------------------------------------------------------------------------------


@app.command()
def show(
    place: Annotated[Path, typer.Argument(help="A run's folder, or a selection's or a profile's file.")],
    as_json: Json = False,
) -> None:
    """Show what a run trained and what came of it, or what a selection or a profile holds."""
    if not place.is_file():
        show_run(place, as_json)
        return
    from neuroglot.neurons.summary import summary

    show_facts(summary(place), as_json)


@app.command()
def translate(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    to: Annotated[str, typer.Option("--to", help="Target language, such as de.")],
    source: Annotated[str, typer.Option("--from", help="Language of the text in the image.")] = "en",
    run: Annotated[Path | None, typer.Option("--run", help="A run's folder.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A model instead of a run: `embedded`, a folder, or a name on the hub."),
    ] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="An adapter for --model.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Translate this text; the images show what it means.")
    ] = None,
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Translate the text in images, or a text with the help of an image; prints one line for each image."""
    from neuroglot.pipeline.translate import translate_images

    def say(line: str) -> None:
        print(visible(line), file=sys.stderr)

    for line in translate_images(images, source, to, run, model, adapter, trust_remote_code, text, say):
        if as_json:
            print_json(line, indent=None)
        else:
            print(f"{visible(line['image'])}\t{visible(line['translation'])}")


# ---- analyse and score ----------------------------------------------------------------------------------------------


@app.command()
def analyse(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    only: Annotated[
        str,
        typer.Option(
            "--only",
            help="Comma-separated: noise, specificity, ablation, difficulty, instruction, layers; all by default.",
        ),
    ] = "",
    seeds: Annotated[
        int, typer.Option("--seeds", help="How often each measurement is repeated with other random draws.")
    ] = 5,
    items: Annotated[
        int | None,
        typer.Option("--items", help="Source items per measurement; by default as many as the profile had."),
    ] = None,
    ablate: Annotated[
        str, typer.Option("--ablate", metavar="[zero|mean]", help="What an ablated neuron yields: zero, or its mean.")
    ] = "zero",
    force: Force = False,
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Measure how stable, specific and causal a run's choice of neurons is: numbers, intervals, a page."""
    from neuroglot.analysis import analyse as analyse_run

    kinds = [name.strip() for name in only.split(",") if name.strip()]
    with bars() as (track, say):
        result = analyse_run(run, kinds, seeds, items, ablate, force, trust_remote_code, track, say)
    if as_json:
        print_json(result)
        return
    print_line(f"The analysis on one page: {run / 'analysis.html'}")


@app.command()
def dial(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    scales: Annotated[
        str, typer.Option("--scales", help="Comma-separated, from 0 (the base) to 1 (all that was trained).")
    ] = "0,0.2,0.4,0.6,0.8,1",
    retain: Annotated[
        float, typer.Option("--retain", help="Least share of the base's chrF++ that every other task keeps.")
    ] = 0.95,
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Scale what a run trained, without training: quality against retention on the dev split, and the best scale."""
    from neuroglot.pipeline.dial import dial as turn

    try:
        wanted = [float(scale) for scale in scales.split(",") if scale.strip()]
    except ValueError:
        raise UserError(f"--scales {scales!r} must be numbers with commas between them, such as 0,0.5,1") from None
    with bars() as (track, say):
        result = turn(run, wanted, retain, trust_remote_code, track, say)
    if as_json:
        print_json(result)
        return
    rows = {}
    for point in result["points"]:
        own = point["scores"][result["task"]]
        kept = {f"{task.replace('_', ' ')} kept": share for task, share in point["kept"].items()}
        rows[f"{point['scale']:g}"] = {"BLEU": own["bleu"], "chrF++": own["chrf"], "exact": own["exact"], **kept}
    show_facts({"scale": rows}, False)
    print_line(f"{result['chosen']:g} keeps at least {100 * retain:g} % of every other task.")
    print_line(f"To use it: neuroglot merge {run} OUT --scale {result['chosen']:g}")


@app.command()
def score(
    hypotheses: Annotated[
        Path, typer.Argument(help="The outputs of a system: text with one segment a line, or JSONL.")
    ],
    references: Annotated[
        list[Path] | None,
        typer.Argument(
            help="The references, one a line, if the JSONL has none; of several files any reference will do."
        ),
    ] = None,
    source: Annotated[Path | None, typer.Option("--source", help="The source texts, which COMET needs.")] = None,
    pair: Annotated[
        str | None, typer.Option("--pair", help="Such as en-de; the tokeniser of BLEU follows the target.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="The system to score, if the file holds several.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="The split to score, if the file holds several.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Compare with another system: its outputs, or its name in the file."),
    ] = None,
    metrics: Annotated[
        str, typer.Option("--metrics", help="Comma-separated, such as bleu,chrf; by default all that apply.")
    ] = "",
    tokenise: Annotated[
        str | None, typer.Option("--tokenise", help="The tokeniser of BLEU, such as intl, or ja=char,th=flores200.")
    ] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", help="Number of bootstrap samples of the source items.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    comet: Annotated[
        Path | None, typer.Option("--comet", help="Virtual environment that has unbabel-comet, or its python.")
    ] = None,
    comet_model: Annotated[
        str | None, typer.Option("--comet-model", help="The COMET model: a name on the hub, or a checkpoint file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score outputs of any system: figures with intervals and signatures, and whether another is better."""
    from neuroglot.evaluation.comet import MODEL
    from neuroglot.evaluation.scoring import Options, score_outputs, show

    options = Options(
        source, pair, system, split, against, [name.strip() for name in metrics.split(",") if name.strip()],
        tokenise, resamples, seed, comet, comet_model or MODEL,
    )  # fmt: skip
    with bars() as (track, _):
        result = score_outputs(hypotheses, references, options, track)
    if as_json:
        print_json(result)
        return
    from rich.console import Console

    show(result, wide(Console()))
