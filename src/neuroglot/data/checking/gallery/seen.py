"""One batch as the model sees it: the tokens with their label mask, and the pixels that the processor left.

B batch, L tokens. Nothing is computed a second time from the examples: tokens, labels and pixels are those of the
tensors that `Batcher.encode` returns, and the pixels are taken back to colours by the processor's own mean, standard
deviation and scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example

IGNORED = -100
"""The label of a token that is not trained."""

SPACES = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
"""What stands for a token that is nothing else."""


@dataclass(frozen=True)
class Chip:
    """A token, or a run of image tokens or of padding.

    Attributes:
        text: what the tokenizer makes of it.
        kind: `trained`, `masked`, `image` or `padding`.
        ids: its token ids.
        special: whether it is a special token.
    """

    text: str
    kind: str
    ids: tuple[int, ...]
    special: bool = False


@dataclass(frozen=True)
class Sample:
    """A row of the batch: its example, its chips in order, and its images as RGB pixels."""

    example: Example
    chips: tuple[Chip, ...]
    pictures: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class Seen:
    """A batch.

    Attributes:
        samples: its rows.
        shapes: tensor -> its shape and type, as the model gets them.
        remark: what cannot be shown; empty if all is.
    """

    samples: tuple[Sample, ...]
    shapes: dict[str, str]
    remark: str = ""


def see(batcher: Batcher, examples: Sequence[Example]) -> Seen:
    """Encode examples as training does, and return what the model gets.

    Args:
        batcher: the recipe's.
        examples: of one pair; all with images or all without.

    Raises:
        UserError: one of them cannot be encoded.
    """
    inputs = batcher.encode(examples)
    pictures, remark = _pictures(batcher, examples, inputs)
    rows = zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True)
    samples = tuple(
        Sample(example, tuple(_chips(batcher, *(row.tolist() for row in each))), shown)
        for example, each, shown in zip(examples, rows, pictures, strict=True)
    )
    shapes = {
        name: f"{' × '.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
    return Seen(samples, shapes, remark)


# ---- tokens -------------------------------------------------------------------------------------------------------


def _chips(batcher: Batcher, ids: list[int], attention: list[int], labels: list[int]) -> list[Chip]:
    image = image_token(batcher.processor)
    special = set(batcher.tokenizer.all_special_ids)
    chips: list[Chip] = []
    for token, real, label in zip(ids, attention, labels, strict=True):
        if label != IGNORED:
            kind = "trained"
        else:
            kind = "padding" if not real else "image" if token == image else "masked"
        if kind in ("padding", "image") and chips and chips[-1].kind == kind:
            chips[-1] = Chip(kind, kind, (*chips[-1].ids, token))
            continue
        text = kind if kind in ("padding", "image") else _text(batcher.tokenizer, token)
        chips.append(Chip(text, kind, (token,), token in special))
    return chips


def image_token(processor: Any) -> int | None:
    """Return the id of the token that stands for a piece of an image; None if the processor does not say.

    The tokenizer is asked first: of Gemma3's processor the image token is the one that opens an image.
    """
    known = getattr(processor.tokenizer, "image_token_id", None)
    if known is None:
        known = getattr(processor, "image_token_id", None)
    if known is None and (text := getattr(processor, "image_token", None)):
        known = processor.tokenizer.convert_tokens_to_ids(str(text))
    return None if known is None else int(known)


def _text(tokenizer: Any, token: int) -> str:
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    raw = str(tokenizer.convert_ids_to_tokens(token))
    if not text or "\ufffd" in text:  # a piece of a character
        return raw
    if raw[:1] in ("▁", "Ġ") and not text[:1].isspace():  # some decoders drop the space before a first word
        text = f" {text}"
    return "".join(SPACES.get(c, c) for c in text)


# ---- pixels -------------------------------------------------------------------------------------------------------


def _pictures(
    batcher: Batcher, examples: Sequence[Example], inputs: dict[str, Any]
) -> tuple[list[tuple[NDArray[np.uint8], ...]], str]:
    """Return each example's images, or tiles of images, as the model gets them.

    How many of the tensor's rows belong to an example depends on the family; encoding it alone tells.
    """
    nothing: list[tuple[NDArray[np.uint8], ...]] = [() for _ in examples]
    if not any(example.images for example in examples):
        return nothing, ""
    whole = inputs.get("pixel_values")
    if not isinstance(whole, torch.Tensor):
        return nothing, "this processor's pixels are not one tensor, so that they are not shown"
    processor = getattr(batcher.processor, "image_processor", None)
    tiles = _tiles(inputs, processor)
    single = tiles is not None and len(tiles) == len(examples) == sum(len(e.images) for e in examples)
    own = [1 if single else len(_tiles(batcher.encode([e]), processor) or ()) for e in examples]
    if tiles is None or sum(own) != len(tiles):
        return nothing, f"pixels of shape {tuple(whole.shape)} are laid out in a way that is not known here"
    rows = iter(tiles)
    return [tuple(_colours(next(rows), processor) for _ in range(count)) for count in own], ""


def _tiles(inputs: dict[str, Any], processor: Any) -> list[torch.Tensor] | None:
    """Return images or tiles, (channels, height, width) each; None where the layout is not known."""
    pixels, grid = inputs["pixel_values"], inputs.get("image_grid_thw")
    if pixels.dim() == 5:  # (images or samples, tiles, C, H, W); tiles that one lacks are zeros
        return [tile for row in pixels for tile in row if bool(tile.any())]
    if pixels.dim() == 4:
        return list(pixels)
    if pixels.dim() == 2 and isinstance(grid, torch.Tensor) and hasattr(processor, "patch_size"):
        return _unpacked(pixels, grid.tolist(), processor)
    return None


def _unpacked(pixels: torch.Tensor, grid: list[list[int]], processor: Any) -> list[torch.Tensor]:
    """Put Qwen-VL's patches back in their places: those that become one token stand together, two frames deep."""
    side, merge = int(processor.patch_size), int(processor.merge_size)
    frames, images, start = int(processor.temporal_patch_size), [], 0
    for t, h, w in grid:
        patches = pixels[start : start + t * h * w]
        start += t * h * w
        shape = (t, h // merge, w // merge, merge, merge, -1, frames, side, side)
        # (t, rows, columns, row and column in token, C, frame, y, x) -> (t, frame, C, rows, row, y, columns, ...)
        placed = patches.reshape(shape).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
        images.append(placed.reshape(t * frames, -1, h * side, w * side)[0])
    return images


def _colours(pixels: torch.Tensor, processor: Any) -> NDArray[np.uint8]:
    """Return (height, width, 3) of 0 to 255: the inverse of what the processor did to the numbers."""
    values = pixels.detach().float()
    if getattr(processor, "do_normalize", True):
        mean, std = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
        if mean is not None and std is not None:
            values = values * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    if getattr(processor, "do_rescale", True):
        values = values / float(getattr(processor, "rescale_factor", 1 / 255) or 1 / 255)
    return np.asarray(values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
