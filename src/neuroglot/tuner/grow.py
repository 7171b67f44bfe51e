"""Adding a language to a trained adapter, and removing some of its languages; the rest is unchanged, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuroglot.errors import UserError, nearest
from neuroglot.selection import Group, Selection, group_name
from neuroglot.tuner.adapter import Adapter, Shape, Units, shapes_of


def grow(adapter: Adapter, selection: Selection, base: nn.Module | None = None, seed: int = 0) -> Adapter:
    """Add the units of new groups, such as those of a new pair, with deltas of zero.

    The adapter's old units are unchanged, bit for bit, also while only the new pair is trained: no old group
    holds it. Nor does the old language-agnostic group change; it becomes the group of the old pairs.

    Args:
        adapter: the adapter to extend.
        selection: the new groups' units.
        base: the base model, also on the meta device; only modules that are new to the adapter need it.
        seed: of the first factors of low-rank groups.

    Raises:
        UserError: the adapter has such a group, or holds such a row; a module's units lie on another axis than the
            adapter's; `base` is needed, or has no such module or row.
    """
    chosen = {
        module: {group_name(group): index for group, index in groups.items() if len(index)}
        for module, groups in selection.rows.items()
    }
    chosen = {module: groups for module, groups in chosen.items() if groups}
    if not chosen:
        raise UserError("grow: the selection holds no row; expected those of a new pair; select some")
    for group in sorted({group for groups in chosen.values() for group in groups}):
        if group in adapter.groups:
            raise UserError(
                f"grow: the adapter has a group {group} already; expected groups that are new; "
                "leave it out of the selection, or train the adapter as it is"
            )
    fresh_ones = [module for module in chosen if module not in adapter.units]
    if fresh_ones and base is None:
        raise UserError(
            f"grow: the adapter has no units in {fresh_ones[0]}, so its shape is not known; "
            "expected the base model; call grow(adapter, selection, base=model)"
        )
    shapes = {} if base is None else shapes_of(base, chosen)
    random = torch.Generator().manual_seed(seed)
    dtype = next(units.delta[0].dtype for _, _, units in adapter)
    units = {module: dict(groups) for module, groups in adapter.units.items()}
    for module, groups in sorted(chosen.items()):
        axis = selection.axes.get(module, 0)
        _check_new(adapter, module, groups, axis, shapes.get(module))
        if module in adapter.units:
            like = next(iter(adapter.units[module].values()))
            width, biased = like.width, like.bias is not None
        else:
            outputs = shapes[module].units_are_outputs(axis)
            width = shapes[module].inputs if outputs else shapes[module].outputs
            biased = outputs and shapes[module].bias and adapter.config.train_bias
        by_group = units.setdefault(module, {})
        for group, index in sorted(groups.items()):
            by_group[group] = _untrained(index, width, biased, adapter.config.rank, dtype, random)
    known = {pair for groups in chosen.values() for group in groups for pair in group.split(",")}
    pairs = [*adapter.pairs, *(pair for pair in selection.pairs if pair in known and pair not in adapter.pairs)]
    bare = adapter.bare | {module for module in fresh_ones if shapes[module].kind == "matrix"}
    axes = {module: axis for module, axis in selection.axes.items() if axis and module in chosen}
    return adapter.changed(units, pairs, axes=axes, bare=bare)


def without_trained(adapter: Adapter, selection: Selection) -> Selection:
    """Return a selection without the rows that an adapter holds already, such as one from a run of the new pair alone.

    A module whose units lie on another axis is unchanged; `grow` refuses it.
    """
    rows: dict[str, dict[Group, Tensor]] = {}
    for module, group, index in selection:
        if selection.axes.get(module, 0) == adapter.config.axes.get(module, 0):
            held = [units.rows.long() for units in adapter.units.get(module, {}).values()]
            index = index[~torch.isin(index, torch.cat(held))] if held else index
        if len(index):
            rows.setdefault(module, {})[group] = index
    axes = {module: axis for module, axis in selection.axes.items() if module in rows}
    return Selection(selection.pairs, rows, selection.meta, axes)


def _check_new(adapter: Adapter, module: str, groups: Mapping[str, Tensor], axis: int, shape: Shape | None) -> None:
    if module in adapter.units and axis != adapter.config.axes.get(module, 0):
        raise UserError(
            f"grow: {module}: the selection's units lie on axis {axis}, the adapter's on "
            f"{adapter.config.axes.get(module, 0)}; expected one axis a module; select neurons of the same kind"
        )
    owner = {int(row): group for group, units in adapter.units.get(module, {}).items() for row in units.rows}
    size = None if shape is None else (shape.outputs if shape.units_are_outputs(axis) else shape.inputs)
    for group, index in groups.items():
        for row in index.tolist():
            if row in owner:
                raise UserError(
                    f"grow: {module}: row {row} belongs to the adapter's group {owner[row]}; expected rows that the "
                    f"adapter does not hold; leave it out of group {group}, see without_trained"
                )
            if row < 0 or (size is not None and row >= size):
                raise UserError(f"grow: {module}: row {row} is out of range; expected 0 to {(size or 0) - 1}")


def _untrained(
    index: Tensor, width: int, biased: bool, rank: int | None, dtype: torch.dtype, random: torch.Generator
) -> Units:
    """Return units with a delta of zero, initialised as in a fresh adapter."""
    rows, count = index.to(torch.int32).sort().values, len(index)
    bias = torch.zeros(count, dtype=dtype) if biased else None
    if rank is None or rank >= count:
        return Units(rows, (torch.zeros(count, width, dtype=dtype),), bias)
    down = torch.empty(rank, width, dtype=dtype).uniform_(
        -1 / math.sqrt(width), 1 / math.sqrt(width), generator=random
    )
    return Units(rows, (torch.zeros(count, rank, dtype=dtype), down), bias)


def keep_pairs(adapter: Adapter, pairs: Collection[str]) -> Adapter:
    """Return the part of an adapter that serves some of its pairs.

    A group keeps its rows and loses the names of the other pairs; a group left without pairs is dropped, and
    so is a module left without groups. For the kept pairs nothing changes. So the agnostic rows stay: keeping
    en-de of an adapter for en-de and en-fr leaves the rows that both trained and those of en-de, all now of group
    en-de, and further training on en-de moves them all. (They were trained on en-fr as well, which cannot be taken
    out of them.) Groups that now have the same pairs become one. Where such groups have a low rank, their sum has
    a higher one, and the whole adapter is made dense: the same deltas, multiplied out.

    Raises:
        UserError: no pair, or one that the adapter does not have; or nothing would be left.
    """
    wanted = set(pairs)
    for pair in sorted(wanted - set(adapter.pairs)):
        raise UserError(f"the adapter has no pair {pair!r}; {nearest(pair, adapter.pairs)}")
    by_module: dict[str, dict[str, list[Units]]] = {}
    for module, group, units in adapter:
        left = wanted & set(group.split(","))
        if left:
            by_module.setdefault(module, {}).setdefault(group_name(frozenset(left)), []).append(units)
    if not by_module:
        raise UserError(
            f"nothing of the adapter is left for pairs {', '.join(sorted(wanted)) or '(none)'}; its groups are "
            f"{' and '.join(adapter.groups)}; keep a pair that has rows"
        )
    together = [parts for groups in by_module.values() for parts in groups.values() if len(parts) > 1]
    rank = adapter.config.rank
    # groups too small for the rank are dense, but a merged group may be large enough
    dense = any(len(units.delta) > 1 for parts in together for units in parts) or (
        rank is not None and any(sum(len(units.rows) for units in parts) > rank for parts in together)
    )
    merged = {
        module: {group: _one(parts, dense) for group, parts in groups.items()} for module, groups in by_module.items()
    }
    return adapter.changed(merged, [pair for pair in adapter.pairs if pair in wanted], rank=None if dense else rank)


def drop_pairs(adapter: Adapter, pairs: Collection[str]) -> Adapter:
    """Return an adapter without some of its pairs: `keep_pairs` of the others.

    Raises:
        UserError: a pair that the adapter does not have; or nothing would be left.
    """
    for pair in sorted(set(pairs) - set(adapter.pairs)):
        raise UserError(f"the adapter has no pair {pair!r}; {nearest(pair, adapter.pairs)}")
    return keep_pairs(adapter, [pair for pair in adapter.pairs if pair not in set(pairs)])


def _one(parts: list[Units], dense: bool) -> Units:
    """Return several groups' units as those of one."""
    if dense:
        parts = [replace(units, delta=(units.dense,)) for units in parts]
    if len(parts) == 1:
        return parts[0]
    biases = [units.bias for units in parts if units.bias is not None]
    delta = (torch.cat([units.delta[0] for units in parts]),)
    return Units(torch.cat([units.rows for units in parts]), delta, torch.cat(biases) if biases else None)
