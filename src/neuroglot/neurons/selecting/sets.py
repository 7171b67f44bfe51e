"""Sets: selections of one model joined, intersected and compared, also with what chance would give.

A row that is in two selections may be in different groups there. In a union the pairs of both may train it, in an
intersection the pairs that both name; without a common pair the row is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroglot.errors import UserError
from neuroglot.selection import Group, Selection, group_name

Index = NDArray[np.int64]


@dataclass(frozen=True)
class _Shared:
    """The rows of one module in two selections: those of one alone, and those of both, by their groups in each."""

    module: str
    a: dict[Group, Index]
    b: dict[Group, Index]
    both: dict[tuple[Group, Group], Index]


def union(a: Selection, b: Selection) -> Selection:
    """Return the rows of either, trained by the pairs of both.

    Raises:
        UserError: the selections are of different models.
    """
    return _made(a, b, "union", lambda x: [*x.a.items(), *x.b.items(), *((g | h, i) for (g, h), i in x.both.items())])


def intersection(a: Selection, b: Selection) -> Selection:
    """Return the rows of both, trained by the pairs that both name.

    Raises:
        UserError: the selections are of different models.
    """
    return _made(a, b, "intersection", lambda x: [(g & h, index) for (g, h), index in x.both.items() if g & h])


def difference(a: Selection, b: Selection) -> Selection:
    """Return the rows of a that b does not have, whatever their group.

    Raises:
        UserError: the selections are of different models.
    """
    return _made(a, b, "difference", lambda x: list(x.a.items()))


def jaccard(a: Selection, b: Selection) -> float:
    """Return the rows of both over those of either, whatever their groups; 1 where both are empty.

    Raises:
        UserError: the selections are of different models.
    """
    both = sum(len(index) for x in _walk(a, b) for index in x.both.values())
    either = len(a) + len(b) - both
    return both / either if either else 1.0


def compare(a: Selection, b: Selection, most: int = 10) -> dict[str, Any]:
    """Return how two selections overlap: over all, by part, kind of layer and group, and in their layers.

    Each entry counts the rows of a, of b and of both, with their Jaccard index. `chance` is that index where both
    draw their rows at random in the layers that they chose, as many in each; `chance_anywhere` where they draw their
    number of rows in all eligible layers. Both are None where a selection does not say how many neurons there are.
    By group, a row is in both only where it is in the same group.

    Args:
        a: one selection.
        b: another.
        most: how many layers to list for each, those with the most rows that the other lacks.

    Raises:
        UserError: the selections are of different models.
    """
    size = {name: int(x["neurons"]) for s in (b, a) for name, x in s.meta.get("chosen", {}).items()}
    part = {name: str(x["part"]) for s in (b, a) for name, x in s.meta.get("chosen", {}).items()}
    total = _Tally()
    parts: dict[str, _Tally] = {}
    kinds: dict[str, _Tally] = {}
    groups: dict[str, _Tally] = {}
    only: dict[str, dict[str, int]] = {"a": {}, "b": {}}
    for x in _walk(a, b):
        both = sum(map(len, x.both.values()))
        alone = {"a": sum(map(len, x.a.values())), "b": sum(map(len, x.b.values()))}
        here = [alone["a"] + both, alone["b"] + both]
        for tally in (
            total,
            parts.setdefault(part.get(x.module, "model"), _Tally()),
            kinds.setdefault(x.module.rpartition(".")[2], _Tally()),
        ):
            tally.add(here, both, size.get(x.module))
        for side, count in alone.items():
            if count:
                only[side][x.module] = count
        for group in dict.fromkeys([*a.rows.get(x.module, {}), *b.rows.get(x.module, {})]):
            rows = [len(s.rows.get(x.module, {}).get(group, ())) for s in (a, b)]
            same = len(x.both.get((group, group), ()))
            groups.setdefault(_name(group, a, b), _Tally()).add(rows, same, size.get(x.module))
    eligible = [sum(s.meta["neurons"].values()) if s.meta.get("neurons") else None for s in (a, b)]
    overall = total.shown()
    overall["chance_anywhere"] = None
    units = "ffn" in (a.meta.get("neuron"), b.meta.get("neuron"))  # whose rows are not drawn one by one
    if eligible[0] is not None and eligible[0] == eligible[1] and not units:
        expected = len(a) * len(b) / eligible[0]
        overall["chance_anywhere"] = _ratio(expected, len(a) + len(b) - expected)
    layers = [set(a.rows), set(b.rows)]
    together = len(layers[0] & layers[1])
    return {
        "rows": overall,
        "layers": {
            "a": len(layers[0]),
            "b": len(layers[1]),
            "both": together,
            "jaccard": _ratio(together, len(layers[0] | layers[1])),
        },
        "parts": {name: tally.shown() for name, tally in parts.items()},
        "kinds": {name: tally.shown() for name, tally in sorted(kinds.items())},
        "groups": {name: tally.shown() for name, tally in sorted(groups.items())},
        "only_a": dict(sorted(only["a"].items(), key=lambda kv: -kv[1])[:most]),
        "only_b": dict(sorted(only["b"].items(), key=lambda kv: -kv[1])[:most]),
    }


class _Tally:
    """Counts of rows summed over layers, and the number that chance would put in both."""

    def __init__(self) -> None:
        self.a = self.b = self.both = 0
        self.expected: float | None = 0.0

    def add(self, rows: list[int], both: int, size: int | None) -> None:
        self.a, self.b, self.both = self.a + rows[0], self.b + rows[1], self.both + both
        # Drawn without replacement, a rows and b rows of n have ab / n in common on average.
        known = size is not None and self.expected is not None
        self.expected = self.expected + rows[0] * rows[1] / size if known else None  # type: ignore[operator]

    def shown(self) -> dict[str, Any]:
        chance = None if self.expected is None else _ratio(self.expected, self.a + self.b - self.expected)
        overlap = _ratio(self.both, self.a + self.b - self.both)
        return {"a": self.a, "b": self.b, "both": self.both, "jaccard": overlap, "chance": chance}


def _ratio(part: float, total: float) -> float | None:
    return part / total if total else None


def _name(group: Group, a: Selection, b: Selection) -> str:
    """Return a group's name; the agnostic groups of both have the same."""
    return "agnostic" if group in (a.agnostic, b.agnostic) else group_name(group)


def _made(a: Selection, b: Selection, how: str, chosen: Callable[[_Shared], list[tuple[Group, Index]]]) -> Selection:
    rows: dict[str, dict[Group, torch.Tensor]] = {}
    for x in _walk(a, b):
        parts: dict[Group, list[Index]] = {}
        for group, index in chosen(x):
            if len(index):
                parts.setdefault(group, []).append(index)
        if parts:
            rows[x.module] = {
                g: torch.from_numpy(np.sort(np.concatenate(i))) for g, i in sorted(parts.items(), key=str)
            }
    pairs = tuple(dict.fromkeys([*a.pairs, *b.pairs]))
    axes = {name: axis for name, axis in {**b.axes, **a.axes}.items() if name in rows}
    known = {**b.meta.get("chosen", {}), **a.meta.get("chosen", {})}
    meta = {
        "method": f"{how} of {a.meta.get('method', 'a selection')} and {b.meta.get('method', 'a selection')}",
        "chosen": {name: known[name] for name in rows if name in known},
    }
    for key in ("task", "model", "fingerprint", "neurons", "layers", "neuron"):
        if key in a.meta or key in b.meta:
            meta[key] = a.meta.get(key, b.meta.get(key))
    return Selection(pairs, rows, meta, axes)


def _walk(a: Selection, b: Selection) -> Iterator[_Shared]:
    """Yield the modules of both, in the order of a and then of b.

    Raises:
        UserError: the selections are of different models, or take different axes of a matrix.
    """
    prints = [s.meta.get("fingerprint") for s in (a, b)]
    if None not in prints and prints[0] != prints[1]:
        models = [f"{s.meta.get('model', 'a model')} ({print_})" for s, print_ in zip((a, b), prints, strict=True)]
        raise UserError(
            f"the selections are of different models, {models[0]} and {models[1]}; expected two of one model"
        )
    for module in dict.fromkeys([*a.rows, *b.rows]):
        if module in a.rows and module in b.rows and a.axes.get(module, 0) != b.axes.get(module, 0):
            raise UserError(
                f"the selections take rows of {module} in the one and columns in the other (neuron: rows and ffn); "
                "expected the same in both"
            )
        (rows_a, in_a, groups_a), (rows_b, in_b, groups_b) = (_flat(s, module) for s in (a, b))
        common, at_a, at_b = np.intersect1d(rows_a, rows_b, assume_unique=True, return_indices=True)
        left_a, left_b = np.delete(np.arange(len(rows_a)), at_a), np.delete(np.arange(len(rows_b)), at_b)
        both = in_a[at_a] * len(groups_b) + in_b[at_b]
        yield _Shared(
            module,
            {g: rows_a[left_a][in_a[left_a] == i] for i, g in enumerate(groups_a)},
            {g: rows_b[left_b][in_b[left_b] == i] for i, g in enumerate(groups_b)},
            {
                (groups_a[kind // len(groups_b)], groups_b[kind % len(groups_b)]): common[both == kind]
                for kind in np.unique(both).tolist()
            },
        )


def _flat(selection: Selection, module: str) -> tuple[Index, Index, list[Group]]:
    """Return a module's rows, the number of each one's group, and the groups."""
    groups = selection.rows.get(module, {})
    index = [rows.numpy() for rows in groups.values()]
    which = [np.full(len(rows), i) for i, rows in enumerate(index)]
    empty = [np.zeros(0, dtype=np.int64)]
    return np.concatenate([*empty, *index]), np.concatenate([*empty, *which]), list(groups)
