"""Verbs that write something for elsewhere: a plain model, a LoRA, a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import Trust, app, mapping, print_error
from neuroglot.printing import print_line

Place = Annotated[Path, typer.Argument(help="A run's folder, or an adapter's.")]
Out = Annotated[Path, typer.Argument(help="The folder or file to write; it must not exist yet.")]
Base = Annotated[str | None, typer.Option("--base", help="The base model, if it is not where the adapter says it is.")]


@app.command()
def merge(
    adapter: Place,
    out: Out,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="[float32|bfloat16|float16|auto]",
            help="Of the weights; `auto`: as the base is stored. By default as it was trained.",
        ),
    ] = None,
    base: Base = None,
    scale: Annotated[
        float,
        typer.Option("--scale", help="How much of what was trained is merged, from 0 to 1; see `dial`."),
    ] = 1.0,
    trust_remote_code: Trust = False,
) -> None:
    """Write a plain model folder that needs neither peft nor neuroglot."""
    from neuroglot.pipeline.export import merge as write

    write(adapter, out, dtype, base, trust_remote_code, scale)
    print_line(out)


@app.command()
def export(
    adapter: Place,
    out: Out,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="[lora|rows]",
            help="`lora`: for PEFT without neuroglot; `rows`: what is trained, as YAML or JSON.",
        ),
    ] = "lora",
    base: Base = None,
    biases: Annotated[
        str,
        typer.Option(
            "--biases",
            metavar="[strict|everywhere]",
            help="`everywhere`: also beside layers without one; PEFT cannot merge that.",
        ),
    ] = "strict",
    trust_remote_code: Trust = False,
) -> None:
    """Write an adapter, or the rows that it trains, for programs that do not know neuroglot."""
    from neuroglot.pipeline.export import export as write

    write(adapter, out, form, base, trust_remote_code, biases)
    print_line(out)


@app.command()
def init(
    data: Annotated[Path, typer.Option("--data", help="Your examples: a file, a folder, or hf:owner/name.")],
    model: Annotated[str, typer.Option("--model", help="`embedded`, a folder, or a name on the hub.")] = "embedded",
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.")] = Path("recipe.yaml"),
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="[image_translation|multimodal_translation]", help="By default the task of the data."
        ),
    ] = None,
    pairs: Annotated[str, typer.Option("--pairs", help="Such as en-de,en-fr; by default those of the data.")] = "",
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            help="The layout, such as jsonl or multi30k (docs/data.md); told from the path by default.",
        ),
    ] = "auto",
    columns: Annotated[
        str,
        typer.Option("--columns", help="Which column is which: '{image: file, target: de, target_lang: =de}'."),
    ] = "",
    splits: Annotated[str, typer.Option("--splits", help="What the splits are called: '{test: test_2016}'.")] = "",
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images.")] = None,
    max_bad: Annotated[int, typer.Option("--max-bad", min=0, help="Bad records that may be left out.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing recipe.")] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Write a commented recipe for your own data and model."""
    from neuroglot.pair import Pair
    from neuroglot.pipeline.scaffold import write_recipe

    named = [str(Pair.parse(pair.strip())) for pair in pairs.strip("[] ").split(",") if pair.strip()]
    maps = mapping("--columns", columns), mapping("--splits", splits)
    print_line(
        write_recipe(
            model, data, out, force, trust_remote_code, task, named, layout, *maps, images, max_bad, print_error
        )
    )
