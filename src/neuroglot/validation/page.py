"""The page of a data check: findings, lengths, and one batch exactly as the model sees it. One HTML file."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example
from neuroglot.file_format import write_text
from neuroglot.report.figures import INK, MUTED, SYSTEMS, WIDE, Draw, both
from neuroglot.validation.check import Report
from neuroglot.validation.texts import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ---- Batch preview --------------------------------------------------------------------------------------------------
# B batch, L tokens. Nothing is computed again from the examples: tokens, labels and pixels are those of the
# tensors that `Batcher.encode` returns, and the pixels are converted back to colours with the processor's mean,
# standard deviation and scale.

IGNORED = -100
"""The label of a token that is not trained."""

SPACES = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
"""White space token -> the character shown for it."""


@dataclass(frozen=True)
class Token:
    """A token, or a run of image tokens or of padding.

    Attributes:
        text: the token decoded by the tokenizer.
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
    """A row of the batch: its example, its tokens in order, and its images as RGB pixels."""

    example: Example
    chips: tuple[Token, ...]
    pictures: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class BatchPreview:
    """A batch.

    Attributes:
        samples: its rows.
        shapes: tensor -> its shape and type, as the model gets them.
        remark: what cannot be shown; empty if everything is shown.
    """

    samples: tuple[Sample, ...]
    shapes: dict[str, str]
    remark: str = ""


def preview_batch(batcher: Batcher, examples: Sequence[Example]) -> BatchPreview:
    """Encode examples as training does, and return the model's inputs.

    Args:
        batcher: the recipe's batcher.
        examples: examples of one pair; all with images or all without.

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
    return BatchPreview(samples, shapes, remark)


# ---- tokens -------------------------------------------------------------------------------------------------------


def _chips(batcher: Batcher, ids: list[int], attention: list[int], labels: list[int]) -> list[Token]:
    image = image_token(batcher.processor)
    special = set(batcher.tokenizer.all_special_ids)
    chips: list[Token] = []
    for token, real, label in zip(ids, attention, labels, strict=True):
        if label != IGNORED:
            kind = "trained"
        else:
            kind = "padding" if not real else "image" if token == image else "masked"
        if kind in ("padding", "image") and chips and chips[-1].kind == kind:
            chips[-1] = Token(kind, kind, (*chips[-1].ids, token))
            continue
        text = kind if kind in ("padding", "image") else _text(batcher.tokenizer, token)
        chips.append(Token(text, kind, (token,), token in special))
    return chips


def image_token(processor: Any) -> int | None:
    """Return the id of the placeholder token for a piece of an image; None if the processor does not have it.

    The tokenizer is asked first: the image token of Gemma3's processor is the one that opens an image.
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
    if not text or "\ufffd" in text:  # a part of a character
        return raw
    if raw[:1] in ("▁", "Ġ") and not text[:1].isspace():  # some decoders drop the space before a first word
        text = f" {text}"
    return "".join(SPACES.get(c, c) for c in text)


# ---- pixels -------------------------------------------------------------------------------------------------------


def _pictures(
    batcher: Batcher, examples: Sequence[Example], inputs: dict[str, Any]
) -> tuple[list[tuple[NDArray[np.uint8], ...]], str]:
    """Return each example's images, or tiles of images, as the model gets them.

    The number of the tensor's rows for an example depends on the family; encoding the example alone gives it.
    """
    nothing: list[tuple[NDArray[np.uint8], ...]] = [() for _ in examples]
    if not any(example.images for example in examples):
        return nothing, ""
    pixel_values = inputs.get("pixel_values")
    if not isinstance(pixel_values, torch.Tensor):
        return nothing, "this processor's pixels are not one tensor, so that they are not shown"
    processor = getattr(batcher.processor, "image_processor", None)
    tiles = _tiles(inputs, processor)
    single = tiles is not None and len(tiles) == len(examples) == sum(len(e.images) for e in examples)
    tile_counts = [1 if single else len(_tiles(batcher.encode([e]), processor) or ()) for e in examples]
    if tiles is None or sum(tile_counts) != len(tiles):
        return nothing, f"pixels of shape {tuple(pixel_values.shape)} are laid out in a way that is not known here"
    rows = iter(tiles)
    return [tuple(_colours(next(rows), processor) for _ in range(count)) for count in tile_counts], ""


def _tiles(inputs: dict[str, Any], processor: Any) -> list[torch.Tensor] | None:
    """Return images or tiles, (channels, height, width) each; None if the layout is not known."""
    pixels, grid = inputs["pixel_values"], inputs.get("image_grid_thw")
    if pixels.dim() == 5:  # (images or samples, tiles, C, H, W); missing tiles are zeros
        return [tile for row in pixels for tile in row if bool(tile.any())]
    if pixels.dim() == 4:
        return list(pixels)
    if pixels.dim() == 2 and isinstance(grid, torch.Tensor) and hasattr(processor, "patch_size"):
        return _unpacked(pixels, grid.tolist(), processor)
    return None


def _unpacked(pixels: torch.Tensor, grid: list[list[int]], processor: Any) -> list[torch.Tensor]:
    """Return images from Qwen-VL's patches: those of one token are adjacent, with two frames each."""
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
    """Return (height, width, 3) of 0 to 255: the inverse of the processor's scaling and normalisation."""
    values = pixels.detach().float()
    if getattr(processor, "do_normalize", True):
        mean, std = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
        if mean is not None and std is not None:
            values = values * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    if getattr(processor, "do_rescale", True):
        values = values / float(getattr(processor, "rescale_factor", 1 / 255) or 1 / 255)
    return np.asarray(values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


# ---- Page -----------------------------------------------------------------------------------------------------------

PICTURES = 2_000_000
"""Most bytes of images on the page."""

TITLES = {
    "source_characters": "characters of the source",
    "target_characters": "characters of the target",
    "prompt_tokens": "tokens of the prompt's text",
    "target_tokens": "tokens of the target",
    "image_tokens": "tokens of the images",
    "tokens": "tokens in all",
}
"""Histogram -> its title."""


def write_page(path: Path, report: Report, seen: BatchPreview | None, pair: str = "") -> None:
    """Write the page.

    Args:
        path: the file.
        report: result of the check.
        seen: a batch; None to leave it out.
        pair: pair of the batch.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("neuroglot.validation").joinpath("page.html").read_text(encoding="utf-8")
    shown = environment.from_string(template).render(
        report=report,
        counts=report.table(),
        style=_style(),
        figure=_histograms(report),
        titles=TITLES,
        lengths={
            name: h.facts() for name, h in sorted(report.lengths.items(), key=lambda e: list(TITLES).index(e[0]))
        },
        seen=seen,
        cards=_cards(seen) if seen else [],
        pair=pair,
    )
    write_text(path, shown.strip() + "\n")


@cache
def _style() -> str:
    template = resources.files("neuroglot.report").joinpath("page.html").read_text(encoding="utf-8")
    return template[template.index("<style>") + len("<style>") : template.index("</style>")]


def _cards(seen: BatchPreview) -> list[dict[str, Any]]:
    """Return what the page shows of each sample; images up to `PICTURES` bytes in total."""
    cards, room = [], PICTURES
    for sample in seen.samples:
        pictures = []
        for pixels in sample.pictures:
            encoded = _png(pixels)
            room -= len(encoded)
            if room > 0:
                pictures.append({"data": encoded, "size": f"{pixels.shape[1]} × {pixels.shape[0]}"})
        cards.append({"sample": sample, "pictures": pictures, "counts": _counts(sample),
                      "left_out": len(sample.pictures) - len(pictures)})  # fmt: skip
    return cards


def _counts(sample: Sample) -> dict[str, int]:
    kinds = ("trained", "masked", "image", "padding")
    return {kind: sum(len(chip.ids) for chip in sample.chips if chip.kind == kind) for kind in kinds}


def _png(pixels: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


# ---- histograms ---------------------------------------------------------------------------------------------------


def _histograms(report: Report) -> dict[str, str] | None:
    histograms = {name: report.lengths[name] for name in TITLES if name in report.lengths}
    if not histograms:
        return None
    medians = "; ".join(f"{TITLES[name]}: median {h.quantile(0.5)}" for name, h in histograms.items())
    return {"alt": f"Histograms. {medians}.", **both("lengths", _draw(histograms, report.context))}


def _draw(histograms: Mapping[str, Histogram], context: int) -> Draw:
    def draw(width: float) -> Figure:
        from matplotlib.figure import Figure as NewFigure  # no pyplot: no global state and no display

        columns = min(3 if width == WIDE else 1, len(histograms))
        rows = -(-len(histograms) // columns)
        figure = NewFigure(figsize=(width, 1.9 * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, (name, histogram) in zip(axes, histograms.items(), strict=False):
            _bars(axis, TITLES[name], histogram, context if name == "tokens" else 0)
        for axis in axes[len(histograms) :]:
            axis.set_visible(False)
        return figure

    return draw


def _bars(axis: Axes, title: str, histogram: Histogram, context: int) -> None:
    edges, bins = histogram.bins()
    widths = [b - a for a, b in itertools.pairwise(edges)]
    axis.bar(edges[:-1], bins, width=[0.92 * w for w in widths], align="edge", color=SYSTEMS["system-5"])
    if context and context <= 1.5 * edges[-1]:
        axis.axvline(context, color=INK, linewidth=1.2, linestyle=(0, (3, 1.6)))
        axis.text(context, 0.97, " context", transform=axis.get_xaxis_transform(), va="top", color=INK)
    if len(bins) < 3:  # a single length is drawn as a narrow bar
        axis.set_xlim(edges[0] - 3 * widths[0], edges[-1] + 3 * widths[0])
    axis.set_title(title)
    axis.set_ylim(bottom=0)
    axis.set_axisbelow(True)
    axis.grid(axis="y")
    axis.tick_params(length=0, labelcolor=MUTED)
    axis.locator_params(axis="y", nbins=4, integer=True)
    axis.locator_params(axis="x", nbins=5, integer=True)
