"""A profile in pieces: from several processes, from several sets of data, or with an interruption.

Profiles hold sums over samples, so the profiles of parts of the data add up to the profile of all data. A divided
block of parallel items does not add up: `shard` keeps its batches together. An unfinished pass is saved as its sums,
in the dtype they are added in, so that a pass that was killed and resumed gives exactly the same profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroglot.errors import UserError
from neuroglot.file_format import PROFILING, fresh, load_tensors, remove, save_tensors
from neuroglot.neurons.profiling.positions import unpack
from neuroglot.neurons.profiling.profile import Blocks, Profile, Totals
from neuroglot.pair import Pair


def shard(batches: Iterable[Sequence[Any]], rank: int, world: int) -> Iterator[Sequence[Any]]:
    """Yield one process's share of the batches: whole blocks of the same items in several pairs, in turn.

    Every process goes through all batches and leaves out those of the others; the profiles of all ranks `merge` into
    that of one process.

    Args:
        batches: as for `profile`, the same in every process.
        rank: which process, from 0.
        world: how many there are.

    Raises:
        UserError: there is no such rank.
    """
    if not 0 <= rank < world:
        raise UserError(f"rank must be from 0 to {world - 1}, one of {world} processes, got {rank}")
    blocks: dict[str, tuple[tuple[str, ...], set[Pair], int]] = {}  # task -> items, pairs seen, number
    for batch in batches:
        _, condition, items = unpack(batch)
        known, pairs, number = blocks.get(condition.task, ((), set(), -1))
        if not items or items != known or condition.pair in pairs:  # when `Blocks` begins a new one
            known, pairs, number = items, set(), number + 1
        blocks[condition.task] = known, pairs | {condition.pair}, number
        if number % world == rank:
            yield batch


def merge_all(profiles: Sequence[Profile]) -> Profile:
    """Return the profile of the data of all profiles, see `merge`."""
    if not profiles:
        raise UserError("no profiles to merge; expected two or more")
    return reduce(merge, profiles)


def merge(a: Profile, b: Profile) -> Profile:
    """Return the profile of the data of both; `merge(profile(x), profile(y))` is `profile(x + y)`.

    Source items whose pairs are divided between the two are complete in neither and stay out of the block sums.

    Raises:
        UserError: the profiles are of different models, layers, scores or token classes.
    """
    both = {*a.data.split("+")} & {*b.data.split("+")} - {""}
    if both:
        raise UserError(
            f"profiles cannot be merged: both were measured on examples {min(both)}, which would count twice; "
            "merge profiles of different data"
        )
    for what in ("fingerprint", "layers", "scores", "classes"):
        if getattr(a, what) != getattr(b, what):
            raise UserError(f"profiles cannot be merged: their {what} differ; profile both with one model and options")
    conditions = a.conditions + tuple(condition for condition in b.conditions if condition not in a.conditions)

    def add(x: Tensor, y: Tensor) -> Tensor:
        total = x.new_zeros(len(conditions), *x.shape[1:])
        total[: len(a.conditions)] += x
        total[[conditions.index(condition) for condition in b.conditions]] += y
        return total

    def added(kind: str) -> dict[str, Tensor]:
        x, y = getattr(a, kind), getattr(b, kind)
        return {layer.name: add(x[layer.name], y[layer.name]) for layer in a.layers}

    blocks: dict[str, dict[str, Tensor]] = {}
    counts: dict[str, Tensor] = {}
    for task in {**a.blocks, **b.blocks}:
        pairs = {condition.pair for condition in conditions if condition.task == task}
        for profile in (a, b):
            # Blocks of fewer pairs than the merged task has are incomplete.
            if task not in profile.blocks or {c.pair for c in profile.of_task(task)} != pairs:
                continue
            old = blocks.get(task)
            blocks[task] = {n: x + old[n] if old else x for n, x in profile.blocks[task].items()}
            counts[task] = profile.block_counts[task] + (counts[task] if old else 0)
    return Profile(
        model=a.model,
        fingerprint=a.fingerprint,
        layers=a.layers,
        conditions=conditions,
        scores=a.scores,
        classes=a.classes,
        counts=add(a.counts, b.counts),
        sums=added("sums"),
        squares=added("squares"),
        share_sums=added("share_sums"),
        share_squares=added("share_squares"),
        static=a.static,
        blocks=blocks,
        block_counts=counts,
        data="+".join(profile.data for profile in (a, b) if profile.data),
    )


@dataclass(frozen=True)
class Checkpoint:
    """Where an unfinished pass is saved.

    Attributes:
        path: the file.
        batches: how many batches lie between two writes.
        key: what the pass covers, such as a hash of its examples; a file with another key is not resumed from.
    """

    path: Path
    batches: int
    key: str = ""

    def save(self, done: int, facts: dict[str, Any], totals: Totals, blocks: Blocks) -> None:
        """Write the sums after `done` batches."""
        tensors: dict[str, Tensor] = {}
        head: dict[str, Any] = {"done": done, "facts": {**facts, "key": self.key}}
        for kind, sums in (("totals", totals), ("blocks", blocks)):
            state, head[kind] = sums.state()
            tensors |= {f"{kind}|{name}": x.cpu().contiguous() for name, x in state.items()}
        with fresh(self.path) as part:
            save_tensors(part, PROFILING, tensors, head)

    def restore(self, facts: dict[str, Any], totals: Totals, blocks: Blocks, device: torch.device) -> int:
        """Load the sums of an earlier pass over the same data; return how many batches they cover, 0 without one.

        Raises:
            UserError: the file is damaged or of another version.
        """
        if not self.path.exists():
            return 0
        tensors, head = load_tensors(self.path, PROFILING)
        if head.get("facts") != {**facts, "key": self.key}:
            remove(self.path)
            return 0
        with PROFILING.reading(self.path):
            for kind, sums in (("totals", totals), ("blocks", blocks)):
                state = {
                    n.partition("|")[2]: x.to(device, copy=True) for n, x in tensors.items() if n.startswith(kind)
                }
                sums.restore(state, head[kind])
            return int(head["done"])
