"""Selecting from the profile of a 7B model: seconds and memory of every method and control.

    python benchmarks/selection.py --json out/select.json          some minutes on two idle cores, 4 GB, 2 GB of disk

The profile is made up: every Linear of LLaVA-1.5-7B (32 blocks of a 4,096-wide Llama, 23 of a 1,024-wide CLIP tower,
two matrices between them; 364 matrices, 1.58 million neurons) and 14 pairs, with importances drawn from a gamma
distribution, parallel data of 48 items, and a tenth of the neurons used more by one pair. It holds the three scores
that a recipe profiles by default (for `lape`, two: what it ranks by and what its counts come from). Every method then
runs in a fresh process: the seconds are those of loading the profile, checksum and all, and of selecting, without
importing torch and scipy; beside them those of the CPU, which other work on the machine does not lengthen as much;
the memory is the process's peak resident set, what it maps of the file included. The selection of `neumt`, 600,000
rows, is saved and read again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.profile import Profile, Stored, StoredBlocks
from neuroglot.neurons.selecting.select import METHODS, select
from neuroglot.pair import Condition
from neuroglot.selection import Selection

TARGETS = ["ar", "cs", "de", "es", "fr", "hi", "id", "it", "ja", "ko", "pt_BR", "ru", "tr", "zh_Hans"]
SCORES = ("taylor_token", "gradient", "activation")
ITEMS = 48

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {"ranking": "relevance"}) for name in METHODS},
    "mnaft auto": ("mnaft", {"specific": "auto"}),
    "mnaft share": ("mnaft", {"share": 0.9}),
    "mnaft global": ("mnaft", {"rank": "global", "cost": "weights", "score": "gradient"}),
    "mnaft per-part": ("mnaft", {"rank": "per-part", "budget": {"vision": 0.1, "connector": 0.5, "language": 0.4}}),
    "mnaft per pair": ("mnaft", {"specific": {f"en-{target}": 0.05 for target in TARGETS}}),
    "random global": ("random", {"rank": "global"}),
    "random-layers global": ("random-layers", {"rank": "global"}),
}
"""Name -> method and options."""


def layers(blocks: int, tower: int, width: int) -> list[Layer]:
    """Return the layers of a LLaVA-1.5 with a Llama of `blocks` and a CLIP tower of `tower` blocks."""
    made = []
    for i in range(tower):
        name = f"model.vision_tower.vision_model.encoder.layers.{i}"
        made += [
            Layer(f"{name}.self_attn.{x}", "vision", width // 4, width // 4, True)
            for x in ("k_proj", "v_proj", "q_proj", "out_proj")
        ]
        made += [
            Layer(f"{name}.mlp.fc1", "vision", width, width // 4, True),
            Layer(f"{name}.mlp.fc2", "vision", width // 4, width, True),
        ]
    for x, inputs in (("linear_1", width // 4), ("linear_2", width)):
        made.append(Layer(f"model.multi_modal_projector.{x}", "connector", width, inputs, True))
    for i in range(blocks):
        name, middle = f"model.language_model.layers.{i}", width * 43 // 16
        made += [
            Layer(f"{name}.self_attn.{x}", "language", width, width, False)
            for x in ("q_proj", "k_proj", "v_proj", "o_proj")
        ]
        made += [Layer(f"{name}.mlp.{x}", "language", middle, width, False) for x in ("gate_proj", "up_proj")]
        made.append(Layer(f"{name}.mlp.down_proj", "language", width, middle, False))
    return made


def make(path: Path, found: list[Layer], scores: tuple[str, ...]) -> None:
    """Write the profile; its file holds means and spreads, so these are what is drawn."""
    draws = torch.Generator().manual_seed(0)
    k, s = len(TARGETS), len(scores)
    total = {part: sum(x.neurons for x in found if x.part == part) for part in ("vision", "connector", "language")}
    means, spreads, shares, share_spreads, distances, norms = ({} for _ in range(6))
    for layer in found:
        n = layer.neurons
        base = torch.empty(1, s, 1, n).exponential_(generator=draws)
        mean = base * (1 + 0.05 * torch.randn(k, s, 1, n, generator=draws)).clamp(min=0.1)
        rows = torch.randperm(n, generator=draws)[: n // 10]
        mean[torch.randint(k, (len(rows),), generator=draws), :, 0, rows] *= 3
        means[layer.name], spreads[layer.name] = mean, 0.5 * mean
        shares[layer.name], share_spreads[layer.name] = mean / total[layer.part], 0.5 * mean / total[layer.part]
        # Of the variance of a share, items account for half.
        items = 0.25 * shares[layer.name].square().mean(0) * (0.5 + 0.5 / k)
        distances[layer.name] = items.sqrt()
        norms[layer.name] = torch.rand(n, generator=draws)
    counts, samples = torch.full((k, 1), ITEMS), torch.full((k, 1, 1, 1), float(ITEMS)).double()
    task = "image_translation"
    blocks = StoredBlocks(torch.full((1, 1, 1), float(ITEMS)).double(), list(range(k)), shares, distances)
    Profile(
        model="made-up-7b",
        fingerprint="0",
        layers=tuple(found),
        conditions=tuple(Condition.parse(f"{task}:en-{target}") for target in TARGETS),
        scores=scores,
        classes=("all",),
        counts=counts,
        sums=Stored(samples, means),
        squares=Stored(samples, means, spreads),
        share_sums=Stored(samples, shares),
        share_squares=Stored(samples, shares, share_spreads),
        blocks={task: blocks},
        block_counts={task: torch.tensor([ITEMS])},
        static={"weight": norms},
    ).save(path)


def once(path: Path, method: str, options: Mapping[str, Any], threads: int, keep: str = "") -> dict[str, Any]:
    """Load and select, in a process of its own, and return what it took; write the selection if `keep` says where."""
    torch.set_num_threads(threads)
    import scipy.stats  # noqa: F401  (as torch, it is not part of what is timed)

    idle, spent = peak(), time.process_time()
    began = time.perf_counter()
    profile = Profile.load(path)
    loaded = time.perf_counter()
    selection = select(profile, method, **options)
    done = time.perf_counter()
    groups = {group for _, group, _ in selection}
    made = {
        "seconds": round(done - began, 3),
        "load_seconds": round(loaded - began, 3),
        "select_seconds": round(done - loaded, 3),
        "cpu_seconds": round(time.process_time() - spent, 3),
        "peak_rss_mib": peak(),
        "import_rss_mib": idle,
        "rows": len(selection),
        "layers": len(selection.rows),
        "groups": len(groups),
    }
    if keep:
        began = time.perf_counter()
        selection.save(keep)
        saved = time.perf_counter()
        again = Selection.load(keep)
        made |= {
            "save_seconds": round(saved - began, 3),
            "read_seconds": round(time.perf_counter() - saved, 3),
            "file_mib": round(Path(keep).stat().st_size / 2**20, 1),
        }
        if len(again) != len(selection):
            raise RuntimeError("the selection was not read as it was written")
    return made


def peak() -> int:
    """Return the peak resident set of this process in MiB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size // (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", default="", help=f"comma-separated, of: {', '.join(CASES)}")
    parser.add_argument("--blocks", type=int, default=32, help="of the language model")
    parser.add_argument("--tower", type=int, default=23, help="blocks of the vision tower")
    parser.add_argument("--width", type=int, default=4096, help="of the language model, a multiple of 16")
    given = parser.parse_args()
    cases = {name: CASES[name] for name in given.cases.split(",")} if given.cases else CASES
    found = layers(given.blocks, given.tower, given.width)
    neurons = sum(layer.neurons for layer in found)
    console, made = Console(), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.safetensors"
        fresh = multiprocessing.get_context("spawn")
        other = Path(folder) / "lape.safetensors"
        make(path, found, SCORES)
        size = round(path.stat().st_size / 2**20)
        console.print(f"{neurons:,} neurons in {len(found)} layers, {len(TARGETS)} pairs: a profile of {size:,} MiB")
        for name, (method, options) in cases.items():
            keep = str(Path(folder) / "selection.safetensors") if name == "neumt" else ""
            if method == "lape" and not other.exists():
                make(other, found, (SCORES[0], "activation_probability"))
            with fresh.Pool(1) as pool:
                file = other if method == "lape" else path
                made[name] = pool.apply(once, (file, method, options, given.threads, keep))
            console.print(f"{name}: {made[name]['seconds']} s, {made[name]['peak_rss_mib']} MiB")
    table = Table("method", "load s", "select s", "CPU s", "peak MiB", "rows", "layers", "groups")
    for name, row in made.items():
        numbers = (row[key] for key in ("load_seconds", "select_seconds", "cpu_seconds", "peak_rss_mib"))
        table.add_row(name, *map(str, numbers), *(f"{row[key]:,}" for key in ("rows", "layers", "groups")))
    console.print(table)
    slowest = max(row["seconds"] for row in made.values())
    largest = max(row["peak_rss_mib"] for row in made.values())
    console.print(f"slowest {slowest} s, largest {largest} MiB")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "command": "python benchmarks/selection.py",
            "threads": given.threads,
            "neurons": neurons,
            "pairs": len(TARGETS),
            "layers": len(found),
            "profile_mib": size,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        summary = {"slowest_seconds": slowest, "largest_peak_rss_mib": largest}
        given.json.write_text(json.dumps({"about": about, "summary": summary, "methods": made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
