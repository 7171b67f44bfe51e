"""Summary: what a selection and a profile hold, in a few numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuroglot.file_format import SELECTION, kind_of
from neuroglot.models.families import PARTS
from neuroglot.neurons.layers import relevance
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.selection import Selection, group_name, is_readable

MOST = 10
"""How many layers are listed."""


def summary(path: Path) -> dict[str, Any]:
    """Return what a file holds, which is a selection or a profile.

    Raises:
        UserError: it is neither, or it is damaged.
    """
    if is_readable(path):
        return selection_summary(Selection.load(path))
    if kind_of(path) == SELECTION.name:
        return selection_summary(Selection.load(path))
    return profile_summary(Profile.load(path))


def selection_summary(selection: Selection) -> dict[str, Any]:
    """Return where the chosen rows are, by part, group and kind of layer; `of` counts what they were chosen from.

    Of feed-forward units, whose rows and columns lie in several matrices, `of` counts the units.
    """
    meta = selection.meta
    chosen = meta.get("chosen", {})
    parts: dict[str, dict[str, Any]] = {}
    kinds: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, Any]] = {}
    layers: dict[str, dict[str, Any]] = {}
    for module, by_group in selection.rows.items():
        rows = sum(len(index) for index in by_group.values())
        known = chosen.get(module, {})
        layers[module] = {"rows": rows, "of": known.get("neurons")}
        part, kind = known.get("part", "model"), module.rpartition(".")[2]
        for table, key in ((parts, part), (kinds, kind)):
            entry = table.setdefault(key, {"layers": 0, "rows": 0})
            entry["layers"] += 1
            entry["rows"] += rows
        for group, index in by_group.items():
            name = "agnostic" if group == selection.agnostic else group_name(group)
            entry = groups.setdefault(name, {"layers": 0, "rows": 0})
            entry["layers"] += 1
            entry["rows"] += len(index)
            entry[part] = entry.get(part, 0) + len(index)
    for part, entry in parts.items():
        entry["of_layers"] = meta.get("layers", {}).get(part)
        entry["of"] = meta.get("neurons", {}).get(part)
    first = sorted(layers.items(), key=lambda kv: -kv[1]["rows"])[:MOST]
    return {
        "kind": "selection",
        "method": meta.get("method", "by hand"),
        "task": meta.get("task"),
        "model": meta.get("model"),
        "pairs": list(selection.pairs),
        "rows": len(selection),
        "layers": len(selection.rows),
        "parts": {part: parts[part] for part in (*PARTS, "model") if part in parts},
        "groups": dict(sorted(groups.items(), key=lambda kv: -kv[1]["rows"])),
        "kinds": dict(sorted(kinds.items())),
        "top_layers": dict(first),
    }


def profile_summary(profile: Profile) -> dict[str, Any]:
    """Return what was profiled, how much of it, and each part's most relevant layers, where 1 is its average layer."""
    parts: dict[str, dict[str, int]] = {}
    for layer in profile.layers:
        entry = parts.setdefault(layer.part, {"layers": 0, "neurons": 0, "ffn_blocks": 0, "ffn_units": 0})
        layers, neurons = ("ffn_blocks", "ffn_units") if layer.writes else ("layers", "neurons")
        entry[layers] += 1
        entry[neurons] += layer.neurons
    task = profile.conditions[0].task if profile.conditions else None
    top: dict[str, dict[str, Any]] = {}
    if task is not None:
        ranking = relevance(profile, profile.scores[0], profile.classes[0], profile.of_task(task))
        for part in PARTS:
            size = parts.get(part, {}).get("neurons", 0)
            names = [layer.name for layer in profile.layers if layer.part == part and not layer.writes]
            for name in sorted(names, key=lambda name: -ranking[name])[: MOST // 2]:
                top[name] = {"part": part, "importance": round(ranking[name] * size, 3)}
    return {
        "kind": "profile",
        "model": profile.model,
        "fingerprint": profile.fingerprint,
        "data": profile.data or None,
        "scores": [*profile.scores, *profile.static],
        "conditions": {
            str(condition): dict(zip(profile.classes, counts, strict=True))
            for condition, counts in zip(profile.conditions, profile.counts.tolist(), strict=True)
        },
        "blocks": {
            task: dict(zip(profile.classes, items.tolist(), strict=True))
            for task, items in profile.block_counts.items()
        },
        "parts": parts,
        "top_layers": top,
    }
