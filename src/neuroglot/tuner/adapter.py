"""A saved adapter as an object, read and written without a model; and checks that it fits a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from neuroglot.errors import UserError, nearest, refusing
from neuroglot.file_format import ADAPTER, MANIFEST, fresh, given_path, read_manifest, write_manifest
from neuroglot.models.families import FAMILIES
from neuroglot.printing import short
from neuroglot.tuner.config import NEUROGLOT, NeuroglotConfig
from neuroglot.tuner.deltas import KEY, shape_of
from neuroglot.tuner.layer import NeuroglotLinear, NeuroglotMatrix

# ---- Whether an adapter fits a model --------------------------------------------------------------------------------


def matrix_of(name: str, modules: dict[str, nn.Module]) -> tuple[nn.Module, str]:
    """Return the module of a name and its matrix's attribute, looking through our own wrappers.

    Raises:
        UserError: there is no such module or matrix, or it cannot be wrapped.
    """
    owner, _, leaf = name.rpartition(".")
    holder = modules.get(owner)
    if name not in modules and holder is not None:
        holder = holder.base_layer if isinstance(holder, NeuroglotMatrix) else holder
        if isinstance(getattr(holder, leaf, None), nn.Parameter) and getattr(holder, leaf).dim() == 2:
            return holder, leaf
    linears = [n.removesuffix(".base_layer") for n, m in modules.items() if isinstance(m, nn.Linear)]
    if name not in modules:
        raise UserError(f"the model has no module {name!r}; {nearest(name, linears)}")
    module = modules[name]
    if isinstance(module, NeuroglotLinear):
        return module.base_layer, "weight"
    if isinstance(module, BaseTunerLayer):
        raise UserError(f"{name} is wrapped by {type(module).__module__}; merge or unload that adapter first")
    if not isinstance(module, nn.Linear | Conv1D):
        raise UserError(f"{name} is a {type(module).__name__}, expected a Linear; {nearest(name, linears)}")
    if isinstance(holder, nn.MultiheadAttention):
        raise UserError(
            f"{name} lies in a torch MultiheadAttention, which reads the weight without calling the layer; expected a "
            "layer that is called; leave it out of the selection"
        )
    return module, "weight"


def part_of(model: nn.Module, name: str) -> str | None:
    """Return the part of a module, `packed` for a vision side without an axis of samples; None if it is not known."""
    family = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""))
    if family is None:
        return None
    part = family.part_of(name)
    return "packed" if part in ("vision", "connector") and family.vision_rows == "packed" else part


def check_tensors(module: str, expected: dict[str, tuple[int, ...]], tensors: dict[str, torch.Tensor]) -> None:
    for key, shape in expected.items():
        if key not in tensors:
            raise UserError(f"adapter: {key} is missing; load it on the base model that it was trained on")
        if tuple(tensors[key].shape) != shape:
            raise UserError(
                f"adapter: {module}: {key.rpartition('neuroglot_')[2]} has shape {tuple(tensors[key].shape)}, "
                f"expected {shape}; load it on the base model that it was trained on"
            )


def check_rows(module: str, rows_K: torch.Tensor, outputs: int) -> None:
    wrong = rows_K[(rows_K < 0) | (rows_K >= outputs)]
    if wrong.numel():
        raise UserError(
            f"{module}: row {int(wrong[0])} is out of range; expected 0 to {outputs - 1}; "
            "select again for this model, or load the adapter on the model that it was trained on"
        )


# ---- The saved adapter ----------------------------------------------------------------------------------------------
# Shape suffixes: k units of a group, w the width of a unit, r a rank.

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the name of every saved tensor."""


@dataclass(frozen=True)
class Shape:
    """The shape of a layer of the base model.

    Attributes:
        outputs: how many the layer has.
        inputs: how many it has.
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
    """Return the shapes of layers of a base model; a model on the meta device is enough.

    Raises:
        UserError: the model has no such layer.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    shapes = {}
    for name in names:
        module, weight = matrix_of(name, modules)
        outputs, inputs = shape_of(module, weight)
        bare = weight != "weight"
        kind = "matrix" if bare else "conv1d" if isinstance(module, Conv1D) else "linear"
        shapes[name] = Shape(outputs, inputs, not bare and getattr(module, "bias", None) is not None, kind)
    return shapes


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

    __repr__ = short

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
        facts: of the manifest, such as what the adapter was made from; empty without one.
    """

    config: NeuroglotConfig
    units: Mapping[str, Mapping[str, Units]]
    bare: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = short

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
        """Read an adapter's folder, and check its manifest if it has one.

        Raises:
            UserError: there is no adapter of this kind, it is damaged, or its tensors do not fit its configuration.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise UserError(f"{folder} holds no adapter ({name} is missing); expected what save_pretrained writes")
        facts = read_manifest(folder, ADAPTER) if (folder / MANIFEST).is_file() else {}
        with refusing(lambda why: f"adapter {folder} cannot be read: {why}; save it again"):
            fields = NeuroglotConfig.from_json_file(str(folder / CONFIG))
            kind = fields.get("peft_type")
            if kind != NEUROGLOT:
                raise UserError(
                    f"adapter {folder} is of type {kind}, expected {NEUROGLOT.value}; give one of neuroglot's"
                )
            config = NeuroglotConfig.from_pretrained(str(folder))
            tensors = load_file(str(folder / WEIGHTS))
            others = {name: value for name, value in facts.items() if name not in ("format", "checksum", "files")}
            return cls(config, *_parse(config, tensors, folder), others)

    def save(self, folder: Path | str) -> None:
        """Write the adapter's folder, completely or not at all, with its card and a manifest.

        Raises:
            UserError: the folder exists and holds something.
        """
        from safetensors.torch import save_file

        with new_folder(folder) as part:
            self.config.save_pretrained(str(part))
            save_file(self.tensors(), str(part / WEIGHTS), metadata={"format": "pt"})
            about = {"method": "neurons", "base": self.config.base_model_name_or_path, "made_from": {"model": None}}
            write_manifest(part, ADAPTER, {**about, **self.facts, "pairs": list(self.pairs)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors under the names that PEFT reads."""
        tensors = {}
        for module, groups in self.units.items():
            prefix = PREFIX + (module.rpartition(".")[0] if module in self.bare else module)
            tensors[f"{prefix}.neuroglot_rows"] = torch.cat([units.rows for units in groups.values()]).contiguous()
            for group, units in groups.items():
                for kind, value in zip(_kinds(units.delta), units.delta, strict=True):
                    tensors[f"{prefix}.neuroglot_{kind}.{KEY}{group}"] = value.contiguous()
                if units.bias is not None:
                    tensors[f"{prefix}.neuroglot_bias.{KEY}{group}"] = units.bias.contiguous()
        return tensors

    def changed(self, units: Mapping[str, Mapping[str, Units]], pairs: Collection[str], **fields: Any) -> Adapter:
        """Return an adapter with other units, pairs and fields of the configuration."""
        # PEFT sorts the JSON's keys, and the groups' order is the order of the stored rows
        units = {module: dict(sorted(groups.items())) for module, groups in sorted(units.items())}
        layout = {
            module: {group: len(group_units.rows) for group, group_units in groups.items()}
            for module, groups in units.items()
        }
        axes = {m: axis for m, axis in {**self.config.axes, **fields.pop("axes", {})}.items() if m in units}
        bare = frozenset(fields.pop("bare", self.bare)) & set(units)
        rank = fields.pop("rank", self.config.rank)
        ranks: dict[str, dict[str, int]] = {}
        for module, groups in units.items():
            for group, group_units in groups.items():
                if len(group_units.delta) > 1 and group_units.rank != rank:
                    ranks.setdefault(module, {})[group] = group_units.rank
        config = replace(self.config, pairs=list(pairs), layout=layout, axes=axes, rank=rank, ranks=ranks, rows=None,
                         **fields)  # fmt: skip
        return replace(self, config=config, units=units, bare=bare)


def check_free(folder: Path | str) -> Path:
    """Return a folder's full path.

    Raises:
        UserError: something is there already.
    """
    path = given_path(folder).absolute()
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"folder {folder} exists and is not empty; expected a new one; choose another, or remove it")
    for ancestor in (path, *path.parents):
        if ancestor.exists() and not ancestor.is_dir():
            raise UserError(f"{ancestor} is a file; expected the name of a new folder; choose another than {folder}")
    return path


@contextmanager
def new_folder(folder: Path | str) -> Iterator[Path]:
    """Yield a temporary folder to write in, which becomes `folder` at the end and is removed on any error.

    Raises:
        UserError: something is there already, or no folder can be made there.
    """
    path = check_free(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be made: {error.strerror}; choose another") from None
    with fresh(path) as part:
        try:
            part.mkdir()
        except OSError as error:
            raise UserError(f"folder {folder} cannot be made: {error.strerror}; choose another") from None
        yield part


def _kinds(delta: tuple[Tensor, ...]) -> tuple[str, ...]:
    return ("delta",) if len(delta) == 1 else ("up", "down")


def _parse(
    config: NeuroglotConfig, tensors: Mapping[str, Tensor], folder: Path
) -> tuple[dict[str, dict[str, Units]], frozenset[str]]:
    """Sort saved tensors by module and group."""
    rest, bare = dict(tensors), set()
    by_module: dict[str, dict[str, Units]] = {}

    def take(name: str, *shape: int | None) -> Tensor:
        value = rest.pop(name, None)
        if (
            value is None
            or value.dim() != len(shape)
            or any(w not in (None, s) for w, s in zip(shape, value.shape, strict=True))
        ):
            got = "it is missing" if value is None else f"it has shape {tuple(value.shape)}, expected {shape}"
            raise UserError(f"adapter {folder} does not fit its {CONFIG}: tensor {name}: {got}; save it again")
        return value

    for module, groups in config.layout.items():
        prefix = PREFIX + module
        if f"{prefix}.neuroglot_rows" not in rest:
            prefix = prefix.rpartition(".")[0]
            bare.add(module)
        counts = list(groups.values())
        rows = take(f"{prefix}.neuroglot_rows", sum(counts)).split(counts)
        if rows[0].dtype != torch.int32 or min(int(indices.min()) for indices in rows) < 0:
            raise UserError(f"adapter {folder}: the rows of {module} must be int32 from 0 on; save it again")
        biased = any(name.startswith(f"{prefix}.neuroglot_bias.") for name in rest)
        by_module[module] = {}
        for (group, count), indices in zip(groups.items(), rows, strict=True):
            rank = config.rank_of(module, group)
            wanted = {"delta": (count, None)} if rank is None else {"up": (count, rank), "down": (rank, None)}
            delta = tuple(take(f"{prefix}.neuroglot_{kind}.{KEY}{group}", *shape) for kind, shape in wanted.items())
            bias = take(f"{prefix}.neuroglot_bias.{KEY}{group}", count) if biased else None
            by_module[module][group] = Units(indices.clone(), delta, bias)
    if rest:
        raise UserError(f"adapter {folder} holds a tensor that its {CONFIG} does not name: {min(rest)}; save it again")
    return by_module, frozenset(bare)
