"""Typesetting: breaking a text into lines, placing them on an image, and measuring each character's position."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw

from neuroglot.synthetic.fonts import Face, is_bundled, leading, word_width
from neuroglot.synthetic.style import ALIGNMENTS, Style

# ---- Line breaks ----------------------------------------------------------------------------------------------------
# The rules for scripts without spaces are only the most important ones (JIS X 4051 and Unicode's UAX 14 have more): no
# line begins with a closing or small mark, and none ends with an opening one. Thai, Lao, Khmer and Burmese, for whose
# words a dictionary is needed, are broken between letters with their vowel signs and tone marks.

SMALLEST = 8
"""Smallest font size in pixels; a text that needs a smaller one does not fit."""

NOT_FIRST = frozenset(
    "、。，．・：；？！゛゜ヽヾゝゞ々ー’”）〕］｝〉》」』】…‥〜～％‰℃ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶ,.:;?!)]}%ๆฯ"
)
NOT_LAST = frozenset("‘“（〔［｛〈《「『【￥＄$([{เแโใไ")

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u303f\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\uff00-\uffef\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana, bopomofo, ideographs and their punctuation; Korean has spaces."""

APART = 1.2
"""Upper bound of a word's width relative to its letters: no bundled font moves two Latin letters apart by a tenth of
their widths, and a letter has two neighbours."""

Piece = tuple[str, float, bool]
"""A part that is not broken, its width at a size of one pixel, and whether a space precedes it."""


def fit(text: str, face: Face, size: int, width: float, height: float, grid: int) -> tuple[int, list[str]] | None:
    """Return the largest font size up to `size` at which the wrapped text fits, and its lines; None if none.

    Args:
        text: text to draw.
        face: its font or fonts.
        size: largest size tried, in pixels.
        width: space for a line, in pixels.
        height: space for all lines, in pixels.
        grid: step of the baseline grid, in pixels.
    """
    paragraphs = [list(pieces(paragraph, face)) for paragraph in text.split("\n")]
    space = word_width(face, " ")

    def lines_at(trial: int) -> list[str] | None:
        lines = wrap(paragraphs, space, trial, width)
        return lines if lines is not None and len(lines) * leading(face, trial, grid) <= height else None

    # A text that fits at a size fits at every smaller one: the number of lines and their height only grow with size.
    low, high = SMALLEST, max(size, SMALLEST)
    best = lines_at(high)
    if best is not None:
        return high, best
    best = lines_at(SMALLEST)
    if best is None:
        paragraphs = [[part for piece in row for part in _broken(piece, face, width)] for row in paragraphs]
        best = lines_at(SMALLEST)
        return None if best is None else (SMALLEST, best)
    while high - low > 1:
        middle = (low + high) // 2
        lines = lines_at(middle)
        if lines is None:
            high = middle
        else:
            low, best = middle, lines
    return low, best


def surely_fits(text: str, face: Face, width: float, height: float, grid: int) -> bool:
    """Whether `fit` surely finds a size, from the widths of letters; if False, it is not known.

    There are few letters and many words to measure, and measuring takes most of the time of `fit`.
    """
    if max(text) >= "\u0250" or not all(is_bundled(path) for path in face.paths):
        return False
    letters = _letters(face)
    rows = [[(word, sum(map(letters.__getitem__, word)), True) for word in row.split()] for row in text.split("\n")]
    lines = wrap(rows, letters[" "], SMALLEST, width)
    return lines is not None and len(lines) * leading(face, SMALLEST, grid) <= height


class _Letters(dict[str, float]):
    """Letters and their largest widths on a line at a size of one pixel, measured on first access."""

    def __init__(self, face: Face) -> None:
        super().__init__()
        self._face = face

    def __missing__(self, letter: str) -> float:
        self[letter] = APART * word_width(self._face, letter)
        return self[letter]


_letters = lru_cache(maxsize=64)(_Letters)


def pieces(paragraph: str, face: Face) -> Iterator[Piece]:
    """Yield the parts of a paragraph that are not broken."""
    for word in paragraph.split():
        if _UNSPACED.search(word):
            for number, part in enumerate(breakable(word)):
                yield part, word_width(face, part), number == 0
        else:
            yield word, word_width(face, word), True


def breakable(word: str) -> list[str]:
    """Split a word of a script without spaces at the possible line breaks.

    Examples:
        >>> breakable("東京（日本）、2026年")
        ['東', '京', '（日', '本）、', '2026', '年']
    """
    parts: list[str] = []
    for character in word:
        joined = parts and (
            character in NOT_FIRST
            or parts[-1][-1] in NOT_LAST
            or unicodedata.category(character)[0] == "M"
            or character in "\u0e30\u0e32\u0e33\u0eb0\u0eb2\u0eb3\u200d"  # vowels written after their letter
            or parts[-1][-1] in "\u200d\u1039\u17d2"  # joins the next letter to this one
            or not (_UNSPACED.match(character) or _UNSPACED.match(parts[-1][-1]))  # inside a Latin word or a number
        )
        if joined:
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def wrap(paragraphs: list[list[Piece]], space: float, size: int, width: float) -> list[str] | None:
    """Return lines no wider than `width` at a size; None if a single piece is wider."""
    lines: list[str] = []
    for paragraph in paragraphs:
        line, used = "", 0.0
        for piece, wide, spaced in paragraph:
            if wide * size > width:
                return None
            gap = space if spaced else 0.0
            if line and (used + gap + wide) * size > width:
                lines.append(line)
                line, used = piece, wide
            else:
                used += (gap if line else 0.0) + wide
                line = f"{line} {piece}" if line and spaced else line + piece
        if line:
            lines.append(line)
    return lines


def _broken(piece: Piece, face: Face, width: float) -> Iterator[Piece]:
    """Cut a piece that is wider than a line at the smallest size into pieces that fit."""
    word, wide, spaced = piece
    if wide * SMALLEST <= width:
        yield piece
        return
    part = ""
    for character in word:
        if part and word_width(face, part + character) * SMALLEST > width:
            yield part, word_width(face, part), spaced
            part, spaced = "", True
        part += character
    yield part, word_width(face, part), spaced


# ---- Placing and drawing lines --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Character:
    """A drawn character, and the centre and the size of its box in pixels.

    The box is as wide as the character's advance and as high as its line; in perspective, it is the smallest upright
    box around the transformed box.
    """

    text: str
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Line:
    """A line of text and the left end of its box, in pixels; `y` is the middle, where letters are anchored."""

    text: str
    x: int
    y: int
    direction: str | None


@dataclass(frozen=True)
class Placed:
    """The lines of an image; sizes in pixels."""

    lines: tuple[Line, ...]
    face: Face
    size: int
    leading: int


def gutter(width: int, height: int) -> int:
    """Return the space at each side in pixels, for letters such as J that extend beyond their box."""
    return max(2, min(width, height) // 48)


def margins(style: Style) -> tuple[int, int]:
    """Return the space kept free at the sides and at top and bottom, in pixels."""
    wide = round((style.margin or 0.0) * min(style.width, style.height))
    return max(gutter(style.width, style.height), wide), wide


def place(rng: random.Random, lines: list[str], text: str, face: Face, size: int, style: Style, grid: int) -> Placed:
    """Choose the positions of the lines: on the grid, so that lines and patches cut each other little."""
    height = leading(face, size, grid)
    direction = base_direction(text)
    widths = [face.length(line, size, direction) for line in lines]
    align = rng.choice((0.0, 0.5))
    if style.align is not None:
        align = ALIGNMENTS.index(style.align) / 2
    elif direction == "rtl" and align == 0.0:
        align = 1.0
    side, above = margins(style)
    free = max(0, int(style.width - 2 * side - max(widths)) // grid)
    left = side + grid * rng.randint(0, free)
    top = above + grid * rng.randint(0, (style.height - 2 * above - height * len(lines)) // grid)
    placed = []
    for number, line in enumerate(lines):
        indent = int(align * (max(widths) - widths[number]))
        x = left + (indent if align == 1.0 else indent // grid * grid)
        placed.append(Line(line, x, top + number * height + height // 2, direction))
    return Placed(tuple(placed), face, size, height)


def write(placed: Placed, image: Image.Image, ink: tuple[int, int, int] | int) -> None:
    """Draw the lines."""
    pen = ImageDraw.Draw(image)
    for line in placed.lines:
        placed.face.write(pen, (line.x, line.y), line.text, placed.size, ink, line.direction)


def characters(placed: Placed) -> list[Character]:
    """Return every visible character, in reading order."""
    boxes = []
    for line in placed.lines:
        y = line.y - placed.leading // 2 + placed.leading / 2
        for character, (left, right) in zip(
            line.text, edges(line.text, placed.face, placed.size, line.direction), strict=True
        ):
            if not character.isspace():
                wide = abs(right - left)
                boxes.append(Character(character, line.x + (left + right) / 2, y, wide, float(placed.leading)))
    return boxes


def base_direction(text: str) -> str | None:
    """Return `rtl` or `ltr` from the first letter with a direction (Unicode's P2); None if none is right-to-left.

    Examples:
        >>> base_direction("שלום Paris"), base_direction("Paris שלום"), base_direction("Paris")
        ('rtl', 'ltr', None)
    """
    if text.isascii():
        return None
    classes = [unicodedata.bidirectional(c) for c in text]
    if not any(c in ("R", "AL", "AN") for c in classes):
        return None
    return next(("rtl" if c != "L" else "ltr" for c in classes if c in ("R", "AL", "L")), "rtl")


def edges(line: str, face: Face, size: int, direction: str | None) -> list[tuple[float, float]]:
    """Return for each character of a line its left and right edge, in pixels from the line's left end.

    Characters that run against the line (a number or a Latin word in an Arabic line) are placed as one block, and a
    mark on a letter at its end. This is simpler than Unicode's bidirectional algorithm (UAX 9), which draws the line:
    a number that follows Arabic letters in a Latin line is placed here after them, not before.
    """
    ends = [0.0, *(face.length(line[: k + 1], size, direction) for k in range(len(line)))]
    if direction is None:
        return [(ends[k], ends[k + 1]) for k in range(len(line))]
    total = ends[-1]
    forward = direction == "ltr"
    placed: list[tuple[float, float]] = []
    for start, stop, with_line in _runs(line, forward):
        for k in range(start, stop):
            low, high = ends[k], ends[k + 1]
            if not with_line:  # mirrored within the block
                low, high = ends[start] + ends[stop] - high, ends[start] + ends[stop] - low
            placed.append((low, high) if forward else (total - high, total - low))
    return placed


def _runs(line: str, forward: bool) -> Iterator[tuple[int, int, bool]]:
    """Yield runs of a line: start, stop, whether they have its direction. Neutral signs take the line's direction,
    unless both neighbours run against it."""
    way: list[bool | None] = []
    for c in line:
        kind = unicodedata.bidirectional(c)
        runs_right = {"L": True, "EN": True, "AN": True, "R": False, "AL": False}.get(kind)
        if kind == "NSM":
            runs_right = None if not way or way[-1] is None else way[-1] == forward
        way.append(None if runs_right is None else runs_right == forward)
    start = 0
    while start < len(line):
        with_line = way[start] is not False
        stop = start + 1
        while stop < len(line):
            after = next((w for w in way[stop:] if w is not None), True)
            here = way[stop] if way[stop] is not None else (with_line if after == with_line else True)
            if here != with_line:
                break
            stop += 1
        yield start, stop, with_line
        start = stop
