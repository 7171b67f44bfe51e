"""How large an image may be: scaled down, its aspect kept, until its pixels and the tokens made of it fit."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from neuroglot.errors import UserError

Size = tuple[int, int]
"""Width and height in pixels."""

SMALLEST = 16
"""Pixels of the shorter side below which nothing is scaled: nobody reads what is left."""
STEP = 0.92
"""By which a size that is still too large is multiplied: processors count in steps, so the largest that fits is sought
and not computed."""


class Budget:
    """What an image may take.

    Args:
        max_pixels: width times height; 0 for no limit.
        max_tokens: of all images of an example, which share them evenly; 0 for no limit.
        tokens: how many tokens the model's processor makes of an image of a size.
    """

    def __init__(self, max_pixels: int, max_tokens: int, tokens: Callable[[Size], int]) -> None:
        self._max_pixels = max_pixels
        self._max_tokens = max_tokens
        self._tokens = tokens
        self._known: dict[tuple[Size, int], Size] = {}

    def fit(self, size: Size, images: int = 1) -> Size:
        """Return the size that an image gets, which is its own if that fits.

        Args:
            size: the image's own.
            images: how many the example has.

        Raises:
            UserError: the processor makes more tokens than allowed of an image of this shape, however small.
        """
        key = (size, images)
        if key not in self._known:
            self._known[key] = self._fit(within(size, self._max_pixels), images)
        return self._known[key]

    def scaled(self, image: Image.Image, images: int = 1) -> Image.Image:
        """Return an image as it is shown to the processor."""
        size = self.fit(image.size, images) if self._max_pixels or self._max_tokens else image.size
        return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)

    def check(self) -> None:
        """Refuse a number of tokens into which the processor can make no image fit.

        Raises:
            UserError: it makes more of the smallest.
        """
        if self._max_tokens:
            least = min(self._tokens((side, side)) for side in (SMALLEST, 4 * SMALLEST))
            if least > self._max_tokens:
                raise self._refusal((SMALLEST, SMALLEST), least, self._max_tokens)

    def _fit(self, size: Size, images: int) -> Size:
        if not self._max_tokens:
            return size
        allowed = self._max_tokens // images
        tokens = self._tokens(size)
        if tokens <= allowed:
            return size
        least = _times(size, min(1.0, SMALLEST / min(size)))
        fewest = self._tokens(least)
        if fewest > allowed:
            raise self._refusal(size, fewest, allowed)
        scale = min(STEP, math.sqrt(allowed / tokens) / STEP)  # nearly it, where tokens grow with the pixels
        while min(smaller := _times(size, scale)) > SMALLEST:
            if self._tokens(smaller) <= allowed:
                return smaller
            scale *= STEP
        return least

    def _refusal(self, size: Size, tokens: int, allowed: int) -> UserError:
        of = "" if allowed == self._max_tokens else f" ({allowed} for each image of the example)"
        return UserError(
            f"the model's processor makes {tokens} tokens of an image of {size[0]} x {size[1]} pixels, however small "
            f"it is scaled; data.max_image_tokens allows {self._max_tokens}{of}; raise it, or use a model whose "
            "processor makes fewer of smaller images"
        )


def within(size: Size, most: int) -> Size:
    """Return a size of at most so many pixels, in the same aspect; 0 for no limit.

    Examples:
        >>> within((1000, 500), 5000)
        (100, 50)
    """
    pixels = size[0] * size[1]
    return size if not most or pixels <= most else _times(size, math.sqrt(most / pixels), most)


def _times(size: Size, scale: float, most: int = 0) -> Size:
    width, height = (max(1, int(side * scale)) for side in size)
    if most and width * height > most:  # one of them would be less than a pixel
        width, height = min(width, most), min(height, most)
    return width, height
