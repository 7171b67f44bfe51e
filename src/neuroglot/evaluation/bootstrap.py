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
from neuroglot.evaluation.metrics import has_lines, line_counts, reordered
from neuroglot.evaluation.tokenize import Tokenise, chosen, tokeniser, writing
from neuroglot.printing import short

Array = NDArray[np.float64]
Row = Mapping[str, Any]

FIGURES = ("bleu", "chrf", "chrf0", "exact", "nll", "contrastive", "ter", "bleu_moses", "lines", "bleu_lines", "comet")


def statistics(rows: Sequence[Row], metric: str, tokenise: Tokenise = None) -> Array | None:
    """Return what a figure is made of, per row: (N, D); None where a row lacks it (no likelihood, no alternatives).

    Args:
        rows: hypothesis rows of one pair. Where a row has `references`, any of them will do; the figures of lines
            take its first.
        metric: one of `FIGURES`.
        tokenise: the tokenisers of `bleu`, where they are not to follow the script.

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
    pair = rows[0]["pair"]
    target = pair.split("-")[1]
    hypotheses = metrics.normalised(row["hypothesis"] for row in rows)
    references = metrics.normalised(map(references_of, rows))
    firsts = [texts[0] for texts in references]
    if metric in ("lines", "bleu_lines") and not any(map(has_lines, firsts)):
        return None
    if metric == "lines":
        return np.asarray([*map(line_counts, hypotheses, firsts)], np.float64)
    own = tokeniser(target, firsts)
    bleu = metrics.bleu_metric(target, chosen(tokenise, pair) or own)
    if metric == "bleu":
        return _bleu_statistics(hypotheses, references, bleu)
    if metric == "bleu_lines":
        return _bleu_statistics([*map(reordered, hypotheses, firsts)], firsts, bleu)
    if metric == metrics.MOSES:
        said, wanted = (metrics.for_moses(side, target, own) for side in (hypotheses, firsts))
        return _bleu_statistics(said, wanted, metrics.moses_metric(own))
    # The public interface of sacreBLEU gives the statistics of chrF and TER only through its own bootstrap.
    if metric == "ter":
        kind = writing(target, firsts)
        hypotheses = metrics.for_ter(hypotheses, kind)
        streams = metrics.streams([metrics.for_ter(texts, kind) for texts in references])
        scorer: Any = metrics.ter_metric(kind)
    else:
        streams, scorer = metrics.streams(references), metrics.chrf_metric(2 if metric == "chrf" else 0)
    return np.asarray(scorer._extract_corpus_statistics(hypotheses, streams), dtype=np.float64)


def references_of(row: Row) -> list[str]:
    """Return what a row should have said: any of these."""
    return list(row.get("references") or [row["reference"]])


def _bleu_statistics(hypotheses: Sequence[str], references: Sequence[metrics.Reference], metric: Any) -> Array:
    return metrics.bleu_statistics(hypotheses, references, metric).astype(np.float64)


def _exact(row: Row) -> list[float]:
    return [any(metrics.is_exact(row["hypothesis"], text) for text in references_of(row)), 1]


def _nll(row: Row) -> list[float] | None:
    return None if row.get("nll") is None else [row["nll"], metrics.characters([row["reference"]])]


def _contrastive(row: Row) -> list[float] | None:
    result = metrics.costs(row)
    return None if result is None else [result[0] < min(result[1]), 1]


def _comet(row: Row) -> list[float] | None:
    return None if row.get("comet") is None else [row["comet"], 1]


OF_ROWS: dict[str, Callable[[Row], list[float] | None]] = {
    "exact": _exact,
    "nll": _nll,
    "contrastive": _contrastive,
    "comet": _comet,
}
"""Figures that are a ratio of two sums over rows -> what a row adds to each; None where it lacks the figure."""


def value(totals: Array, metric: str) -> Array:
    """Return the figure of summed statistics: (..., D) -> (...); not a number where it means nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric.startswith("bleu"):
            return _bleu(totals)
        if metric.startswith("chrf"):
            return _chrf(totals)
        if metric == "lines":
            return np.where(totals[..., 1] > 0, 200 * totals[..., 0] / totals[..., 1], np.nan)
        ratio: Array = np.where(totals[..., 1] > 0, totals[..., 0] / totals[..., 1], np.nan)
    return ratio if metric in ("nll", "comet") else 100 * ratio


def why_not(totals: Array, metric: str) -> str:
    """Return why the figure of summed statistics (D,) means nothing; empty where it means something."""
    if metric.startswith("bleu"):
        return metrics.why_no_bleu(totals)
    return metrics.EMPTY if np.isnan(value(totals, metric)) else ""


def _bleu(totals: Array) -> Array:
    """Corpus BLEU, 4-grams, exponential smoothing, of what `metrics.bleu_statistics` returns."""
    correct, total, hypothesis, reference = totals[..., :4], totals[..., 4:8], totals[..., 8], totals[..., 9]
    zeros = np.cumsum((correct == 0) & (total > 0), axis=-1)  # the n-th order without a match counts 1/2^n
    precision = np.where(correct > 0, correct, 0.5**zeros) / total
    brevity = np.where(hypothesis < reference, np.exp(1 - reference / hypothesis), 1.0)
    score = 100 * brevity * np.exp(np.log(precision).mean(axis=-1))
    score = np.where(correct.sum(axis=-1) == 0, 0.0, score)
    short = (totals[..., 10] == 0) | ((hypothesis > 0) & (total[..., 3] == 0))
    return np.where(short, np.nan, score)


def _chrf(totals: Array) -> Array:
    """Corpus chrF (beta 2, effective order) of (hypothesis, reference, match) per order."""
    hypothesis, reference, match = totals[..., 0::3], totals[..., 1::3], totals[..., 2::3]
    counted = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    precision = np.where(counted, match / hypothesis, 0).sum(axis=-1) / orders
    recall = np.where(counted, match / reference, 0).sum(axis=-1) / orders
    score = np.where(precision + recall > 0, 100 * 5 * precision * recall / (4 * precision + recall), 0.0)
    return np.where(reference.sum(axis=-1) == 0, np.nan, score)


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

    __repr__ = short

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
    runs: Sequence[Sequence[Row]], metric: str, splits: Sequence[str], draws: Draws, tokenise: Tokenise = None
) -> Array | None:
    """Return a figure under each draw: the mean over drawn seeds, splits and pairs, (1 + R,); None where it lacks.

    Args:
        runs: the hypothesis rows of each seed; a system without seeds gives one.
        metric: one of `FIGURES`.
        splits: which to average over.
        draws: see `Draws`.
        tokenise: the tokenisers of `bleu`, where they are not to follow the script.

    A pair that has none of the drawn items is left out of that draw's mean. A figure that means nothing of some pair
    is lacking as a whole (`reason` says why); of a draw in which it does, the value is not a number.
    """
    per_seed = []
    for rows in runs:
        parts = _parts(rows, splits)
        if not parts:
            return None
        per_split: dict[str, list[Array]] = {}
        for (split, _), members in parts:
            made = statistics(members, metric, tokenise)
            if made is None or why_not(made.sum(axis=0), metric):
                return None
            places = [draws.items[split][item_of(row)] for row in members]
            drawn = draws.weights[split][:, places]
            # Infinite: left out of the mean; not a number: makes it none.
            figure = np.where(drawn.sum(axis=1) == 0, np.inf, value(drawn @ made, metric))
            per_split.setdefault(split, []).append(figure)
        per_seed.append(np.mean([_mean(np.stack(pairs)) for pairs in per_split.values()], axis=0))
    stacked = np.stack(per_seed, axis=1)  # (1 + R, S or 1)
    if len(runs) == 1:
        return np.asarray(stacked[:, 0])
    return np.asarray((stacked * draws.seeds).sum(axis=1) / draws.seeds.sum(axis=1))


def _mean(figures: Array) -> Array:
    """Return the mean over pairs, (pairs, 1 + R) -> (1 + R,), without the pairs that were not drawn."""
    there = ~np.isinf(figures)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Array = np.where(there, figures, 0).sum(axis=0) / there.sum(axis=0)
    return mean


def reason(rows: Sequence[Row], metric: str, splits: Sequence[str], tokenise: Tokenise = None) -> str:
    """Return why `resample` has no figure of some rows: the first pair of which it means nothing, and why."""
    parts = _parts(rows, splits)
    for (_, pair), members in parts:
        made = statistics(members, metric, tokenise)
        if made is not None and (why := why_not(made.sum(axis=0), metric)):
            return f"{pair}: {why}" if len(parts) > 1 else why
    return ""


def _parts(rows: Sequence[Row], splits: Sequence[str]) -> list[tuple[tuple[str, str], list[Row]]]:
    """Return the rows of some splits by split and pair, sorted."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if split_of(row) in splits:
            parts.setdefault((split_of(row), row["pair"]), []).append(row)
    return sorted(parts.items())


LEVEL = 0.05
"""Of intervals: 95 % of the draws lie within. Where more draws than this have no value, there is no interval."""


def interval(draws: Array, items: int = 2) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of a figure's draws (1 + R,), the data first; None where there is none.

    There is none of fewer than two items, which cannot be drawn in two ways, nor where many draws have no value.

    Args:
        draws: what `resample` returns, or a difference of two of these.
        items: how many source items there are.
    """
    known = draws[1:][np.isfinite(draws[1:])]
    if items < 2 or len(known) < (1 - LEVEL) * (len(draws) - 1):
        return None
    low, high = np.quantile(known, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
