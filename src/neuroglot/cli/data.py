"""Verbs about data: checking what a recipe would train on, before it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import Json, Overrides, Scale, Trust, Verbs, app, check_out, wide
from neuroglot.errors import UserError
from neuroglot.printing import plain, print_json, print_line

if TYPE_CHECKING:
    from neuroglot.config import Recipe
    from neuroglot.validation import Plan, Read, Report

data = Verbs(help="Look at the data of a recipe.", no_args_is_help=False)
app.add_typer(data, name="data")

SHOWN = 12
"""Most samples of the batch on the page."""


@data.callback(invoke_without_command=True)
def _data(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@data.command()
def check(
    recipe: Annotated[str, typer.Argument(help="A recipe; or data without one: a file, a folder, or hf:owner/name.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a page with a batch as the model sees it.")] = None,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Examples measured with the model's tokenizer; 0 for all.")
    ] = 10_000,
    model: Annotated[bool, typer.Option("--model/--no-model", help="Use the model's processor, for tokens.")] = True,
    scale: Scale = "full",
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Check data: what training would refuse or get wrong is an error, and the exit code is 1.

    Of data without a recipe the model is not known: give `model.path=MODEL` to count its tokens.
    """
    from neuroglot.config.load import data_recipe, is_data, load_recipe

    alone = is_data(recipe)
    loaded = data_recipe(recipe, overrides) if alone else load_recipe(recipe, overrides, scale)
    if alone:
        given = {override.partition("=")[0] for override in overrides or ()}
        model = model and "model.path" in given
        loaded = loaded if "task" in given else loaded.model_copy(update={"task": ""})
    if out is not None:
        check_out(out)
    from neuroglot.pipeline.context import Context, quiet
    from neuroglot.validation import check as look

    quiet()
    with _status() as tell:
        read, plan = _source(loaded)
        loaded = loaded.model_copy(update={"task": plan.task})
        context = Context(loaded, Path(), lambda label, total: lambda done: None, print_line, trust_remote_code)
        batcher = context.batcher if model else None
        report = look(read, plan, batcher, context.fits, sample, tell)
        if out is not None:
            _page(out, report, read, plan, batcher, loaded.train.batch_size)
    if as_json:
        print_json(report.facts())
    else:
        _show(report)
        if out is not None:
            print_line()
            print_line(f"The findings and a batch on one page: {out}")
    if report.of("error"):
        raise typer.Exit(1)


@contextmanager
def _status() -> Iterator[Callable[[str, int], None]]:
    from rich.console import Console

    with Console(stderr=True).status("reading") as status:
        yield lambda what, done: status.update(plain(f"{what} {done:,}"))


def _source(recipe: Recipe) -> tuple[Read, Plan]:
    """Return what reads the recipe's records, each with the split that a run puts it in, and the recipe's plan.

    A recipe without a task gets the first of `neuroglot.pair.TASKS` that the data have.
    """
    from neuroglot.data.corpus import EMBEDDED, Sizes, load_corpus, splits_of
    from neuroglot.data.store import SPLITS, View
    from neuroglot.pair import TASKS
    from neuroglot.pipeline.context import Data
    from neuroglot.validation import Plan, Record

    data = recipe.data
    if data.source in EMBEDDED:
        sizes = Sizes(data.train, data.dev, data.test, data.heldout, data.retention)
        describes = recipe.model.path == "embedded"
        corpus = load_corpus(data.source, recipe.task, data.pairs, sizes, data.seed, describes, domains=data.domains)
        names = {recipe.task: "test", f"{recipe.task}_heldout": "heldout"}
        parts = {"train": corpus.train, "dev": corpus.dev, **{names[n]: part for n, part in corpus.splits.items()}}
        made = [(split, example) for split, part in parts.items() for example in part]
        return (
            lambda: (Record(number, example, split) for number, (split, example) in enumerate(made, start=1)),
            Plan(data.source, recipe.task, data.pairs, data.train, data.max_bad, made=True),
        )

    records = Data(Path(data.source), Path(), data.layout(recipe.task or TASKS[0])).records
    held = {kind.task for kind in records.kinds}
    task = recipe.task or next((task for task in TASKS if task in held), TASKS[0])  # the likelier to be trained first
    split = splits_of(View(records), task, data.pairs, data.seed)  # as numbers, of which a million are small

    def read() -> Iterator[Record]:
        for (position, content), number in zip(records, split, strict=True):
            yield Record(position, content, SPLITS[number] or "")

    return read, Plan(data.source, task, data.pairs, data.train, data.max_bad, replays=data.replay > 0)


def _page(out: Path, report: Report, read: Read, plan: Plan, batcher: Any, size: int) -> None:
    from neuroglot.validation.page import preview_batch, write_page

    pair, examples = ("", []) if batcher is None else _batch(read, plan, batcher, min(size, SHOWN))
    write_page(out, report, preview_batch(batcher, examples) if examples else None, pair)


def _batch(read: Read, plan: Plan, batcher: Any, size: int) -> tuple[str, list[Any]]:
    """Return a pair and its first training examples that can be encoded."""
    from neuroglot.data.example import Example

    def wanted() -> Iterator[Example]:
        for record in read():
            e = record.content
            if not isinstance(e, Example) or (e.task, record.split) != (plan.task, "train"):
                continue
            if not plan.pairs or str(e.pair) in plan.pairs:
                yield e

    chosen: list[Example] = []
    for example in islice(wanted(), 100 * size):
        if chosen and (example.pair, bool(example.images)) != (chosen[0].pair, bool(chosen[0].images)):
            continue
        try:
            batcher.encode([example])
        except UserError:
            continue
        chosen.append(example)
        if len(chosen) == size:
            break
    return (str(chosen[0].pair) if chosen else ""), chosen


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from neuroglot.validation import LEFT_OUT

    console = wide(Console())

    def table(title: str, names: Sequence[str], rows: list[list[Any]]) -> None:
        console.print(plain(title), style="bold", soft_wrap=True)
        made = Table(box=None, pad_edge=False)
        for index, name in enumerate(names):
            number = rows and not isinstance(rows[0][index], str)
            made.add_column(plain(name), justify="right" if number else "left")
        for row in rows:
            cells = ("" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
            made.add_row(*map(plain, cells))
        console.print(made, "")

    table(f"{report.source}: {report.records:,} records, {report.examples:,} examples", *report.table())
    lengths = [(name.replace("_", " "), h.facts()) for name, h in report.lengths.items()]
    columns = ["count", "mean", "median", "p90", "p99", "max"]
    about = "Lengths"
    if report.measured:
        about += f" (tokens of {'all' if report.measured == report.examples else 'a sample of'} {report.measured:,}"
        about += f"; {report.over:,} of them over the context of {report.context:,})" if report.context else ")"
    if lengths:
        table(about, ["of", *columns], [[name, *(facts[c] for c in columns)] for name, facts in lengths])
    colours = {"error": "bold red", "warning": "yellow", "note": "cyan"}
    for f in report.findings:
        console.print(Text.assemble((f"{f.severity:>7} ", colours[f.severity]), plain(f.message)), soft_wrap=True)
        for why, count in f.reasons[:3] if len(f.reasons) > 1 and f.reasons[0][1] > 1 else ():
            console.print(plain(f"          {count:,} x {why}"), soft_wrap=True)
        for example in f.examples if f.kind in LEFT_OUT else f.examples[:3]:
            console.print(plain(f"          {_place(example)}"), soft_wrap=True)
        if f.kind in LEFT_OUT and f.count > len(f.examples):
            console.print(plain(f"          and {f.count - len(f.examples):,} more"), soft_wrap=True)
    errors, warnings = len(report.of("error")), len(report.of("warning"))
    console.print(f"{errors or 'no'} error{'s' * (errors != 1)}, {warnings or 'no'} warning{'s' * (warnings != 1)}")


def _place(example: Any) -> str:
    text = str(example.get("text") or example.get("image") or example.get("target") or "")
    said = [" ".join(text.split())[:80], example.get("why", "")]
    line = f"{example['position']}: {' · '.join(filter(None, said))}"
    if "like" in example:
        line += f", as {example['like']['position']} in {example['like']['split']}"
    return line
