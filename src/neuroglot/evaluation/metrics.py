"""The figures: corpus BLEU and chrF++ by sacreBLEU, exact match, nats per character. Nothing here needs torch.

Notable: the BLEU tokeniser follows the target language, and the signature that says so is kept with the scores.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

from neuroglot.errors import UserError
from neuroglot.pair import Pair

METRICS = ("bleu", "chrf", "exact", "nll", "contrastive")
PERCENT = ("bleu", "chrf", "exact")


def normalise(text: str) -> str:
    """Return the text in Unicode normal form C without outer white space: what exact match compares."""
    return unicodedata.normalize("NFC", text).strip()


def is_exact(hypothesis: str, reference: str) -> bool:
    """Whether two texts are the same after NFC and strip.

    >>> is_exact("cafe\\u0301 ", "caf\\u00e9")
    True
    """
    return normalise(hypothesis) == normalise(reference)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Percentage of hypotheses that equal their reference after NFC and strip."""
    _check(hypotheses, references)
    return 100.0 * sum(map(is_exact, hypotheses, references)) / len(references)


def characters(texts: Iterable[str]) -> int:
    """Number of characters (NFC code points, outer white space left out) in some texts."""
    return sum(len(normalise(text)) for text in texts)


def nll_per_character(nats: Sequence[float], references: Sequence[str]) -> float:
    """Total nats / total reference characters: comparable between tokenizers, weighted by length."""
    _check(nats, references)
    return float(sum(nats)) / max(characters(references), 1)


@cache
def tokeniser(target_lang: str) -> str:
    """Return sacreBLEU's tokeniser for a target language.

    Chinese is split by character; Japanese and Korean by MeCab where it is installed; everything else is `13a`.

    >>> tokeniser("zh_Hans"), tokeniser("de")
    ('zh', '13a')
    """
    language = target_lang.split("_")[0]
    if language == "zh":
        return "zh"
    if language in ("ja", "ko"):
        name = f"{language}-mecab"
        try:
            BLEU(tokenize=name, force=True)
        except (ImportError, RuntimeError):
            return "13a"
        return name
    return "13a"


def bleu_metric(target_lang: str) -> BLEU:
    """Return sacreBLEU's corpus BLEU for a target language (4-grams, mixed case, exponential smoothing)."""
    return BLEU(tokenize=tokeniser(target_lang), force=True)


def chrf_metric() -> CHRF:
    """Return sacreBLEU's chrF++ (character 6-grams and word 2-grams, beta 2)."""
    return CHRF(word_order=2)


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> float:
    """Corpus BLEU in percent.

    sacreBLEU's value as it is: a corpus in which no segment has four tokens scores 0 even where every segment is
    right; read exact match and chrF++ there.
    """
    _check(hypotheses, references)
    return float(bleu_metric(target_lang).corpus_score(list(hypotheses), [list(references)]).score)


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF++ in percent."""
    _check(hypotheses, references)
    return float(chrf_metric().corpus_score(list(hypotheses), [list(references)]).score)


def contrastive(nats: Sequence[float], alternatives: Sequence[Sequence[float]]) -> float:
    """Percentage of references that cost fewer nats than every wrong alternative; a tie is lost.

    >>> contrastive([1.0, 3.0], [[2.0, 5.0], [4.0, 2.5]])
    50.0
    """
    right = [own < min(others) for own, others in zip(nats, alternatives, strict=True)]
    return 100.0 * sum(right) / len(right)


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    target_lang: str,
    nats: Sequence[float] | None = None,
    alternatives: Sequence[Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Return every figure of one pair: bleu, chrf, exact in percent, nll in nats per reference character, n.

    `contrastive` (percent) compares `nats`, of the whole references, with those of their `alternatives`; both figures
    are None where their nats are not known.
    """
    return {
        "bleu": corpus_bleu(hypotheses, references, target_lang),
        "chrf": corpus_chrf(hypotheses, references),
        "exact": exact_match(hypotheses, references),
        "nll": None if nats is None else nll_per_character(nats, references),
        "contrastive": None if nats is None or alternatives is None else contrastive(nats, alternatives),
        "n": len(references),
    }


def average(scores: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over pairs of each figure; `n` is the sum; a figure that some pair lacks is None."""
    rows = list(scores)
    mean: dict[str, Any] = {}
    for metric in METRICS:
        values: list[Any] = [row.get(metric) for row in rows]
        mean[metric] = None if None in values else sum(values) / len(values)
    return {**mean, "n": sum(row["n"] for row in rows)}


def signatures(pairs: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return sacreBLEU's signatures, `{"bleu": {pair: ...}, "chrf": {pair: ...}}`: how to compute the same again."""
    names = sorted(set(pairs))
    return {
        "bleu": {name: _signature(tokeniser(Pair.parse(name).target)) for name in names},
        "chrf": {name: _signature(None) for name in names},
    }


@cache
def _signature(tokenise: str | None) -> str:
    metric = chrf_metric() if tokenise is None else BLEU(tokenize=tokenise, force=True)
    metric.corpus_score(["a"], [["a"]])  # a signature exists once the number of references is known
    return str(metric.get_signature())


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> NDArray[np.int64]:
    """Return what BLEU is made of, per segment: (N, 10) = 4 matches, 4 totals, hypothesis and reference length.

    Corpus BLEU is a function of the sum over segments, so a resampled corpus is a weighted sum.
    """
    _check(hypotheses, references)
    metric = bleu_metric(target_lang)
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        part = metric.corpus_score([hypothesis], [[reference]])
        rows.append([*part.counts, *part.totals, part.sys_len, part.ref_len])
    return np.asarray(rows, dtype=np.int64)


def _check(hypotheses: Sequence[Any], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise UserError(f"got {len(hypotheses)} hypotheses for {len(references)} references; expected one each")
    if not references:
        raise UserError("there is nothing to score: no references; give at least one example")
