"""What all verbs share: the application, common options, progress bars, and running a recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import neuroglot
from neuroglot.errors import UserError, visible
from neuroglot.printing import plain, plain_table, print_json

if TYPE_CHECKING:
    from rich.console import Console


class _PlainFlags:
    """A help page on which options that take no value show no type."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; flags with nothing in the place of a value's type."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class Command(_PlainFlags, TyperCommand):
    """A verb."""


class Group(_PlainFlags, TyperGroup):
    """A group of verbs."""


class Verbs(typer.Typer):
    """An application whose verbs and groups are of these classes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, add_completion=False, pretty_exceptions_enable=False, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Return what makes a verb of a function."""
        return super().command(name, cls=Command, **options)


app = Verbs(
    help="Teach a multimodal LLM to translate what it sees by training only the neurons that do the work.",
)

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing has changed.")]
Scale = Annotated[
    str, typer.Option("--scale", metavar="[full|smoke]", help="`smoke` runs everything on next to nothing.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes of the recipe, `key=value`: train.steps=50 method=lora."),
]
RECIPES = sorted(file.stem for file in (Path(neuroglot.__file__).parent / "recipes").glob("*.yaml"))
"""As `neuroglot.config.load.shipped`, without importing what recipes need."""
RecipeName = Annotated[str, typer.Argument(help=f"A YAML file, or a shipped recipe: {', '.join(RECIPES)}.")]
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
    from neuroglot.config.load import load_recipe

    loaded = load_recipe(recipe, overrides, scale)  # before anything heavier is imported
    from neuroglot.pipeline.run import execute

    with bars() as (track, say):
        return execute(loaded, runs, track, say, only, force, trust_remote_code)


@contextmanager
def bars() -> Iterator[tuple[Callable[[str, int], Callable[[int], None]], Callable[[str], None]]]:
    """Give what makes progress bars and what prints a line, on stderr."""
    from rich import progress as p
    from rich.console import Console

    console = Console(stderr=True)
    text, done = p.TextColumn("{task.description:>12}", markup=False), p.MofNCompleteColumn()
    columns = (text, p.BarColumn(), done, p.TimeElapsedColumn(), p.TimeRemainingColumn())
    with p.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def track(label: str, total: int) -> Callable[[int], None]:
            task = bars.add_task(visible(label), total=total)
            return lambda done: bars.update(task, completed=done, visible=done < total)

        def say(text: str) -> None:
            console.print(plain(text), soft_wrap=True)

        yield track, say


def check_out(out: Path) -> None:
    """Refuse the name of a file to write that no file can have.

    Raises:
        UserError: it is a folder, or its folder does not exist.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the name of the file to write")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder, so {out.name} cannot be written there; make it first")


def wide(console: Console) -> Console:
    """A table cut to 80 columns because its output goes to a file helps nobody."""
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console


def mapping(option: str, text: str) -> dict[str, str]:
    """Read an option such as `{test: test_2016}` or `test=test_2016`."""
    import yaml

    result: Any = None
    with suppress(yaml.YAMLError):
        result = yaml.safe_load(text) if text.strip().startswith("{") else None
    if result is None:
        parts = [part.partition("=") for part in text.split(",") if part.strip()]
        result = {name.strip(): value for name, equals, value in parts if equals}
        result = result if len(result) == len(parts) else None
    if not isinstance(result, dict) or not all(isinstance(v, str | int) for v in result.values()):
        raise UserError(f"{option} {text!r} is no mapping; expected one such as {option} 'name=value,name=value'")
    return {str(name): str(value) for name, value in result.items()}


def print_error(text: object) -> None:
    """Print one line on stderr."""
    print(visible(text), file=sys.stderr)


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
        print_json(facts(folder))
    else:
        show_tables(folder, wide(Console()))


def show_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print values as lines and mappings as tables; of a mapping of mappings, each is a row."""
    from rich.console import Console

    if as_json:
        print_json(facts)
        return
    console = wide(Console())

    def cell(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(map(str, value))
        if isinstance(value, float):
            return f"{value:.3f}"
        return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

    for name, value in facts.items():
        title = name.replace("_", " ")
        if not isinstance(value, Mapping):
            console.print(plain(f"{title}: {cell(value)}"), soft_wrap=True)
            continue
        rows = value if all(isinstance(row, Mapping) for row in value.values()) else {"": value}
        columns = list(dict.fromkeys(key for row in rows.values() for key in row))
        if not columns:
            continue
        heads = [title, *(column.replace("_", " ") for column in columns)]
        body = ([label, *(cell(row.get(column)) for column in columns)] for label, row in rows.items())
        console.print(plain_table(heads, body))
