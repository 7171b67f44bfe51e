"""Verbs that run recipes: whole, by stage, as a grid over methods, and the demo."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path
from typing import Annotated

import typer

import neuroglot
from neuroglot.cli.app import (
    Force,
    Json,
    Overrides,
    RecipeName,
    Runs,
    Scale,
    Trust,
    app,
    bars,
    execute,
    numbers,
    show_run,
    wide,
)
from neuroglot.errors import UserError
from neuroglot.printing import print_json, print_line


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    force: Force = False,
    scale: Scale = "full",
    trust_remote_code: Trust = False,
) -> None:
    """Run a recipe from data to report; what is done and unchanged is skipped."""
    show_run(execute(recipe, overrides, runs, force, scale, trust_remote_code), as_json=False)


def _stage_verb(name: str, does: str) -> None:
    def verb(
        recipe: RecipeName,
        overrides: Overrides = None,
        runs: Runs = Path("runs"),
        force: Force = False,
        scale: Scale = "full",
        trust_remote_code: Trust = False,
    ) -> None:
        print_line(execute(recipe, overrides, runs, force, scale, trust_remote_code, name))

    verb.__doc__ = f"{does} (one stage of `run`)."
    app.command(name)(verb)


for _name, _does in {
    "profile": "Measure what every neuron does for every pair",
    "probe": "Tune briefly, to see which layers it moves",
    "select": "Choose the neurons",
    "align": "Let low-rank neurons start along the gradient",
    "train": "Train them, or a baseline method",
    "evaluate": "Score the base, the cascade and the trained model",
    "report": "Make the page",
}.items():
    _stage_verb(_name, _does)


_NAMES = run_path(str(Path(neuroglot.__file__).parent / "config" / "methods.py"))
METHODS = ", ".join((*_NAMES["BASELINES"], *_NAMES["METHODS"], *_NAMES["CLASSIC"]))
"""For the help page; importing the package of recipes would take longer than all else of it."""


@app.command()
def compare(
    recipe: RecipeName,
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option("--methods", help=f"Comma-separated: {METHODS}; and the names of the recipe's systems.")
    ] = "base,cascade,full,lora,random,mnaft",
    budgets: Annotated[
        str,
        typer.Option("--budgets", help="Shares of all neurons that are trained, comma-separated, such as 0.01,0.1."),
    ] = "0.1",
    seeds: Annotated[
        int, typer.Option("--seeds", help="Trainings of each method at its chosen rate, each with its own seed.")
    ] = 6,
    sweep: Annotated[
        str, typer.Option("--sweep", metavar="[lr|none]", help="`lr`: choose the learning rate on dev; or `none`.")
    ] = "lr",
    rates: Annotated[
        str, typer.Option("--rates", help="Learning rates to sweep, comma-separated; searched for by default.")
    ] = "",
    retain: Annotated[
        float | None,
        typer.Option(
            "--retain", help="A rate is chosen only if its loss on the tasks to keep, on dev, is at most this."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Trainings that run at the same time.")] = 1,
    runs: Runs = Path("runs"),
    scale: Scale = "full",
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Compare methods: learning rates swept on dev, several seeds, matched controls, the test split used once."""
    from neuroglot.config.load import load_recipe

    if sweep not in ("lr", "none"):
        raise UserError(f"--sweep must be lr or none, got {sweep!r}")
    loaded = load_recipe(recipe, overrides, scale)
    shares, tried = numbers("--budgets", budgets), numbers("--rates", rates)
    from rich.console import Console

    from neuroglot.compare import compare as run_comparison
    from neuroglot.compare.tables import show as show_comparison

    with bars() as (track, say):
        names, swept = [name.strip() for name in methods.split(",") if name.strip()], sweep == "lr"
        result = run_comparison(
            loaded, runs, names, shares, seeds, swept, tried, jobs, retain, trust_remote_code, track, say
        )
    if as_json:
        print_json(result)
    else:
        show_comparison(result, wide(Console()))
        print_line()
        print_line(f"The same in {runs / loaded.name / 'comparison.md'}, with a picture in comparison.svg")


@app.command()
def sweep(
    recipe: RecipeName,
    overrides: Overrides = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", help="Trainings of each variant at its chosen rate; by default the recipe's."),
    ] = None,
    rates: Annotated[
        str, typer.Option("--rates", help="Learning rates to try, comma-separated; by default the recipe's.")
    ] = "",
    retain: Annotated[
        float | None,
        typer.Option(
            "--retain", help="A rate is chosen only if its loss on the tasks to keep, on dev, is at most this."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Trainings that run at the same time.")] = 1,
    runs: Runs = Path("runs"),
    scale: Scale = "full",
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Train the variants of an ablation recipe, each at its best rate; draw quality and retention over them."""
    from neuroglot.config.load import load_recipe

    loaded, tried = load_recipe(recipe, overrides, scale), numbers("--rates", rates)
    from rich.console import Console

    from neuroglot.compare import sweep as run_sweep
    from neuroglot.compare.tables import show_ablation

    with bars() as (track, say):
        result = run_sweep(loaded, runs, seeds, tried, jobs, retain, trust_remote_code, track, say)
    if as_json:
        print_json(result)
    else:
        show_ablation(result, wide(Console()))
        print_line()
        print_line(f"The same in {runs / loaded.name / 'ablation.md'}, with a picture in ablation.svg")


@app.command()
def demo(runs: Runs = Path("runs"), force: Force = False, scale: Scale = "full") -> None:
    """Teach the embedded model to translate signs into six languages: the whole pipeline, in a few minutes."""
    folder = execute("quickstart", ["name=demo"], runs, force, scale)
    show_run(folder, as_json=False)
    print_line()
    print_line(f"The results on one page: {folder / 'report.html'}")
