"""Positions: which sample, token class and image each activation of a batch belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.errors import UserError, expect
from neuroglot.models.families import Family, image_token_id
from neuroglot.neurons.inventory import Layer
from neuroglot.pair import Condition

# ---- Vision rows: which image a row belongs to ----------------------------------------------------------------------
# A picture here is an image, or all tiles that it was cut into; pictures go through the tower in order. A layer's
# output holds the rows of the first picture, then those of the second, and so on, whether images have an axis of their
# own or all patches lie on one (Qwen, Pixtral). Qwen2.5 reorders rows by window inside its tower, but a window never
# covers two images, so a picture's rows stay together and their sum does not depend on the order. A connector that
# merges neighbouring patches (Qwen's mergers) keeps a fixed share of each picture's rows.
#
# The placeholder tokens tell the sample of a picture: each picture stands for a number of them that follows from its
# size, and they come in the same order as the pictures.
#
# Shapes: B samples, P pictures, R rows.

_HINT = "say how many images each sample has in inputs['images_per_sample']"


@dataclass(frozen=True)
class Pictures:
    """The pictures of a batch, in order.

    Attributes:
        rows: of each, how many rows it has in the tower, or any multiple that is the same for all.
        tokens: of each, how many placeholder tokens it stands for; None where all stand for the same number.
    """

    rows: list[int]
    tokens: list[int] | None = None


class VisionRows:
    """The rows of a batch's vision layers, by sample.

    Args:
        model: the model whose layers they are.
        family: its family.
        inputs: the batch; `images_per_sample` may say how many images (or tiles) each sample has.
        placeholders: image tokens of each sample; None where the model names no such token.
        samples: B.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        inputs: Mapping[str, Any],
        placeholders: Sequence[int] | None,
        samples: int,
    ) -> None:
        counts = inputs.get("images_per_sample")
        self._family, self._samples, self._placeholders = family, samples, placeholders
        self._given = None if counts is None else [int(count) for count in counts]
        self._videos = inputs.get("pixel_values_videos") is not None
        self._pictures = _pictures(model, family, inputs)
        self._means: dict[int, Tensor] = {}

    def mean(self, layer: Layer, value: Tensor) -> Tensor:
        """Return the mean over each sample's rows: [..., N] -> [B, N], zero for a sample that has none."""
        rows = value.reshape(-1, value.shape[-1])  # (R, N)
        return self._weights(layer, value).to(rows) @ rows

    def present(self, layer: Layer, value: Tensor) -> Tensor:
        """Return [B] bool: which samples have any row."""
        return self._weights(layer, value).any(1)

    def rows(self, layer: Layer, value: Tensor) -> Tensor:
        """Return [B, R] bool: which rows are each sample's."""
        return self._weights(layer, value) > 0

    def _weights(self, layer: Layer, value: Tensor) -> Tensor:
        """Return [B, R]: 1 / rows of the sample where the row is the sample's, else 0."""
        count = value.shape[:-1].numel()
        if count not in self._means:
            owner = torch.tensor(self._owners(layer, value, count))
            mine = owner == torch.arange(self._samples).unsqueeze(1)  # (B, R)
            means = mine / mine.sum(1, keepdim=True).clamp(min=1).double()
            self._means[count] = means.to(value.device, torch.promote_types(value.dtype, torch.float32))
        return self._means[count]

    def _owners(self, layer: Layer, value: Tensor, count: int) -> list[int]:
        """Return the sample of each of a layer's rows."""
        if self._videos:
            raise UserError("a batch holds videos, which cannot be profiled; expected images; leave the videos out")
        pictures = self._pictures or Pictures([1] * len(value))
        total = sum(pictures.rows)
        if any(rows * count % total for rows in pictures.rows):
            raise UserError(
                f"{layer.name} yields {count} rows for {len(pictures.rows)} images that have {total} in all; expected "
                "the same share of each; leave the layer's part out"
            )
        owners, shares = self._divide(pictures)
        return [owner for owner, rows in zip(owners, shares, strict=True) for _ in range(rows * count // total)]

    def _divide(self, pictures: Pictures) -> tuple[list[int], list[int]]:
        """Return the sample of each picture, and the pictures' rows."""
        number, rows = len(pictures.rows), pictures.rows
        if self._given is not None:
            if len(self._given) == self._samples and sum(self._given) != number and sum(self._given) == sum(rows):
                number, rows = sum(rows), [1] * sum(rows)  # they count tiles
            if len(self._given) != self._samples or sum(self._given) != number:
                raise UserError(
                    f"images_per_sample is {self._given}; expected {self._samples} counts that add up to {number} "
                    "images"
                )
            return [sample for sample, count in enumerate(self._given) for _ in range(count)], rows
        if self._placeholders is None:
            if number % self._samples:
                raise UserError(f"{number} images cannot be divided among {self._samples} samples; {_HINT}")
            return [picture * self._samples // number for picture in range(number)], rows
        tokens = pictures.tokens
        if tokens is None:
            tokens = [sum(self._placeholders) // number] * number
        owners = _walk(tokens, self._placeholders)
        if owners is None:
            sizes = f"; the images' sizes stand for {tokens}" if pictures.tokens else ""
            raise UserError(
                f"{number} images do not fit image tokens per sample of {list(self._placeholders)}{sizes}; expected "
                f"{'as many' if pictures.tokens else 'the same number of'} tokens for each image; {_HINT}"
            )
        return owners, rows


def _walk(tokens: Sequence[int], placeholders: Sequence[int]) -> list[int] | None:
    """Deal pictures to samples in order, each taking its tokens; None if the numbers do not fit."""
    owners, sample, left = [], -1, 0
    for count in tokens:
        while not left and sample + 1 < len(placeholders):
            sample += 1
            left = placeholders[sample]
        if not 0 < count <= left:
            return None
        left -= count
        owners.append(sample)
    return None if left or any(placeholders[sample + 1 :]) else owners


def _pictures(model: Any, family: Family, inputs: Mapping[str, Any]) -> Pictures | None:
    """Return a batch's pictures; None where only a layer's first axis tells, or where there are none."""
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return None
    if inputs.get("image_grid_thw") is not None:
        return _grids(model, inputs["image_grid_thw"])
    if family.vision_rows == "packed" or getattr(model.config.vision_config, "model_type", "") == "pixtral":
        return _sizes(model, _wanted(inputs, "image_sizes", family))
    if family.vision_rows == "tiles":
        return _tiles(model, _wanted(inputs, "image_sizes", family), inputs.get("batch_num_images"))
    # Of [B, images, ...] the tower leaves padding images out (Idefics).
    return Pictures([1] * len(pixels)) if pixels.dim() == 4 else None


def _wanted(inputs: Mapping[str, Any], key: str, family: Family) -> Tensor:
    if inputs.get(key) is None:
        raise UserError(f"a batch of {family.model_type} has images but no {key}; expected what its processor returns")
    return torch.as_tensor(inputs[key])


def _grids(model: Any, grids: Tensor) -> Pictures:
    """Qwen: [P, 3] patches in time, height and width; a square of neighbours is merged into one token."""
    rows = [int(grid.prod()) for grid in grids]
    merged = model.config.vision_config.spatial_merge_size**2
    return Pictures(rows, [count // merged for count in rows])


def _sizes(model: Any, sizes: Tensor) -> Pictures:
    """Pixtral: [P, 2] height and width in pixels."""
    config = model.config
    patch, merge = config.vision_config.patch_size, getattr(config, "spatial_merge_size", 1)
    rows = [(height // patch) * (width // patch) for height, width in sizes.tolist()]
    return Pictures(rows, [count // merge**2 for count in rows])


def _tiles(model: Any, sizes: Tensor, images: Tensor | None) -> Pictures:
    """LLaVA-NeXT: [P, 2] height and width, which give the tiles and what remains of them after unpadding.

    `images` [B] is LLaVA-OneVision's: only the image of a sample that has no other is cut into tiles.
    """
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    config = model.config
    tower = config.vision_config
    cut = [True] * len(sizes) if images is None else [count == 1 for count in images.tolist() for _ in range(count)]
    rows = [
        image_size_to_num_patches(size.tolist(), config.image_grid_pinpoints, tower.image_size) if is_cut else 1
        for size, is_cut in zip(sizes, cut, strict=True)
    ]
    # The model's own packing, of features of width one, says how many tokens each picture leaves.
    side = tower.image_size // tower.patch_size
    features = [torch.empty(count, side * side, 1) for count in rows]
    key = "vision_aspect_ratio" if hasattr(config, "vision_aspect_ratio") else "vision_feature_select_strategy"
    pack: Any = getattr(model, "model", model).pack_image_features
    _, lengths = pack(features, sizes, image_newline=torch.empty(1), **{key: getattr(config, key)})
    return Pictures(rows, lengths.tolist())


# ---- Positions of tokens --------------------------------------------------------------------------------------------
# Language activations are [samples, tokens, neurons]; for rows of the vision part and the connector, see `VisionRows`.
#
# Shapes: B samples, T tokens, N neurons, C token classes.

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
    """Return the tensors of the forward, on the model's device; images require grad so that their part has one."""
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

        In the vision part and the connector the value has the rows of the batch's images, in any layout.
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
        """Yield a sample, the indices of its rows in a value [..., N], and [C, rows], which of them a class holds."""
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
