"""Contents of a model, from its configuration alone: parts, layers, neurons, and what is left out and why.

The model is built on the meta device, so that any size takes only seconds and little memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from neuroglot.models.families import PARTS, Family, family_of, image_token_id
from neuroglot.models.load import load_skeleton
from neuroglot.models.targets import keeps_some_logits
from neuroglot.neurons.ffn import feed_forwards
from neuroglot.neurons.inventory import Layer, inventory, matrix

VISION_ROWS = {
    "even": "each image, tile or crop has its own rows and as many image tokens as any other, which say whose it is",
    "tiles": "each image has as many tiles as its size gives; its image tokens, counted likewise, say whose it is",
    "packed": "the patches of all images lie on one axis; each image's size gives its rows and its image tokens",
}

REASONS = {
    "head": "LM head",
    "tied": "LM head, tied to the token embeddings",
    "embedding": "embeddings",
    "convolution": "convolution (patch embedding)",
    "attention": "torch MultiheadAttention, which reads its weights without calling a layer",
    "stack": "matrices stacked in one parameter (experts)",
    "nowhere": "in no part",
    "rest": "norms, scales, position tables",
}


def inspect(model: str, trust_remote_code: bool = False, parts: Mapping[str, Sequence[str]] | None = None) -> Any:
    """Return the contents of a model, as plain data.

    Args:
        model: `embedded`, a folder (weights are not needed), or a name on the hub.
        trust_remote_code: whether to run code that comes with the model.
        parts: part -> module prefixes, if it is not in the table of families.

    Returns:
        model, model_type, class, guessed, parameters; `parts`: part -> prefixes, layers, neurons, parameters (all of
        the part's), neuron_parameters (of its layers), ffn_blocks, ffn_units; `layers`: similar layers in one entry;
        `left_out`: part, reason, number and an example of parameters in no layer; `vision_rows`, `image_token`, and
        `logits`: the positions at which training and profiling compute them.

    Raises:
        UserError: there is no such model, it is of another kind, or a prefix is wrong.
    """
    skeleton = load_skeleton(model, trust_remote_code, parts)
    family = family_of(skeleton)
    present = [part for part in PARTS if _has_layer(skeleton, family, part)]
    layers = inventory(skeleton, present)
    blocks = feed_forwards(skeleton, present)
    sizes = dict.fromkeys(PARTS, 0)
    for name, parameter in skeleton.named_parameters():
        part = family.part_of(name)
        if part is not None:
            sizes[part] += parameter.numel()
    about = {}
    for part in PARTS:
        part_layers = [layer for layer in layers if layer.part == part]
        units = [block.units for block in blocks if block.part == part]
        about[part] = {
            "prefixes": list(family.prefixes(part)),
            "layers": len(part_layers),
            "neurons": sum(layer.neurons for layer in part_layers),
            "parameters": sizes[part],
            "neuron_parameters": sum(layer.neurons * (layer.inputs + layer.bias) for layer in part_layers),
            "ffn_blocks": len(units),
            "ffn_units": sum(units),
        }
    return {
        "model": model,
        "model_type": family.model_type,
        "class": type(skeleton).__name__,
        "guessed": family.guessed,
        "parameters": sum(parameter.numel() for parameter in skeleton.parameters()),
        "parts": about,
        "layers": _alike(layers),
        "left_out": _left_out(skeleton, family, layers),
        "vision_rows": VISION_ROWS[family.vision_rows],
        "logits": "target positions" if keeps_some_logits(skeleton) else "all positions",
        "image_token": {"attribute": family.image_token, "id": image_token_id(skeleton, family)},
    }


def _has_layer(model: nn.Module, family: Family, part: str) -> bool:
    linears = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return (part == "connector" and bool(family.bare)) or any(family.part_of(name) == part for name in linears)


def _alike(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return one entry for all layers whose names differ only in numbers, in the order of the model."""
    groups: dict[tuple[str, int, int], list[Layer]] = {}
    for layer in layers:
        name = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", layer.name)
        groups.setdefault((name, layer.neurons, layer.inputs), []).append(layer)
    return [
        {"name": name if len(group) > 1 else group[0].name, "part": group[0].part, "count": len(group)}
        | {"neurons": neurons, "inputs": inputs, "bias": group[0].bias, "bare": group[0].axis == 1}
        for (name, neurons, inputs), group in groups.items()
    ]


def _left_out(model: nn.Module, family: Family, layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return the parameters that are in no layer, by part and reason; the largest of a part first."""
    inside = {id(matrix(model, layer)) for layer in layers}
    for layer in layers:
        if layer.bias:
            inside.add(id(model.get_submodule(layer.name).bias))
    head = getattr(model, "get_output_embeddings", lambda: None)()
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    by_reason: dict[tuple[str, str], dict[str, Any]] = {}
    if head is not None and id(head.weight) in embeddings:
        by_reason["language", "tied"] = {"example": "lm_head", "parameters": 0}
    for module_name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{module_name}.{key}".lstrip(".")
            if id(parameter) in inside:
                continue
            inside.add(id(parameter))
            part = family.part_of(name)
            reason = "nowhere" if part is None else _reason(model, module_name, module, parameter, head)
            entry = by_reason.setdefault((part or "", reason), {"example": name, "parameters": 0})
            entry["parameters"] += parameter.numel()
    entries = [{"part": part, "reason": REASONS[reason], **entry} for (part, reason), entry in by_reason.items()]
    order = {part: index for index, part in enumerate((*PARTS, ""))}
    return sorted(entries, key=lambda entry: (order[entry["part"]], -entry["parameters"]))


def _reason(model: nn.Module, name: str, module: nn.Module, parameter: nn.Parameter, head: Any) -> str:
    owner = model.get_submodule(name.rpartition(".")[0])
    if module is head:
        return "head"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "convolution"
    if isinstance(module, nn.MultiheadAttention) or isinstance(owner, nn.MultiheadAttention):
        return "attention"
    return "stack" if parameter.dim() == 3 and min(parameter.shape) > 1 else "rest"
