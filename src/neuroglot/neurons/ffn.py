"""Neurons of a feed-forward block as one object: gate row, up row and down column of the same intermediate unit.

What a row selection calls a neuron is an output of one matrix. In a (gated) MLP the natural unit spans three: what
unit i reads is its row of gate and up, what it writes is its column of down. A selection of such units becomes rows
and columns of the matrices, because the tuner knows only these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import PARTS, family_of
from neuroglot.neurons.inventory import Layer, check_parts
from neuroglot.selection import Group, Selection

DOWN = ("down_proj", "fc2", "linear_fc2", "c_proj", "w2", "dense_4h_to_h", "linear_2", "2")
"""Names of the matrix that writes; "2" is the third of an `nn.Sequential` (Qwen's mergers)."""

FUSED = ("gate_up_proj", "gate_up", "w12", "dense_h_to_4h_gated")
"""Names of a matrix that holds the gate rows and, below them, the up rows."""


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward block.

    Attributes:
        name: the full name of the module that holds the matrices.
        part: `vision`, `connector` or `language`.
        units: intermediate units.
        reads: names of the matrices whose rows the units are; a fused one holds two rows of each.
        writes: name of the matrix whose columns they are.
    """

    name: str
    part: str
    units: int
    reads: tuple[str, ...]
    writes: str

    def rows(self, module: str, units: torch.Tensor) -> torch.Tensor:
        """Return a reading matrix's rows of some units: i, and of a fused matrix i + units as well."""
        fused = module.rpartition(".")[2] in FUSED
        return torch.cat([units, units + self.units]) if fused else units

    def size(self, module: str) -> int:
        """Return how many rows a reading matrix has, or columns the writing one."""
        return int(self.rows(module, torch.arange(self.units)).numel())


def feed_forwards(model: nn.Module, parts: Sequence[str] = PARTS) -> tuple[FeedForward, ...]:
    """Return the feed-forward blocks of a model's parts, in its order.

    A block is a module with two or more Linear children of which one has the name of a writing matrix and the others
    have as many outputs (a fused one twice as many) as it has inputs.

    Raises:
        UserError: a part is not known.
    """
    asked, family, blocks = check_parts(parts), family_of(model), []
    for name, module in model.named_modules():
        part = family.part_of(name)
        if part not in asked or part is None:
            continue
        linears = {child: linear for child, linear in module.named_children() if isinstance(linear, nn.Linear)}
        down = next((child for child in DOWN if child in linears), None)
        if down is None:
            continue
        units = linears[down].in_features
        reads = tuple(
            f"{name}.{child}"
            for child, linear in linears.items()
            if child != down and linear.out_features == units * (2 if child in FUSED else 1)
        )
        if reads:
            blocks.append(FeedForward(name, part, units, reads, f"{name}.{down}"))
    return tuple(blocks)


def ffn_layers(model: nn.Module, parts: Sequence[str] = PARTS) -> tuple[Layer, ...]:
    """Return the feed-forward blocks of a model's parts as layers whose neurons are their units."""
    layers = []
    for block in feed_forwards(model, parts):
        reads = [cast(nn.Linear, model.get_submodule(name)) for name in block.reads]
        writes = cast(nn.Linear, model.get_submodule(block.writes))
        held = sum(x.in_features * x.out_features // block.units for x in reads) + writes.out_features
        bias = any(x.bias is not None for x in reads)
        layers.append(Layer(block.name, block.part, block.units, held, bias, 0, block.reads, block.writes))
    return tuple(layers)


def ffn_selection(
    model: nn.Module, pairs: Sequence[str], units: Mapping[str, Mapping[Group, torch.Tensor]]
) -> Selection:
    """Turn chosen units of feed-forward blocks into a selection of rows and columns.

    Args:
        model: the base model.
        pairs: the selection's pairs, in text form.
        units: block name -> group -> unit indices.

    Raises:
        UserError: the model has no such block, or the block no such unit.
    """
    blocks = {block.name: block for block in feed_forwards(model)}
    rows, axes = spread(blocks, units)
    return Selection(tuple(pairs), rows, {"neuron": "ffn"}, axes)


def spread(
    blocks: Mapping[str, FeedForward], units: Mapping[str, Mapping[Group, torch.Tensor]]
) -> tuple[dict[str, dict[Group, torch.Tensor]], dict[str, int]]:
    """Return the rows and columns of some units, matrix -> group -> indices, and the axes of those with columns.

    Raises:
        UserError: there is no such block, or the block has no such unit.
    """
    rows: dict[str, dict[Group, torch.Tensor]] = {}
    axes = {}
    for name, groups in units.items():
        if name not in blocks:
            raise UserError(f"the model has no feed-forward block {name!r}; {nearest(name, blocks)}")
        block = blocks[name]
        for index in groups.values():
            wrong = index[(index < 0) | (index >= block.units)]
            if wrong.numel():
                raise UserError(f"{name}: unit {int(wrong[0])} is out of range; expected 0 to {block.units - 1}")
        for module in block.reads:
            rows[module] = {group: block.rows(module, index).sort().values for group, index in groups.items()}
        rows[block.writes] = {group: index.sort().values for group, index in groups.items()}
        axes[block.writes] = 1
    return rows, axes
