"""The figures: corpus BLEU, chrF++ and TER by sacreBLEU, exact match, lines, nats per character. None needs torch.

Notable: the tokeniser follows the target language, and the signature that says so is kept with the scores.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF, TER

from neuroglot.errors import UserError
from neuroglot.evaluation.figures.lines import has_lines, line_counts, reordered
from neuroglot.evaluation.figures.tokenise import (
    UNSEGMENTED,
    language_of,
    moses_lower,
    moses_signature,
    tokeniser,
)
from neuroglot.pair import Pair

METRICS = ("bleu", "chrf", "ter", "exact", "nll", "contrastive", "lines", "bleu_lines")
"""What is scored of everything; None where it does not apply."""
MOSES = "bleu_moses"
"""Lower-cased, Moses-tokenised BLEU, only where it is asked for: it needs a package of its own."""
PERCENT = ("bleu", "chrf", "exact")
LOWER_IS_BETTER = ("ter", "nll")


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


def bleu_metric(target_lang: str, tokenise: str | None = None) -> BLEU:
    """Return sacreBLEU's corpus BLEU for a target language (4-grams, mixed case, exponential smoothing)."""
    return BLEU(tokenize=tokenise or tokeniser(target_lang), force=True)


def chrf_metric() -> CHRF:
    """Return sacreBLEU's chrF++ (character 6-grams and word 2-grams, beta 2)."""
    return CHRF(word_order=2)


def ter_metric(target_lang: str) -> TER:
    """Return sacreBLEU's translation edit rate; Chinese and Japanese are split by character."""
    by_character = language_of(target_lang) in ("zh", "ja")
    return TER(normalized=by_character, asian_support=by_character)


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


def corpus_ter(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> float:
    """Corpus TER in percent of the reference's words: edits and shifts of phrases; lower is better."""
    _check(hypotheses, references)
    return float(ter_metric(target_lang).corpus_score(list(hypotheses), [list(references)]).score)


def corpus_bleu_moses(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> float:
    """Corpus BLEU in percent after Moses' normalising and tokenising and lower-casing, as in many papers' BLEU-4.

    Chinese, Japanese and Korean, which Moses does not split, take sacreBLEU's tokeniser instead.

    Raises:
        UserError: sacremoses is not installed.
    """
    _check(hypotheses, references)
    prepared = [for_moses(texts, target_lang) for texts in (hypotheses, references)]
    return float(moses_metric(target_lang).corpus_score(prepared[0], [prepared[1]]).score)


def moses_metric(target_lang: str) -> BLEU:
    """Return the BLEU that scores what `for_moses` returns."""
    own = language_of(target_lang) in UNSEGMENTED
    return BLEU(tokenize=tokeniser(target_lang) if own else "none", lowercase=own, force=True)


def for_moses(texts: Sequence[str], target_lang: str) -> list[str]:
    """Return texts as the lower-cased BLEU takes them."""
    return list(texts) if language_of(target_lang) in UNSEGMENTED else moses_lower(texts, target_lang)


def line_f1(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """F1 over lines as multisets, in percent, over all texts together; the order of lines does not count."""
    _check(hypotheses, references)
    shared, together = map(sum, zip(*map(line_counts, hypotheses, references), strict=True))
    return 200.0 * shared / together if together else 0.0


def corpus_bleu_lines(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> float:
    """Corpus BLEU in percent after each hypothesis' lines were put into the order of its reference's."""
    return corpus_bleu([*map(reordered, hypotheses, references)], references, target_lang)


def contrastive(costs: Sequence[float], alternatives: Sequence[Sequence[float]]) -> float:
    """Percentage of references that cost less than every wrong alternative; a tie is lost.

    What a text costs is its nats per token, the logarithm of its perplexity: see `costs`.

    >>> contrastive([1.0, 3.0], [[2.0, 5.0], [4.0, 2.5]])
    50.0
    """
    right = [own < min(others) for own, others in zip(costs, alternatives, strict=True)]
    return 100.0 * sum(right) / len(right)


def costs(row: Mapping[str, Any]) -> tuple[float, list[float]] | None:
    """Return what a row's reference and its wrong alternatives cost; None where that is not known.

    CoMMuTE (Futeral et al. 2023) ranks by perplexity, that is by nats per token, so that a reading is not preferred
    for being short. A system that does not count its tokens is ranked by the nats of the whole text. Both readings of
    a source are items of their own, each with its picture: a system that ignores the picture gets half of them.
    """
    own, others = row.get("nll"), row.get("alternative_nll")
    if own is None or not others or None in others:
        return None
    tokens, counts = row.get("tokens"), row.get("alternative_tokens")
    if tokens and counts:
        return own / tokens, [nats / count for nats, count in zip(others, counts, strict=True)]
    return own, list(others)


def contrastive_signature(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return by what the rows' readings were ranked; empty where they have none."""
    by_token = [bool(row.get("tokens") and row.get("alternative_tokens")) for row in rows if costs(row) is not None]
    kinds = {"perplexity:token" if counted else "likelihood:text" for counted in by_token}
    return "|".join(["tie:lost", *sorted(kinds)]) if kinds else ""


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    target_lang: str,
    nats: Sequence[float] | None = None,
    alternatives: Sequence[Sequence[float]] | None = None,
    own: Sequence[float] | None = None,
    moses: bool = False,
) -> dict[str, Any]:
    """Return every figure of one pair: those of `METRICS`, and n.

    All are in percent except nll, in nats per reference character.

    Args:
        hypotheses: what a system said.
        references: what it should have said.
        target_lang: decides the tokeniser.
        nats: of the whole references; None where they are not known.
        alternatives: what the wrong alternatives cost; None where that is not known.
        own: what the references cost, to be held against `alternatives`; by default `nats`.
        moses: whether lower-cased, Moses-tokenised BLEU is wanted too, as `bleu_moses`.

    `lines` and `bleu_lines` are None where every reference is one line.
    """
    own = nats if own is None else own
    several = any(map(has_lines, references))
    found = {
        "bleu": corpus_bleu(hypotheses, references, target_lang),
        "chrf": corpus_chrf(hypotheses, references),
        "ter": corpus_ter(hypotheses, references, target_lang),
        "exact": exact_match(hypotheses, references),
        "nll": None if nats is None else nll_per_character(nats, references),
        "contrastive": None if own is None or alternatives is None else contrastive(own, alternatives),
        "lines": line_f1(hypotheses, references) if several else None,
        "bleu_lines": corpus_bleu_lines(hypotheses, references, target_lang) if several else None,
        "n": len(references),
    }
    return {**found, MOSES: corpus_bleu_moses(hypotheses, references, target_lang)} if moses else found


def average(scores: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over pairs of each figure; `n` is the sum; a figure that some pair lacks is None."""
    rows = list(scores)
    mean: dict[str, Any] = {}
    for metric in (*METRICS, *([MOSES] if any(MOSES in row for row in rows) else [])):
        values: list[Any] = [row.get(metric) for row in rows]
        mean[metric] = None if None in values else sum(values) / len(values)
    return {**mean, "n": sum(row["n"] for row in rows)}


def signatures(pairs: Iterable[str], moses: bool = False) -> dict[str, dict[str, str]]:
    """Return sacreBLEU's signatures, `{"bleu": {pair: ...}, "chrf": ..., ...}`: how to compute the same again."""
    names = sorted(set(pairs))
    kinds = ("bleu", "chrf", "ter", *([MOSES] if moses else []))
    return {kind: {name: signature(kind, Pair.parse(name).target) for name in names} for kind in kinds}


@cache
def signature(metric: str, target_lang: str, tokenise: str | None = None) -> str:
    """Return sacreBLEU's signature of a figure for a target language.

    Args:
        metric: `bleu`, `chrf`, `ter` or `bleu_moses`.
        target_lang: decides the tokeniser.
        tokenise: the tokeniser of `bleu`, if it is not to follow the language.
    """
    made: dict[str, Any] = {
        "bleu": lambda: BLEU(tokenize=tokenise or tokeniser(target_lang), force=True),
        "chrf": chrf_metric,
        "ter": lambda: ter_metric(target_lang),
        MOSES: lambda: moses_metric(target_lang),
    }
    scorer = made[metric]()
    scorer.corpus_score(["a"], [["a"]])  # a signature exists once the number of references is known
    text = str(scorer.get_signature())
    return moses_signature(target_lang, text) if metric == MOSES else text


def signature_of(figure: str, rows: Iterable[Mapping[str, Any]], tokenise: str | None = None) -> str:
    """Return how to compute a figure of hypothesis rows again; several signatures where the pairs differ in theirs."""
    if figure == "contrastive":
        return contrastive_signature(rows)
    if figure not in ("bleu", "chrf", "ter", "bleu_lines", MOSES):
        return {"exact": "norm:nfc+strip", "lines": "f1|norm:nfc+blanks", "nll": "nats|unit:character"}[figure]
    kind = "bleu" if figure == "bleu_lines" else figure
    targets = dict.fromkeys(row["pair"].split("-")[1] for row in rows)
    said = dict.fromkeys(signature(kind, target, tokenise if kind == "bleu" else None) for target in targets)
    return "; ".join(said) + ("|lines:best-match" if figure == "bleu_lines" else "")


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str], metric: BLEU) -> NDArray[np.int64]:
    """Return what BLEU is made of, per segment: (N, 10) = 4 matches, 4 totals, hypothesis and reference length.

    Corpus BLEU is a function of the sum over segments, so a resampled corpus is a weighted sum.
    """
    _check(hypotheses, references)
    # The public interface of sacreBLEU gives these only one segment at a time, and several times slower.
    made = np.asarray(metric._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.int64)
    return np.concatenate([made[:, 2:], made[:, :2]], axis=1)


def _check(hypotheses: Sequence[Any], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise UserError(f"got {len(hypotheses)} hypotheses for {len(references)} references; expected one each")
    if not references:
        raise UserError("there is nothing to score: no references; give at least one example")
