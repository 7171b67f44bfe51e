"""Breaking a text into lines: at spaces, between ideographs but not before a closing mark, anywhere if need be.

The rules for scripts without spaces are those that every such text needs and no more (JIS X 4051 and Unicode's UAX 14
have the rest): no line begins with a closing or small mark, and none ends with an opening one. Thai, Lao, Khmer and
Burmese, whose words only a dictionary knows, are broken between letters with their vowel signs and tone marks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from neuroglot.data.rendering.face import Face, leading, word_width
from neuroglot.data.rendering.fonts import is_bundled

SMALLEST = 8
"""Font size in pixels below which a text counts as not fitting."""

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
"""How much wider a word may be than its letters: in no bundled font are two Latin ones moved apart by a tenth of their
widths, and a letter has two neighbours."""

Piece = tuple[str, float, bool]
"""What stays whole on a line, its width at a size of one pixel, and whether a space precedes it."""


def fit(text: str, face: Face, size: int, width: float, height: float, grid: int) -> tuple[int, list[str]] | None:
    """Return the largest size of letters up to `size` in which the wrapped text fits, and its lines; None if none.

    Args:
        text: what is drawn.
        face: its font or fonts.
        size: largest size tried, in pixels.
        width: room for a line, in pixels.
        height: room for all lines, in pixels.
        grid: step of the baseline grid, in pixels.
    """
    paragraphs = [list(pieces(paragraph, face)) for paragraph in text.split("\n")]
    space = word_width(face, " ")

    def lines_at(trial: int) -> list[str] | None:
        lines = wrap(paragraphs, space, trial, width)
        return lines if lines is not None and len(lines) * leading(face, trial, grid) <= height else None

    # What fits at a size fits at every smaller one: both the number of lines and their height only grow.
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
    """Whether `fit` is sure to find a size, told from the widths of letters; False says nothing.

    Few letters are measured and many words, which takes most of the time of `fit`.
    """
    if max(text) >= "\u0250" or not all(is_bundled(path) for path in face.paths):
        return False
    letters = _letters(face)
    rows = [[(word, sum(map(letters.__getitem__, word)), True) for word in row.split()] for row in text.split("\n")]
    lines = wrap(rows, letters[" "], SMALLEST, width)
    return lines is not None and len(lines) * leading(face, SMALLEST, grid) <= height


class _Letters(dict[str, float]):
    """Letters and what they may take of a line at a size of one pixel, measured when they are first asked for."""

    def __init__(self, face: Face) -> None:
        super().__init__()
        self._face = face

    def __missing__(self, letter: str) -> float:
        self[letter] = APART * word_width(self._face, letter)
        return self[letter]


_letters = lru_cache(maxsize=64)(_Letters)


def pieces(paragraph: str, face: Face) -> Iterator[Piece]:
    """Yield what stays whole on a line."""
    for word in paragraph.split():
        if _UNSPACED.search(word):
            for number, part in enumerate(breakable(word)):
                yield part, word_width(face, part), number == 0
        else:
            yield word, word_width(face, word), True


def breakable(word: str) -> list[str]:
    """Break a word of a script without spaces where a line may end.

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
            or character
            in "\u0e30\u0e32\u0e33\u0eb0\u0eb2\u0eb3\u200d"  # vowels written after the letter they belong to
            or parts[-1][-1] in "\u200d\u1039\u17d2"  # what joins the next letter to this one
            or not (_UNSPACED.match(character) or _UNSPACED.match(parts[-1][-1]))  # inside a Latin word or a number
        )
        if joined:
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def wrap(paragraphs: list[list[Piece]], space: float, size: int, width: float) -> list[str] | None:
    """Fill lines no wider than `width` at a size; None if a piece alone is wider."""
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
    """Cut a piece wider than a line at the smallest size into pieces that are not."""
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
