"""Check of every image of a corpus: whether it opens or can be drawn, its size, content and perceptual hashes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from neuroglot.data.example import ImageSource, RenderSpec
from neuroglot.data.image import image_size, open_image
from neuroglot.data.paths import located
from neuroglot.data.store import hash_text
from neuroglot.errors import UserError

FLAT = 8
"""Least number of set (and of unset) bits of a perceptual hash; below it the image is too plain to compare."""


class Look(NamedTuple):
    """Facts about an image: hash of its content, perceptual hash (0: none), width and height in pixels."""

    content: int
    look: int
    width: int
    height: int


def difference_hash(image: Image.Image) -> int:
    """Return 64 bits: whether a cell of an 8 x 8 grid is darker than its neighbour to the right.

    Scaling an image or compressing it again keeps them. 0 if an image is too plain to be compared.
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = grey[:, 1:] > grey[:, :-1] + 1  # (8, 8); a step of one grey level is rounding
    packed = int.from_bytes(np.packbits(bits).tobytes(), "little")
    return packed if FLAT <= packed.bit_count() <= 64 - FLAT else 0


class Looks:
    """Opens each image file once; keeps 40 bytes of each and an entry of a table."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._kept = {name: array("Q") for name in Look._fields}
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # decoding releases Python's lock

    def at(self, images: Iterable[ImageSource]) -> dict[ImageSource, Look | UserError]:
        """Return the facts about each image, or its error."""
        looks: dict[ImageSource, Look | UserError] = {}
        unseen: list[Path | bytes] = []
        for image in dict.fromkeys(images):
            if isinstance(image, RenderSpec):
                looks[image] = _spec(image)
            elif isinstance(image, Path) and (index := self._places.get(hash_text(str(image)))) is not None:
                looks[image] = Look(*(self._kept[name][index] for name in Look._fields))
            else:
                unseen.append(image)
        for image, look in zip(unseen, self._pool.map(_look, unseen), strict=True):
            looks[image] = look
            if isinstance(image, Path) and isinstance(look, Look):
                self._places[hash_text(str(image))] = len(self._kept["content"])
                for name, value in zip(Look._fields, look, strict=True):
                    self._kept[name].append(value)
        return looks


def _look(image: Path | bytes) -> Look | UserError:
    try:
        opened = open_image(image)
        content = located(image).read_bytes() if isinstance(image, Path) else image
    except OSError as error:
        return UserError(f"image {image!s} cannot be read: {error.strerror}")
    except UserError as error:
        return error
    digest = int.from_bytes(blake2b(content, digest_size=8).digest(), "little")
    return Look(digest, difference_hash(opened), *opened.size)


def _spec(spec: RenderSpec) -> Look | UserError:
    """Return the facts about an image that is drawn when needed: the same fields give the same pixels."""
    try:
        size = image_size(spec)
    except UserError as error:
        return error
    return Look(hash_text(repr((spec.kind, spec.text, spec.seed, spec.index, spec.style))), 0, *size)
