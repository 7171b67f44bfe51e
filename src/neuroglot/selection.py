"""Selection: which rows of which layers the data of which pairs may train; and its form as YAML or JSON text.

Neurons make it, the tuner takes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from neuroglot.config.strict_yaml import read_yaml
from neuroglot.errors import UserError, nearest
from neuroglot.file_format import SELECTION, load_tensors, save_tensors, write_text
from neuroglot.pair import Pair
from neuroglot.printing import short

# ---- Selection as text ----------------------------------------------------------------------------------------------
#     format: neuroglot-rows-1
#     pairs: [en-de, en-fr]
#     axes: {model.language_model.layers.0.mlp.down_proj: 1}
#     rows:
#       model.language_model.layers.0.mlp.up_proj:
#         agnostic: 0-63,70
#         en-de: 64-69
#       model.language_model.layers.0.mlp.down_proj:
#         en-de,en-fr: 5
#
# `meta`, how the selection came about, may be left out.

FORMAT = "neuroglot-rows-1"
SUFFIXES = (".yaml", ".yml", ".json")
AGNOSTIC = "agnostic"
KEYS = ("format", "about", "pairs", "axes", "rows", "meta")

ABOUT = """\
The rows of a model's matrices that may be trained, and by the data of which pairs; all else stays frozen.
rows: module -> group -> row numbers. 5-7,9 are the rows 5, 6, 7 and 9, counted from 0. Row i of a module is
weight[i, :] as it is stored and, where there is one, bias[i]. A group is the pairs whose data may train the rows, with
commas between; agnostic is all pairs. No row is in two groups of a module.
axes: module -> 1 where the numbers are those of the stored weight's second axis, weight[:, i]: the columns that a
feed-forward unit writes with, or the outputs of a bare matrix that is stored as [inputs, outputs] and goes by the name
of its parameter.
Fused matrices (qkv, gate_up_proj) are one module, and their rows are counted through: of a gate_up_proj with n units
the gate of unit i is row i and its up row is n + i.
"""


def is_readable(path: Path | str) -> bool:
    """Return whether a file is, by its name, a selection as text."""
    return Path(path).suffix.lower() in SUFFIXES


def write_rows(
    path: Path,
    pairs: Sequence[str],
    rows: Mapping[str, Mapping[str, torch.Tensor]],
    axes: Mapping[str, int],
    meta: Mapping[str, Any],
) -> None:
    """Write a selection as text; `read_rows` gives back the same.

    Args:
        path: ends in .yaml, .yml or .json.
        pairs: of the selection.
        rows: module -> group, as pairs with commas between or `AGNOSTIC` -> indices.
        axes: of the modules whose units do not lie on axis 0.
        meta: how it came about.
    """
    written = {module: {name: ranges(index) for name, index in groups.items()} for module, groups in rows.items()}
    content: dict[str, Any] = {"format": FORMAT, "pairs": list(pairs)}
    if axes:
        content["axes"] = dict(axes)
    content |= {"rows": written, "meta": dict(meta)}
    if path.suffix.lower() == ".json":
        write_text(path, json.dumps({"about": ABOUT.splitlines(), **content}, indent=1, ensure_ascii=False) + "\n")
        return
    head = "".join(f"# {line}\n" for line in ABOUT.splitlines())
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    write_text(path, head + yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True, width=2**20))


def read_rows(path: Path | str) -> dict[str, Any]:
    """Read a selection as text: its pairs, its rows by module and group of pairs, its axes and its meta.

    Raises:
        UserError: the file is missing, or something in it is no selection.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else read_yaml(text)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; expected a selection as `neuroglot export --format rows` writes it"
        ) from None
    except Exception as error:  # of the file system, of the decoders
        raise UserError(f"{path} cannot be read: {error}; expected YAML or JSON") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path} is no selection: its format is {got!r}, expected {FORMAT!r}")
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: key {key!r} is not known; {nearest(str(key), KEYS)}")
    try:
        pairs = tuple(str(Pair.parse(pair)) for pair in _of(list, content, "pairs"))
        everyone = frozenset(pairs)
        rows: dict[str, dict[frozenset[str], torch.Tensor]] = {}
        for module, groups in _of(dict, content, "rows").items():
            if not isinstance(groups, dict):
                raise UserError(f"rows.{module} must be group: rows, got {groups!r}")
            for name, value in groups.items():
                group = everyone if name == AGNOSTIC else frozenset(str(Pair.parse(p)) for p in str(name).split(","))
                if group in rows.setdefault(str(module), {}):
                    raise UserError(f"rows.{module} names group {name} twice; once as {AGNOSTIC}, once by its pairs?")
                rows[str(module)][group] = indices(value, f"rows.{module}.{name}")
        return {"pairs": pairs, "rows": rows, "meta": content.get("meta") or {}, "axes": content.get("axes") or {}}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def ranges(index: torch.Tensor) -> str | int:
    """Return ascending numbers as text.

    Examples:
        >>> ranges(torch.tensor([0, 1, 2, 3, 7, 9, 10]))
        '0-3,7,9-10'
    """
    numbers = index.numpy()
    if len(numbers) == 1:
        return int(numbers[0])
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    starts = numbers[np.concatenate([[0], cuts])] if len(numbers) else []
    ends = numbers[np.concatenate([cuts - 1, [len(numbers) - 1]])] if len(numbers) else []
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def indices(value: Any, place: str = "rows") -> torch.Tensor:
    """Return the numbers of a text as `ranges` writes it, of a number or of a list of these, ascending.

    Examples:
        >>> indices("0-3,7")
        tensor([0, 1, 2, 3, 7])

    Raises:
        UserError: it is something else, or a range ends before it begins.
    """
    parts: list[Any] = value if isinstance(value, list) else str(value).split(",") if value != "" else []
    result = []
    for part in parts:
        match = re.fullmatch(r"(\d{1,8})(?:-(\d{1,8}))?", str(part).strip())  # no layer has 100 million rows
        if match is None:
            raise UserError(f"{place}: {part!r} is no row and no range; expected numbers such as 0-3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"{place}: range {part} ends before it begins; expected the lower number first")
        result.append(torch.arange(first, last + 1))
    return torch.cat(result).sort().values if result else torch.empty(0, dtype=torch.long)


def _of(kind: type, content: dict[str, Any], key: str) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        what = "a list" if kind is list else "a mapping"
        raise UserError(f"{key} must be {what}, got {value!r}")
    return value


# ---- Selection ------------------------------------------------------------------------------------------------------

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

        A path that ends in .yaml, .yml or .json gets it as text (`neuroglot.selection`).
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
        """Read what `save` wrote, or a selection as text (`neuroglot.selection`) by the file's suffix.

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
