"""Export: an adapter as an ordinary LoRA, exactly, for programs that know PEFT but not this package.

Shape suffixes: k units of a group, r a rank, R the export's uniform rank, I inputs, O outputs.

The delta of k dense output rows is a product of rank k: B scatters, A holds the rows. For k input columns A gathers
and B holds the columns. Low-rank groups use their own two factors, filled up with zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor, nn

from neuroglot.errors import UserError, nearest
from neuroglot.file_format import write_text
from neuroglot.tuner.adapter import PREFIX, WEIGHTS, Adapter, Shape, Units, check_free, new_folder, shapes_of

INSTEAD = "merge the adapter into its base instead (neuroglot merge)"
BIASES = ("strict", "everywhere")


def to_lora(
    adapter: Adapter, shapes: Mapping[str, Shape], biases: str = "strict"
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return an adapter as a LoRA of PEFT: its configuration and its tensors under the names that PEFT reads.

    The rank is the same for every module, the largest that one of them needs, and the others are filled up with
    zeros; alpha equals it, so that nothing is scaled.

    Args:
        adapter: what to convert.
        shapes: of the base model's layers.
        biases: PEFT has biases in all layers of a LoRA or in none. With `everywhere`, layers without a bias get zeros
            if any biases are trained: PEFT runs such a LoRA, and warns that it cannot merge it.

    Raises:
        UserError: the adapter holds what LoRA cannot: a bare matrix, or (`strict`) trained biases beside layers
            without one; or it does not fit the shapes.
    """
    if biases not in BIASES:
        raise UserError(f"export: biases {biases!r} is not known; {nearest(biases, BIASES)}")
    for module in adapter.units:
        if shapes[module].kind == "matrix":
            raise UserError(f"export: {module} is a bare matrix, and LoRA in PEFT wants a Linear; {INSTEAD}")
    factors = {module: _factors(adapter, module, shapes[module]) for module in adapter.units}
    biased = _trains_biases(adapter)
    without = [module for module in adapter.units if not shapes[module].bias]
    if biased and without and biases == "strict":
        raise UserError(
            f"export: the adapter trained biases ({biased}), but {without[0]} has none, and PEFT has biases in all "
            f"layers of a LoRA or in none; {INSTEAD}, or export with biases everywhere, which PEFT cannot merge"
        )
    rank = max(len(a_rI) for a_rI, _ in factors.values())
    tensors = {}
    for module, (a_rI, b_Or) in factors.items():
        missing = rank - len(a_rI)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.cat([a_rI, a_rI.new_zeros(missing, a_rI.shape[1])])
        tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.cat([b_Or, b_Or.new_zeros(len(b_Or), missing)], dim=1)
        if biased:
            tensors[f"{PREFIX}{module}.lora_B.bias"] = _bias(adapter, module, shapes[module])
    names = "|".join(re.escape(module) for module in sorted(adapter.units))
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=f"(?:{names})",  # PEFT matches all of a name with a pattern, but only the end of it with a list
        lora_bias=bool(biased),
        init_lora_weights=False,
        fan_in_fan_out=all(shapes[module].kind == "conv1d" for module in adapter.units),
        base_model_name_or_path=adapter.config.base_model_name_or_path,
        revision=adapter.config.revision,
        task_type=adapter.config.task_type,
        inference_mode=True,
    )
    return config, tensors


def export_lora(
    adapter_folder: Path | str, out_folder: Path | str, base: nn.Module | None = None, biases: str = "strict"
) -> None:
    """Write an adapter as a folder of PEFT's own LoRA.

    Args:
        adapter_folder: the adapter.
        out_folder: where to write; it must be empty or new.
        base: its base model, also on the meta device; by default the one that the adapter names.
        biases: `strict` or `everywhere`, see `to_lora`.

    Raises:
        UserError: there is no adapter, LoRA cannot express it, or the folder is taken.
    """
    from safetensors.torch import save_file

    check_free(out_folder)
    adapter = Adapter.load(adapter_folder)
    if base is None:
        from neuroglot.models.load import load_skeleton

        if not adapter.config.base_model_name_or_path:
            raise UserError(f"adapter {adapter_folder} does not name its base model; give it")
        base = load_skeleton(adapter.config.base_model_name_or_path)
    config, tensors = to_lora(adapter, shapes_of(base, adapter.units), biases)
    with new_folder(out_folder) as part:
        config.save_pretrained(str(part))
        save_file({name: value.contiguous() for name, value in tensors.items()}, part / WEIGHTS, {"format": "pt"})
        write_text(part / "README.md", _card(adapter, config))


def _trains_biases(adapter: Adapter) -> str:
    """Return a module with a bias delta that is not zero; an empty text where there is none."""
    return next((module for module, _, units in adapter if units.bias is not None and bool(units.bias.any())), "")


def _factors(adapter: Adapter, module: str, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return a module's A [r, I] and B [O, r]."""
    outputs = shape.units_are_outputs(adapter.config.axes.get(module, 0))
    size, width = (shape.outputs, shape.inputs) if outputs else (shape.inputs, shape.outputs)
    scattered, values = [], []
    for group, units in adapter.units[module].items():
        if units.width != width or bool((units.rows < 0).any()) or int(units.rows.max()) >= size:
            raise UserError(
                f"export: {module}: group {group} has units of {units.width} entries, the last at "
                f"{int(units.rows.max())}; expected {width} entries and units below {size}; give the base model that "
                "the adapter was trained on"
            )
        scattered.append(_scattered(units, size))
        values.append(units.delta[-1])
    across, along = torch.cat(scattered, dim=1), torch.cat(values)  # [size, r] and [r, width]
    return (along, across) if outputs else (across.T, along.T)


def _scattered(units: Units, size: int) -> Tensor:
    """Return [size, r]: the first factor, or ones where the delta is dense, at the units' indices."""
    dense = units.delta[-1]
    first = units.delta[0] if len(units.delta) > 1 else torch.eye(len(units.rows), dtype=dense.dtype)
    return dense.new_zeros(size, first.shape[1]).index_copy_(0, units.rows.long(), first)


def _bias(adapter: Adapter, module: str, shape: Shape) -> Tensor:
    """Return [O]: a module's bias deltas at their indices."""
    bias = next(iter(adapter.units[module].values())).delta[0].new_zeros(shape.outputs)
    for units in adapter.units[module].values():
        if units.bias is not None:
            bias.index_copy_(0, units.rows.long(), units.bias)
    return bias


def _card(adapter: Adapter, config: LoraConfig) -> str:
    base = config.base_model_name_or_path or "BASE"
    rows = sum(len(units.rows) for _, _, units in adapter)
    return f"""---
base_model: {base}
library_name: peft
tags:
- lora
---

# Chosen neurons, as a LoRA

An ordinary LoRA of rank {config.r} and alpha {config.r}, made by `neuroglot export` from an adapter that had trained
{rows:,} rows (or columns) in {len(adapter.units)} layers for the pairs {", ".join(adapter.pairs)}. Its product is that
adapter's delta; every other weight is that of the base model. PEFT alone loads it:

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

model = AutoModelForImageTextToText.from_pretrained({base!r})
model = PeftModel.from_pretrained(model, "path/to/this/folder")
```

It is for use, not for training on: LoRA trains all rows that its rank reaches, the adapter that it was made from only
the chosen ones.
"""
