"""Verbs about neurons: what a model consists of, selections compared, profiles merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import Json, Trust, app, check_out, show_facts, wide
from neuroglot.errors import UserError
from neuroglot.printing import plain, print_json, print_line

if TYPE_CHECKING:
    from rich.console import Console

# ---- inspect --------------------------------------------------------------------------------------------------------

_HELP = "Where the {} part is, if the table does not know: a module prefix; may be given again."


def _prefixes(part: str) -> Any:
    return typer.Option(f"--{part}", metavar="PREFIX", help=_HELP.format(part))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder, or a name on the hub; weights stay unread.")],
    vision: Annotated[list[str] | None, _prefixes("vision")] = None,
    connector: Annotated[list[str] | None, _prefixes("connector")] = None,
    language: Annotated[list[str] | None, _prefixes("language")] = None,
    as_json: Json = False,
    trust_remote_code: Trust = False,
) -> None:
    """Show a model's parts, layers and neurons, and what is left out and why."""
    from neuroglot.models.summary import inspect as look

    said = {"vision": vision, "connector": connector, "language": language}
    result = look(model, trust_remote_code, {part: prefixes for part, prefixes in said.items() if prefixes})
    if as_json:
        print_json(result)
        return
    from rich.console import Console

    _show(result, wide(Console()))


def _show(result: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    how = "guessed from module names" if result["guessed"] else "known"
    about = f"{result['class']} ({result['model_type']}, {how}), {_many(result['parameters'])} parameters"
    console.print(plain(f"{result['model']}: {about}"), soft_wrap=True)

    def table(title: str, names: str, rows: list[list[Any]], numbers: int) -> None:
        made = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for index, name in enumerate(names.split(",")):
            made.add_column(name, justify="right" if 0 < index <= numbers else "left")
        for row in rows:
            made.add_row(*(plain(f"{cell:,}" if isinstance(cell, int) else cell) for cell in row))
        console.print("")
        console.print(made)

    parts = [
        [part, x["layers"], x["neurons"], x["ffn_units"], _many(x["parameters"]), _many(x["neuron_parameters"]),
         " ".join(x["prefixes"])]
        for part, x in result["parts"].items()
    ]  # fmt: skip
    table("Parts", "part,layers,neurons,ffn units,parameters,of these in neurons,modules", parts, 5)
    layers = [
        [x["part"], x["count"], x["neurons"], x["inputs"], x["name"] + (" (bare matrix)" if x["bare"] else "")]
        for x in result["layers"]
    ]
    table("Layers", "part,layers,neurons each,inputs,module", layers, 3)
    left = [[x["part"], _many(x["parameters"]), x["reason"], x["example"]] for x in result["left_out"]]
    table("Left out", "part,parameters,what,such as", left, 1)
    token = result["image_token"]
    console.print("")
    console.print(plain(f"Vision rows: {result['vision_rows']}."), soft_wrap=True)
    console.print(plain(f"Image token: {token['id']} ({token['attribute']})."))
    why = "" if result["logits"] == "target positions" else ": its forward takes no logits_to_keep"
    console.print(plain(f"Logits in training and profiles: at {result['logits']}{why}."), soft_wrap=True)


def _many(count: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


# ---- diff and merge-profiles ----------------------------------------------------------------------------------------


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
    from neuroglot.file_format import fresh
    from neuroglot.neurons.profiling.merge import merge
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
