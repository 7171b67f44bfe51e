"""What all verbs share: the application, common options, progress bars, and running a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Teach a multimodal LLM to translate what it sees by training only the neurons that do the work.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing has changed.")]
Scale = Annotated[str, typer.Option("--scale", help="`full`, or `smoke` to run everything on next to nothing.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes such as train.steps=50 method=lora.")]
RecipeName = Annotated[str, typer.Argument(help="A YAML file or the name of a shipped recipe.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def execute(
    recipe: str,
    overrides: list[str] | None,
    runs: Path,
    force: bool,
    scale: str,
    trust_remote_code: bool = False,
    only: str | None = None,
) -> Path:
    from neuroglot.recipes import load_recipe

    loaded = load_recipe(recipe, overrides, scale)  # before anything heavier is imported
    from neuroglot.run import execute

    with bars() as (track, say):
        return execute(loaded, runs, track, say, only, force, trust_remote_code)


@contextmanager
def bars() -> Iterator[tuple[Callable[[str, int], Callable[[int], None]], Callable[[str], None]]]:
    """Give what makes progress bars and what prints a line, on stderr."""
    from rich import progress as p
    from rich.console import Console

    console = Console(stderr=True)
    text, done = p.TextColumn("{task.description:>12}"), p.MofNCompleteColumn()
    columns = (text, p.BarColumn(), done, p.TimeElapsedColumn(), p.TimeRemainingColumn())
    with p.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def track(label: str, total: int) -> Callable[[int], None]:
            task = bars.add_task(label, total=total)
            return lambda done: bars.update(task, completed=done, visible=done < total)

        def say(text: str) -> None:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        yield track, say


def wide(console: Console) -> Console:
    """A table cut to 80 columns because its output goes to a file helps nobody."""
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console


def numbers(option: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise UserError(f"{option} must be numbers with commas between, such as 0.01,0.1, got {text!r}") from None


def show_run(folder: Path, as_json: bool) -> None:
    from rich.console import Console

    from neuroglot.report import show as facts
    from neuroglot.report import show_tables

    if as_json:
        print(json.dumps(facts(folder), indent=1, ensure_ascii=False))
    else:
        show_tables(folder, wide(Console()))
