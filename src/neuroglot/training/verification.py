"""Proof that frozen values are unchanged: which values of a model differ from a snapshot, bit for bit, row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from peft.utils.save_and_load import get_base_model_state_dict
from torch import nn

from neuroglot.errors import UserError
from neuroglot.models.families import PARTS, family_of
from neuroglot.printing import short
from neuroglot.selection import Selection
from neuroglot.tuner.vectors import VectorLayer

# ---- What is trained ------------------------------------------------------------------------------------------------

_WRAP = "base_model.model."


def trained_names(model: nn.Module) -> set[str]:
    """Return the names of the base's own parameters that a training changes after merging.

    Empty for a prompt, which adds to the base, and for LoRA and DoRA until they are merged.
    """
    if not isinstance(model, PeftModel):
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        f"{name}.{parameter_name}"
        for name, layer in model.get_base_model().named_modules()
        if isinstance(layer, VectorLayer)
        for adapter in layer.active_adapters
        for parameter_name in cast(nn.ParameterDict, layer.neuroglot_vectors[adapter])
    }


def layer_entries(model: nn.Module, layers: Sequence[str]) -> dict[str, int]:
    """Return layer -> how many numbers are trained in it, its own or those of factors beside it; left out if none."""
    known, counts = set(layers), Counter[str]()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = name.removeprefix(_WRAP)
        while owner and owner not in known:
            owner = owner.rpartition(".")[0]
        if owner:
            counts[owner] += parameter.numel()
    return dict(counts)


def trained_vectors(model: nn.Module) -> str:
    """Return one line on what a small method trains, by part; parts without trained vectors are named too."""
    if not isinstance(model, PeftModel):
        raise UserError("trained_vectors: expected a model that an adapter was put around")
    config = model.peft_config["default"]
    layout = getattr(config, "layout", None)
    if layout is None:
        return f"prompt: {getattr(config, 'tokens', 0)} vectors in front"
    family = family_of(model.get_base_model())
    counts = Counter(family.part_of(module) or "elsewhere" for module, names in layout.items() for _ in names)
    shown = [f"{part} {counts[part]:,}" if counts[part] else f"{part} none" for part in PARTS]
    return f"vectors trained: {', '.join(shown)}" + (
        f", elsewhere {counts['elsewhere']:,}" * (counts["elsewhere"] > 0)
    )


# ---- Proof that the rest is frozen ----------------------------------------------------------------------------------

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers under their names in the base model, without those of an adapter."""
    return get_base_model_state_dict(model) if isinstance(model, PeftModel) else dict(model.state_dict())


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of every parameter and persistent buffer of the base model, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _state(model).items()}


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """View values as integers, so that equal means equal bits: 0.0 is not -0.0, and a NaN equals itself."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(_BITS[tensor.element_size()]) if tensor.is_floating_point() else tensor


def changed(
    before: Mapping[str, torch.Tensor], model: nn.Module, axes: Mapping[str, int] | None = None
) -> dict[str, torch.Tensor]:
    """Compare a model with a snapshot.

    Args:
        before: tensor name -> value, from `snapshot` or a freshly loaded base's `state_dict()`.
        model: the model afterwards; of a model with an adapter, the current base (merged or not).
        axes: tensor name -> the axis of its rows, where that is not the first.

    Returns:
        Tensor name -> indices of the rows (along that axis) with at least one different bit; tensors without any are
        left out. A tensor that is missing, or has another shape or dtype, counts with all its rows.
    """
    after = _state(model)
    rows: dict[str, torch.Tensor] = {}
    for name, old in before.items():
        new = after.get(name)
        axis = (axes or {}).get(name, 0)
        size = old.shape[axis] if old.dim() else 1
        if new is None or new.shape != old.shape or new.dtype != old.dtype:
            different = torch.ones(size, dtype=torch.bool)
        else:
            differing = _bits(new) != _bits(old)
            different = (differing.movedim(axis, 0) if axis else differing).reshape(size, -1).any(dim=1)
        if different.any():
            rows[name] = different.nonzero().flatten()
    return rows


@dataclass(frozen=True)
class Audit:
    """What a training changed, and what it was allowed to change.

    Attributes:
        selected: number of selected rows.
        trained: number of selected rows that changed.
        outside: tensor name -> rows that changed without being selected; empty if all is correct.
    """

    selected: int
    trained: int
    outside: Mapping[str, torch.Tensor]

    __repr__ = short

    def __str__(self) -> str:
        others = sum(len(rows) for rows in self.outside.values())
        where = f" (first in {min(self.outside)})" if self.outside else ""
        return f"{self.trained:,} of {self.selected:,} selected rows trained, {others:,} other rows changed{where}"


@dataclass(frozen=True)
class NameAudit:
    """What a training of whole parameters changed.

    Attributes:
        selected: number of parameters that were trained.
        trained: number of these that changed.
        outside: names of others that changed; empty if all is correct.
    """

    selected: int
    trained: int
    outside: tuple[str, ...]

    def __str__(self) -> str:
        where = f" (first {self.outside[0]})" if self.outside else ""
        return (
            f"{self.trained:,} of {self.selected:,} trained parameters of the base changed, "
            f"{len(self.outside):,} others{where}"
        )


def audit_names(before: Mapping[str, torch.Tensor], model: nn.Module, names: Collection[str]) -> NameAudit:
    """Compare a model with the base that it started from, parameter by parameter.

    Args:
        before: the base, from `snapshot`.
        model: the model; with an adapter, its current base, merged or not.
        names: of the base's parameters that were trained. Two names of one tensor count as both.
    """
    state = _state(model)
    storage = {name: tensor.data_ptr() for name, tensor in state.items()}
    allowed = {storage[name] for name in names if name in storage}
    different = changed(before, model)
    outside = tuple(sorted(name for name in different if storage.get(name) not in allowed))
    return NameAudit(len(names), len(different.keys() & set(names)), outside)


def audit(before: Mapping[str, torch.Tensor], model: nn.Module, selection: Selection) -> Audit:
    """Compare a merged model with the base that it started from.

    Args:
        before: the base, from `snapshot`.
        model: the model with its adapter merged.
        selection: the rows that were to be trained; their bias entries with them.
    """
    weight = {module: module if module in before else f"{module}.weight" for module in selection.rows}
    difference = changed(before, model, {weight[module]: axis for module, axis in selection.axes.items()})
    trained, outside = 0, dict(difference)
    for module, groups in selection.rows.items():
        chosen = torch.cat(list(groups.values())) if groups else torch.empty(0, dtype=torch.long)
        moved: set[int] = set()
        for name in (weight[module], f"{module}.bias"):
            rows = outside.pop(name, torch.empty(0, dtype=torch.long))
            inside = torch.isin(rows, chosen)
            moved.update(rows[inside].tolist())
            if not inside.all():
                outside[name] = rows[~inside]
        trained += len(moved)
    return Audit(len(selection), trained, outside)
