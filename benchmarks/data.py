"""How fast images are drawn, beside what a trainer takes in: images a second, one thread each.

    python benchmarks/data.py --json out/data.json          about five minutes on one idle core, 2 GB

`render`: a text drawn in each style of `STYLES`, 96 pixels square with a sign on it and 448 square with a caption's
length, `default` being what the recipes draw if nothing is said. `processor`: the model's own work on a drawn image
(scaling, normalising, to a tensor), which comes on top whatever the image's source. `train`: the least that a training
step can take, forward and the gradients of activations with every weight frozen: of the embedded model on signs of its
size, 120 pixels; and at 448 pixels of a vision tower alone, of CLIP-B's width and depth with LLaVA's patches of 14
(1,024 of them; 86 M parameters, a quarter of LLaVA's tower, and no language model behind it), random weights, float32.

All take turns in one process. Times are CPU time of that one thread; a rate is the median over rounds, its spread the
interquartile range. The summary divides the slowest style's rate by the trainer's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example, RenderSpec
from neuroglot.models.load import EMBEDDED, load_model, load_processor
from neuroglot.synthetic.render import render
from neuroglot.synthetic.signs import Sign, signs
from neuroglot.synthetic.style import SIZE

SIDES = (96, 448)

STYLES: dict[str, dict[str, str]] = {
    "default": {},
    "no noise": {"noise": "0"},
    "texture": {"background": "texture"},
    "photograph": {"background": "PHOTOGRAPHS"},
    "perspective": {"perspective": "0.2"},
    "blur": {"blur": "1.5"},
    "jpeg": {"jpeg": "40"},
    "all": {"background": "PHOTOGRAPHS", "perspective": "0.2", "blur": "1.5", "jpeg": "40"},
}


@dataclass
class Way:
    """What is timed: a call that takes in so many images; rates are images a second."""

    what: str
    side: int
    name: str
    images: int
    call: Callable[[int], None] = field(repr=False)
    rates: list[float] = field(default_factory=list)

    def run(self, turn: int) -> None:
        """Time one call; the first is a warm-up."""
        began = time.process_time()
        self.call(turn)
        spent = time.process_time() - began
        if turn:
            self.rates.append(self.images / spent)

    def record(self) -> dict[str, object]:
        """Return the figures."""
        quarters = statistics.quantiles(self.rates, n=4) if len(self.rates) > 1 else [self.rates[0]] * 3
        known = {k: v for k, v in asdict(self).items() if k != "call"}
        return {**known, "images_per_second": statistics.median(self.rates), "spread": [quarters[0], quarters[2]]}


def drawing(side: int, name: str, texts: Sequence[str], count: int, photographs: Path) -> Way:
    """Draw `count` texts a turn, other ones each turn."""
    style = {k: str(photographs) if v == "PHOTOGRAPHS" else v for k, v in STYLES[name].items()}
    style |= {"width": str(side), "height": str(side)}

    def call(turn: int) -> None:
        for k in range(count):
            render(texts[(turn * count + k) % len(texts)], 0, turn * count + k, style)

    return Way("render", side, name, count, call)


def processing(side: int, images: Sequence[Image.Image]) -> Way:
    """The processor's work on images of a side: the embedded model's, and CLIP's at 448 pixels."""
    if side == 448:
        processor = CLIPImageProcessor(size={"shortest_edge": 448}, crop_size={"height": 448, "width": 448})
    else:
        processor = load_processor(EMBEDDED).image_processor

    def call(turn: int) -> None:
        for image in images:
            processor(image, return_tensors="pt")

    return Way("processor", side, type(processor).__name__, len(images), call)


def embedded_step(batch_size: int) -> Way:
    """Forward and the gradients of activations of the embedded model on a batch of signs."""
    model = load_model(EMBEDDED).float().train().requires_grad_(False)
    batcher = Batcher(load_processor(EMBEDDED))
    texts: list[Sign] = signs("train", batch_size)
    examples = [
        Example((RenderSpec(s.text("en"), 1, k),), None, s.text("de"), "en", "de", "image_translation", item=str(k))
        for k, s in enumerate(texts)
    ]
    inputs = next(iter(batcher.batches(examples, batch_size))).inputs
    pixels = inputs["pixel_values"].float().requires_grad_()

    def call(turn: int) -> None:
        model(**{**inputs, "pixel_values": pixels}).loss.backward()
        pixels.grad = None

    return Way("train", SIZE, "embedded model", batch_size, call)


def tower_step(small: bool) -> Way:
    """Forward and the gradients of activations of a vision tower on one image."""
    torch.manual_seed(0)
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    full = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = CLIPVisionConfig(image_size=448, patch_size=14, **(wide if small else full))
    model = CLIPVisionModel(config).train().requires_grad_(False)
    pixels = torch.rand(1, 3, 448, 448, requires_grad=True)

    def call(turn: int) -> None:
        model(pixel_values=pixels).last_hidden_state.square().mean().backward()
        pixels.grad = None

    return Way("train", 448, "vision tower", 1, call)


def photographs(folder: Path) -> Path:
    """Four pictures of 1,200 x 900 pixels, for want of photographs: what costs is their size."""
    for k in range(4):
        style = {"width": "1200", "height": "900", "background": "texture"}
        render("photograph", 3, k, style).image.save(folder / f"{k}.jpg", quality=90)
    return folder


def measure(rounds: int, small: bool, folder: Path) -> list[Way]:
    """Return every way with its rates."""
    short = [sign.text("en") for sign in signs("train", 400)]
    texts = {96: short, 448: [f"{a}, {b}, {c}" for a, b, c in zip(short, short[1:], short[2:], strict=False)]}
    ways, pictures = [], photographs(folder)
    for side in SIDES:
        count = 4 if small else {96: 200, 448: 40}[side]
        ways += [drawing(side, name, texts[side], count, pictures) for name in STYLES]
        style = {"width": str(side), "height": str(side)}
        ways.append(processing(side, [render(texts[side][k], 0, k, style).image for k in range(count)]))
    ways += [embedded_step(2 if small else 16), tower_step(small)]
    for turn in range(rounds + 1):
        for way in ways:
            way.run(turn)
    return ways


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--rounds", type=int, default=5, help="beside the warm-up")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small: to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        records = [way.record() for way in measure(given.rounds, given.size == "small", Path(folder))]
    table = Table("what", "pixels", "name", "images a second", "from", "to")
    for record in records:
        low, high = record["spread"]
        numbers = (f"{value:,.1f}" for value in (record["images_per_second"], low, high))
        table.add_row(str(record["what"]), str(record["side"]), str(record["name"]), *numbers)
    Console().print(table)
    slowest = {side: min(r["images_per_second"] for r in records if (r["what"], r["side"]) == ("render", side))
               for side in SIDES}  # fmt: skip
    taken = {r["side"]: r["images_per_second"] for r in records if r["what"] == "train"}
    summary = {
        "slowest_render_over_train_96": slowest[96] / taken[SIZE],
        "slowest_render_over_train_448": slowest[448] / taken[448],
    }
    print(", ".join(f"{name} {value:.1f}" for name, value in summary.items()))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"summary": summary, "records": records}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
