"""A saved adapter as a value: read, grown by a pair, cut down to some pairs, written; no model is needed for it.

Shape suffixes: k units of a group, w the width of a unit, r a rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from neuroglot.artefact import ADAPTER, MANIFEST, fresh, seal, unseal
from neuroglot.errors import UserError, nearest
from neuroglot.selection import Selection, group_name
from neuroglot.tuner.config import NEUROGLOT, NeuroglotConfig
from neuroglot.tuner.deltas import KEY, shape_of
from neuroglot.tuner.model import _matrix

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the name of every saved tensor."""


@dataclass(frozen=True)
class Shape:
    """What a layer of the base model is.

    Attributes:
        outputs: of the layer.
        inputs: of the layer.
        bias: whether it has one.
        kind: `linear`, `conv1d` or `matrix`, a bare parameter; only the first is stored as [out, in].
    """

    outputs: int
    inputs: int
    bias: bool
    kind: str

    def units_are_outputs(self, axis: int) -> bool:
        """Whether units on this axis of the stored weight are the layer's outputs."""
        return axis == (0 if self.kind == "linear" else 1)


def shapes_of(model: nn.Module, names: Collection[str]) -> dict[str, Shape]:
    """Return what layers of a base model are; a model on the meta device will do.

    Raises:
        UserError: the model has no such layer.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found = {}
    for name in names:
        module, weight = _matrix(name, modules)
        outputs, inputs = shape_of(module, weight)
        bare = weight != "weight"
        kind = "matrix" if bare else "conv1d" if isinstance(module, Conv1D) else "linear"
        found[name] = Shape(outputs, inputs, not bare and getattr(module, "bias", None) is not None, kind)
    return found


@dataclass(frozen=True)
class Units:
    """What one group trains in one layer.

    Attributes:
        rows: int32 [k] where they lie on their axis of the weight.
        delta: (dense [k, w],) or (up [k, r], down [r, w]).
        bias: [k], None where none is trained.
    """

    rows: Tensor
    delta: tuple[Tensor, ...]
    bias: Tensor | None = None

    @property
    def dense(self) -> Tensor:
        """The delta multiplied out, as the layers do it."""
        return self.delta[0] if len(self.delta) == 1 else self.delta[0] @ self.delta[1]

    @property
    def rank(self) -> int:
        """How many columns and rows a product of two matrices needs to be this delta."""
        return self.delta[-1].shape[0]

    @property
    def width(self) -> int:
        """The width of a unit."""
        return self.delta[-1].shape[1]


@dataclass(frozen=True)
class Adapter:
    """A saved adapter.

    Attributes:
        config: as in the JSON; its layout is that of `units`.
        units: module -> group (text) -> what it trains.
        bare: the modules that are bare matrices.
        facts: of the seal, such as what the adapter was made from; empty where there was none.
    """

    config: NeuroglotConfig
    units: Mapping[str, Mapping[str, Units]]
    bare: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, str, Units]]:
        for module, groups in self.units.items():
            for group, units in groups.items():
                yield module, group, units

    @property
    def pairs(self) -> tuple[str, ...]:
        """The adapter's pairs."""
        return tuple(self.config.pairs)

    @property
    def groups(self) -> tuple[str, ...]:
        """Every group of some module."""
        return tuple(sorted({group for _, group, _ in self}))

    @classmethod
    def load(cls, folder: Path | str) -> Adapter:
        """Read an adapter's folder, and verify its seal if it has one.

        Raises:
            UserError: there is no adapter of this kind, it is damaged, or its tensors do not fit its configuration.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise UserError(f"{folder} holds no adapter ({name} is missing); expected what save_pretrained writes")
        facts = unseal(folder, ADAPTER) if (folder / MANIFEST).is_file() else {}
        try:
            fields = NeuroglotConfig.from_json_file(str(folder / CONFIG))
            kind = fields.get("peft_type")
            if kind != NEUROGLOT:
                raise UserError(f"adapter {folder} is of type {kind}, expected {NEUROGLOT.value}; give one of neuroglot's")
            config = NeuroglotConfig.from_pretrained(str(folder))
            tensors = load_file(str(folder / WEIGHTS))
        except UserError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
            raise UserError(f"adapter {folder} cannot be read: {' '.join(str(error).split())}; save it again") from None
        kept = {name: value for name, value in facts.items() if name not in ("format", "checksum", "files")}
        return cls(config, *_parse(config, tensors, folder), kept)

    def save(self, folder: Path | str) -> None:
        """Write the adapter's folder, whole or not at all, with its card and a seal.

        Raises:
            UserError: the folder exists and holds something.
        """
        from safetensors.torch import save_file

        with new_folder(folder) as part:
            self.config.save_pretrained(str(part))
            save_file(self.tensors(), str(part / WEIGHTS), metadata={"format": "pt"})
            about = {"method": "neurons", "base": self.config.base_model_name_or_path, "made_from": {"model": None}}
            seal(part, ADAPTER, {**about, **self.facts, "pairs": list(self.pairs)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors under the names that PEFT reads."""
        found = {}
        for module, groups in self.units.items():
            place = PREFIX + (module.rpartition(".")[0] if module in self.bare else module)
            found[f"{place}.neuroglot_rows"] = torch.cat([units.rows for units in groups.values()]).contiguous()
            for group, units in groups.items():
                for kind, value in zip(_kinds(units.delta), units.delta, strict=True):
                    found[f"{place}.neuroglot_{kind}.{KEY}{group}"] = value.contiguous()
                if units.bias is not None:
                    found[f"{place}.neuroglot_bias.{KEY}{group}"] = units.bias.contiguous()
        return found

    def changed(self, units: Mapping[str, Mapping[str, Units]], pairs: Collection[str], **fields: Any) -> Adapter:
        """Return an adapter of other units for other pairs, and with other fields of the configuration."""
        # the JSON's keys are written in order of the alphabet, and the order of the groups is that of the stored rows
        units = {module: dict(sorted(groups.items())) for module, groups in sorted(units.items())}
        layout = {module: {group: len(own.rows) for group, own in groups.items()} for module, groups in units.items()}
        axes = {m: axis for m, axis in {**self.config.axes, **fields.pop("axes", {})}.items() if m in units}
        bare = frozenset(fields.pop("bare", self.bare)) & set(units)
        config = replace(self.config, pairs=list(pairs), layout=layout, axes=axes, rows=None, **fields)
        return replace(self, config=config, units=units, bare=bare)


def _kinds(delta: tuple[Tensor, ...]) -> tuple[str, ...]:
    return ("delta",) if len(delta) == 1 else ("up", "down")


def _parse(
    config: NeuroglotConfig, tensors: Mapping[str, Tensor], folder: Path
) -> tuple[dict[str, dict[str, Units]], frozenset[str]]:
    """Sort saved tensors by module and group."""
    rest, found, bare = dict(tensors), {}, set()

    def take(name: str, *shape: int | None) -> Tensor:
        value = rest.pop(name, None)
        if value is None or value.dim() != len(shape) or any(w not in (None, s) for w, s in zip(shape, value.shape)):
            got = "it is missing" if value is None else f"it has shape {tuple(value.shape)}, expected {shape}"
            raise UserError(f"adapter {folder} does not fit its {CONFIG}: tensor {name}: {got}; save it again")
        return value

    for module, groups in config.layout.items():
        place = PREFIX + module
        if f"{place}.neuroglot_rows" not in rest:
            place = place.rpartition(".")[0]
            bare.add(module)
        counts = list(groups.values())
        rows = take(f"{place}.neuroglot_rows", sum(counts)).split(counts)
        biased = any(name.startswith(f"{place}.neuroglot_bias.") for name in rest)
        found[module] = {}
        for (group, count), own in zip(groups.items(), rows, strict=True):
            rank = config.rank if config.rank is not None and config.rank < count else None
            wanted = {"delta": (count, None)} if rank is None else {"up": (count, rank), "down": (rank, None)}
            delta = tuple(take(f"{place}.neuroglot_{kind}.{KEY}{group}", *shape) for kind, shape in wanted.items())
            bias = take(f"{place}.neuroglot_bias.{KEY}{group}", count) if biased else None
            found[module][group] = Units(own.clone(), delta, bias)
    if rest:
        raise UserError(f"adapter {folder} holds a tensor that its {CONFIG} does not name: {sorted(rest)[0]}; save it again")
    return found, frozenset(bare)


def grow(adapter: Adapter, selection: Selection, base: nn.Module | None = None, seed: int = 0) -> Adapter:
    """Add the units of new groups, such as those of a new pair, with deltas of zero.

    What the adapter held stays as it is, to the bit, and stays so while only the new pair is trained: no old group
    holds it. Not even the old language-agnostic group, which goes on as the group of the old pairs.

    Args:
        adapter: what there is.
        selection: the new groups' units.
        base: the base model, on the meta device if you like; only modules that the adapter has not held need it.
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
            biased = outputs and shapes[module].bias
        own = units.setdefault(module, {})
        for group, index in sorted(groups.items()):
            own[group] = _untrained(index, width, biased, adapter.config.rank, dtype, random)
    known = {pair for groups in chosen.values() for group in groups for pair in group.split(",")}
    pairs = [*adapter.pairs, *(pair for pair in selection.pairs if pair in known and pair not in adapter.pairs)]
    bare = adapter.bare | {module for module in fresh_ones if shapes[module].kind == "matrix"}
    axes = {module: axis for module, axis in selection.axes.items() if axis and module in chosen}
    return adapter.changed(units, pairs, axes=axes, bare=bare)


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
                    f"adapter does not hold; leave it out of group {group}"
                )
            if row < 0 or (size is not None and row >= size):
                raise UserError(f"grow: {module}: row {row} is out of range; expected 0 to {(size or 0) - 1}")


def _untrained(
    index: Tensor, width: int, biased: bool, rank: int | None, dtype: torch.dtype, random: torch.Generator
) -> Units:
    """Return units with a delta of zero, drawn as a fresh adapter's are."""
    rows, count = index.to(torch.int32).sort().values, len(index)
    bias = torch.zeros(count, dtype=dtype) if biased else None
    if rank is None or rank >= count:
        return Units(rows, (torch.zeros(count, width, dtype=dtype),), bias)
    down = torch.empty(rank, width, dtype=dtype).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=random)
    return Units(rows, (torch.zeros(count, rank, dtype=dtype), down), bias)


def keep_pairs(adapter: Adapter, pairs: Collection[str]) -> Adapter:
    """Return the part of an adapter that serves some of its pairs.

    A group keeps its rows and loses the names of the other pairs; a group left without pairs goes, and so does a
    module left without groups. What is kept does for its pairs what it did before. So the agnostic rows stay: keeping
    en-de of an adapter for en-de and en-fr leaves the rows that both had trained and those of en-de, all of group
    en-de now, and further training on en-de moves them all. (They were trained on en-fr as well, which cannot be taken
    out of them.) Groups that come to have the same pairs become one. Where such groups are of low rank, their sum is
    of a higher one, and the whole adapter is made dense: the same deltas, multiplied out.

    Raises:
        UserError: no pair, or one that the adapter does not have; or nothing would be left.
    """
    wanted = set(pairs)
    for pair in sorted(wanted - set(adapter.pairs)):
        raise UserError(f"the adapter has no pair {pair!r}; {nearest(pair, adapter.pairs)}")
    found: dict[str, dict[str, list[Units]]] = {}
    for module, group, units in adapter:
        left = wanted & set(group.split(","))
        if left:
            found.setdefault(module, {}).setdefault(group_name(frozenset(left)), []).append(units)
    if not found:
        raise UserError(
            f"nothing of the adapter is left for pairs {', '.join(sorted(wanted)) or '(none)'}; expected one or more of "
            f"{', '.join(group for group in adapter.groups)}; keep a pair that has rows"
        )
    together = [own for groups in found.values() for own in groups.values() if len(own) > 1]
    rank = adapter.config.rank
    # groups too small for the rank are dense, but what they become part of need not be
    dense = any(len(units.delta) > 1 for own in together for units in own) or (
        rank is not None and any(sum(len(units.rows) for units in own) > rank for own in together)
    )
    units = {
        module: {group: _one(own, dense) for group, own in groups.items()} for module, groups in found.items()
    }
    return adapter.changed(units, [pair for pair in adapter.pairs if pair in wanted], rank=None if dense else rank)


def drop_pairs(adapter: Adapter, pairs: Collection[str]) -> Adapter:
    """Return an adapter without some of its pairs: `keep_pairs` of the others.

    Raises:
        UserError: a pair that the adapter does not have; or nothing would be left.
    """
    for pair in sorted(set(pairs) - set(adapter.pairs)):
        raise UserError(f"the adapter has no pair {pair!r}; {nearest(pair, adapter.pairs)}")
    return keep_pairs(adapter, [pair for pair in adapter.pairs if pair not in set(pairs)])


def _one(found: list[Units], dense: bool) -> Units:
    """Return several groups' units as those of one."""
    if dense:
        found = [replace(units, delta=(units.dense,)) for units in found]
    if len(found) == 1:
        return found[0]
    biases = [units.bias for units in found if units.bias is not None]
    delta = (torch.cat([units.delta[0] for units in found]),)
    return Units(torch.cat([units.rows for units in found]), delta, torch.cat(biases) if biases else None)
