"""Figures under resampling: every corpus figure as a function of sums over source items, so that drawing is adding.

Notable: a figure is computed from *sufficient statistics* (n-gram counts of BLEU and chrF, hits, nats). A resampled
corpus is a weighted sum of them, so thousands of draws cost one matrix product, and the figure of a draw is just what
sacreBLEU says of that corpus. Seeds and source items are both drawn (rows and columns of a table, each with
replacement): another seed and another test set would both have given another number. A sign in six languages is one
item.

Legend: R draws, S seeds, I items, D statistics. Draw 0 is the data as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.errors import UserError, nearest
from neuroglot.evaluation import metrics
from neuroglot.evaluation.figures.lines import has_lines, line_counts, reordered

Array = NDArray[np.float64]
Row = Mapping[str, Any]

FIGURES = ("bleu", "chrf", "exact", "nll", "contrastive", "ter", "bleu_moses", "lines", "bleu_lines", "comet")


def statistics(rows: Sequence[Row], metric: str, tokenise: str | None = None) -> Array | None:
    """Return what a figure is made of, per row: (N, D); None where a row lacks it (no likelihood, no alternatives).

    Args:
        rows: hypothesis rows of one pair.
        metric: one of `FIGURES`.
        tokenise: the tokeniser of `bleu`, if it is not to follow the target language.

    Raises:
        UserError: the figure is unknown, or needs a package that is not there.
    """
    if metric not in FIGURES:
        raise UserError(f"figure {metric!r} cannot be resampled; {nearest(metric, FIGURES)}")
    if not rows:
        return None
    if metric in OF_ROWS:
        made = [OF_ROWS[metric](row) for row in rows]
        return None if None in made else np.asarray(made, np.float64)
    target = rows[0]["pair"].split("-")[1]
    texts = [row["hypothesis"] for row in rows], [row["reference"] for row in rows]
    if metric in ("lines", "bleu_lines") and not any(map(has_lines, texts[1])):
        return None
    if metric == "bleu":
        return _bleu_statistics(*texts, metrics.bleu_metric(target, tokenise))
    if metric == "bleu_lines":
        return _bleu_statistics([*map(reordered, *texts)], texts[1], metrics.bleu_metric(target, tokenise))
    if metric == metrics.MOSES:
        prepared = [metrics.for_moses(side, target) for side in texts]
        return _bleu_statistics(prepared[0], prepared[1], metrics.moses_metric(target))
    if metric == "lines":
        return np.asarray([*map(line_counts, *texts)], np.float64)
    # The public interface of sacreBLEU gives the statistics of chrF and TER only through its own bootstrap.
    scorer = metrics.chrf_metric() if metric == "chrf" else metrics.ter_metric(target)
    return np.asarray(scorer._extract_corpus_statistics(texts[0], [texts[1]]), dtype=np.float64)


def _bleu_statistics(hypotheses: Sequence[str], references: Sequence[str], metric: Any) -> Array:
    return metrics.bleu_statistics(hypotheses, references, metric).astype(np.float64)


def _nll(row: Row) -> list[float] | None:
    return None if row.get("nll") is None else [row["nll"], metrics.characters([row["reference"]])]


def _contrastive(row: Row) -> list[float] | None:
    found = metrics.costs(row)
    return None if found is None else [found[0] < min(found[1]), 1]


def _comet(row: Row) -> list[float] | None:
    return None if row.get("comet") is None else [row["comet"], 1]


OF_ROWS: dict[str, Callable[[Row], list[float] | None]] = {
    "exact": lambda row: [metrics.is_exact(row["hypothesis"], row["reference"]), 1],
    "nll": _nll,
    "contrastive": _contrastive,
    "comet": _comet,
}
"""Figures that are a ratio of two sums over rows -> what a row adds to each; None where it lacks the figure."""


def value(totals: Array, metric: str) -> Array:
    """Return the figure of summed statistics: (..., D) -> (...)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric.startswith("bleu"):
            return _bleu(totals)
        if metric == "chrf":
            return _chrf(totals)
        if metric == "lines":
            return np.where(totals[..., 1] > 0, 200 * totals[..., 0] / totals[..., 1], 0.0)
        ratio: Array = totals[..., 0] / totals[..., 1]
        if metric == "ter":  # of empty references sacreBLEU says all wrong, or nothing wrong
            ratio = np.where(totals[..., 1] > 0, ratio, np.minimum(totals[..., 0], 1))
    return ratio if metric in ("nll", "comet") else 100 * ratio


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


def resample(
    runs: Sequence[Sequence[Row]], metric: str, splits: Sequence[str], draws: Draws, tokenise: str | None = None
) -> Array | None:
    """Return a figure under each draw: the mean over drawn seeds, splits and pairs, (1 + R,); None where it lacks.

    Args:
        runs: the hypothesis rows of each seed; a system without seeds gives one.
        metric: one of `FIGURES`.
        splits: which to average over.
        draws: see `Draws`.
        tokenise: the tokeniser of `bleu`, if it is not to follow the target language.

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
            made = statistics(members, metric, tokenise)
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
