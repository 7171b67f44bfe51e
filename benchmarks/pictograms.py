"""A word that several pictures share, the picture that decides, and its name in six languages: who looks, who guesses.

    python benchmarks/pictograms.py --data FOLDER --out out/pictograms --json out/pictograms.json

About an hour and a half of CPU; `--small` is a fifth of it. That is a short training: the systems from scratch get
four passes over the data, and the methods, which begin with a trained model and cost more a sample, under half of one.
`--steps 3000 --tuning 1200 --test 169 --seeds 3` takes hours and lets them learn. Killed, the same command goes on: a
cell that is done is not done again, a training goes on from its checkpoint. FOLDER holds `examples.jsonl` and the
pictures.

The data are picture naming with a hint: the word never changes the name once the picture is known, and most test
examples show a picture that training saw beside another word. So nothing here is claimed about translation, and:

- pictures seen and unseen in training are scored apart; who looks a picture up names the seen ones and no other;
- beside exact match there is *contrastive*: is the name likelier than those of the other pictures of its word?
  Guessing is right as often as `chance` says;
- each system is also scored without the picture, without the word, and with another picture of the same word.

Names that the embedded model's character tokenizer cannot write are left out for every system; of Hindi that is many.
Intervals (95 %) are of drawing words; seeds are averaged before, and their range is given beside. `lora`, `random`,
`mnaft` and `neumt` train about as many parameters, a tenth of the model's. Learning rates are one a method and not
swept: a difference between two methods is also one between two rates.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from neuroglot.baselines import KINDS, ClassicSettings, TowerFeatures, train
from neuroglot.config import Recipe, check
from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.evaluation import evaluate
from neuroglot.evaluation.metrics import costs, is_exact
from neuroglot.file_format import TRAINING, Format, read_json, write_json, write_text
from neuroglot.models.load import EMBEDDED, load_model, load_processor
from neuroglot.pipeline.context import quiet
from neuroglot.pipeline.evaluation import load_trained
from neuroglot.pipeline.run import execute, stages
from neuroglot.synthetic.scenes import text_only_ceiling
from neuroglot.systems import HFSystem, System, shuffled_image, without_image, without_text

LANGUAGES = ("fr", "cs", "de", "lv", "hi", "tr")
TUNED = ("full", "lora", "random", "mnaft", "neumt")
CONDITIONS = ("whole", "no image", "no text", "other image")
CELL = Format("pictogram-cell", 2, "benchmark")
TASK = "multimodal_translation"
DRAWS = 2000
BATCH = 24
"""Of the methods."""


@dataclass(frozen=True)
class Size:
    """How much is done: `steps` and `batch` of the classic systems, `tuning` of the embedded model's methods."""

    steps: int
    batch: int
    tuning: int
    test: int


FULL, SMALL = Size(600, 96, 240, 32), Size(200, 96, 40, 10)


@dataclass(frozen=True)
class Cell:
    """One system: a method, and of what is trained a seed."""

    method: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Its files."""
        return f"{self.method}-{self.seed}"


# ---- data -----------------------------------------------------------------------------------------------------------


def read(folder: Path, languages: Sequence[str]) -> dict[str, list[Example]]:
    """Return the examples by split, with the names of the word's other pictures as alternatives."""
    path = folder / "examples.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected the pictograms' folder with examples.jsonl and the pictures")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    known = {record["image"] for record in records if record["split"] == "train"}
    named: dict[str, list[dict[str, str]]] = defaultdict(list)
    for record in records:
        named[record["source"]].append(record["targets"])
    splits: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for record in records:
        for language in languages:
            name = record["targets"][language]
            others = dict.fromkeys(targets[language] for targets in named[record["source"]])
            splits[record["split"]].append(
                Example(
                    images=(folder.resolve() / record["image"],),
                    source=record["source"],
                    target=name,
                    source_lang="en",
                    target_lang=language,
                    task=TASK,
                    alternatives=tuple(other for other in others if other != name),
                    item=f"{record['source']}|{record['image']}",
                    meta={"seen": record["image"] in known, "split": record["split"]},
                )
            )
    return splits


def writable(splits: dict[str, list[Example]], tokenizer: Any) -> tuple[dict[str, list[Example]], Counter[str]]:
    """Return the examples whose every text the tokenizer has tokens for, and how many others each language had."""
    left_out: Counter[str] = Counter()

    @cache
    def known(text: str) -> bool:
        return tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False)["input_ids"]

    def fits(example: Example) -> bool:
        if all(map(known, (example.source or "", example.target, *example.alternatives))):
            return True
        left_out[example.target_lang] += 1
        return False

    return {split: [e for e in examples if fits(e)] for split, examples in splits.items()}, left_out


def first_words(examples: Sequence[Example], count: int) -> list[Example]:
    """Return the examples of the first words."""
    words = set(list(dict.fromkeys(e.source for e in examples))[:count])
    return [e for e in examples if e.source in words]


def write_data(path: Path, splits: dict[str, list[Example]]) -> None:
    """Write the training examples as neuroglot's own JSONL, for its runs; these want a test split, which has an item
    of dev here.
    """
    kept = [(e, "train") for e in splits["train"]]
    kept += [(e, "test") for e in {e.target_lang: e for e in splits["dev"]}.values()]
    lines = [
        {
            "image": str(e.images[0]), "source": e.source, "target": e.target, "source_lang": "en",
            "target_lang": e.target_lang, "task": e.task, "split": split, "item": e.item,
        }
        for e, split in kept
    ]  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # its date counts in what a run depends on
        write_text(path, text)


# ---- systems --------------------------------------------------------------------------------------------------------


class Lookup:
    """The training picture most like the one shown, and its name: what memory alone can do."""

    name = "lookup"

    def __init__(self, examples: Sequence[Example], features: TowerFeatures) -> None:
        self.features = features
        self.names = {(e.images[0], e.target_lang): e.target for e in examples}
        self.images = list(dict.fromkeys(e.images[0] for e in examples))
        vectors = features(self.images).flatten(1)
        self.mean, self.spread = vectors.mean(0), vectors.std(0).clamp(min=1e-6)
        self.vectors = self._scaled(vectors)

    def _scaled(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize((vectors - self.mean) / self.spread, dim=1)

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Return the name of the nearest picture that has one in the language."""
        shown = list(dict.fromkeys(e.images[0] for e in examples if e.images))
        if not shown:
            return [""] * len(examples)
        order = dict(
            zip(
                shown,
                (self._scaled(self.features(shown).flatten(1)) @ self.vectors.T).argsort(1).tolist(),
                strict=True,
            )
        )
        return [self._name(e, order[e.images[0]]) if e.images else "" for e in examples]

    def _name(self, example: Example, order: list[int]) -> str:
        ranked = (self.names.get((self.images[place], example.target_lang)) for place in reversed(order))
        return next((name for name in ranked if name), "")

    def nll(self, examples: Sequence[Example]) -> None:
        """A picture's likeness is no likelihood."""
        return


def recipe_of(cell: Cell, data: Path, languages: Sequence[str], size: Size) -> Recipe:
    """Return the run of a method of neuroglot: about a tenth of the parameters, but for full fine-tuning."""
    tree: dict[str, Any] = {
        "name": cell.name,
        "method": cell.method,
        "task": TASK,
        "data": {"source": str(data), "pairs": [f"en-{code}" for code in languages], "train": 10**6, "dev": 10**6,
                 "test": 10**6, "retention": 0},
        "train": {"steps": size.tuning, "batch_size": BATCH, "seed": cell.seed, "rank": 11},
        "profile": {"items": 24, "batch_size": 24, "contrast": []},
        "probe": {"steps": max(10, size.tuning // 10), "items": 8, "batch_size": 8},
        "select": {"seed": cell.seed},
    }  # fmt: skip
    if cell.method in ("random", "mnaft"):
        tree["select"]["budget"] = 0.1
    elif cell.method == "neumt":  # it trains whole layers, and those of language part and connector alone
        tree["select"]["layers"] = 0.14
    return check(tree, f"cell {cell.name}")


def system_of(
    cell: Cell,
    splits: dict[str, list[Example]],
    features: TowerFeatures,
    out: Path,
    languages: Sequence[str],
    size: Size,
    say: Callable[[str], None],
) -> System:
    """Return a system, trained as far as it is not."""
    if cell.method == "lookup":
        return Lookup(splits["train"], features)
    if cell.method in KINDS:
        settings = ClassicSettings(width=128, layers=2, inner=256, dropout=0.1, pieces=2000, steps=size.steps, lr=2e-3,
                            batch_size=size.batch, eval_steps=100, patience=6, seed=cell.seed)  # fmt: skip
        found = train(cell.method, splits["train"], splits["dev"], features, settings, out / "classic" / cell.name)
        found.max_new_tokens = 40
        return found
    if cell.method == "base":
        model = load_model(EMBEDDED)
    else:
        recipe = recipe_of(cell, out / "data.jsonl", languages, size)
        made = lambda r: [stage for stage in stages(r) if stage.name not in ("evaluate", "report")]  # noqa: E731
        folder = execute(recipe, out / "runs", lambda label, total: lambda done: None, say, table=made)
        model = load_trained(recipe.model, folder)
    return HFSystem(model, Batcher(load_processor(EMBEDDED)), cell.method, 64, 72)


def cost_of(cell: Cell, out: Path, size: Size) -> dict[str, int]:
    """Return how many parameters a system trained, and on how many samples."""
    if cell.method in KINDS:
        made = load_file(out / "classic" / cell.name / "network.safetensors")
        return {"parameters": sum(v.numel() for v in made.values()), "samples": size.steps * size.batch}
    if cell.method in TUNED:
        made = read_json(out / "runs" / cell.name / "training.json", TRAINING)
        return {"parameters": made["trainable_parameters"], "samples": size.tuning * BATCH}
    return {"parameters": 0, "samples": 0}


# ---- scores ---------------------------------------------------------------------------------------------------------


def shown(system: System, examples: Sequence[Example]) -> Iterator[tuple[str, System]]:
    """Yield a system as it is and behind its controls."""
    yield "whole", system
    yield "no image", without_image(system)
    yield "no text", without_text(system)
    yield "other image", shuffled_image(system, examples)


def score(system: System, examples: Sequence[Example]) -> dict[str, list[list[Any]]]:
    """Return, per condition and example, exact, right among the word's names (None without a likelihood), answer."""
    rows: dict[str, list[list[Any]]] = {}
    for condition, behind in shown(system, examples):
        _, found = evaluate(behind, {"test": examples})
        rows[condition] = [
            [int(is_exact(row["hypothesis"], row["reference"])), _right(row), row["hypothesis"]] for row in found
        ]
    return rows


def _right(row: dict[str, Any]) -> int | None:
    found = costs(row)  # perplexities, as everywhere in neuroglot
    return None if found is None else int(found[0] < min(found[1]))


def figure(hits: np.ndarray, examples: Sequence[Example], keep: np.ndarray) -> dict[str, Any] | None:
    """Return a percentage, mean over languages, its interval over drawn words and the range over seeds.

    Args:
        hits: (seeds, examples), NaN where an example has no such figure.
        examples: what they are of.
        keep: (examples,), which of them count.
    """
    keep = keep & ~np.isnan(hits).any(0)
    if not keep.any():
        return None
    words = {word: place for place, word in enumerate(dict.fromkeys(e.source for e in examples))}
    codes = {
        code: place
        for place, code in enumerate(
            dict.fromkeys(e.target_lang for e, kept in zip(examples, keep, strict=True) if kept)
        )
    }
    at = np.array(
        [[words[e.source or ""], codes[e.target_lang]] for e, kept in zip(examples, keep, strict=True) if kept]
    ).T  # (2, N)
    count = np.zeros((len(words), len(codes)))
    np.add.at(count, tuple(at), 1)
    sums = np.zeros((len(hits), len(words), len(codes)))
    for seed, row in enumerate(hits[:, keep]):
        np.add.at(sums[seed], tuple(at), row)
    drawn = np.random.default_rng(0).multinomial(len(words), np.full(len(words), 1 / len(words)), DRAWS)
    with np.errstate(invalid="ignore"):  # of a draw that has no word in some language nothing is said
        draws = 100 * ((drawn @ sums.mean(0)) / (drawn @ count)).mean(1)
    each = 100 * (sums.sum(1) / count.sum(0)).mean(1)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"value": round(float(each.mean()), 2), "low": round(float(low), 2), "high": round(float(high), 2),
            "seeds": [round(float(value), 2) for value in each], "n": int(keep.sum())}  # fmt: skip


def summary(cells: dict[str, list[dict[str, Any]]], examples: Sequence[Example]) -> dict[str, Any]:
    """Return method -> condition -> pictures (all, seen, unseen) -> figure."""
    seen = np.array([bool(e.meta["seen"]) for e in examples])
    groups = {"all": np.ones(len(examples), bool), "seen": seen, "unseen": ~seen}
    found: dict[str, Any] = {}
    for method, made in cells.items():
        found[method] = {}
        for condition in CONDITIONS:
            rows = np.array([[row[:2] for row in cell["rows"][condition]] for cell in made], float)  # (S, N, 2)
            found[method][condition] = {
                group: {"exact": figure(rows[:, :, 0], examples, keep),
                        "contrastive": figure(rows[:, :, 1], examples, keep)}
                for group, keep in groups.items()
            }  # fmt: skip
    return found


def chance(examples: Sequence[Example]) -> dict[str, float]:
    """Return how often a guess among a word's names is right, by pictures."""

    def mean(some: list[Example]) -> float:
        each = [1 / (1 + len(e.alternatives)) for e in some if e.alternatives]
        return round(100 * sum(each) / len(each), 2) if each else float("nan")

    return {"all": mean(list(examples)), "seen": mean([e for e in examples if e.meta["seen"]]),
            "unseen": mean([e for e in examples if not e.meta["seen"]])}  # fmt: skip


def show(found: dict[str, Any], console: Console) -> None:
    """Print what is known so far."""
    for figure_name in ("exact", "contrastive"):
        table = Table("system", *(f"{c}, {g}" for c in CONDITIONS for g in ("seen", "unseen")), title=figure_name)
        for method, by_condition in found["systems"].items():
            values = [by_condition[c][g][figure_name] for c in CONDITIONS for g in ("seen", "unseen")]
            table.add_row(
                method, *(f"{v['value']:.1f} [{v['low']:.0f}, {v['high']:.0f}]" if v else "" for v in values)
            )
        console.print(table)
    console.print(f"guessing among a word's names: {found['chance']} %; best exact by the word alone: "
                  f"{found['text_only_ceiling']} %", highlight=False)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the pictograms' folder")
    parser.add_argument("--out", type=Path, default=Path("out/pictograms"), help="what is trained and answered")
    parser.add_argument("--json", type=Path, help="the figures")
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES, metavar="CODE")
    parser.add_argument("--seeds", type=int, default=2, help="of what is trained")
    parser.add_argument("--methods", nargs="+", default=("lookup", *KINDS, "base", *TUNED), metavar="METHOD",
                        choices=("lookup", *KINDS, "base", *TUNED))  # fmt: skip
    parser.add_argument("--small", action="store_true", help="fewer steps and test words")
    parser.add_argument("--steps", type=int, help="of the systems trained from scratch")
    parser.add_argument("--tuning", type=int, help="steps of the embedded model's methods")
    parser.add_argument("--test", type=int, help="test words")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    quiet()
    size = SMALL if asked.small else FULL
    size = replace(size, steps=asked.steps or size.steps, tuning=asked.tuning or size.tuning,
                   test=asked.test or size.test)  # fmt: skip
    console = Console(width=max(150, Console().width))
    say = lambda text: console.print(text, highlight=False)  # noqa: E731
    try:
        splits, left_out = writable(read(asked.data, asked.languages), load_processor(EMBEDDED).tokenizer)
        asked.out.mkdir(parents=True, exist_ok=True)
        write_data(asked.out / "data.jsonl", splits)
        tested = first_words(splits["test"], size.test)
        features = TowerFeatures(tokens=16, cache=asked.out / "features")
        features.prepare(list(dict.fromkeys(e.images[0] for part in splits.values() for e in part)))
        wanted = [Cell(m, s) for s in range(asked.seeds) for m in asked.methods if s == 0 or m in (*KINDS, *TUNED)]
        cells: dict[str, list[dict[str, Any]]] = {}
        mark = [list(asked.languages), vars(size), len(tested)]
        for cell in wanted:
            cells.setdefault(cell.method, []).append(_done(cell, mark, splits, tested, features, asked, size, say))
            found = {
                "size": {**vars(size), "seeds": asked.seeds, "languages": list(asked.languages),
                         "examples": {split: len(part) for split, part in splits.items()}, "scored": len(tested),
                         "seen": sum(bool(e.meta["seen"]) for e in tested), "left_out": dict(left_out)},
                "chance": chance(tested),
                "text_only_ceiling": round(text_only_ceiling(tested), 2),
                "cost": {m: made[0]["cost"] | {"seconds": [round(c["seconds"]) for c in made]}
                         for m, made in cells.items()},
                "systems": summary(cells, tested),
            }  # fmt: skip
            if asked.json:
                asked.json.parent.mkdir(parents=True, exist_ok=True)
                write_text(asked.json, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        show(found, console)
    except UserError as error:
        raise SystemExit(f"pictograms: {error}") from None


def _done(
    cell: Cell,
    mark: list[Any],
    splits: dict[str, list[Example]],
    tested: Sequence[Example],
    features: TowerFeatures,
    asked: argparse.Namespace,
    size: Size,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return a cell's rows, made now if they are not there."""
    path = asked.out / "cells" / f"{cell.name}.json"
    if path.exists():
        known = read_json(path, CELL)
        if known["mark"] == mark:
            return known
    path.parent.mkdir(exist_ok=True)
    began = time.process_time()
    system = system_of(cell, splits, features, asked.out, asked.languages, size, say)
    trained = time.process_time()
    cost = cost_of(cell, asked.out, size)
    rows = score(system, tested)
    spent = time.process_time()
    say(f"{cell.name}: {trained - began:.0f} CPU-seconds of training, {spent - trained:.0f} of answering")
    return write_json(path, CELL, {"mark": mark, "seconds": trained - began, "cost": cost, "rows": rows})


if __name__ == "__main__":
    main()
