"""Run by torchrun on two processes: each scenario trains the tiny Llava and leaves what it came to in a folder.

What is asked of every family of models is in `family_ranks.py`, and runs last, in the same two processes.

The scenarios are functions of (rank, wrap), so that the test runs the same schedule in one process to compare with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_ranks
import torch
import torch.distributed as dist
from peft import PeftModel, get_peft_model
from tiny_llava import batch, deltas, fill_deltas, tiny_llava, tiny_selection
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from neuroglot.config import TrainSection
from neuroglot.errors import UserError
from neuroglot.training import PairTrainer
from neuroglot.training.trainer import arguments
from neuroglot.tuner import NeuroglotConfig, NeuroglotLinear, active_pair, modes

WORLD = 2

# optimiser steps of micro-steps of a pair per rank; en-fr never trains, and in the last step en-de does not
MIXED = (
    (("en-de", "en-cs"), ("en-cs", "en-de")),
    (("en-de", "en-cs"), ("en-cs", "en-cs")),
    (("en-cs", "en-de"), ("en-de", "en-de")),
    (("en-cs", "en-cs"), ("en-cs", "en-cs")),
)
ALIKE = ((("en-de",) * 2,) * 2, (("en-de",) * 2,) * 2, (("en-cs",) * 2,) * 2)

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
}

Record = list[dict[str, dict[str, Any]]]


def tuned(mode: str = "auto", dtype: torch.dtype = torch.float32) -> PeftModel:
    """Return the model with an adapter whose deltas are not zero, so that weight decay would show."""
    config = NeuroglotConfig.from_selection(tiny_selection(), mode=mode)
    model = get_peft_model(tiny_llava(bias=True).to(dtype), config)
    fill_deltas(model, 0.05)
    return model.train()


def inputs(step: int, micro: int, rank: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the samples of a rank's micro-step."""
    found = batch(100 * step + 10 * micro + rank)
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in found.items()}


def whole(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Copy a tensor, gathered when it is a shard."""
    if tensor is None:
        return None
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def state(tuned: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, dict[str, Any]]:
    """Copy every delta's value and gradient, and what the optimiser keeps about it."""
    found = {}
    for name, parameter in deltas(tuned).items():
        kept = optimizer.state.get(parameter, {}) if optimizer else {}
        found[name] = {"value": whole(parameter), "grad": whole(parameter.grad)}
        found[name] |= {key: whole(value) for key, value in kept.items() if torch.is_tensor(value)}
    return found


def fit(
    tuned: PeftModel,
    wrapped: nn.Module,
    schedule: Any,
    optimizer_name: str = "adamw",
    ranks: tuple[int, ...] = (0, 1),
    dtype: torch.dtype = torch.float32,
) -> Record:
    """Train; return the state before the first step, and before and after each optimiser step.

    Args:
        tuned: the adapter's model.
        wrapped: what is called.
        schedule: see `MIXED`.
        optimizer_name: one of `OPTIMIZERS`.
        ranks: whose samples this process takes; the losses are scaled to the mean over all ranks' samples.
        dtype: of the base.
    """
    optimizer = OPTIMIZERS[optimizer_name]([p for p in tuned.parameters() if p.requires_grad])
    record: Record = []
    for step, micros in enumerate(schedule):
        for micro, pairs in enumerate(micros):
            last = micro == len(micros) - 1
            if isinstance(wrapped, DistributedDataParallel):
                wrapped.require_backward_grad_sync = last  # what `no_sync` sets
            for rank in ranks:
                with active_pair(wrapped, pairs[rank]):
                    loss = wrapped(**inputs(step, micro, rank, dtype)).loss
                    (loss / len(micros) / len(ranks)).backward()
        record.append(state(tuned, optimizer))
        optimizer.step()
        record.append(state(tuned, optimizer))
        optimizer.zero_grad()
    return record


def shard(model: PeftModel) -> nn.Module:
    """Shard every block, then the root."""
    inner = model.get_base_model().model
    for block in (*inner.vision_tower.encoder.layers, inner.multi_modal_projector, *inner.language_model.layers):
        fully_shard(block)
    return fully_shard(model)


def ddp(rank: int, out: Path, optimizer: str) -> dict[str, Any]:
    """Different pairs per rank, accumulated; in float64, so that sums in another order do not show."""
    model = tuned(dtype=torch.float64)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    return {"record": fit(model, wrapped, MIXED, optimizer, (rank,), torch.float64), "modes": modes(model)}


def fsdp(rank: int, out: Path, optimizer: str) -> dict[str, Any]:
    """One pair for all ranks in each step; then the adapter is gathered and saved."""
    model = tuned()
    shard(model)
    record = fit(model, model, ALIKE, optimizer, (rank,))
    held = [m._kept for m in model.modules() if isinstance(m, NeuroglotLinear)]
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        model.save_pretrained(out / f"adapter_{optimizer}", state_dict=full)
    dist.barrier()
    return {"record": record, "modes": modes(model), "held": any(held), "sharded": isinstance(model, FSDPModule)}


def complaint(function: Callable[[], Any]) -> str:
    """Return the message of the UserError that a function raises, `nothing` when it raises none."""
    try:
        function()
    except UserError as error:
        return str(error)
    return "nothing"


def fsdp_pairs(rank: int, out: Path) -> dict[str, Any]:
    """Every rank another pair: refused, and training goes on afterwards."""
    model = tuned()
    shard(model)
    before = state(model)

    def step(pair: str) -> None:
        with active_pair(model, pair):
            model(**batch(rank)).loss.backward()

    found = {"error": complaint(lambda: step(("en-de", "en-fr")[rank]))}
    found["mixture"] = complaint(lambda: step([["en-de", "en-fr"], ["en-fr", "en-de"]][rank]))
    found["none"] = all(value["grad"] is None for value in state(model).values())
    found["same"] = all(torch.equal(value["value"], before[name]["value"]) for name, value in state(model).items())
    step("en-de")
    found["after"] = {name: value["grad"] is not None for name, value in state(model).items()}
    return found


def fsdp_sliced(rank: int, out: Path) -> dict[str, Any]:
    """The mode that cannot work here, and a model that ran before it was sharded."""
    model = tuned("sliced")
    shard(model)

    def step(model: nn.Module) -> None:
        with active_pair(model, "en-de"):
            model(**batch(rank))

    found = {"error": complaint(lambda: step(model))}
    ran = tuned()
    step(ran)
    shard(ran)
    found["ran_before"] = complaint(lambda: step(ran))
    return found


ITEMS = [(seed, "en-de" if seed % 3 else "en-fr") for seed in range(13)]


def collate(items: list[tuple[int, str]]) -> dict[str, Any]:
    """Join items of one pair, their seeds beside them."""
    (pair,) = {pair for _, pair in items}
    parts = [batch(seed, size=1) for seed, _ in items]
    return {**{key: torch.cat([part[key] for part in parts]) for key in parts[0]}, "pair": pair}


class Watched(PairTrainer):
    """Keeps the pair of every micro-step."""

    seen: list[str]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        self.seen.append(inputs["pair"])
        return super().training_step(model, inputs, *args)


def trainer(rank: int, out: Path) -> dict[str, Any]:
    """The Trainer on two processes: the same pair on both ranks in every micro-step, the same weights after it."""
    model = tuned()
    chosen = TrainSection(steps=6, batch_size=2, accumulation=2, lr=1e-2, log_steps=1, warmup=0)
    loop = Watched(
        model=model, args=arguments(chosen, out / "trainer"), train_dataset=ITEMS, data_collator=collate,
        pairs=[pair for _, pair in ITEMS],
    )  # fmt: skip
    loop.seen = []
    before = state(model)
    loop.train()
    return {"seen": loop.seen, "before": before, "after": state(model), "world": loop.args.world_size}


def main(out: Path) -> None:
    """Run every scenario and save what it returns as `<scenario>-<rank>.pt`."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name, function in {
        "ddp_adamw": lambda: ddp(rank, out, "adamw"),
        "ddp_momentum": lambda: ddp(rank, out, "momentum"),
        "fsdp_adamw": lambda: fsdp(rank, out, "adamw"),
        "fsdp_momentum": lambda: fsdp(rank, out, "momentum"),
        "fsdp_pairs": lambda: fsdp_pairs(rank, out),
        "fsdp_sliced": lambda: fsdp_sliced(rank, out),
        "trainer": lambda: trainer(rank, out),
    }.items():
        torch.save(function(), out / f"{name}-{rank}.pt")
        dist.barrier()
    family_ranks.run(rank, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["ACCELERATE_USE_CPU"] = "true"
    main(Path(sys.argv[1]))
