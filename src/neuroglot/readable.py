"""A selection as text: for other trainers, to look at, and to write by hand. YAML, or JSON by the file's suffix.

    format: neuroglot-rows-1
    pairs: [en-de, en-fr]
    axes: {model.language_model.layers.0.mlp.down_proj: 1}
    rows:
      model.language_model.layers.0.mlp.up_proj:
        agnostic: 0-63,70
        en-de: 64-69
      model.language_model.layers.0.mlp.down_proj:
        en-de,en-fr: 5

`meta`, how the selection came about, may be left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from neuroglot.artefact import write_text
from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair
from neuroglot.strict_yaml import read_yaml

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
    found = []
    for part in parts:
        match = re.fullmatch(r"(\d{1,8})(?:-(\d{1,8}))?", str(part).strip())  # no layer has 100 million rows
        if match is None:
            raise UserError(f"{place}: {part!r} is no row and no range; expected numbers such as 0-3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"{place}: range {part} ends before it begins; expected the lower number first")
        found.append(torch.arange(first, last + 1))
    return torch.cat(found).sort().values if found else torch.empty(0, dtype=torch.long)


def _of(kind: type, content: dict[str, Any], key: str) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        what = "a list" if kind is list else "a mapping"
        raise UserError(f"{key} must be {what}, got {value!r}")
    return value
