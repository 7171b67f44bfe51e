"""What the demo could be: settings of the recipe `quickstart`, scored on the dev split or, once chosen, on test.

    python benchmarks/demo.py --out out/demo                                # every setting below, one seed, dev
    python benchmarks/demo.py --out out/demo --only recipe --seeds 3 --test   # the chosen one, three seeds, test

A setting is scored as the demo is: BLEU and exact match of image translation, exact match of what should be kept. The
seed is that of the selection's draws, the order of batches and dropout. Done settings are not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from neuroglot.config.load import load_recipe
from neuroglot.evaluation import evaluate
from neuroglot.pipeline.context import Context, quiet
from neuroglot.pipeline.evaluation import load_trained
from neuroglot.pipeline.run import execute

TWO = ["data.replay=0.4", "data.replay_tasks=[ocr, text_translation]", "train.steps=240"]
SETTINGS: dict[str, list[str]] = {
    "recipe": [],
    "no-replay-140": ["data.replay=0", "train.steps=140"],
    "no-replay": ["data.replay=0"],
    "replay-140": ["train.steps=140"],
    "rows10-140": ["select.budget=0.1", "train.lr=3e-3", "train.steps=140"],
    "rows10": ["select.budget=0.1", "train.lr=3e-3"],
    "two-tasks-240": TWO,
    "two-tasks-240-attention": [*TWO, "select.modules=[attention]", "select.budget=0.6"],
    "lora": ["method=lora", "train.lr=3e-3"],
}
"""`no-replay-140` is the demo of 0.1.0."""


def run(name: str, seed: int, test: bool, out: Path) -> dict[str, Any]:
    """Train one setting and score it."""
    overrides = [f"name={name}-{seed}", f"train.seed={seed}", f"select.seed={seed}", "data.dev=40", *SETTINGS[name]]
    recipe = load_recipe("quickstart", overrides)
    began = time.perf_counter()
    silent = lambda label, total: lambda done: None  # noqa: E731
    for stage in ("profile", "select", "train") if recipe.uses_neurons else ("train",):
        execute(recipe, out, silent, lambda line: None, only=stage)
    seconds = time.perf_counter() - began
    quiet()
    context = Context(recipe, out / recipe.name, silent, lambda line: None)
    system = context.system(load_trained(recipe.model, context.folder), name)
    corpus = context.corpus
    splits = {**corpus.splits, **context.kept} if test else {recipe.task: corpus.dev, **corpus.dev_retention}
    scores, _ = evaluate(system, splits)
    made = {
        split: {figure: by_pair["average"][figure] for figure in ("bleu", "chrf", "exact")}
        for split, by_pair in scores.items()
    }
    return {"setting": name, "seed": seed, "split": "test" if test else "dev", "seconds": seconds, "scores": made}


def main() -> None:
    """Run what is missing, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        for seed in range(options.first, options.first + options.seeds):
            file = options.out / f"{name}-{seed}-{'test' if options.test else 'dev'}.json"
            if not file.is_file():
                file.write_text(json.dumps(run(name, seed, options.test, options.out), indent=1) + "\n")
            made = json.loads(file.read_text())
            figures = "  ".join(
                f"{split}: " + " ".join(f"{k} {v:.1f}" for k, v in x.items() if v is not None and k != "chrf")
                for split, x in made["scores"].items()
            )
            print(f"{name} {seed} {made['split']} {made['seconds']:.0f} s  {figures}", flush=True)


if __name__ == "__main__":
    main()
