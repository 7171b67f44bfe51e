"""Texts of several lines whose order means nothing, as of the signs and labels in one photograph.

Two figures. `lines` is the F1 over lines as multisets after normalisation: it needs no tokeniser, no order and no
alignment, and so it is the one that the tables report; but a line is right or wrong as a whole. `bleu_lines` gives
partial credit: the lines of the hypothesis are put into the order of the reference lines that they match best, and
then scored as any text is.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache

import numpy as np
from sacrebleu.metrics import CHRF
from scipy.optimize import linear_sum_assignment


def lines_of(text: str) -> list[str]:
    """Return the lines of a text in Unicode normal form C, single blanks between words, without empty lines.

    Examples:
        >>> lines_of(" Exit \\n\\n 12   Mai")
        ['Exit', '12 Mai']
    """
    normal = (" ".join(line.split()) for line in unicodedata.normalize("NFC", text).splitlines())
    return [line for line in normal if line]


def has_lines(text: str) -> bool:
    """Whether a text has several lines, so that their order is a question."""
    return len(lines_of(text)) > 1


def line_counts(hypothesis: str, reference: str) -> tuple[int, int]:
    """Return how many lines two texts share, as multisets, and how many they have together.

    F1 is twice the first over the second, of one text or of the sums of many.

    Examples:
        >>> line_counts("Exit\\nOpen\\nOpen", "Open\\nExit")
        (2, 5)
    """
    said, wanted = Counter(lines_of(hypothesis)), Counter(lines_of(reference))
    return (said & wanted).total(), said.total() + wanted.total()


def reordered(hypothesis: str, reference: str) -> str:
    """Return the hypothesis with its lines in the order of the reference lines that they match best.

    The assignment has the largest sum of sentence chrF. Lines that no reference line is left for come last: they
    cost precision, as surplus text does anywhere.

    Examples:
        >>> reordered("open daily\\nexit here", "exit\\nopen")
        'exit here\\nopen daily'
    """
    said, wanted = lines_of(hypothesis), lines_of(reference)
    if len(said) < 2 or not wanted:
        return "\n".join(said)
    likeness = np.array([[_chrf().sentence_score(line, [other]).score for other in wanted] for line in said])
    lines, places = linear_sum_assignment(likeness, maximize=True)
    # A line that has nothing in common with its reference line has no place of its own either.
    place = {int(i): int(j) for i, j in zip(lines, places, strict=True) if likeness[i, j] > 0}
    order = sorted(range(len(said)), key=lambda i: (place.get(i, len(wanted)), i))
    return "\n".join(said[i] for i in order)


@cache
def _chrf() -> CHRF:
    return CHRF()
