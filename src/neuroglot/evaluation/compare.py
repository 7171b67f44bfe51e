"""Two systems beside each other: what was kept, and whether a difference is more than the luck of the test items.

Notable: the bootstrap draws source items, not sentences. The same sign translated into six languages is one draw, so
an interval is as wide as the number of independent items makes it. Corpus BLEU is resampled exactly, by summing its
sufficient statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.errors import UserError, nearest
from neuroglot.evaluation import metrics
from neuroglot.evaluation.evaluate import Scores

Rows = Iterable[Mapping[str, Any]]


def retention(scores: Mapping[str, Scores], before: str = "base", after: str = "") -> list[dict[str, Any]]:
    """Return what a system kept of each split, one row per split and metric.

    Args:
        scores: system -> split -> pair -> figures (`scores.json`'s `systems`).
        before: the system that stands for the past.
        after: the system that is asked about.

    Returns:
        Rows of split, metric (bleu, chrf, exact), before and after (averages over pairs, percent), difference
        (after - before, points) and ratio (after / before; None where `before` is 0). Splits that only one of the
        two was scored on are left out.

    Raises:
        UserError: a system of that name has no scores.
    """
    for name in (before, after):
        if name not in scores:
            raise UserError(f"no scores for system {name!r}; {nearest(name, scores)}")
    rows = []
    for split in scores[before]:
        if split not in scores[after]:
            continue
        for metric in metrics.PERCENT:
            old, new = (scores[name][split]["average"][metric] for name in (before, after))
            rows.append(
                {
                    "split": split,
                    "metric": metric,
                    "before": old,
                    "after": new,
                    "difference": new - old,
                    "ratio": new / old if old else None,
                }
            )
    return rows


@dataclass(frozen=True)
class Difference:
    """A difference between two systems (b - a, points, averaged over pairs) and its bootstrap interval.

    `p` is the two-sided bootstrap p-value: twice the smaller share of resamples on either side of zero.
    """

    metric: str
    value: float
    low: float
    high: float
    p: float
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
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Interval of the difference b - a of the average over pairs, on the same test items.

    Args:
        a: hypothesis rows of one system on one split (pair, item, index, reference, hypothesis).
        b: rows of the other system on the same split.
        metric: `bleu` (corpus BLEU per pair, averaged), `exact`, or `chrf` (mean of sentence chrF++).
        resamples: number of bootstrap draws.
        confidence: coverage of the percentile interval.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        UserError: the rows are not of the same examples, or the metric is unknown.
    """
    if metric not in metrics.PERCENT:
        raise UserError(f"metric {metric!r} cannot be resampled; {nearest(metric, metrics.PERCENT)}")
    rows_a, rows_b = _aligned(a, b)
    items = {name: place for place, name in enumerate(dict.fromkeys(_item(row) for row in rows_a))}
    rng = np.random.default_rng(seed)
    weights = np.concatenate(  # (1 + R, items): the sample itself first, then its resamples
        [np.ones((1, len(items)), np.int64), rng.multinomial(len(items), [1 / len(items)] * len(items), resamples)]
    )
    values = [_resampled(rows, items, weights, metric) for rows in (rows_a, rows_b)]
    difference = values[1] - values[0]
    observed, draws = float(difference[0]), difference[1:]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (resamples + 1))  # the +1: the sample itself counts, so p is never 0
    return Difference(metric, observed, float(low), float(high), p, len(items), resamples)


def _resampled(
    rows: Sequence[Mapping[str, Any]], items: Mapping[str, int], weights: NDArray[np.int64], metric: str
) -> NDArray[np.float64]:
    """Return the average over pairs of the metric under each weighting of the items, shape (1 + R,).

    A pair may have none of the drawn items; its figure is then unknown and the average is over the other pairs.
    """
    by_pair: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_pair.setdefault(row["pair"], []).append(row)
    per_pair = []
    for pair, members in sorted(by_pair.items()):
        hypotheses = [row["hypothesis"] for row in members]
        references = [row["reference"] for row in members]
        place = np.asarray([items[_item(row)] for row in members])
        if metric == "bleu":
            statistics = metrics.bleu_statistics(hypotheses, references, pair.split("-")[1])
            totals = weights[:, place] @ statistics  # (1 + R, 10)
            per_pair.append(np.asarray([metrics.bleu_from_statistics(total) for total in totals]))
            per_pair[-1][weights[:, place].sum(axis=1) == 0] = np.nan
            continue
        if metric == "exact":
            values = [100.0 * metrics.is_exact(*texts) for texts in zip(hypotheses, references, strict=True)]
        else:
            chrf = metrics.chrf_metric()
            values = [
                float(chrf.sentence_score(hypothesis, [reference]).score)
                for hypothesis, reference in zip(hypotheses, references, strict=True)
            ]
        chosen = weights[:, place]
        count = chosen.sum(axis=1)
        per_pair.append(np.where(count > 0, chosen @ np.asarray(values) / np.maximum(count, 1), np.nan))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(np.stack(per_pair), axis=0), dtype=np.float64)


def _item(row: Mapping[str, Any]) -> str:
    """Name the independent unit that a row belongs to; an unnamed example is a unit of its own."""
    return row.get("item") or f"#{row['index']}"


def _aligned(a: Rows, b: Rows) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
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
    return [keyed[0][key] for key in order], [keyed[1][key] for key in order]
