"""From a profile and a selection to what figures and tables show.

Notable: everything that the report knows of profiles is in `importance_view`, all it knows of selections in
`group_counts`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MOST_ROWS = 96
"""A heat map with more layers than this shows blocks instead, so that its labels can be read."""

CURVE_POINTS = 101


@dataclass(frozen=True)
class Row:
    """One row of the heat map: a layer, or a block of layers.

    `values` (pairs,): mean normalised importance of its neurons, where 1 is the average neuron of its part.
    """

    label: str
    part: str
    kept: bool
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Coefficient of variation over pairs of a layer's neurons, highest first, at `CURVE_POINTS` equal ranks."""

    layer: str
    part: str
    values: NDArray[np.float64]


@dataclass(frozen=True)
class ImportanceView:
    """What the heat map and the dispersion curves need."""

    task: str
    score: str
    token_class: str
    pairs: tuple[str, ...]
    rows: tuple[Row, ...]
    unit: str
    layers: int
    curves: tuple[Curve, ...]


def importance_view(profile_path: Path, selection_path: Path | None, task: str) -> ImportanceView | None:
    """Read a profile and reduce it to the figures' numbers; None when it has no translation task.

    Importance of a pair is divided by its sum over the part (METHOD, defect 1), then multiplied by the number of
    the part's neurons. Dispersion is the coefficient of variation over pairs (defect 2): standard deviation / mean,
    0 for a neuron that is important to no pair.

    Args:
        profile_path: profile.safetensors.
        selection_path: selection.safetensors; its layers are the kept ones, all are without it.
        task: the split that the run is judged by; where the profile lacks the task, its most profiled one.
    """
    from neuroglot.neurons.profiling.profile import Profile
    from neuroglot.selection import Selection

    profile = Profile.load(profile_path)
    selection = Selection.load(selection_path) if selection_path else None
    tasks = [condition.task for condition in profile.conditions]
    if not tasks:
        return None
    task = task if task in tasks else max(tasks, key=tasks.count)
    conditions = profile.of_task(task)
    options = selection.meta.get("options", {}) if selection else {}
    score = options["score"] if options.get("score") in profile.scores else profile.scores[0]
    known = options.get("token_class") in profile.classes
    token_class = options["token_class"] if known else profile.classes[0]

    share = profile.importance(score, token_class, conditions, normalise="pair")
    size: dict[str, int] = {}
    for layer in profile.layers:
        size[layer.part] = size.get(layer.part, 0) + layer.neurons
    kept = {layer.name for layer in profile.layers} if selection is None else set(selection.rows)
    relative = {layer.name: (share[layer.name] * size[layer.part]).numpy() for layer in profile.layers}  # (pairs, N)

    rows = tuple(
        Row(_short(layer.name), layer.part, layer.name in kept, relative[layer.name].mean(axis=1))
        for layer in profile.layers
        # A matrix that no forward uses has nothing to show.
        if relative[layer.name].any()
    )
    curves = tuple(
        Curve(layer.name, layer.part, _dispersion_by_rank(relative[layer.name]))
        for layer in profile.layers
        if layer.name in kept and len(conditions) > 1 and relative[layer.name].any()
    )
    shown, unit = (rows, "layer") if len(rows) <= MOST_ROWS else (_by_block(rows), "block")
    pairs = tuple(str(condition.pair) for condition in conditions)
    return ImportanceView(task, score, token_class, pairs, shown, unit, len(rows), curves)


def group_counts(selection_path: Path) -> dict[str, dict[str, int]]:
    """Return how many neurons of each part may be trained by how many pairs.

    Part (or `model` where the selection does not say which part a layer is of) -> `agnostic` (all pairs), each pair
    that has neurons of its own, and `shared` (several pairs but not all) -> neurons.
    """
    from neuroglot.selection import Selection

    selection = Selection.load(selection_path)
    chosen = selection.meta.get("chosen", {})
    counts: dict[str, dict[str, int]] = {part: {} for part in ("vision", "connector", "language")}
    for layer, group, index in selection:
        kind = "agnostic" if group == selection.agnostic else "shared" if len(group) > 1 else next(iter(group))
        part = counts.setdefault(chosen.get(layer, {}).get("part", "model"), {})
        part[kind] = part.get(kind, 0) + index.numel()
    return {part: kinds for part, kinds in counts.items() if kinds}


def _dispersion_by_rank(relative: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, std = relative.mean(axis=0), relative.std(axis=0)
    ranked = np.sort(np.divide(std, mean, out=np.zeros_like(std), where=mean > 0))[::-1]
    ranks = np.linspace(0, len(ranked) - 1, CURVE_POINTS)
    return np.asarray(np.interp(ranks, np.arange(len(ranked)), ranked), dtype=np.float64)


def _by_block(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Merge the rows of a block; a block counts as kept when one of its layers is."""
    blocks: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        blocks.setdefault((row.part, row.label.split(" ")[0]), []).append(row)
    return tuple(
        Row(label, part, any(row.kept for row in members), np.mean([row.values for row in members], axis=0))
        for (part, label), members in blocks.items()
    )


def _short(name: str) -> str:
    """Return the block's number and the matrix's own name.

    Examples:
        >>> _short("model.language_model.layers.3.self_attn.q_proj")
        '3 q_proj'
        >>> _short("model.multi_modal_projector.linear_1")
        'linear_1'
    """
    block = re.search(r"\.(\d+)\.", name)
    last = name.rsplit(".", 1)[-1]
    return f"{block[1]} {last}" if block else last
