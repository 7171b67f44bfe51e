"""Text to image: a sign in any script with varied font, size, colours, layout and noise, and camera effects."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image, ImageFilter

from neuroglot.errors import UserError
from neuroglot.synthetic.background import check_ground, colours, ground
from neuroglot.synthetic.fonts import BUNDLED, Face, font_files
from neuroglot.synthetic.style import SIZE, Style, parse_style
from neuroglot.synthetic.typesetting import (
    SMALLEST,
    Character,
    Placed,
    characters,
    fit,
    margins,
    place,
    surely_fits,
    write,
)

# ---- Camera effects -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A plane seen from an angle.

    Attributes:
        forward: homography [3, 3] from points of the upright plane to points of the image, in pixels.
        corners: the plane's corners in the image, clockwise from the top left.
    """

    forward: np.ndarray
    corners: tuple[tuple[float, float], ...]

    def stamp(self, image: Image.Image, mask: Image.Image, ink: tuple[int, int, int]) -> None:
        """Draw a mask of the plane on an image in ink; only the mask's bounding box is transformed."""
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
        """Return the image coordinates of points of the plane."""
        a, b, w = self.forward @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        return (a / w).reshape(x.shape), (b / w).reshape(x.shape)

    def boxes(self, characters: list[Character]) -> list[Character]:
        """Return the characters with the upright boxes around their transformed boxes."""
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
    """Effects of one image; all random numbers are always drawn, so that the effects do not influence each other."""

    view: View | None = None
    blur: float = 0.0
    quality: int | None = None


def effects(seed: int, index: int, style: Style) -> Effects:
    """Draw the effects of an image that a style allows; from a separate generator, so that other choices stay."""
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
    """Return the view with corners moved inwards by shares of the sides: x and y of each, clockwise."""
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
    """Add to every value a uniform random integer of at most `amplitude` grey levels, positive or negative."""
    generator = np.random.default_rng(rng.getrandbits(32))
    total = generator.integers(-amplitude, amplitude + 1, size=(image.height, image.width, 3), dtype=np.int16)
    total += np.asarray(image)
    return Image.fromarray(np.clip(total, 0, 255, out=total).astype(np.uint8))


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """Return an image out of focus."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Return an image after JPEG compression of this quality."""
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=quality)
        file.seek(0)
        with Image.open(file) as read:
            return read.convert("RGB")


# ---- Rendering ------------------------------------------------------------------------------------------------------
# All variation depends only on (seed, index): the same sample has the same pixels. The layout also gives the position
# of each character, which the embedded model's vision tower first learns to read.


@dataclass(frozen=True)
class Rendered:
    """An image and the positions of its characters."""

    image: Image.Image
    placed: Placed = field(repr=False)
    effects: Effects = field(repr=False)

    @cached_property
    def characters(self) -> tuple[Character, ...]:
        """The characters in reading order; measured only on access, which takes as long as drawing them."""
        boxes = characters(self.placed)
        return tuple(self.effects.view.boxes(boxes) if self.effects.view else boxes)


def render(
    text: str, seed: int, index: int, style: Mapping[str, str] | None = None, width: int = SIZE, height: int = SIZE
) -> Rendered:
    """Draw a text on a sign.

    Args:
        text: text of the sign, in any script that an installed font covers. Line breaks are kept, long lines wrapped.
        seed: corpus seed.
        index: index in the corpus; all choices depend on (seed, index).
        style: restrictions and effects, see `neuroglot.synthetic.style.Style`; its `width` and `height` replace the
            two below.
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        The RGB image and its characters.

    Raises:
        UserError: an unknown style key or a value out of range, a character without a glyph, or a text that does
            not fit.
    """
    asked, rng, face = _begun(text, seed, index, style, width, height)
    smaller, grid = min(asked.width, asked.height), _grid(asked)
    # The text fills most of the sign, in a size that varies by a third.
    size, lines = _fitted(text, face, asked.size or int(0.24 * smaller), asked, grid)
    if asked.size is None:
        size, lines = _fitted(text, face, max(grid, round(size * rng.uniform(0.75, 1.0))), asked, grid)
    background, ink = ((255, 255, 255), (0, 0, 0)) if asked.plain else colours(rng)
    chosen = effects(seed, index, asked)
    image = ground(rng, seed, index, asked, background, ink)
    placed = place(rng, lines, text, face, size, asked, grid)
    if chosen.view is None:
        write(placed, image, ink)
    else:
        mask = Image.new("L", image.size)
        write(placed, mask, 255)
        chosen.view.stamp(image, mask, ink)
    if chosen.blur:
        image = blurred(image, chosen.blur)
    if not asked.plain and rng.random() < 0.5 and asked.noise:
        image = noisy(image, rng, asked.noise)
    if chosen.quality is not None:
        image = compressed(image, chosen.quality)
    return Rendered(image, placed, chosen)


def check_render(
    text: str, seed: int, index: int, style: Mapping[str, str] | None = None, width: int = SIZE, height: int = SIZE
) -> tuple[int, int]:
    """Refuse what `render` would refuse, without drawing; the arguments are those of `render`.

    Returns:
        Width and height of the image, in pixels.

    Raises:
        UserError: as `render`.
    """
    asked, _, face = _begun(text, seed, index, style, width, height)
    side, above = margins(asked)
    if not surely_fits(text, face, asked.width - 2 * side, asked.height - 2 * above, _grid(asked)):
        _fitted(text, face, SMALLEST, asked, _grid(asked))  # a text that fits at any size fits at the smallest
    check_ground(asked)
    return asked.width, asked.height


def _begun(
    text: str, seed: int, index: int, style: Mapping[str, str] | None, width: int, height: int
) -> tuple[Style, random.Random, Face]:
    """Return the style, the random generator for further choices, and the font or fonts."""
    if not text.strip():
        raise UserError("cannot render an empty text; give every example a source text of at least one character")
    asked = parse_style(style, width, height)
    rng = random.Random(f"{seed}:{index}")
    families = list(BUNDLED)
    family = rng.choices(families, [2.0] + [1.0] * (len(families) - 1))[0]
    bold = rng.random() < 0.2
    return asked, rng, Face(font_files(asked.font or family, bold, text))


def _grid(style: Style) -> int:
    """Return the step of the baseline grid, in pixels."""
    return max(1, min(style.width, style.height) // 10)


def _fitted(text: str, face: Face, size: int, style: Style, grid: int) -> tuple[int, list[str]]:
    """Return the largest size up to `size` in which a text fits an image, and its lines."""
    side, above = margins(style)
    size_and_lines = fit(text, face, size, style.width - 2 * side, style.height - 2 * above, grid)
    if size_and_lines is None:
        raise UserError(
            f"a text of {len(text)} characters does not fit {style.width} x {style.height} pixels at {SMALLEST} "
            f"pixels a line: {text[:40]!r}; render it larger or shorten the text"
        )
    return size_and_lines
