"""Aligned: low-rank neurons whose factors start along the gradient, with more rank where the gradient is larger.

A fresh low-rank delta, up x down with up = 0, can at first only change what its random `down` reads. One pass over
some data tells what it should read: with G [k, w] the gradient of the loss by the weights of a group's k units, the r
first right singular vectors of G are the r directions that lose the least of it. The value of a layer's next direction
is its singular value, so ranks go where a squared singular value per parameter is largest, over all layers and groups,
until the parameters are used up. (LoRA-GA and GoRA do each for LoRA.)

Shape suffixes: k units of a group, w the width of a unit, r a rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from neuroglot.errors import UserError
from neuroglot.finite import origin, unusable, usable
from neuroglot.models.targets import keeps_some_logits, on_targets
from neuroglot.pair import Condition
from neuroglot.printing import short
from neuroglot.selection import Group, Selection, group_name
from neuroglot.training.methods import prepare
from neuroglot.tuner import Adapter, NeuroglotConfig, active_pair
from neuroglot.tuner.adapter import Units, shapes_of
from neuroglot.tuner.deltas import UnitLayer

EXACT = 1024
"""Up to this many rows or columns a singular value decomposition is exact; beyond, the largest values by iteration."""
LENGTH = 3**-0.5
"""Length of a row of `down`: the average of LoRA's random rows."""

Place = tuple[str, Group]


@dataclass(frozen=True)
class Directions:
    """What a group's units could read first: singular values [r], largest first, and unit vectors [r, w]."""

    values: Tensor
    vectors_rw: Tensor
    units: int

    __repr__ = short

    @property
    def cost(self) -> int:
        """Parameters of one more rank: a column of `up` and a row of `down`."""
        return self.units + self.vectors_rw.shape[1]

    def parameters(self, rank: int) -> int:
        """Parameters of a rank: of its factors, or of the dense delta where that is smaller."""
        return min(rank * self.cost, self.units * self.vectors_rw.shape[1])


def aligned(
    model: nn.Module,
    selection: Selection,
    batches: Iterable[Sequence[Any]],
    parameters: int,
    rows: float = 1.0,
    mode: str = "auto",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Adapter:
    """Return an adapter of zero deltas whose factors point along the gradient.

    The gradients of the chosen units are held during the pass, in float32: as much memory as training the same
    units densely takes without an optimiser. The model is restored afterwards, bit for bit.

    Args:
        model: the base model.
        selection: the units; those of layers that get no rank are left out of the adapter.
        batches: `(inputs, condition)` as for `neuroglot.profile`, with labels; a condition is of one of the pairs.
        parameters: how many the adapter may train. Biases are not trained: at the learning rates of low-rank factors
            they would change too much.
        rows: of each group's units in a layer, the share that is trained: those with the largest gradients.
        mode: of the adapter, see `NeuroglotConfig`.
        seed: of the iteration for large matrices.
        progress: called after each batch with the number of batches done.

    Raises:
        UserError: no batches, a loss or a gradient that is not finite, or too few parameters for a single rank.
    """
    gradients = _gradients(model, selection, batches, progress)
    chosen = {(module, group): index.sort().values for module, group, index in selection}
    if rows < 1:
        for key, gradient_kw in gradients.items():
            largest = gradient_kw.norm(dim=1).topk(max(1, round(rows * len(gradient_kw)))).indices.sort().values
            chosen[key], gradients[key] = chosen[key][largest.cpu()], gradient_kw[largest]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        directions = {key: _directions(gradient) for key, gradient in gradients.items()}
    units: dict[str, dict[str, Units]] = {}
    for (module, group), rank in allocate(directions, parameters).items():
        index, direction = chosen[module, group].to(torch.int32), directions[module, group]
        down_rw = (direction.vectors_rw[:rank] * LENGTH).contiguous()
        delta: tuple[Tensor, ...] = (down_rw.new_zeros(len(index), rank), down_rw)
        if rank * direction.cost > direction.parameters(rank):
            delta = (down_rw.new_zeros(len(index), down_rw.shape[1]),)
        units.setdefault(module, {})[group_name(group)] = Units(index, delta)
    shapes = shapes_of(model, units)
    bare = frozenset(module for module in units if shapes[module].kind == "matrix")
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    empty = Adapter(
        NeuroglotConfig(pairs=list(selection.pairs), mode=mode, train_bias=False, base_model_name_or_path=name), {}
    )
    return empty.changed(units, selection.pairs, axes=dict(selection.axes), bare=bare)


def allocate(directions: Mapping[Place, Directions], parameters: int) -> dict[Place, int]:
    """Return the ranks that groups get, best value per parameter first; groups that get none are left out.

    Args:
        directions: by module and group.
        parameters: for all of them together.

    Raises:
        UserError: they do not suffice for one rank anywhere.
    """
    offers = sorted(
        ((float(value) ** 2 / one.cost, key) for key, one in directions.items() for value in one.values if value > 0),
        key=lambda offer: -offer[0],
    )
    ranks: dict[Place, int] = {}
    left = parameters
    for _, key in offers:  # of a group in the order of its singular values
        rank = ranks.get(key, 0)
        price = directions[key].parameters(rank + 1) - directions[key].parameters(rank)
        if price <= left:
            ranks[key] = rank + 1
            left -= price
    if not ranks:
        least = min((one.parameters(1) for one in directions.values()), default=0)
        raise UserError(
            f"{parameters:,} trained parameters do not suffice for rank 1 in any layer, which takes {least:,}; "
            "raise train.parameters"
        )
    return ranks


def _gradients(
    model: nn.Module,
    selection: Selection,
    batches: Iterable[Sequence[Any]],
    progress: Callable[[int], None] | None,
) -> dict[Place, Tensor]:
    """Return the gradient [k, w] by every group's units, summed over the batches of the pairs that train it."""
    tuned = cast(PeftModel, prepare(model, "neurons", selection)).eval()
    texts = {group_name(group): group for _, group, _ in selection}
    device, some = next(model.parameters()).device, keeps_some_logits(model)
    done = 0
    try:
        for inputs, condition, *rest in batches:
            tensors = {k: v.to(device) for k, v in inputs.items() if isinstance(v, Tensor)}
            known = condition if isinstance(condition, Condition) else Condition.parse(str(condition))
            with active_pair(tuned, str(known.pair)), torch.enable_grad():
                loss = tuned(**(on_targets(tensors) if some else tensors), use_cache=False).loss
                if not usable([loss]):
                    where = origin(tuned, tensors, partial(tuned, **tensors, use_cache=False))
                    raise UserError(f"batch {done + 1} ({known}{_named(rest)}): the loss is {float(loss)}; {where}")
                loss.backward()
            done += 1
            if progress is not None:
                progress(done)
        if not done:
            raise UserError("no batches to align the factors with; expected at least one; check the data's pairs")
        gradients: dict[Place, Tensor] = {}
        for layer in tuned.modules():
            if isinstance(layer, UnitLayer):
                for text in layer.neuroglot_layout["default"].groups:
                    (delta,) = layer.delta("default", text)
                    gradient = torch.zeros_like(delta) if delta.grad is None else delta.grad.detach()
                    gradients[layer.module_name, texts[text]] = gradient
        wrong = unusable({f"{module}, group {group_name(group)}": x for (module, group), x in gradients.items()})
        if wrong:
            raise UserError(f"the factors cannot be aligned: the gradient of {wrong}; look at the model and the data")
        return gradients
    finally:
        tuned.unload()


def _named(rest: Sequence[Any]) -> str:
    return f", items {', '.join(rest[0])}" if rest and rest[0] else ""


def _directions(gradient_kw: Tensor) -> Directions:
    """Return the singular values and right singular vectors of a gradient, on the CPU."""
    if min(gradient_kw.shape) <= EXACT:
        _, values, vectors_rw = torch.linalg.svd(gradient_kw, full_matrices=False)
    else:
        _, values, vectors_wr = torch.svd_lowrank(gradient_kw, q=EXACT // 4, niter=4)
        vectors_rw = vectors_wr.t()
    return Directions(values.cpu(), vectors_rw.contiguous().cpu(), len(gradient_kw))
