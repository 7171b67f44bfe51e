"""The measurements of `profile.py`: the two ways, their memory and their time."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from neuroglot.config import ProfileSection
from neuroglot.data.batch import Batcher
from neuroglot.data.corpus import Sizes, load_corpus
from neuroglot.models.load import EMBEDDED, load_model, load_processor
from neuroglot.neurons import profile
from neuroglot.neurons.profiling.importance import frozen, token_loss
from neuroglot.neurons.profiling.positions import forward_inputs, unpack
from neuroglot.pair import Pair

BARS = {"time_ratio": 1.25, "memory_ratio": 1.10}
IMAGE = 31_999
PAIRS = ("en-de", "en-fr")


@dataclass(frozen=True)
class Work:
    """A model and the batches that it is profiled on."""

    name: str
    model: nn.Module
    batches: list[Any]

    def bare(self) -> None:
        """A forward, and the gradients of all activations."""
        with frozen(self.model), torch.enable_grad():
            for batch in self.batches:
                inputs, condition, _ = unpack(batch)
                forward = forward_inputs(self.model, inputs, gradient=True)
                token_loss(self.model, forward, inputs["labels"], condition).backward()

    def profile(self, scores: Sequence[str]) -> None:
        """The pass that is measured."""
        profile(self.model, self.batches, scores)


def llava(size: str) -> Work:
    """A random LLaVA, and a batch of each of two pairs: an image, a prompt and a target per sample."""
    small = size == "small"
    wide, deep, pixels, words, samples = (64, 2, 56, 512, 2) if small else (640, 10, 336, 32_000, 2)
    token = min(IMAGE, words - 1)
    vision = CLIPVisionConfig(
        hidden_size=wide * 3 // 5 // 8 * 8, intermediate_size=wide * 12 // 5, num_hidden_layers=max(2, deep * 4 // 5),
        num_attention_heads=4 if small else 6, image_size=pixels, patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=wide, intermediate_size=wide * 27 // 10, num_hidden_layers=deep, num_attention_heads=wide // 64,
        vocab_size=words, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=token)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    patches = (pixels // 14) ** 2
    batches = []
    for pair in PAIRS:
        ids = torch.randint(1, words - 1, (samples, patches + 64))
        ids[:, 1 : patches + 1] = token
        labels = ids.clone()
        labels[:, :-24] = -100
        inputs = {
            "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels,
            "pixel_values": torch.randn(samples, 3, pixels, pixels),
        }  # fmt: skip
        batches.append((inputs, f"image_translation:{pair}", tuple(map(str, range(samples)))))
    return Work("llava", model, batches)


def tiny(size: str) -> Work:
    """The embedded model, and as many signs a batch as the recipe profiles."""
    count = 12 if size == "full" else 2
    pairs = [Pair.parse(pair) for pair in PAIRS]
    corpus = load_corpus("signs", "image_translation", pairs, Sizes(count, 0, 0, 0, 0), seed=0, describes=False)
    batcher = Batcher(load_processor(EMBEDDED))
    return Work("tiny", load_model(EMBEDDED, "float32"), list(batcher.batches(corpus.train, count)))


def peak(run: Callable[[], None]) -> int:
    """Return the most bytes that a run holds at a time beyond what was held before it."""
    gc.collect()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(file))
        events = [e for e in json.loads(file.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    held: dict[int, int] = {}
    now = most = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        place, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            held[place] = size
            now += size
            most = max(most, now)
        else:  # what was there before counts neither way
            now -= held.pop(place, 0)
    return most


def measure(work: Work, scores: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return the records of both ways."""
    ways: dict[str, Callable[[], None]] = {"bare": work.bare, "profile": lambda: work.profile(scores)}
    for run in ways.values():  # not timed
        run()
    peaks = {way: peak(run) for way, run in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in list(ways)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            ways[way]()
            times[way].append(time.perf_counter() - start)
    weights = sum(p.numel() * p.element_size() for p in work.model.parameters())
    ratios = [a / b for a, b in zip(times["profile"], times["bare"], strict=True)]
    return [
        {
            "model": work.name, "way": way, "scores": list(scores) if way == "profile" else [],
            "parameters": sum(p.numel() for p in work.model.parameters()), "weight_bytes": weights,
            "batches": len(work.batches), "tokens": sum(batch[0]["input_ids"].numel() for batch in work.batches),
            "peak_bytes": peaks[way], "seconds": statistics.median(times[way]), "rounds": rounds,
            "time_ratio": statistics.median(ratios) if way == "profile" else 1.0,
            "time_ratios": ratios if way == "profile" else [],
            "memory_ratio": (peaks[way] + weights) / (peaks["bare"] + weights),
            "memory_ratio_without_weights": peaks[way] / peaks["bare"],
        }
        for way in ways
    ]  # fmt: skip


def show(records: Sequence[dict[str, Any]]) -> None:
    """Print what was measured."""
    table = Table("model", "way", "scores", "s", "peak MiB", "with weights", "time /", "memory /", "without weights")
    for r in records:
        table.add_row(
            r["model"], r["way"], ", ".join(r["scores"]), f"{r['seconds']:.2f}", f"{r['peak_bytes'] / 2**20:,.0f}",
            f"{(r['peak_bytes'] + r['weight_bytes']) / 2**20:,.0f}", f"{r['time_ratio']:.3f}",
            f"{r['memory_ratio']:.3f}", f"{r['memory_ratio_without_weights']:.3f}",
        )  # fmt: skip
    console = Console()
    console.width = max(150, console.width)
    console.print(table)


def main(about: str | None, arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--model", choices=("llava", "tiny", "both"), default="both")
    parser.add_argument("--scores", nargs="+", default=list(ProfileSection().scores), metavar="SCORE")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    records: list[dict[str, Any]] = []
    for make in (llava, tiny):
        if asked.model in (make.__name__, "both"):
            records += measure(make(asked.size), asked.scores, asked.rounds)
    show(records)
    headline = next(r for r in records if r["way"] == "profile")
    summary = {name: headline[name] for name in BARS}
    for name, bar in BARS.items():
        print(f"{name} {summary[name]:.3f}, at most {bar}: {'met' if summary[name] <= bar else 'missed'}")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps({"summary": summary, "records": records}, indent=1) + "\n")
