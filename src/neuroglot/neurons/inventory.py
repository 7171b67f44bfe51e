"""Inventory: the layers and neurons of a model, by part. A layer is one weight matrix, a neuron one of its rows."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from neuroglot.errors import UserError, expect, nearest
from neuroglot.models.families import PARTS, Family, family_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """One weight matrix of a model, or one feed-forward block whose units are taken as its neurons.

    Attributes:
        name: the full name of the module, of a bare matrix that of its parameter.
        part: `vision`, `connector` or `language`.
        neurons: outputs of the matrix, which are its rows; of a block, its intermediate units.
        inputs: columns; of a block, how many weights one unit holds.
        bias: whether each neuron has a bias entry as well.
        axis: 1 where the matrix is stored as [inputs, neurons].
        reads: of a block, the matrices whose rows its units are; a fused one holds two rows of each.
        writes: of a block, the matrix whose columns they are; empty for a matrix.
    """

    name: str
    part: str
    neurons: int
    inputs: int
    bias: bool
    axis: int = 0
    reads: tuple[str, ...] = ()
    writes: str = ""


def check_parts(parts: Iterable[str]) -> tuple[str, ...]:
    """Return the parts in the order of the model, or raise a UserError on an unknown or an empty choice."""
    asked = (parts,) if isinstance(parts, str) else tuple(parts)
    for part in asked:
        if part not in PARTS:
            raise UserError(f"part {part!r} is not known; {nearest(part, PARTS)}")
    if not asked:
        raise UserError(f"parts is empty; expected one or more of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in asked)


def inventory(model: nn.Module, parts: Sequence[str] = PARTS, include: Sequence[str] = ()) -> tuple[Layer, ...]:
    """Return the layers of the requested parts, in the order of the model's modules.

    A layer is an `nn.Linear`, or a bare matrix that the family lists. Left out are the patch embedding, which is
    a convolution; what lies in a torch `MultiheadAttention`, which reads its weights without calling a layer; the LM
    head, unless `include` names it; and any matrix tied to an embedding. A matrix that two modules share counts once,
    under its first name.

    Args:
        model: a transformers image-text-to-text model without an adapter.
        parts: which parts to list.
        include: exact names of layers to list although they are left out by default.

    Raises:
        UserError: a requested part has no layer, a name in `include` is no layer, or the model holds an adapter.
    """
    expect("model", model, nn.Module, "a transformers image-text-to-text model, such as load_model returns")
    parts = check_parts(parts)
    include = (include,) if isinstance(include, str) else include
    family = family_of(model)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            linears.pop(f"{name}.out_proj", None)
    wrapped = next((name for name in linears if name.endswith(".base_layer")), None)
    if wrapped is not None:
        raise UserError(
            f"the model holds an adapter at {wrapped.removesuffix('.base_layer')}; expected the base model; "
            "take the inventory before the adapter is added, or unload it first"
        )
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for name in include:
        if name not in linears:
            raise UserError(f"layer {name!r} to include is no nn.Linear of this model; {nearest(name, linears)}")
        if id(linears[name].weight) in embedded:
            raise UserError(
                f"layer {name!r} to include is tied to an embedding; expected a matrix of its own; untie it or drop it"
            )
        if family.part_of(name) not in parts:
            raise UserError(
                f"layer {name!r} to include lies in part {family.part_of(name)}; expected one of the requested parts "
                f"{', '.join(parts)}; request its part too"
            )

    layers, seen = [], set(embedded)
    bare = dict(bare_matrices(model, family))
    for name, module in model.named_modules():
        part = family.part_of(name)
        if name in linears:
            linear = linears[name]
            if part is None:
                _log.info("%s belongs to no part of family %s and is left out", name, family.model_type)
            if part not in parts or id(linear.weight) in seen or (linear is head and name not in include):
                continue
            seen.add(id(linear.weight))
            layers.append(Layer(name, part, linear.out_features, linear.in_features, linear.bias is not None))
        for key, parameter in module.named_parameters(prefix=name, recurse=False):
            if key in bare and part in parts:
                axis = bare[key]
                layers.append(Layer(key, part, parameter.shape[axis], parameter.shape[1 - axis], False, axis))
    for part in parts:
        if not any(layer.part == part for layer in layers):
            rest = tuple(other for other in parts if any(layer.part == other for layer in layers))
            raise UserError(
                f"part {part} of this {family.model_type} model has no layer: no nn.Linear lies under "
                f"{', '.join(family.prefixes(part))}; leave the part out with parts={','.join(rest)}"
            )
    return tuple(layers)


def bare_matrices(model: nn.Module, family: Family) -> list[tuple[str, int]]:
    """Return the full parameter names of the family's bare matrices that this model has, with their orientation."""
    names = dict(model.named_parameters())
    return [
        (name, axis)
        for bare, axis in family.bare
        for name in (bare, f"model.{bare}")
        if name in names and names[name].dim() == 2
    ]


def matrix(model: nn.Module, layer: Layer) -> nn.Parameter:
    """Return a layer's weight as it is stored: [neurons, inputs], with `axis` 1 [inputs, neurons]."""
    return model.get_parameter(layer.name if layer.axis else f"{layer.name}.weight")


def module_of(model: nn.Module, layer: Layer) -> nn.Module:
    """Return the module whose output is the layer's; it may be the wrapper of an adapter."""
    return model.get_submodule(layer.name.rpartition(".")[0] if layer.axis else layer.name)


def fingerprint(model: nn.Module, layers: Sequence[Layer]) -> str:
    """Return a hash of the layers' names and shapes and of 64 spread entries of each weight.

    The entries are taken in bfloat16, so that a model has the same hash in float32 and in bfloat16.
    """
    digest = hashlib.sha256()
    for layer in layers:
        weight = matrix(model, layer).detach().flatten()
        some = weight[:: max(1, weight.numel() // 64)][:64].to(torch.bfloat16).view(torch.int16).cpu()
        digest.update(f"{layer.name} {layer.neurons} {layer.inputs}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]
