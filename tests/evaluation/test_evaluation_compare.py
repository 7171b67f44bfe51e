"""Retention, and intervals that know what an independent item is."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from neuroglot.errors import UserError
from neuroglot.evaluation import paired_bootstrap, retention

PAIRS = ("en-de", "en-fr", "en-tr")


def figures(bleu, chrf=50.0, exact=40.0):
    return {"average": {"bleu": bleu, "chrf": chrf, "exact": exact, "nll": None, "n": 3}}


def test_retention_is_ratio_and_difference_per_split():
    scores = {
        "base": {"ocr": figures(80.0), "text_translation": figures(0.0), "describe": figures(1.0)},
        "mnaft": {"ocr": figures(60.0), "text_translation": figures(5.0), "image_translation": figures(9.0)},
    }
    rows = {(row["split"], row["metric"]): row for row in retention(scores, after="mnaft")}
    assert {split for split, _ in rows} == {"ocr", "text_translation"}
    ocr = rows["ocr", "bleu"]
    assert (ocr["before"], ocr["after"], ocr["difference"], ocr["ratio"]) == (80.0, 60.0, -20.0, 0.75)
    assert rows["text_translation", "bleu"]["ratio"] is None


def test_retention_of_an_unknown_system():
    with pytest.raises(UserError, match="did you mean mnaft"):
        retention({"base": {}, "mnaft": {}}, after="mnatf")


def corpus(items=60, seed=0, right=0.5, pairs=PAIRS):
    """Whether an item is right is decided once for all its pairs: items are what is independent."""
    rng = np.random.default_rng(seed)
    is_right = rng.random(items) < right
    rows = []
    for pair in pairs:
        for item in range(items):
            reference = f"alpha beta gamma delta {item} omega"
            hypothesis = reference if is_right[item] else f"alpha beta nothing here {item}"
            index = len(rows)
            rows.append(
                {"pair": pair, "item": f"i{item}", "index": index, "reference": reference, "hypothesis": hypothesis}
            )
    return rows


def test_the_value_is_the_difference_of_averages():
    a, b = corpus(seed=1, right=0.3), corpus(seed=2, right=0.7)

    def average_bleu(rows):
        scores = []
        for pair in PAIRS:
            own = [row for row in rows if row["pair"] == pair]
            texts = [row["hypothesis"] for row in own], [[row["reference"] for row in own]]
            scores.append(sacrebleu.corpus_bleu(*texts).score)
        return sum(scores) / len(scores)

    got = paired_bootstrap(a, b, "bleu", resamples=200)
    assert got.value == pytest.approx(average_bleu(b) - average_bleu(a))
    assert got.low < got.value < got.high
    assert got.low > 0
    assert got.p < 0.05
    assert (got.items, got.resamples) == (60, 200)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "exact"])
def test_a_system_against_itself(metric):
    rows = corpus()
    got = paired_bootstrap(rows, rows, metric, resamples=50)
    assert (got.value, got.low, got.high, got.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_order_of_rows_does_not_matter():
    a, b = corpus(seed=1), corpus(seed=2)
    assert paired_bootstrap(a, b[::-1], "exact", resamples=50) == paired_bootstrap(a, b, "exact", resamples=50)


def test_seeds():
    a, b = corpus(seed=1), corpus(seed=2)
    same = [paired_bootstrap(a, b, "exact", seed=3) for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != paired_bootstrap(a, b, "exact", seed=4)


def test_pairs_of_an_item_are_drawn_together():
    """Three copies of the same items hold no more evidence than one: the interval must not shrink by sqrt(3)."""
    a = [corpus(seed=1, pairs=PAIRS[:count]) for count in (1, 3)]
    b = [corpus(seed=2, pairs=PAIRS[:count]) for count in (1, 3)]
    one, three = (paired_bootstrap(*both, "exact", resamples=2000) for both in zip(a, b, strict=True))
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.1)
    # Where nothing names the shared item, the same rows look like three times as many.
    for row in (*a[1], *b[1]):
        row["item"] = ""
    loose = paired_bootstrap(a[1], b[1], "exact", resamples=2000)
    assert loose.items == 180
    assert loose.high - loose.low == pytest.approx((one.high - one.low) / 3**0.5, rel=0.15)


def test_the_interval_of_exact_match_against_theory():
    a, b = corpus(items=400, seed=1), corpus(items=400, seed=2)
    differences = [
        100.0 * ((y["hypothesis"] == y["reference"]) - (x["hypothesis"] == x["reference"]))
        for x, y in zip(a[:400], b[:400], strict=True)
    ]
    got = paired_bootstrap(a, b, "exact", resamples=4000)
    expected = 2 * 1.96 * np.std(differences) / 400**0.5
    assert got.high - got.low == pytest.approx(expected, rel=0.07)


def test_a_pair_that_lacks_items():
    """Pairs need not cover the same items; a draw that misses a pair averages the others."""
    a = corpus(items=3, seed=1)[:4]
    got = paired_bootstrap(a, a, "exact", resamples=100)
    assert got.value == 0.0
    assert not np.isnan([got.low, got.high]).any()


def test_rows_must_match():
    rows = corpus()
    with pytest.raises(UserError, match="same examples"):
        paired_bootstrap(rows, rows[1:])
    with pytest.raises(UserError, match="same examples"):
        paired_bootstrap([], [])
    with pytest.raises(UserError, match="different references"):
        paired_bootstrap(rows, [{**row, "reference": "x"} for row in rows])
    with pytest.raises(UserError, match="did you mean bleu"):
        paired_bootstrap(rows, rows, "blue")
