"""Verbs that look at things: runs, and images to translate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import Json, Trust, app, show_facts, show_run
from neuroglot.errors import visible
from neuroglot.printing import print_json


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
    from neuroglot.translate import translate_images

    def say(line: str) -> None:
        print(visible(line), file=sys.stderr)

    for line in translate_images(images, source, to, run, model, adapter, trust_remote_code, text, say):
        if as_json:
            print_json(line, indent=None)
        else:
            print(f"{visible(line['image'])}\t{visible(line['translation'])}")
