"""The command line: thin verbs over the library. Nothing heavy is imported until a verb runs."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Teach a multimodal LLM to translate what it sees by training only the neurons that do the work.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM."""

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing has changed.")]
Scale = Annotated[str, typer.Option("--scale", help="`full`, or `smoke` to run everything on next to nothing.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes such as train.steps=50 method=lora.")]
RecipeName = Annotated[str, typer.Argument(help="A YAML file or the name of a shipped recipe.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _execute(
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

    with _bars() as (track, say):
        return execute(loaded, runs, track, say, only, force, trust_remote_code)


@contextmanager
def _bars() -> Iterator[tuple[Callable[[str, int], Callable[[int], None]], Callable[[str], None]]]:
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
    _show(_execute(recipe, overrides, runs, force, scale, trust_remote_code), as_json=False)


def _stage_verb(name: str, does: str) -> None:
    def verb(
        recipe: RecipeName,
        overrides: Overrides = None,
        runs: Runs = Path("runs"),
        force: Force = False,
        scale: Scale = "full",
        trust_remote_code: Trust = False,
    ) -> None:
        print(_execute(recipe, overrides, runs, force, scale, trust_remote_code, name))

    verb.__doc__ = f"{does} (one stage of `run`)."
    app.command(name)(verb)


for _name, _does in {
    "profile": "Measure what every neuron does for every pair",
    "probe": "Tune briefly, to see which layers it moves",
    "select": "Choose the neurons",
    "train": "Train them, or a competitor",
    "evaluate": "Score the base, the cascade and the trained model",
    "report": "Make the page",
}.items():
    _stage_verb(_name, _does)


@app.command()
def compare(
    recipe: RecipeName,
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Comma-separated.")
    ] = "base,cascade,full,lora,random,mnaft",
    budgets: Annotated[str, typer.Option("--budgets", help="Shares of trainable neurons.")] = "0.1",
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings per contender.")] = 6,
    sweep: Annotated[str, typer.Option("--sweep", help="`lr`: choose the learning rate on dev; or `none`.")] = "lr",
    rates: Annotated[str, typer.Option("--rates", help="Learning rates to sweep; searched for by default.")] = "",
    jobs: Annotated[int, typer.Option("--jobs", help="Cells at a time.")] = 1,
    runs: Runs = Path("runs"),
    scale: Scale = "full",
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Compare methods: learning rates swept on dev, several seeds, matched controls, the test split used once."""
    from neuroglot.recipes import load_recipe

    if sweep not in ("lr", "none"):
        raise UserError(f"--sweep must be lr or none, got {sweep!r}")
    loaded = load_recipe(recipe, overrides, scale)
    shares, tried = _numbers("--budgets", budgets), _numbers("--rates", rates)
    from rich.console import Console

    from neuroglot.compare import compare as run_comparison
    from neuroglot.compare.table import show as show_comparison

    with _bars() as (track, say):
        names, swept = [name.strip() for name in methods.split(",") if name.strip()], sweep == "lr"
        found = run_comparison(loaded, runs, names, shares, seeds, swept, tried, jobs, trust_remote_code, track, say)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show_comparison(found, _wide(Console()))
        print(f"\nThe same in {runs / loaded.name / 'comparison.md'}, with a picture in comparison.svg")


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise UserError(f"{option} must be numbers with commas between, such as 0.01,0.1, got {text!r}") from None


@app.command()
def demo(runs: Runs = Path("runs"), force: Force = False, scale: Scale = "full") -> None:
    """Teach the embedded model to translate signs into six languages: the whole pipeline, in a few minutes."""
    folder = _execute("quickstart", ["name=demo"], runs, force, scale)
    _show(folder, as_json=False)
    print(f"\nThe evidence on one page: {folder / 'report.html'}")


@app.command()
def show(run: Annotated[Path, typer.Argument(help="A run's folder.")], as_json: Json = False) -> None:
    """Show what a run trained, and what came of it."""
    _show(run, as_json)


def _show(folder: Path, as_json: bool) -> None:
    from rich.console import Console

    from neuroglot.report import show as facts
    from neuroglot.report import show_tables

    if as_json:
        print(json.dumps(facts(folder), indent=1, ensure_ascii=False))
    else:
        show_tables(folder, _wide(Console()))


def _wide(console: Console) -> Console:
    """A table cut to 80 columns because its output goes to a file helps nobody."""
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console


@app.command()
def translate(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    to: Annotated[str, typer.Option("--to", help="Target language, such as de.")],
    source: Annotated[str, typer.Option("--from", help="Language of the text in the image.")] = "en",
    run: Annotated[Path | None, typer.Option("--run", help="A run's folder.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="A model instead of a run.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="An adapter for --model.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="The text, if images only show what it means.")] = None,
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Translate the text in images, or a text by what an image shows."""
    from neuroglot.translate import translate_images

    for line in translate_images(images, source, to, run, model, adapter, trust_remote_code, text):
        print(json.dumps(line, ensure_ascii=False) if as_json else f"{line['image']}\t{line['translation']}")


Place = Annotated[Path, typer.Argument(help="A run's folder, or an adapter's.")]
Out = Annotated[Path, typer.Argument(help="The folder to write; it must not hold anything yet.")]
Base = Annotated[str | None, typer.Option("--base", help="The base model, if it is not where the adapter says.")]


@app.command()
def merge(
    adapter: Place,
    out: Out,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, float16, or auto.")] = None,
    base: Base = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write a plain model folder that needs neither peft nor neuroglot."""
    from neuroglot.leave import merge as write

    write(adapter, out, dtype, base, trust_remote_code)
    print(out)


@app.command()
def export(
    adapter: Place,
    out: Out,
    form: Annotated[str, typer.Option("--format", help="`lora`: for PEFT without neuroglot.")] = "lora",
    base: Base = None,
    biases: Annotated[
        str, typer.Option("--biases", help="`everywhere`: also beside layers without one; PEFT cannot merge that.")
    ] = "strict",
    trust_remote_code: Trust = False,
) -> None:
    """Write an adapter for programs that do not know neuroglot."""
    from neuroglot.leave import export as write

    write(adapter, out, form, base, trust_remote_code, biases)
    print(out)


@app.command()
def init(
    data: Annotated[Path, typer.Option("--data", help="Your examples, a JSONL file.")],
    model: Annotated[str, typer.Option("--model", help="`embedded`, a folder, or a name on the hub.")] = "embedded",
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over an existing recipe.")] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Write a commented recipe for your own data and model."""
    from neuroglot.init import write_recipe

    print(write_recipe(model, data, out, force, trust_remote_code))


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from neuroglot import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_FULL_IN_TORCH = ("inline_container.cc", "iostream error")
"""All that torch says when it cannot write a file."""


class _Terminated(BaseException):
    """SIGTERM: like Ctrl-C, it unwinds whatever is half done."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # only there may signals be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""Of the parser: an unknown verb or option, a missing argument."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: a user's mistake is one line on stderr and exit code 2."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with an image is said in our own words
    try:
        with _ended_by_sigterm():
            code = app(args=arguments, prog_name="neuroglot", standalone_mode=False)
    except _Terminated:
        code = TERMINATED
    except UserError as error:
        code = _refuse(error)
    except _UsageError as error:
        verb = error.ctx.command_path if error.ctx else "neuroglot"
        code = _refuse(f"{' '.join(error.format_message().split()).rstrip('.')}; see {verb} --help")
    except typer.Abort:  # what older versions of typer make of Ctrl-C
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        why = " ".join(str(error).split())
        if any(words in why for words in _FULL_IN_TORCH):
            why = f"a checkpoint cannot be written, most likely: {_FULL[0]} (torch says {why!r})"
        if not any(words in why for words in _FULL):
            raise
        code = _refuse(f"{why}; make room, then run it again")
    if code in (INTERRUPTED, TERMINATED):
        what = "interrupted" if code == INTERRUPTED else "terminated"
        print(f"neuroglot: {what}; the same command goes on from here", file=sys.stderr)
    sys.exit(code or 0)


def _refuse(why: Any) -> int:
    print(f"neuroglot: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
