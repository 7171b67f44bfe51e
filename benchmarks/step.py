"""One training step of each way to train chosen rows: what it computes, what it keeps in memory, how long it takes.

    python benchmarks/step.py --json out/step.json                     about ten minutes on two idle cores, 10 GB
    python benchmarks/step.py --json out/step-cuda.json --device cuda  minutes on one GPU
    python benchmarks/step.py --json out/step-rank.json --rows 0.4 --rank 16 --methods full lora sliced-lowrank

A step is forward, backward, AdamW (not fused) and zero_grad. The decoder is a random Llama with 101 M parameters in
its Linear layers (10 blocks of 896, MLPs of 2,432, an untied head for 4,096 tokens): float32 and 256 tokens on the
CPU; on CUDA bfloat16 weights under autocast, as the Trainer runs them, and 4,096 tokens. `tiny` is the embedded model
on a batch of signs as the recipe quickstart trains it. Rows are drawn at random in every Linear of the blocks (`tiny`:
of all three parts), or of the upper 40 % of the blocks (`top40`).

    full             those Linears whole and nothing else, in the base's dtype
    mask             the same, with a hook that zeroes the gradients of the other rows
    compose          a compact delta, added to a copy of the weight in every forward, under autograd
    lora, shira      PEFT's, in the same layers; r (without --rank) such that their parameters come nearest to those of
                     the rows
    additive, sliced neuroglot's modes
    sliced-lowrank   the deltas of the same rows as products of rank r, below their number; r as near to LoRA's
                     parameters as that comes

`flops` are of forward and backward as torch.utils.flop_counter sees them (the CPU's fused attention it does not see,
in any method). `saved_bytes` are the storages that outlive a forward, each once, whether autograd or a layer holds
them, without what was held before (weights, buffers, the batch). `resident_bytes` are all tensors held between steps
beyond the base: adapter, optimiser, kept rows, masks, indices; `backup_bytes` what of that is neither adapter nor
optimiser. `trainable_parameters` are the entries that the optimiser holds: for `mask` whole matrices. `flops_least`,
of `sliced` and `additive`: those of `full` without the dW of the frozen rows. All methods of a setting take turns in
one process; a time is the median over rounds, its spread the interquartile range, a ratio the median of the ratios
within a round.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft.tuners.shira.layer import _warn_once_about_module_hooks
from rich.console import Console
from rich.table import Table
from step_ways import METHODS, PAIR, Setting, Workload, decoder, tiny
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from neuroglot.tuner import active_pair, has_router

ROWS = (0.01, 0.1, 0.4)
WARM_UP = 1
"""Rounds that are not timed; the two steps of each method that are counted come before."""


def storages() -> dict[int, int]:
    """Address -> bytes of every tensor that lives, once per storage."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and thing.device.type != "meta":
            found |= own(thing)
    return found


def own(tensor: Tensor) -> dict[int, int]:
    """Address -> bytes of a tensor's storage; SHiRA's sparse ones have two."""
    if tensor.layout == torch.sparse_coo:
        return own(tensor._indices()) | own(tensor._values())
    storage = tensor.untyped_storage()
    return {storage.data_ptr(): storage.nbytes()}


def nbytes(tensors: Any) -> int:
    """Return how many bytes the values take."""
    return sum(t.numel() * t.element_size() for t in tensors)


class Trial:
    """A model under training by one method, with the optimiser's state.

    Args:
        method: one of METHODS.
        setting: what is trained.
        work: the batch.
    """

    def __init__(self, method: str, setting: Setting, work: Workload) -> None:
        self.method, self.work = method, work
        before = sum(storages().values()) + nbytes(setting.base.parameters()) + nbytes(setting.base.buffers())
        self.model = setting.build(method)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, weight_decay=0.0, fused=False)
        self.routed = has_router(self.model)
        ranks = {"lora": setting.rank, "shira": setting.rank, "sliced-lowrank": setting.lowrank}
        self.record: dict[str, Any] = {"method": method, "rank": ranks.get(method)}
        self._count(before)

    def _pair(self) -> Any:
        return active_pair(self.model, PAIR) if self.routed else nullcontext()

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> float:
        """Take a training step and return its seconds."""
        _wait(self.work.device)
        start = time.perf_counter()
        with self._pair():
            self.work.forward(self.model).backward()
        self._update()
        _wait(self.work.device)
        return time.perf_counter() - start

    def _count(self, before: int) -> None:
        """Take two steps for what can be counted; `before` are the bytes without this trial, but with its base."""
        with self._pair(), FlopCounterMode(display=False) as counter:
            self.work.forward(self.model).backward()
        grads = nbytes(p.grad for p in self.model.parameters() if p.grad is not None)
        self._update()
        saved = self._saved()  # of a second step: what a layer makes once and keeps is no part of it
        self._update()
        held = sum(storages().values()) - before
        entries = sum(p.numel() for p in self.trained)
        adapter = 0 if self.method in ("full", "mask") else nbytes(self.trained)
        state = nbytes(v for s in self.optimizer.state.values() for v in s.values() if torch.is_tensor(v))
        self.record |= {
            "flops": counter.get_total_flops(), "saved_bytes": saved, "grad_bytes": grads, "optimizer_bytes": state,
            "adapter_bytes": adapter, "trainable_parameters": entries, "backup_bytes": held - adapter - state,
            "resident_bytes": held,
        }  # fmt: skip

    def _saved(self) -> int:
        """Return the bytes that a forward leaves for backward; runs both."""
        known = storages()
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen.update(own(tensor))
            return tensor

        with self._pair():
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = self.work.forward(self.model)
            seen |= storages()  # a layer could keep a tensor where autograd does not see it
            loss.backward()
        return sum(size for place, size in seen.items() if place not in known)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(
    work: Workload, share: float, layers: str, methods: Sequence[str], rounds: int, rank: int | None = None
) -> list[dict[str, Any]]:
    """Return the records of one setting; `rank` is LoRA's, by default that of as many parameters as the rows have."""
    generator = torch.Generator().manual_seed(0)
    rows = {}
    for name in work.layers[layers]:
        outputs = work.base.get_submodule(name).out_features
        some = torch.randperm(outputs, generator=generator)[: max(1, round(share * outputs))]
        rows[name] = some.sort().values.to(work.device)
    setting = Setting(work.base, rows, rank)
    trials = {method: Trial(method, setting, work) for method in methods}
    times: dict[str, list[float]] = {method: [] for method in methods}
    for turn in range(WARM_UP + rounds):
        order = [*methods[turn % len(methods) :], *methods[: turn % len(methods)]]
        for method in order[:: -1 if turn % 2 else 1]:  # rotated, and to and fro: no method always follows the same
            seconds = trials[method].step()
            if turn >= WARM_UP:
                times[method].append(seconds)
    saving = work.frozen_flops(rows)
    records = []
    for method, trial in trials.items():
        ratios = {}
        for other in ("full", "lora", "additive"):
            pairs = zip(times[method], times.get(other, ()), strict=True)
            ratios[f"step_s_ratio_to_{other}"] = statistics.median(a / b for a, b in pairs) if other in times else None
        exact = method in ("sliced", "additive") and "full" in trials
        low, high = _quartiles(times[method])
        records.append({
            "model": work.name, "rows": share, "layers": layers, "dtype": str(work.dtype).removeprefix("torch."),
            "device": work.device.type, "tokens": work.batch["input_ids"].numel(), **trial.record,
            "flops_least": trials["full"].record["flops"] - saving if exact else None,
            "step_s": statistics.median(times[method]), "step_s_spread": high - low, **ratios, "rounds": rounds,
        })  # fmt: skip
    _warn_once_about_module_hooks.cache_clear()  # it would keep SHiRA's layers, and with them the base, for ever
    return records


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def show(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the counted and the timed figures, a table per model and choice of layers."""
    heads = ("rows", "method", "rank", "trained", "GFLOP", "saved", "grads", "optimiser", "adapter", "backup",
             "ms", "+-", "/ full", "/ LoRA", "/ additive")  # fmt: skip
    for title in dict.fromkeys((r["model"], r["layers"], r["dtype"], r["device"], r["tokens"]) for r in records):
        model, layers, dtype, device, tokens = title
        table = Table(title=f"{model}, {layers}: {dtype} on {device}, {tokens:,} tokens; memory in MiB",
                      title_justify="left", pad_edge=False)  # fmt: skip
        for place, head in enumerate(heads):
            table.add_column(head, justify="left" if place == 1 else "right")
        of = [r for r in records if (r["model"], r["layers"]) == (model, layers)]
        for place, r in enumerate(of):
            memory = ("saved_bytes", "grad_bytes", "optimizer_bytes", "adapter_bytes", "backup_bytes")
            ratios = (r[f"step_s_ratio_to_{other}"] for other in ("full", "lora", "additive"))
            table.add_row(
                f"{100 * r['rows']:g} %", r["method"], str(r["rank"] or ""), f"{r['trainable_parameters']:,}",
                f"{r['flops'] / 1e9:,.2f}", *(f"{r[name] / 2**20:,.1f}" for name in memory),
                f"{1e3 * r['step_s']:,.1f}", f"{1e3 * r['step_s_spread']:,.1f}",
                *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                end_section=place + 1 < len(of) and of[place + 1]["rows"] != r["rows"],
            )  # fmt: skip
        console.print(table)


def bounds(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, float]]:
    """Yield what is promised of `sliced`: name, value, bound, all as ratios that should not exceed the bound."""
    for place in dict.fromkeys((r["model"], r["layers"], r["rows"]) for r in records):
        of = {r["method"]: r for r in records if (r["model"], r["layers"], r["rows"]) == place}
        if "sliced" not in of:
            continue
        sliced, where = of["sliced"], f"{place[0]}, {place[1]}, {100 * place[2]:g} %"
        if sliced["flops_least"]:
            yield f"{where}: FLOPs / (forward + dX + k/O of dW)", sliced["flops"] / sliced["flops_least"], 1.02
        if place[1] != "all":
            continue
        times = {0.1: (("full", 0.8), ("lora", 1.0)), 0.4: (("full", 0.9), ("additive", 0.9))}
        for other, bound in times.get(place[2], ()):
            if other in of:
                yield f"{where}: step time / {other}", sliced[f"step_s_ratio_to_{other}"], bound
        if "lora" in of:
            yield f"{where}: saved bytes / LoRA's", sliced["saved_bytes"] / of["lora"]["saved_bytes"], 1.0
        # what the bound allows, not what the engine holds: delta and Adam, and the rows as they were in the base
        due = (12 + getattr(torch, sliced["dtype"]).itemsize) * sliced["trainable_parameters"]
        yield f"{where}: held between steps / (12 B an entry + rows)", sliced["resident_bytes"] / due, 1.1
        yield f"{where}: the same with gradients", (sliced["resident_bytes"] + sliced["grad_bytes"]) / due, 1.1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, help="timed rounds; by default 5 on the CPU, 20 on CUDA")
    parser.add_argument("--tokens", type=int, help="of the decoder's batch; by default 256 on the CPU, 4,096 on CUDA")
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--model", choices=("tiny", "decoder", "both"), default="both")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--rows", nargs="+", type=float, default=ROWS, metavar="SHARE")
    parser.add_argument("--rank", type=int, help="of LoRA and SHiRA; by default that of as many parameters")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)
    cuda = asked.device == "cuda"
    torch.set_num_threads(asked.threads)
    gc.collect()
    gc.freeze()  # what the imports made need not be searched for tensors
    device, dtype = torch.device(asked.device), torch.bfloat16 if cuda else torch.float32
    rounds, tokens = asked.rounds or (20 if cuda else 5), asked.tokens or (4096 if cuda else 256)
    makers = {
        "decoder": lambda: decoder(asked.size, tokens, device, dtype),
        "tiny": lambda: tiny(asked.size, device, dtype),
    }
    console, records = Console(width=max(150, Console().width)), []  # narrower, the tables cannot be read
    for make in makers.values() if asked.model == "both" else (makers[asked.model],):
        work = make()
        for layers in work.layers:
            for share in asked.rows:
                records += measure(work, share, layers, asked.methods, rounds, asked.rank)
                console.print(f"{work.name}, {layers}, {100 * share:g} % of rows: done", highlight=False)
                if asked.json:
                    asked.json.parent.mkdir(parents=True, exist_ok=True)
                    asked.json.write_text(json.dumps(records, indent=1) + "\n")
    show(records, console)
    table = Table("sliced", "value", "at most", "", title="Must show", title_justify="left", pad_edge=False)
    for name, value, bound in bounds(records):
        table.add_row(name, f"{value:.3f}", f"{bound:.2f}", "met" if value <= bound else "missed")
    console.print(table)


if __name__ == "__main__":
    main()
