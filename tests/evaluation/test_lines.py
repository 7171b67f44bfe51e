"""Lines without an order: against counts by hand, against a search over all orders, and as properties."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import CHRF

from neuroglot.evaluation import metrics
from neuroglot.evaluation.bootstrap import statistics, value
from neuroglot.evaluation.metrics import line_counts, lines_of, reordered

LINE = st.text(alphabet="abé ", max_size=6)
TEXT = st.lists(LINE, min_size=1, max_size=5).map("\n".join)


def test_f1_by_hand():
    # Shared: Exit, Open, Open. 4 lines said, 5 wanted: F1 = 2 * 3 / 9.
    said, wanted = "Open\nExit \nOpen\nwrong", "Exit\nOpen\n\nOpen\nSale\n9  Uhr"
    assert line_counts(said, wanted) == (3, 9)
    assert metrics.line_f1([said], [wanted]) == pytest.approx(100 * 6 / 9)
    # Over texts the counts are added, so that a sign of many lines weighs as many.
    assert metrics.line_f1([said, "a"], [wanted, "b"]) == pytest.approx(100 * 6 / 11)
    assert metrics.line_f1(["cafe\u0301"], ["caf\u00e9"]) == 100.0


@settings(max_examples=40, deadline=None)
@given(TEXT, TEXT, st.randoms(use_true_random=False))
def test_the_order_does_not_count(said, wanted, rng):
    lines = said.split("\n")
    rng.shuffle(lines)
    assert line_counts("\n".join(lines), wanted) == line_counts(said, wanted)
    assert line_counts(said, wanted) == line_counts(wanted, said)
    assert line_counts(said, said) == (len(lines_of(said)), 2 * len(lines_of(said)))


LINES = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=2, max_size=3)


@settings(max_examples=20, deadline=None)
@given(LINES, LINES)
def test_reordering_keeps_the_lines_and_finds_the_best_match(said, wanted):
    chrf = CHRF()
    found = reordered("\n".join(said), "\n".join(wanted)).split("\n")
    assert sorted(found) == sorted(said)
    likeness = {(a, b): chrf.sentence_score(a, [b]).score for a in said for b in wanted}
    # An unmatched reference line leaves no gap in the text, so only a full match can be compared line by line.
    if len(said) >= len(wanted) and all(likeness.values()):

        def gain(lines):
            return sum(likeness[pair] for pair in zip(lines, wanted, strict=False))

        assert gain(found) == pytest.approx(max(map(gain, permutations(said))))


def test_bleu_of_lines_does_not_see_their_order_and_counts_what_is_too_much():
    wanted = "the exit is on the left\nopen from nine to five\nno dogs"
    shuffled = "no dogs\nthe exit is on the left\nopen from nine to five"
    assert metrics.corpus_bleu([shuffled], [wanted], "en") < 99
    assert metrics.corpus_bleu_lines([shuffled], [wanted], "en") == pytest.approx(100)
    more = metrics.corpus_bleu_lines([f"something else\n{shuffled}"], [wanted], "en")
    assert more == pytest.approx(metrics.corpus_bleu([f"{wanted}\nsomething else"], [wanted], "en"))
    assert more < 99


def test_both_are_scored_where_a_reference_has_lines_and_resampled_exactly():
    texts = ["a b c d\ne f g h", "x"], ["e f g h\na b c d", "y"]
    got = metrics.score(*texts, "en")
    assert (got["lines"], got["bleu_lines"]) == (pytest.approx(200 * 2 / 6), pytest.approx(metrics.corpus_bleu(
        ["e f g h\na b c d", "x"], texts[1], "en")))  # fmt: skip
    rows = [
        {"pair": "de-en", "hypothesis": h, "reference": r, "index": i}
        for i, (h, r) in enumerate(zip(*texts, strict=True))
    ]
    for figure in ("lines", "bleu_lines", "ter"):
        expected = got[figure]
        assert float(value(statistics(rows, figure).sum(axis=0), figure)) == pytest.approx(expected), figure
    assert metrics.score(["a"], ["a"], "en")["lines"] is None
    assert statistics(rows[1:], "lines") is None
