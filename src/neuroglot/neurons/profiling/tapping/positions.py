"""Positions: which activations of a batch belong to which sample and token class.

Language activations are [samples, tokens, neurons]; whose the rows of the vision part and the connector are,
`vision_rows` tells.

Shapes: B samples, T tokens, N neurons, C token classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.errors import UserError, expect
from neuroglot.models.families import Family, image_token_id
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.tapping.vision_rows import VisionRows
from neuroglot.pair import Condition

CLASSES = ("all", "image", "prompt", "target")


def unpack(batch: Sequence[Any]) -> tuple[dict[str, Any], Condition, tuple[str, ...]]:
    """Return inputs, condition and items of a batch; the items are () where the batch names none."""
    form = "(inputs, condition) or (inputs, condition, items)"
    expect("a batch", batch, (tuple, list), form)
    if len(batch) < 2:
        raise UserError(f"a batch has {len(batch)} entries; expected {form}")
    inputs, condition, *rest = batch
    expect("the inputs of a batch", inputs, Mapping, "a mapping of tensors with input_ids and labels")
    expect("the condition of a batch", condition, (str, Condition), "task and pair, such as image_translation:en-de")
    condition = condition if isinstance(condition, Condition) else Condition.parse(str(condition))
    for key in ("input_ids", "labels"):
        if key not in inputs:
            raise UserError(f"a batch of {condition} has no {key}; expected it beside {', '.join(inputs)}")
    items = tuple(rest[0]) if rest else ()
    if items and len(items) != len(inputs["input_ids"]):
        raise UserError(f"a batch of {condition} names {len(items)} items for {len(inputs['input_ids'])} samples")
    return dict(inputs), condition, items


def forward_inputs(model: nn.Module, inputs: Mapping[str, Any], gradient: bool) -> dict[str, Tensor]:
    """Return the tensors of the forward, on the model's device; the images require grad so that their part has one."""
    device = next(model.parameters()).device
    skip = ("labels", "images_per_sample")
    tensors = {key: x.to(device) for key, x in inputs.items() if isinstance(x, Tensor) and key not in skip}
    for key, x in tensors.items():
        if gradient and key.startswith("pixel_values") and x.is_floating_point():
            tensors[key] = x.detach().requires_grad_()
    return tensors


class Positions:
    """Which activations of a batch belong to which sample and token class.

    Attributes:
        present: [B, C] bool, whether the sample holds a token of the class.
    """

    def __init__(self, model: nn.Module, family: Family, inputs: Mapping[str, Any], classes: Sequence[str]) -> None:
        device = next(model.parameters()).device
        ids = inputs["input_ids"].to(device)  # (B, T)
        mask = inputs.get("attention_mask")
        held = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(device) != 0
        token = image_token_id(model, family)
        image = (ids == token) & held if token is not None else torch.zeros_like(held)
        target = (inputs["labels"].to(device) != -100) & held
        if token is None and "image" in classes:
            raise UserError(
                f"token class 'image' is not known for {family.model_type}, which names no image token; "
                "use all, prompt or target"
            )
        by_class = {"all": held, "image": image, "target": target, "prompt": held & ~image & ~target}
        self._masks = torch.stack([by_class[name] for name in classes], 1)  # (B, C, T)
        self.present = self._masks.any(2)
        self._held = held
        self._padded = not bool(held.all())
        placeholders = image.sum(1).tolist() if token is not None else None
        self._vision = VisionRows(model, family, inputs, placeholders, len(ids))

    def average(self, layer: Layer, value: Tensor) -> Tensor:
        """Return the mean of a value over each sample's tokens: [B, T, N] -> [B, C, N].

        In the vision part and the connector the value has the rows of the batch's images, however they lie.
        """
        if layer.part == "language":
            B, T = self._held.shape
            if value.shape[:-1].numel() != B * T:
                raise UserError(
                    f"{layer.name} yields shape {tuple(value.shape)}; expected one row for each of {B} x {T} input "
                    "tokens; leave the layer's part out"
                )
            value = value.reshape(B, T, -1)
            if self._padded:  # padding may hold anything, and 0 * inf is not 0
                value = value.masked_fill(~self._held.to(value.device).unsqueeze(2), 0)
            masks = self._masks.to(value)
            return torch.bmm(masks, value) / masks.sum(2, keepdim=True).clamp(min=1)
        return self._vision.mean(layer, value).unsqueeze(1) * self.present.to(value).unsqueeze(2)

    def by_sample(self, layer: Layer, value: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield sample, which of a value's rows [..., N] are its own, and [C, rows], which of them a class holds."""
        device = value.device
        if layer.part == "language":
            T = self._held.shape[1]
            for sample, masks in enumerate(self._masks.to(device)):
                yield sample, torch.arange(sample * T, (sample + 1) * T, device=device), masks
            return
        for sample, mine in enumerate(self._vision.rows(layer, value)):
            rows = mine.nonzero()[:, 0]
            yield sample, rows, self.present[sample].to(device).unsqueeze(1).expand(-1, len(rows))

    def counted(self, layer: Layer, value: Tensor) -> Tensor:
        """Return [B] bool: which samples have any row in a layer."""
        return self._held.any(1) if layer.part == "language" else self._vision.present(layer, value)
