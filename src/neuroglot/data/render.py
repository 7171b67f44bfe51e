"""Text to image: a sign in any script, with varied font, size, colours, layout and noise, and what a camera adds.

Everything that varies follows from (seed, index): the same sample is the same pixels. The layout also tells where each
character stands, which is what the embedded model's vision tower is first taught to read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image

from neuroglot.data.rendering.effects import Effects, blurred, compressed, effects, noisy
from neuroglot.data.rendering.face import Face
from neuroglot.data.rendering.fonts import BUNDLED, font_files
from neuroglot.data.rendering.ground import check_ground, colours, ground
from neuroglot.data.rendering.letters import Character, Placed, characters, margins, place, write
from neuroglot.data.rendering.lines import SMALLEST, fit, surely_fits
from neuroglot.data.rendering.style import SIZE, STYLE_KEYS, Style, parse_style
from neuroglot.errors import UserError

__all__ = ["SIZE", "SMALLEST", "STYLE_KEYS", "Character", "Rendered", "check_render", "render"]


@dataclass(frozen=True)
class Rendered:
    """An image and where its characters stand."""

    image: Image.Image
    placed: Placed = field(repr=False)
    effects: Effects = field(repr=False)

    @cached_property
    def characters(self) -> tuple[Character, ...]:
        """The characters in reading order; measured only when asked for, which takes as long as drawing them."""
        found = characters(self.placed)
        return tuple(self.effects.view.boxes(found) if self.effects.view else found)


def render(
    text: str, seed: int, index: int, style: Mapping[str, str] | None = None, width: int = SIZE, height: int = SIZE
) -> Rendered:
    """Draw a text on a sign.

    Args:
        text: what the sign says; any script that an installed font covers. Line breaks are kept, long lines wrapped.
        seed: corpus seed.
        index: place in the corpus; all choices follow from (seed, index).
        style: restrictions and effects, as `neuroglot.data.rendering.style.Style` explains them; its `width` and
            `height` go before the two below.
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        The RGB image and its characters.

    Raises:
        UserError: a style key that is not known or a value out of range, a character without a glyph, or a text that
            cannot be made to fit.
    """
    asked, rng, face = _begun(text, seed, index, style, width, height)
    smaller, grid = min(asked.width, asked.height), _grid(asked)
    # A sign is made to be read: its text fills most of it, in a size that varies by a third.
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
    """Refuse what `render` would refuse, without drawing it; takes what `render` takes.

    Returns:
        Width and height of what it would draw, in pixels.

    Raises:
        UserError: as `render`.
    """
    asked, _, face = _begun(text, seed, index, style, width, height)
    side, above = margins(asked)
    if not surely_fits(text, face, asked.width - 2 * side, asked.height - 2 * above, _grid(asked)):
        _fitted(text, face, SMALLEST, asked, _grid(asked))  # what fits at any size fits at the smallest one
    check_ground(asked)
    return asked.width, asked.height


def _begun(
    text: str, seed: int, index: int, style: Mapping[str, str] | None, width: int, height: int
) -> tuple[Style, random.Random, Face]:
    """Return the style, what makes the further choices, and the font or fonts."""
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
    found = fit(text, face, size, style.width - 2 * side, style.height - 2 * above, grid)
    if found is None:
        raise UserError(
            f"a text of {len(text)} characters does not fit {style.width} x {style.height} pixels at {SMALLEST} "
            f"pixels a line: {text[:40]!r}; render it larger or shorten the text"
        )
    return found
