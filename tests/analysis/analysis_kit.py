"""A finished smoke run as a setting, and samples of it."""

from __future__ import annotations

from pathlib import Path

import torch

from neuroglot.analysis.context import Setting
from neuroglot.config.load import load_recipe
from neuroglot.pipeline.context import Context


def setting_of(folder: Path, items: int = 4, seeds: int = 2, ablate: str = "zero", **sections) -> Setting:
    """A setting of a run; `sections` replace fields of the recipe's sections."""
    recipe = load_recipe(folder / "recipe.yaml")
    for name, fields in sections.items():
        recipe = recipe.model_copy(update={name: getattr(recipe, name).model_copy(update=fields)})
    context = Context(recipe, folder, lambda label, total: lambda done: None, print)
    return Setting(context, items, seeds, ablate)


def own_outputs(model, name: str, batches) -> torch.Tensor:
    """The mean output [N] of a language layer, one unpadded sample at a time: over its tokens, then over samples."""
    rows = []
    hook = model.get_submodule(name).register_forward_hook(lambda module, args, output: rows.append(output[0].mean(0)))
    try:
        with torch.no_grad():
            for batch in batches:
                inputs = {key: x for key, x in batch.inputs.items() if key != "labels"}
                model(**inputs)
    finally:
        hook.remove()
    return torch.stack(rows).mean(0)
