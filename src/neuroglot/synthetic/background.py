"""The background of the letters: one colour, a gradient, a plate, a generated texture, or a user's photograph."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from neuroglot.data.pixels import read_image
from neuroglot.errors import UserError
from neuroglot.synthetic.style import GROUNDS, Style

Colour = tuple[int, int, int]

CONTRAST = 95
"""Least difference in luminance (0 to 255) between ink and background."""

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LARGEST = 1024
"""Longer side in pixels to which a photograph is first scaled down; crops are taken from the result."""


def colours(rng: random.Random) -> tuple[Colour, Colour]:
    """Draw a background colour and an ink that differ enough in luminance."""
    while True:
        a, b = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
        if abs(luminance(a) - luminance(b)) > CONTRAST:
            return a, b  # type: ignore[return-value]


def luminance(colour: tuple[int, ...]) -> float:
    """Return the luminance of a colour, 0 to 255 (BT.601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def ground(rng: random.Random, seed: int, index: int, style: Style, colour: Colour, ink: Colour) -> Image.Image:
    """Return the background of an image.

    Args:
        rng: chooses if the style names no kind: one colour, a weak gradient or a bordered plate.
        seed: with `index`, chooses among the kinds that the style names.
        index: index in the corpus.
        style: gives the size and perhaps the kinds.
        colour: colour of the background.
        ink: colour of the letters, which must be legible.
    """
    size = (style.width, style.height)
    if not style.background:
        kind = rng.random()
        if style.plain or kind < 0.5:
            return Image.new("RGB", size, colour)
        return _gradient(rng, size, colour) if kind < 0.8 else _plate(rng, size, colour)
    named_rng = random.Random(f"{seed}:{index}:ground")
    chosen = named_rng.choice(style.background)
    if chosen == "plain":
        return Image.new("RGB", size, colour)
    if chosen == "gradient":
        return _gradient(named_rng, size, colour)
    if chosen == "plate":
        return _plate(named_rng, size, colour)
    image = _texture(named_rng, size, colour) if chosen in GROUNDS else _photograph(named_rng, size, chosen)
    return legible(image, luminance(ink))


def check_ground(style: Style) -> None:
    """Refuse a folder of photographs that has none.

    Raises:
        UserError: names the folder and the expected files.
    """
    for kind in style.background:
        if kind not in GROUNDS:
            _photographs(kind)


def _gradient(rng: random.Random, size: tuple[int, int], colour: Colour) -> Image.Image:
    slope = rng.uniform(-30, 30)
    across = rng.random() < 0.5 or size[0] == size[1]  # always on a square, as in the images of pretraining
    length = size[0] if across else size[1]
    ramp = np.linspace(-slope, slope, length, dtype=np.float32)
    row = (np.array(colour, dtype=np.float32) + ramp[:, None]).clip(0, 255).astype(np.uint8)  # (length, 3)
    return Image.fromarray(row[None] if across else row[:, None]).resize(size, Image.Resampling.NEAREST)


def _plate(rng: random.Random, size: tuple[int, int], colour: Colour) -> Image.Image:
    image = Image.new("RGB", size, colour)
    border = tuple(min(255, max(0, c + rng.choice((-40, 40)))) for c in colour)
    ImageDraw.Draw(image).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=border, width=rng.randrange(1, 3))
    return image


def _texture(rng: random.Random, size: tuple[int, int], colour: Colour) -> Image.Image:
    """Return coarse and fine noise, perhaps stretched in one direction: like plaster, cloth, brushed metal or wood."""
    width, height = size
    generator = np.random.default_rng(rng.getrandbits(32))
    coarse, stretch = rng.randint(3, 9), rng.choice((1, 1, 6, 20))
    fine = max(8, min(size) // rng.randint(2, 5))
    shapes = ((coarse, coarse), (fine, max(2, fine // stretch)))
    flip = rng.random() < 0.5
    layers = []
    for rows, columns in shapes:
        cells = generator.integers(0, 256, size=(columns, rows) if flip else (rows, columns), dtype=np.uint8)
        layers.append(Image.fromarray(cells).resize((width, height), Image.Resampling.BILINEAR))
    plane = Image.blend(layers[0], layers[1], rng.uniform(0.2, 0.8))
    strength = rng.uniform(0.15, 0.5)
    levels = strength * (np.arange(256, dtype=np.float32)[:, None] - 128)
    plane.putpalette(_whole(np.array(colour, dtype=np.float32) + levels).tobytes())
    return plane.convert("RGB")


def _photograph(rng: random.Random, size: tuple[int, int], folder: str) -> Image.Image:
    """Return a crop of a photograph in the folder, of half to all of the largest possible size."""
    photo = _opened(rng.choice(_photographs(folder)))
    scale = min(photo.width / size[0], photo.height / size[1]) * rng.uniform(0.5, 1.0)
    wide, high = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, photo.width - wide), rng.uniform(0, photo.height - high)
    crop = photo.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + wide, top + high), reducing_gap=2.0)
    return ImageOps.mirror(crop) if rng.random() < 0.5 else crop


@lru_cache(maxsize=8)
def _photographs(folder: str) -> tuple[str, ...]:
    """Return the image files of a folder and its subfolders, by name, without hidden files."""
    files = (p for p in Path(folder).rglob("[!.]*") if p.suffix.lower() in PHOTOGRAPHS and p.is_file())
    names = tuple(sorted(map(str, files)))
    if not names:
        raise UserError(
            f"render style background: {folder} holds no photographs; expected {', '.join(PHOTOGRAPHS)} files"
        )
    return names


@lru_cache(maxsize=32)
def _opened(path: str) -> Image.Image:
    image = read_image(Path(path))
    image.thumbnail((LARGEST, LARGEST), reducing_gap=2.0)
    return image


def contrast(image: Image.Image, ink: float) -> float:
    """Return the least difference in luminance to the ink of 95 % of a background's pixels."""
    return _ranked(np.abs(_brightness(image) - ink), 0.05)


def legible(image: Image.Image, ink: float) -> Image.Image:
    """Lighten a background under dark ink, or darken it under light ink, only as far as `CONTRAST` requires."""
    brightness = _brightness(image)
    if _ranked(np.abs(brightness - ink), 0.05) > CONTRAST:
        return image
    # Every ink leaves 127 levels or more on one side: above a dark one and below a light one.
    values = np.arange(256, dtype=np.float32)
    if ink < 128:
        keep = (255 - ink - CONTRAST - 2) / max(1.0, 255 - _ranked(brightness, 0.04))
        return image.point(_whole(255 - (255 - values) * min(1.0, keep)).tolist() * 3)
    keep = (ink - CONTRAST - 2) / max(1.0, _ranked(brightness, 0.96))
    return image.point(_whole(values * min(1.0, keep)).tolist() * 3)


def _brightness(image: Image.Image) -> np.ndarray:
    """Return the luminance of every fourth pixel of every fourth row."""
    return np.asarray(image.convert("L"))[::4, ::4].astype(np.float32).ravel()


def _ranked(values: np.ndarray, share: float) -> float:
    """Return the quantile of the values at a share."""
    index = int(share * (len(values) - 1))
    return float(np.partition(values, index)[index])


def _whole(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
