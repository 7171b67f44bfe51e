"""Positions: which activations of a batch belong to which sample and token class.

Language activations are [samples, tokens, neurons]; those of the vision part and the connector are [images, tokens,
neurons], and whose image is whose follows from the placeholder tokens. A family that packs all images on one axis
(Qwen) needs its own map from vision rows to samples: its place is `Positions.average`, chosen by `vision_rows`.

Shapes: B samples, T tokens, N neurons, C token classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.errors import UserError
from neuroglot.models.families import Family, image_token_id
from neuroglot.neurons.inventory import Layer
from neuroglot.pair import Condition

CLASSES = ("all", "image", "prompt", "target")


def unpack(batch: Sequence[Any]) -> tuple[dict[str, Any], Condition, tuple[str, ...]]:
    """Return inputs, condition and items of a batch; the items are () where the batch names none."""
    if len(batch) < 2:
        raise UserError(f"a batch has {len(batch)} entries; expected (inputs, condition) and perhaps items")
    inputs, condition, *rest = batch
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


def check_vision_rows(family: Family, layers: Sequence[Layer]) -> None:
    """Raise a UserError if the layers hold vision rows that cannot be mapped to samples."""
    if family.vision_rows == "packed" and any(layer.part != "language" for layer in layers):
        raise UserError(
            f"{family.model_type} packs the vision tokens of all images on one axis, which cannot be mapped to "
            "samples yet; expected parts=language for this family; leave vision and connector out"
        )


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
        self._placeholders = image.sum(1).tolist() if token is not None else None
        self._given = inputs.get("images_per_sample")
        self._family = family
        self._owned: dict[int, Tensor] = {}

    def average(self, layer: Layer, value: Tensor) -> Tensor:
        """Return the mean of a value over each sample's tokens: [B, T, N] (or [images, T, N]) -> [B, C, N]."""
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
        per_image = value.reshape(value.shape[0], -1, value.shape[-1]).mean(1)  # (images, N)
        counts = self._images(layer, value)
        owner = torch.arange(len(counts), device=value.device).repeat_interleave(counts)
        per_sample = per_image.new_zeros(len(counts), per_image.shape[1]).index_add_(0, owner, per_image)
        per_sample = per_sample / counts.clamp(min=1).unsqueeze(1)
        return per_sample.unsqueeze(1) * self.present.to(value).unsqueeze(2)

    def counted(self, layer: Layer, value: Tensor) -> Tensor:
        """Return [B] bool: which samples have any row in a layer."""
        return self._held.any(1) if layer.part == "language" else self._images(layer, value) > 0

    def _images(self, layer: Layer, value: Tensor) -> Tensor:
        """Return [B]: how many of the images on the first axis each sample owns, in order."""
        images = len(value)
        if images not in self._owned:
            self._owned[images] = torch.tensor(self._divide(images))
        return self._owned[images].to(value.device)

    def _divide(self, images: int) -> list[int]:
        samples = len(self._held)
        hint = "give inputs['images_per_sample']"
        if self._given is not None:
            counts = [int(count) for count in self._given]
            if len(counts) != samples or sum(counts) != images:
                raise UserError(
                    f"images_per_sample is {counts}; expected {samples} counts that add up to {images} images"
                )
            return counts
        if self._family.vision_rows == "tiles":
            raise UserError(
                f"{self._family.model_type} cuts images into tiles, {images} in this batch; "
                f"expected the number of tiles of each sample; {hint}"
            )
        if self._placeholders is None:
            if images % samples:
                raise UserError(f"{images} images cannot be divided among {samples} samples; {hint}")
            return [images // samples] * samples
        each, rest = divmod(sum(self._placeholders), images)
        if rest or not each or any(held % each for held in self._placeholders):
            raise UserError(
                f"{images} images do not fit image tokens per sample of {self._placeholders}; "
                f"expected the same number of tokens for each image; {hint}"
            )
        return [held // each for held in self._placeholders]
