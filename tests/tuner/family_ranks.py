"""What two processes do with every family of models: DDP with a pair of its own per rank, then FSDP2.

Run by `worker.py` beside the scenarios of the tiny Llava. `fit` is also what one process runs to compare with.
"""

from __future__ import annotations

import hashlib
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from families import END, IMAGE, MAIN, START, VOCAB, Inputs, build, selection
from peft import PeftModel, get_peft_model
from tiny_llava import deltas, fill_deltas
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from neuroglot.errors import UserError
from neuroglot.tuner import NeuroglotConfig, active_pair, modes

MIXED = (("en-de", "en-fr"), ("en-de", "en-de"))
"""A pair per rank for each optimiser step; in the last one nobody has en-fr, whose rows have a momentum by then."""
ALIKE = (("en-fr", "en-fr"), ("en-de", "en-de"))

Values = dict[str, Tensor | None]


@dataclass
class Fit:
    """What came of some steps.

    Attributes:
        losses: of every step, those of the ranks that this process played.
        grads: of every step, every delta's gradient; None where it has none.
        values: every delta before the first step and after each.
        state: what the optimiser keeps of each delta, after each step.
    """

    losses: list[list[float]] = field(default_factory=list)
    grads: list[Values] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)
    state: list[dict[str, dict[str, Tensor | None]]] = field(default_factory=list)


def doubled(inputs: Inputs) -> Inputs:
    return {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}


def varied(inputs: Inputs, seed: int) -> Inputs:
    """Return other words and another picture of the same shapes: each rank and step has samples of its own."""
    g = torch.Generator().manual_seed(seed)
    ids, labels = inputs["input_ids"], inputs["labels"]
    words = (ids >= 3) & (ids < min(IMAGE, START, END)) & (inputs["attention_mask"] == 1)
    ids = torch.where(words, torch.randint(3, min(IMAGE, START, END, VOCAB) - 1, ids.shape, generator=g), ids)
    noise = torch.randn(inputs["pixel_values"].shape, generator=g)
    return doubled(inputs) | {
        "input_ids": ids,
        "labels": torch.where(labels == -100, labels, ids),
        "pixel_values": inputs["pixel_values"].double() + noise.double(),
    }


def base(family: str) -> tuple[nn.Module, Inputs]:
    """Return a family's model in float64, so that sums in another order hardly show, and its inputs."""
    model, inputs = build(family)
    return model.double(), inputs


def tuned(family: str) -> tuple[PeftModel, Inputs]:
    """Return the model with an adapter in every layer whose deltas are not zero, and its inputs."""
    model, inputs = base(family)
    made = get_peft_model(model, NeuroglotConfig.from_selection(selection(model, bare=True)))
    fill_deltas(made, 0.1)
    return made.train(), inputs


def whole(tensor: Tensor | None) -> Tensor | None:
    """Copy a tensor, gathered when it is a shard."""
    if tensor is None:
        return None
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def fit(
    model: PeftModel, wrapped: nn.Module, inputs: Inputs, schedule: tuple[tuple[str, ...], ...],
    ranks: tuple[int, ...] = (0, 1),
) -> Fit:  # fmt: skip
    """Train a step per line of the schedule.

    Args:
        model: the adapter's model.
        wrapped: what is called.
        inputs: what the samples are made from.
        schedule: the pair of each rank in each step.
        ranks: whose samples this process takes; losses are scaled to the mean over all ranks' samples.
    """
    # the gradient of a key's bias is zero but for rounding: with a small eps Adam would make a step of it
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2, eps=1e-3, weight_decay=0.1)
    found = Fit(values=[{name: whole(p) for name, p in deltas(model).items()}])
    for step, pairs in enumerate(schedule):
        found.losses.append([])
        for rank in ranks:
            with active_pair(wrapped, pairs[rank]):
                loss = wrapped(**varied(inputs, 10 * step + rank)).loss
                (loss / len(ranks)).backward()
            found.losses[-1].append(loss.item())
        found.grads.append({name: whole(p.grad) for name, p in deltas(model).items()})
        optimizer.step()
        found.values.append({name: whole(p) for name, p in deltas(model).items()})
        found.state.append(
            {name: {k: whole(v) for k, v in optimizer.state.get(p, {}).items()} for name, p in deltas(model).items()}
        )
        optimizer.zero_grad()
    return found


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Return a digest per tensor that no adapter owns; of a sharded one, of this process's piece."""
    found = {}
    for name, tensor in tensors.items():
        if "neuroglot_" not in name:
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            found[name] = hashlib.sha256(local.detach().contiguous().numpy().tobytes()).hexdigest()
    return found


def shard(model: PeftModel) -> None:
    """Shard every block of every tower, then the root."""
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(model)


def ddp(family: str, rank: int, out: Path) -> dict[str, Any]:
    """Different pairs per rank."""
    model, inputs = tuned(family)
    before = digests(model.state_dict())
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    found = {"fit": vars(fit(model, wrapped, inputs, MIXED, (rank,))), "modes": modes(model)}
    found["moved"] = [name for name, value in digests(model.state_dict()).items() if value != before[name]]
    if rank == 0:
        model.save_pretrained(out / f"{family}-ddp")
    return found


def fsdp(family: str, rank: int, out: Path) -> dict[str, Any]:
    """One pair for all ranks in each step; then one each, which is refused."""
    model, inputs = tuned(family)
    shard(model)
    before = digests(model.state_dict())
    found = {"fit": vars(fit(model, model, inputs, ALIKE, (rank,))), "modes": modes(model)}
    found["moved"] = [name for name, value in digests(model.state_dict()).items() if value != before[name]]
    found["shards"] = len(before)
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        model.save_pretrained(out / f"{family}-fsdp", state_dict=full)
    try:
        with active_pair(model, MIXED[0][rank]):
            found["refused"] = "nothing"
    except UserError as error:
        found["refused"] = str(error)
    return found


def run(rank: int, out: Path) -> None:
    """Run every family and save what came of it, a failure being one family's and no other's."""
    for family in MAIN:
        for name, scenario in {"ddp": ddp, "fsdp": fsdp}.items():
            try:
                found = scenario(family, rank, out)
            except Exception:  # reported by the family's own test
                found = {"failed": traceback.format_exc()}
            torch.save(found, out / f"{family}-{name}-{rank}.pt")
            dist.barrier()
