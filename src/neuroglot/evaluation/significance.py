"""Two systems beside each other: what was kept, and whether a difference is more than the luck of the test items.

Notable: the bootstrap draws source items, not sentences. The same sign translated into six languages is one draw, so
an interval is as wide as the number of independent items makes it. Corpus BLEU is resampled exactly, by summing its
sufficient statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neuroglot.errors import UserError, nearest
from neuroglot.evaluation import metrics
from neuroglot.evaluation.bootstrap import FIGURES, Draws, interval, reason, resample
from neuroglot.evaluation.evaluate import Scores
from neuroglot.evaluation.tokenize import Tokenise

OWN = "file:"
"""What the splits of a user's own files begin with, so that none is taken for a task."""

Rows = Iterable[Mapping[str, Any]]


def retention(
    scores: Mapping[str, Scores],
    before: str = "base",
    after: str = "",
    rows: Iterable[Mapping[str, Any]] = (),
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """Return what a system kept of each split, one row per split and metric.

    Args:
        scores: system -> split -> pair -> figures (`scores.json`'s `systems`).
        before: the system that stands for the past.
        after: the system that is asked about.
        rows: hypothesis rows of both, for the interval of the difference.
        resamples: of the paired bootstrap over source items.

    Returns:
        Rows of split, metric (bleu, chrf, exact; contrastive where there are wrong readings), before and after
        (averages over pairs, percent), difference (after - before, points), its 95 % interval low and high (None
        where `rows` lacks the split) and ratio (after / before; None where `before` is 0). Splits that only one of
        the two was scored on are left out.

    Raises:
        UserError: a system of that name has no scores.
    """
    for name in (before, after):
        if name not in scores:
            raise UserError(f"no scores for system {name!r}; {nearest(name, scores)}")
    said: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        said.setdefault((row["system"], row["split"]), []).append(row)
    result = []
    for split in scores[before]:
        if split not in scores[after]:
            continue
        texts = said.get((before, split), []), said.get((after, split), [])
        for metric in (*metrics.PERCENT, "contrastive"):
            old, new = (scores[name][split]["average"].get(metric) for name in (before, after))
            if old is None or new is None:  # no wrong readings, no likelihoods, or a figure that means nothing
                continue
            gap = _difference(*texts, metric, resamples)
            result.append(
                {
                    "split": split,
                    "metric": metric,
                    "before": old,
                    "after": new,
                    "difference": new - old,
                    "low": gap and gap.low,
                    "high": gap and gap.high,
                    "ratio": new / old if old else None,
                }
            )
    return result


@dataclass(frozen=True)
class Difference:
    """A difference between two systems (b - a, points, averaged over pairs) and its bootstrap interval.

    `p` is the two-sided bootstrap p-value: twice the smaller share of resamples on either side of zero. `low`, `high`
    and `p` are None where there are fewer than two items, or where the figure means nothing of many resamples.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    p: float | None
    items: int
    resamples: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return asdict(self)


def paired_bootstrap(
    a: Rows,
    b: Rows,
    metric: str = "bleu",
    resamples: int = 1000,
    seed: int = 0,
    tokenise: Tokenise = None,
) -> Difference:
    """Interval of the difference b - a of the average over pairs, on the same test items.

    Args:
        a: hypothesis rows of one system on one split (pair, item, index, reference, hypothesis).
        b: rows of the other system on the same split.
        metric: one of `neuroglot.evaluation.bootstrap.FIGURES`, such as `bleu` (corpus BLEU per pair, averaged).
        resamples: number of bootstrap draws.
        seed: of the draws; the same seed gives the same interval.
        tokenise: the tokenisers of `bleu`, where they are not to follow the script.

    Raises:
        UserError: the rows are not of the same examples, or the metric is unknown.
    """
    if metric not in FIGURES:
        raise UserError(f"metric {metric!r} cannot be resampled; {nearest(metric, FIGURES)}")
    rows_a, rows_b = _aligned(a, b)
    drawn = Draws.make(rows_a, 1, resamples, seed)
    splits = list(drawn.items)
    values = [resample([rows], metric, splits, drawn, tokenise) for rows in (rows_a, rows_b)]
    if values[0] is None or values[1] is None:
        why = reason(rows_a, metric, splits, tokenise) or reason(rows_b, metric, splits, tokenise)
        raise UserError(
            f"metric {metric!r} {f'means nothing: {why}' if why else 'is not known of every row of both systems'}; "
            "choose another"
        )
    difference = values[1] - values[0]
    items = sum(map(len, drawn.items.values()))
    ends = interval(difference, items)
    if ends is None:
        return Difference(metric, float(difference[0]), None, None, None, items, resamples)
    known = difference[1:][np.isfinite(difference[1:])]
    side = min(int((known <= 0).sum()), int((known >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (len(known) + 1))  # the +1: the sample itself counts, so p is never 0
    return Difference(metric, float(difference[0]), *ends, p, items, resamples)


def _difference(before: Rows, after: Rows, metric: str, resamples: int) -> Difference | None:
    try:
        return paired_bootstrap(before, after, metric, resamples)
    except UserError:  # not the same examples, or not in the file: no pairing, no interval
        return None


def _aligned(a: Rows, b: Rows) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    keyed = [{(row["pair"], row["index"]): row for row in rows} for rows in (a, b)]
    if not keyed[0] or keyed[0].keys() != keyed[1].keys():
        raise UserError(
            f"the two systems were not scored on the same examples ({len(keyed[0])} and {len(keyed[1])} rows); "
            "give rows of one split, of one system each"
        )
    order = list(keyed[0])
    for key in order:
        if keyed[0][key]["reference"] != keyed[1][key]["reference"]:
            raise UserError(f"the two systems have different references for example {key[1]} of {key[0]}")
    # Both are drawn by the same items, so one file that names them does for both.
    items = [keyed[0][key].get("item") or keyed[1][key].get("item") for key in order]
    named = [[{**rows[key], "item": item} for key, item in zip(order, items, strict=True)] for rows in keyed]
    return named[0], named[1]
