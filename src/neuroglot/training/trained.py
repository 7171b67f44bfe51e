"""What of a prepared model is trained: which parameters of the base, how many numbers in which layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from peft import PeftModel
from torch import nn

from neuroglot.errors import UserError
from neuroglot.models.families import PARTS, family_of
from neuroglot.tuner.competitors.vectors import VectorLayer

_WRAP = "base_model.model."


def trained_names(model: nn.Module) -> set[str]:
    """Return the names of the base's own parameters that a training changes, in the end, when all is merged.

    None of a prompt, which adds to the base, nor of LoRA and DoRA, as long as they are not merged.
    """
    if not isinstance(model, PeftModel):
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        f"{name}.{own}"
        for name, layer in model.get_base_model().named_modules()
        if isinstance(layer, VectorLayer)
        for adapter in layer.active_adapters
        for own in cast(nn.ParameterDict, layer.neuroglot_vectors[adapter])
    }


def layer_entries(model: nn.Module, layers: Sequence[str]) -> dict[str, int]:
    """Return layer -> how many numbers are trained in it: of its own or of factors beside it; left out where none."""
    known, found = set(layers), Counter[str]()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = name.removeprefix(_WRAP)
        while owner and owner not in known:
            owner = owner.rpartition(".")[0]
        if owner:
            found[owner] += parameter.numel()
    return dict(found)


def trained_vectors(model: nn.Module) -> str:
    """Say in one line what a small method trains, by part; a part of which it trains nothing is named as well."""
    if not isinstance(model, PeftModel):
        raise UserError("trained_vectors: expected a model that an adapter was put around")
    config = model.peft_config["default"]
    layout = getattr(config, "layout", None)
    if layout is None:
        return f"prompt: {getattr(config, 'tokens', 0)} vectors in front"
    family = family_of(model.get_base_model())
    counts = Counter(family.part_of(module) or "elsewhere" for module, names in layout.items() for _ in names)
    shown = [f"{part} {counts[part]:,}" if counts[part] else f"{part} none" for part in PARTS]
    return f"vectors trained: {', '.join(shown)}" + (
        f", elsewhere {counts['elsewhere']:,}" * (counts["elsewhere"] > 0)
    )
