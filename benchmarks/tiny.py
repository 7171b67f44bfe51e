"""What the embedded model can do before any tuning: reads (per font family and size), translates text, names pictures.

    python benchmarks/tiny.py --json out/tiny.json          about four minutes on two cores

All signs are of the test split, which pretraining never saw; exact match after NFC, greedy decoding.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from neuroglot.data.batch import Batcher
from neuroglot.data.corpus import sign_retention
from neuroglot.data.example import Example, RenderSpec
from neuroglot.evaluation import evaluate
from neuroglot.models.load import EMBEDDED, load_model, load_processor
from neuroglot.pair import Pair
from neuroglot.synthetic.fonts import BUNDLED, covers, font_file
from neuroglot.synthetic.signs import LANGUAGES, signs
from neuroglot.systems import Cascade, HFSystem

SIZES = (14, 18, 22, 26)
"""Font sizes in pixels, of an image of 120; a longer text is set smaller until it fits."""


def reading(count: int, family: str, size: int | None) -> list[Example]:
    """Signs in one family; those that the family lacks a character of are left out."""
    style = [("font", family)] + ([("size", str(size))] if size else [])
    examples = []
    for number, sign in enumerate(signs("test", count)):
        text = sign.text("en")
        if covers(font_file(family, False, "A"), text):
            spec = RenderSpec(text, seed=77, index=number, style=tuple(style))
            examples.append(Example((spec,), None, text, "en", "en", "ocr", item=str(number)))
    return examples


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--count", type=int, default=200, help="signs per row")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    count = arguments.count
    system = HFSystem(load_model(arguments.model), Batcher(load_processor(arguments.model)), "base", 64, 48)
    splits: dict[str, list[Example]] = {}
    for family in BUNDLED:
        splits[f"ocr, {family}"] = reading(count, family, None)
        for size in SIZES:
            splits[f"ocr, {family}, {size} px"] = reading(count // 2, family, size)
    pairs = [Pair("en", language) for language in LANGUAGES]
    kept = sign_retention(pairs, count, seed=0, describes=True)
    splits["ocr, as the corpus renders it"] = kept["ocr"]
    splits["text_translation"] = kept["text_translation"]
    splits["describe"] = kept["describe"]
    seen = {e.item: e.images for e in kept["ocr"]}
    images = [replace(e, task="image_translation", images=seen[e.item]) for e in kept["text_translation"]]
    splits["image_translation"] = images
    rows = []
    scores, _ = evaluate(system, splits, lambda name, done, of: print(f"{done}/{of} {name}", flush=True))
    chain, _ = evaluate(Cascade(system, system), {"image_translation": images})
    for name, score in [*scores.items(), ("image_translation, cascade", chain["image_translation"])]:
        average = score["average"]
        rows.append({"task": name, **average})
        print(f"{name:40} n {average['n']:5} exact {average['exact']:5.1f} chrF++ {average['chrf']:5.1f}")
    for pair, figures in scores["text_translation"].items():
        rows.append({"task": f"text_translation {pair}", **figures})
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
