"""What a camera adds: the angle that it looks from, blur, noise, and the compression of its files."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from neuroglot.data.rendering.letters import Character
from neuroglot.data.rendering.style import Style


@dataclass(frozen=True)
class View:
    """A plane seen from an angle.

    Attributes:
        forward: homography [3, 3] from places on the upright plane to places in the image, in pixels.
        corners: where the plane's corners come to lie, clockwise from the top left.
    """

    forward: np.ndarray
    corners: tuple[tuple[float, float], ...]

    def stamp(self, image: Image.Image, mask: Image.Image, ink: tuple[int, int, int]) -> None:
        """Put ink on an image where a mask on the plane is seen; only the part that holds any is looked at."""
        box = mask.getbbox()
        if box is None:
            return
        xs, ys = self.at(np.array([box[0], box[2], box[2], box[0]]), np.array([box[1], box[1], box[3], box[3]]))
        left, top = math.floor(xs.min()) - 1, math.floor(ys.min()) - 1
        size = (math.ceil(xs.max()) + 1 - left, math.ceil(ys.max()) + 1 - top)
        back = np.linalg.inv(self.forward) @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], dtype=np.float64)
        coefficients = tuple(float(v) for v in (back / back[2, 2]).ravel()[:8])
        seen = mask.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
        image.paste(ink, (left, top), seen)

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where places on the plane come to lie."""
        a, b, w = self.forward @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        return (a / w).reshape(x.shape), (b / w).reshape(x.shape)

    def boxes(self, characters: list[Character]) -> list[Character]:
        """Return the characters with the upright boxes around what becomes of theirs."""
        if not characters:
            return []
        x, y, w, h = (np.array([getattr(c, name) for c in characters]) for name in ("x", "y", "width", "height"))
        xs, ys = self.at(
            np.stack([x - w / 2, x + w / 2, x + w / 2, x - w / 2]),
            np.stack([y - h / 2, y - h / 2, y + h / 2, y + h / 2]),
        )
        left, right, top, bottom = xs.min(0), xs.max(0), ys.min(0), ys.max(0)
        return [
            Character(c.text, float(a + b) / 2, float(t + u) / 2, float(b - a), float(u - t))
            for c, a, b, t, u in zip(characters, left, right, top, bottom, strict=True)
        ]


@dataclass(frozen=True)
class Effects:
    """What is done to one image; every number is drawn whether it is used or not, so that none moves the others."""

    view: View | None = None
    blur: float = 0.0
    quality: int | None = None


def effects(seed: int, index: int, style: Style) -> Effects:
    """Draw the effects of an image within what a style allows; from numbers of their own, so that all else stays."""
    if not (style.perspective or style.blur or style.jpeg):
        return Effects()
    rng = random.Random(f"{seed}:{index}:effects")
    moves = [rng.random() for _ in range(8)]
    radius, quality = rng.random(), rng.random()
    view = None
    if style.perspective:
        view = perspective(style.width, style.height, [style.perspective * move for move in moves])
    lowest = style.jpeg
    return Effects(
        view=view,
        blur=style.blur * radius,
        quality=None if lowest is None else round(lowest + quality * (max(95, lowest) - lowest)),
    )


def perspective(width: int, height: int, moves: list[float]) -> View:
    """Return the view whose corners are moved inwards by shares of the sides: x and y of each, clockwise."""
    upright = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    seen = tuple(
        (x + (-1 if x else 1) * moves[2 * k] * width, y + (-1 if y else 1) * moves[2 * k + 1] * height)
        for k, (x, y) in enumerate(upright)
    )
    rows, values = [], []
    for (x, y), (u, v) in zip(upright, seen, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solved = np.linalg.solve(np.array(rows, dtype=np.float64), np.array(values, dtype=np.float64))
    return View(np.append(solved, 1.0).reshape(3, 3), seen)


def noisy(image: Image.Image, rng: random.Random, amplitude: int) -> Image.Image:
    """Add to every value a whole number of up to so many grey levels, all equally likely."""
    generator = np.random.default_rng(rng.getrandbits(32))
    total = generator.integers(-amplitude, amplitude + 1, size=(image.height, image.width, 3), dtype=np.int16)
    total += np.asarray(image)
    return Image.fromarray(np.clip(total, 0, 255, out=total).astype(np.uint8))


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """Return an image out of focus."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Return what is left of an image after a JPEG of so much quality."""
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=quality)
        file.seek(0)
        with Image.open(file) as read:
            return read.convert("RGB")
