"""Figures under resampling: every corpus figure as a function of sums over source items, so that drawing is adding.

Notable: a figure is computed from *sufficient statistics* (n-gram counts of BLEU and chrF, hits, nats). A resampled
corpus is a weighted sum of them, so thousands of draws cost one matrix product, and the figure of a draw is just what
sacreBLEU says of that corpus. Seeds and source items are both drawn (rows and columns of a table, each with
replacement): another seed and another test set would both have given another number. A sign in six languages is one
item.

Legend: R draws, S seeds, I items, D statistics. Draw 0 is the data as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.errors import UserError, nearest
from neuroglot.evaluation import metrics

Array = NDArray[np.float64]
Row = Mapping[str, Any]

FIGURES = ("bleu", "chrf", "exact", "nll", "contrastive")


def statistics(rows: Sequence[Row], metric: str) -> Array | None:
    """Return what a figure is made of, per row: (N, D); None where a row lacks it (no likelihood, no alternatives).

    Args:
        rows: hypothesis rows of one pair.
        metric: one of `FIGURES`.

    Raises:
        UserError: the figure is unknown.
    """
    if metric == "bleu":
        hypotheses, references = [row["hypothesis"] for row in rows], [row["reference"] for row in rows]
        return metrics.bleu_statistics(hypotheses, references, rows[0]["pair"].split("-")[1]).astype(np.float64)
    if metric == "chrf":
        chrf = metrics.chrf_metric()
        # The public interface of sacreBLEU gives chrF's statistics only through its own bootstrap.
        return np.asarray(
            [chrf._extract_corpus_statistics([row["hypothesis"]], [[row["reference"]]])[0] for row in rows],
            dtype=np.float64,
        )
    if metric == "exact":
        return np.asarray([[metrics.is_exact(row["hypothesis"], row["reference"]), 1] for row in rows], np.float64)
    if metric == "nll":
        if any(row["nll"] is None for row in rows):
            return None
        return np.asarray([[row["nll"], metrics.characters([row["reference"]])] for row in rows], np.float64)
    if metric == "contrastive":
        if any(row["nll"] is None or not row.get("alternative_nll") for row in rows):
            return None
        return np.asarray([[row["nll"] < min(row["alternative_nll"]), 1] for row in rows], np.float64)
    raise UserError(f"figure {metric!r} cannot be resampled; {nearest(metric, FIGURES)}")


def value(totals: Array, metric: str) -> Array:
    """Return the figure of summed statistics: (..., D) -> (...)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "bleu":
            return _bleu(totals)
        if metric == "chrf":
            return _chrf(totals)
        ratio: Array = totals[..., 0] / totals[..., 1]
    return ratio if metric == "nll" else 100 * ratio


def _bleu(totals: Array) -> Array:
    """Corpus BLEU, 4-grams, exponential smoothing, of (matches 4, totals 4, hypothesis and reference length)."""
    correct, total, hypothesis, reference = totals[..., :4], totals[..., 4:8], totals[..., 8], totals[..., 9]
    zeros = np.cumsum((correct == 0) & (total > 0), axis=-1)  # the n-th order without a match counts 1/2^n
    precision = np.where(correct > 0, correct, 0.5**zeros) / total
    brevity = np.where(hypothesis < reference, np.exp(1 - reference / hypothesis), 1.0)
    score = 100 * brevity * np.exp(np.log(precision).mean(axis=-1))
    none = (total == 0).any(axis=-1) | (correct.sum(axis=-1) == 0)
    return np.where(none, 0.0, score)


def _chrf(totals: Array) -> Array:
    """Corpus chrF++ (beta 2, effective order) of (hypothesis, reference, match) per order."""
    hypothesis, reference, match = totals[..., 0::3], totals[..., 1::3], totals[..., 2::3]
    counted = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    precision = np.where(counted, match / hypothesis, 0).sum(axis=-1) / orders
    recall = np.where(counted, match / reference, 0).sum(axis=-1) / orders
    return np.where(precision + recall > 0, 100 * 5 * precision * recall / (4 * precision + recall), 0.0)


@dataclass(frozen=True)
class Draws:
    """Which seeds and items each draw holds, and how often; the same for all systems, so differences are paired.

    Attributes:
        seeds: (R, S) counts.
        items: split -> item -> column of `weights[split]`.
        weights: split -> (R, I) counts.
    """

    seeds: Array
    items: Mapping[str, Mapping[str, int]]
    weights: Mapping[str, Array]

    @classmethod
    def make(cls, rows: Sequence[Row], seeds: int, draws: int = 2000, seed: int = 0) -> Draws:
        """Draw for the items that occur in some rows.

        Args:
            rows: of any system that was scored on everything.
            seeds: number of training seeds.
            draws: how many resamples.
            seed: of the drawing.
        """
        rng = np.random.default_rng(seed)
        items: dict[str, dict[str, int]] = {}
        for row in rows:
            own = items.setdefault(split_of(row), {})
            own.setdefault(item_of(row), len(own))
        weights = {split: _draw(rng, len(names), draws) for split, names in items.items()}
        return cls(_draw(rng, seeds, draws), items, weights)


def _draw(rng: np.random.Generator, count: int, draws: int) -> Array:
    resamples = rng.multinomial(count, [1 / count] * count, draws)
    return np.concatenate([np.ones((1, count)), resamples]).astype(np.float64)


def item_of(row: Row) -> str:
    """Name the independent unit that a row belongs to; an unnamed example is a unit of its own."""
    return row.get("item") or f"#{row['index']}"


def split_of(row: Row) -> str:
    """Name the split of a row; rows that were not taken from a run have none."""
    return row.get("split") or ""


def resample(runs: Sequence[Sequence[Row]], metric: str, splits: Sequence[str], draws: Draws) -> Array | None:
    """Return a figure under each draw: the mean over drawn seeds, splits and pairs, (1 + R,); None where it lacks.

    Args:
        runs: the hypothesis rows of each seed; a system without seeds gives one.
        metric: one of `FIGURES`.
        splits: which to average over.
        draws: see `Draws`.

    A pair that has none of the drawn items is left out of that draw's mean.
    """
    per_seed = []
    for rows in runs:
        parts: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if split_of(row) in splits:
                parts.setdefault((split_of(row), row["pair"]), []).append(row)
        if not parts:
            return None
        per_split: dict[str, list[Array]] = {}
        for (split, _), members in sorted(parts.items()):
            made = statistics(members, metric)
            if made is None:
                return None
            places = [draws.items[split][item_of(row)] for row in members]
            drawn = draws.weights[split][:, places]
            figure = np.where(drawn.sum(axis=1) == 0, np.nan, value(drawn @ made, metric))
            per_split.setdefault(split, []).append(figure)
        with np.errstate(invalid="ignore"):
            per_seed.append(np.mean([np.nanmean(np.stack(pairs), axis=0) for pairs in per_split.values()], axis=0))
    stacked = np.stack(per_seed, axis=1)  # (1 + R, S or 1)
    if len(runs) == 1:
        return np.asarray(stacked[:, 0])
    return np.asarray((stacked * draws.seeds).sum(axis=1) / draws.seeds.sum(axis=1))
