"""Selection: which rows of which layers the data of which pairs may train. Neurons make it, the tuner takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from neuroglot.artefact import SELECTION, load_tensors, save_tensors
from neuroglot.errors import UserError
from neuroglot.readable import AGNOSTIC, is_readable, read_rows, write_rows
from neuroglot.shown import short

Group = frozenset[str]
"""The pairs (text form) whose data may train a neuron; language-agnostic neurons belong to all pairs."""


def group_name(group: Group) -> str:
    """Return the text form of a group: its pairs, sorted, joined by commas."""
    return ",".join(sorted(group))


@dataclass(frozen=True)
class Selection:
    """Chosen neurons: module name -> group -> sorted row indices (int64, one dimension).

    A row belongs to at most one group of its module. `meta` says how the selection came about (method, budget,
    model fingerprint) and what it was chosen from: `meta["neurons"]` holds, per part, the eligible neurons.

    `axes` names the modules whose units do not lie on axis 0 of the weight as it is stored: with 1, the units of a
    Linear are its input columns (the down side of an `ffn` neuron), those of transformers' `Conv1D` or of a bare
    [in, out] matrix its outputs. A bare matrix goes by the full name of its parameter.
    """

    pairs: tuple[str, ...]
    rows: Mapping[str, Mapping[Group, torch.Tensor]]
    meta: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)

    __repr__ = short

    def __post_init__(self) -> None:
        for module, axis in self.axes.items():
            if module not in self.rows or axis not in (0, 1):
                raise UserError(
                    f"selection: axes holds {module}: {axis!r}; expected a module of the selection and 0 or 1"
                )
        for module, groups in self.rows.items():
            if any(index.dim() != 1 for index in groups.values()):
                raise UserError(f"selection: the rows of {module} must be lists of numbers")
            chosen = torch.cat(list(groups.values())) if groups else torch.empty(0, dtype=torch.long)
            if chosen.unique().numel() != chosen.numel():
                raise UserError(f"selection: {module} has a row in two groups; a row belongs to one group at most")
            unknown = frozenset().union(*groups) - set(self.pairs)
            if unknown:
                raise UserError(
                    f"selection: {module} has a group with unknown pair {min(unknown)}; "
                    f"the selection's pairs are {', '.join(self.pairs)}"
                )

    @property
    def agnostic(self) -> Group:
        """The group of all pairs."""
        return frozenset(self.pairs)

    def __iter__(self) -> Iterator[tuple[str, Group, torch.Tensor]]:
        for module, groups in self.rows.items():
            for group, index in groups.items():
                yield module, group, index

    def __len__(self) -> int:
        return sum(index.numel() for _, _, index in self)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file: one int32 tensor per (module, group), the rest as metadata.

        A path that ends in .yaml, .yml or .json gets it as text (`neuroglot.readable`).
        """
        if is_readable(path):
            named = {
                module: {AGNOSTIC if group == self.agnostic else group_name(group): i for group, i in groups.items()}
                for module, groups in self.rows.items()
            }
            write_rows(Path(path), self.pairs, named, self.axes, self.meta)
            return
        tensors = {
            f"{module}|{group_name(group)}": index.to(torch.int32).contiguous() for module, group, index in self
        }
        save_tensors(path, SELECTION, tensors, {"pairs": self.pairs, "meta": self.meta, "axes": self.axes})

    @classmethod
    def load(cls, path: Path | str) -> Selection:
        """Read what `save` wrote, or a selection as text (`neuroglot.readable`) by the file's suffix.

        Raises:
            UserError: the file is missing, damaged, or not a selection of this format version.
        """
        if is_readable(path):
            fields = read_rows(path)
            try:
                return cls(**fields)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
        tensors, head = load_tensors(path, SELECTION)
        rows: dict[str, dict[Group, torch.Tensor]] = {}
        with SELECTION.reading(path):
            for key, index in tensors.items():
                if index.dtype not in (torch.int32, torch.int64):
                    raise ValueError(f"{key} has type {index.dtype}, expected int32")
                module, _, name = key.rpartition("|")
                rows.setdefault(module, {})[frozenset(name.split(","))] = index.long()
            try:
                return cls(tuple(head["pairs"]), rows, dict(head["meta"]), dict(head.get("axes", {})))
            except UserError as error:
                raise SELECTION.damaged(path, error) from None


def open_selection(place: Path | str) -> Selection:
    """Read the selection of a run's folder, or a file that holds one.

    Raises:
        UserError: there is none.
    """
    place = Path(place)
    if not place.is_dir():
        return Selection.load(place)
    file = place / "selection.safetensors"
    if not file.is_file():
        raise UserError(
            f"{place} holds no selection ({file.name} is missing); expected a run whose neurons were chosen"
        )
    return Selection.load(file)
