"""The metrics: corpus BLEU, chrF++ and TER by sacreBLEU, exact match, lines in any order, nats per character.

None needs torch.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF, TER
from scipy.optimize import linear_sum_assignment

from neuroglot.errors import UserError
from neuroglot.evaluation.tokenize import Tokenise, chosen, moses_lower, moses_signature, tokeniser, writing

# ---- Texts of several lines in any order ----------------------------------------------------------------------------
# Two figures. `lines` is the F1 over lines as multisets after normalisation: it needs no tokeniser, no order and no
# alignment, and so it is the one that the tables report; but a line is right or wrong as a whole. `bleu_lines` gives
# partial credit: the lines of the hypothesis are put into the order of the reference lines that they match best, and
# then scored as any text is.


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
    # A line that has nothing in common with its reference line counts as not matched.
    position = {int(i): int(j) for i, j in zip(lines, places, strict=True) if likeness[i, j] > 0}
    order = sorted(range(len(said)), key=lambda i: (position.get(i, len(wanted)), i))
    return "\n".join(said[i] for i in order)


@cache
def _chrf() -> CHRF:
    return CHRF()


# ---- Metrics --------------------------------------------------------------------------------------------------------
# Notable: the tokeniser follows the script of the references, and the signature that says so is kept with the scores.
# All figures see the same texts (`normalise`). A figure that would mean nothing is None, and the reason is said.

Reference = str | Sequence[str]
"""What should have been said; several texts where any of them will do."""

METRICS = ("bleu", "chrf", "ter", "exact", "nll", "contrastive", "lines", "bleu_lines")
"""What is scored of everything; None where it does not apply."""
MOSES = "bleu_moses"
"""Lower-cased, Moses-tokenised BLEU, only where it is asked for: it needs a package of its own."""
PERCENT = ("bleu", "chrf", "exact")
LOWER_IS_BETTER = ("ter", "nll")
FEWEST = 0.25
"""Runs of four tokens that there must be for each reference, on average; else BLEU speaks of a few long texts."""
EMPTY = "every reference is empty"
NORMAL = "text:nfc+blanks"
"""What `normalise` does, in signatures."""

# Soft hyphen, zero-width spaces, word joiner, marks of direction. The joiners of Persian and of Indic scripts stay:
# they change what is seen.
_UNSEEN = dict.fromkeys([0xAD, 0x200B, 0x2060, 0xFEFF, 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F),
                         *range(0x2066, 0x206A)])  # fmt: skip


def normalise(text: str) -> str:
    r"""Return a text as all figures see it.

    It is in Unicode normal form C, without characters that nobody can see, with single plain spaces within lines and
    none around them.

    Examples:
        >>> normalise(" cafe\u0301\u00a0\u200bnoir \r\n")
        'café noir'
    """
    normal = unicodedata.normalize("NFC", text.translate(_UNSEEN))
    return "\n".join(" ".join(line.split()) for line in normal.splitlines()).strip()


def normalised(texts: Iterable[Reference]) -> list[Any]:
    """Return texts, or lists of texts, as all figures see them."""
    return [normalise(text) if isinstance(text, str) else [*map(normalise, text)] for text in texts]


def streams(references: Sequence[Reference]) -> Any:
    """Return references as sacreBLEU takes them: the first of every item, the second of every item, and so on."""
    lists = [[text] if isinstance(text, str) else list(text) for text in references]
    return [list(stream) for stream in zip_longest(*lists)]


def first(reference: Reference) -> str:
    """Return the only reference, or the first of several."""
    return reference if isinstance(reference, str) else reference[0]


def is_exact(hypothesis: str, reference: str) -> bool:
    """Whether two texts are the same after `normalise`.

    Examples:
        >>> is_exact("cafe\\u0301 ", "caf\\u00e9")
        True
    """
    return normalise(hypothesis) == normalise(reference)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Percentage of hypotheses that equal their reference after `normalise`."""
    _check(hypotheses, references)
    return 100.0 * sum(map(is_exact, hypotheses, references)) / len(references)


def characters(texts: Iterable[str]) -> int:
    """Number of characters (code points after `normalise`) in some texts."""
    return sum(len(normalise(text)) for text in texts)


def nll_per_character(nats: Sequence[float], references: Sequence[str]) -> float:
    """Total nats / total reference characters: comparable between tokenizers, weighted by length."""
    _check(nats, references)
    return float(sum(nats)) / max(characters(references), 1)


def bleu_metric(target_lang: str, tokenise: str | None = None) -> BLEU:
    """Return sacreBLEU's corpus BLEU for a target language (4-grams, mixed case, exponential smoothing)."""
    return _bleu(tokenise or tokeniser(target_lang))


@cache  # a dictionary of MeCab takes long to load
def _bleu(tokenise: str, lowercase: bool = False) -> BLEU:
    return BLEU(tokenize=tokenise, lowercase=lowercase, force=True)


def chrf_metric(words: int = 2) -> CHRF:
    """Return sacreBLEU's chrF++ (character 6-grams and word 2-grams, beta 2), or chrF without words."""
    return CHRF(word_order=words)


def ter_metric(kind: str) -> TER:
    """Return sacreBLEU's translation edit rate of texts of a kind, see `writing`, after `for_ter`."""
    return TER(normalized=kind in ("zh", "ja"), asian_support=kind in ("zh", "ja"))


def for_ter(texts: Iterable[str], kind: str) -> list[str]:
    """Return texts as TER takes them: sacreBLEU splits Chinese and Japanese itself, but no other unspaced script."""
    return [" ".join(text.replace(" ", "")) for text in texts] if kind == "char" else list(texts)


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[str], target_lang: str, tokenise: str | None = None
) -> float | None:
    """Corpus BLEU in percent, sacreBLEU's value as it is; None where it means nothing, see `why_no_bleu`."""
    return bleu_of(hypotheses, references, bleu_metric(target_lang, tokenise or tokeniser(target_lang, references)))[0]


def bleu_of(
    hypotheses: Sequence[str], references: Sequence[Reference], metric: BLEU
) -> tuple[float, None] | tuple[None, str]:
    """Return corpus BLEU in percent, or why there is none."""
    totals = bleu_statistics(hypotheses, references, metric).sum(axis=0)
    if why := why_no_bleu(totals):
        return None, why
    correct, total = totals[:4].tolist(), totals[4:8].tolist()
    made = BLEU.compute_bleu(correct, total, int(totals[8]), int(totals[9]), "exp")
    return float(made.score), None


def why_no_bleu(totals: NDArray[Any]) -> str:
    """Return why corpus BLEU of summed `bleu_statistics` means nothing; empty where it means something.

    Texts of fewer than four tokens have no 4-grams. sacreBLEU says 0 of them, whatever they say, and of a corpus that
    has a few longer ones whatever these few are worth.
    """
    held, texts = int(totals[10]), int(totals[11])
    instead = "read chrF++ and exact match"
    if held < FEWEST * texts:
        return f"the references are too short: {held} runs of four tokens in {texts} of them; {instead}"
    if totals[8] and not totals[7]:
        return f"no answer is as long as four tokens; {instead}"
    return ""


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF++ in percent."""
    _check(hypotheses, references)
    return float(chrf_metric().corpus_score(list(hypotheses), [list(references)]).score)


def corpus_ter(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> float:
    """Corpus TER in percent of the reference's words: edits and shifts of phrases; lower is better.

    Of scripts that write no spaces in percent of the reference's characters.
    """
    _check(hypotheses, references)
    kind = writing(target_lang, references)
    return float(ter_metric(kind).corpus_score(for_ter(hypotheses, kind), [for_ter(references, kind)]).score)


def corpus_bleu_moses(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> float | None:
    """Corpus BLEU in percent after Moses' normalising and tokenising and lower-casing, as in many papers' BLEU-4.

    Chinese, Japanese and Korean and scripts that write no spaces, which Moses does not split, take sacreBLEU's
    tokeniser instead. None where it means nothing.

    Raises:
        UserError: sacremoses is not installed.
    """
    own = tokeniser(target_lang, references)
    prepared = [for_moses(texts, target_lang, own) for texts in (hypotheses, references)]
    return bleu_of(prepared[0], prepared[1], moses_metric(own))[0]


def moses_metric(own: str) -> BLEU:
    """Return the BLEU that scores what `for_moses` returns, given sacreBLEU's tokeniser of the texts."""
    return _bleu("none" if own == "13a" else own, own != "13a")


def for_moses(texts: Sequence[str], target_lang: str, own: str) -> list[str]:
    """Return texts as the lower-cased BLEU takes them, given sacreBLEU's tokeniser of them."""
    return moses_lower(texts, target_lang) if own == "13a" else list(texts)


def line_f1(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """F1 over lines as multisets, in percent, over all texts together; the order of lines does not count."""
    _check(hypotheses, references)
    shared, together = map(sum, zip(*map(line_counts, hypotheses, references), strict=True))
    return 200.0 * shared / together if together else 0.0


def corpus_bleu_lines(hypotheses: Sequence[str], references: Sequence[str], target_lang: str) -> float | None:
    """Corpus BLEU in percent after each hypothesis' lines were put into the order of its reference's."""
    return corpus_bleu([*map(reordered, hypotheses, references)], references, target_lang)


def contrastive(costs: Sequence[float], alternatives: Sequence[Sequence[float]]) -> float:
    """Percentage of references that cost less than every wrong alternative; a tie is lost.

    What a text costs is its nats per token, the logarithm of its perplexity: see `costs`.

    Examples:
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
    tokenise: str | None = None,
) -> dict[str, Any]:
    """Return every figure of one pair: those of `neuroglot.evaluation.METRICS`, and n.

    All are in percent except nll, in nats per reference character.

    Args:
        hypotheses: what a system said.
        references: what it should have said.
        target_lang: decides the tokeniser, with the references.
        nats: of the whole references; None where they are not known.
        alternatives: what the wrong alternatives cost; None where that is not known.
        own: what the references cost, to be held against `alternatives`; by default `nats`.
        moses: whether lower-cased, Moses-tokenised BLEU is wanted too, as `bleu_moses`.
        tokenise: the tokeniser of `bleu`, if it is not to follow the script.

    `lines` and `bleu_lines` are None where every reference is one line. Where another figure is None because it would
    mean nothing, `reasons` says why.
    """
    _check(hypotheses, references)
    hypotheses, references = normalised(hypotheses), normalised(references)
    own = nats if own is None else own
    several = any(map(has_lines, references))
    split = tokenise or tokeniser(target_lang, references)
    bleu = bleu_metric(target_lang, split)
    made: dict[str, tuple[float | None, str | None]] = {
        "bleu": bleu_of(hypotheses, references, bleu),
        "bleu_lines": bleu_of([*map(reordered, hypotheses, references)], references, bleu)
        if several
        else (None, None),
    }
    if moses:
        plain = tokeniser(target_lang, references)
        prepared = [for_moses(texts, target_lang, plain) for texts in (hypotheses, references)]
        made[MOSES] = bleu_of(prepared[0], prepared[1], moses_metric(plain))
    empty = None if any(references) else EMPTY
    made |= {
        "chrf": (None if empty else corpus_chrf(hypotheses, references), empty),
        "ter": (None if empty else corpus_ter(hypotheses, references, target_lang), empty),
        "nll": (None if nats is None or empty else nll_per_character(nats, references), empty),
    }
    reasons = {name: why for name, (_, why) in made.items() if why}
    return {
        **{name: value for name, (value, _) in made.items()},
        "exact": exact_match(hypotheses, references),
        "contrastive": None if own is None or alternatives is None else contrastive(own, alternatives),
        "lines": line_f1(hypotheses, references) if several else None,
        "n": len(references),
        **({"reasons": reasons} if reasons else {}),
    }


def average(scores: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over pairs of each figure; `n` is the sum; a figure that some pair lacks is None.

    `reasons` are those of the first pair that has one.
    """
    rows = list(scores)
    mean: dict[str, Any] = {}
    for metric in (*METRICS, *([MOSES] if any(MOSES in row for row in rows) else [])):
        values: list[Any] = [row.get(metric) for row in rows]
        mean[metric] = None if None in values else sum(values) / len(values)
    reasons = {metric: why for row in reversed(rows) for metric, why in row.get("reasons", {}).items()}
    return {**mean, "n": sum(row["n"] for row in rows), **({"reasons": reasons} if reasons else {})}


def signatures(
    pairs: Iterable[str],
    moses: bool = False,
    tokenise: Tokenise = None,
    references: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, dict[str, str]]:
    """Return the signatures, `{"bleu": {pair: ...}, "chrf": ..., ...}`: how to compute the same again.

    Args:
        pairs: text forms.
        moses: whether that of the lower-cased BLEU is wanted too.
        tokenise: see `chosen`.
        references: by pair, where they are known.
    """
    kinds = ("bleu", "chrf", "ter", *([MOSES] if moses else []))
    known = references or {}
    return {
        kind: {
            pair: signature(kind, pair.split("-")[1], chosen(tokenise, pair), normalised(known.get(pair, ())))
            for pair in sorted(set(pairs))
        }
        for kind in kinds
    }


def signature(metric: str, target_lang: str, tokenise: str | None = None, references: Sequence[Reference] = ()) -> str:
    """Return sacreBLEU's signature of a figure for a target language, and what is done before sacreBLEU sees a text.

    Args:
        metric: `bleu`, `chrf`, `chrf0`, `ter` or `bleu_moses`.
        target_lang: decides the tokeniser, with the references.
        tokenise: the tokeniser of `bleu`, if it is not to follow the script.
        references: what should have been said.
    """
    firsts = [*map(first, references)]
    counts = {1 if isinstance(reference, str) else len(reference) for reference in references}
    several = 1 if not counts else min(counts) if len(counts) == 1 else 0
    own = tokeniser(target_lang, firsts)
    return _signature(metric, target_lang, tokenise or own, own, writing(target_lang, firsts), several)


@cache
def _signature(metric: str, target_lang: str, tokenise: str, own: str, kind: str, several: int) -> str:
    made: dict[str, Any] = {
        "bleu": lambda: _bleu(tokenise),
        "chrf": chrf_metric,
        "chrf0": lambda: chrf_metric(0),
        "ter": lambda: ter_metric(kind),
        MOSES: lambda: moses_metric(own),
    }
    scorer = made[metric]()
    # A signature exists once the number of references is known.
    scorer.corpus_score(["a", "a"], streams([["a"] * (several or 1), ["a"] * (several or 2)]))
    text = str(scorer.get_signature())
    if metric == MOSES and own == "13a":
        text = moses_signature(target_lang, text)
    if metric == "ter" and kind == "char":
        text = text.replace("tok:tercom", "tok:char+tercom")
    return f"{text}|{NORMAL}"


def signature_of(figure: str, rows: Iterable[Mapping[str, Any]], tokenise: Tokenise = None) -> str:
    """Return how to compute a figure of hypothesis rows again; several signatures where the pairs differ in theirs."""
    rows = list(rows)
    if figure == "contrastive":
        return contrastive_signature(rows)
    if figure in ("exact", "lines", "nll", "comet"):
        return {"exact": NORMAL, "lines": f"f1|{NORMAL}", "nll": f"nats|unit:character|{NORMAL}", "comet": ""}[figure]
    by_pair: dict[str, list[Reference]] = {}
    for row in rows:
        by_pair.setdefault(row["pair"], []).append(row.get("references") or row["reference"])
    kind = "bleu" if figure == "bleu_lines" else figure
    said = dict.fromkeys(
        signature(kind, pair.split("-")[1], chosen(tokenise, pair), normalised(references))
        for pair, references in by_pair.items()
    )
    return "; ".join(said) + ("|lines:best-match" if figure == "bleu_lines" else "")


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[Reference], metric: BLEU) -> NDArray[np.int64]:
    """Return what BLEU is made of, per segment: (N, 12).

    That is 4 matches, 4 totals, hypothesis and reference length, 4-grams of the reference, and 1. Corpus BLEU is a
    function of the sum over segments, so a resampled corpus is a weighted sum.
    """
    _check(hypotheses, references)
    # The public interface of sacreBLEU gives these only one segment at a time, and several times slower.
    made = np.asarray(metric._extract_corpus_statistics(list(hypotheses), streams(references)), dtype=np.int64)
    lengths, of_reference = made[:, :2], np.maximum(made[:, 1:2] - 3, 0)
    return np.concatenate([made[:, 2:], lengths, of_reference, np.ones_like(of_reference)], axis=1)


def _check(hypotheses: Sequence[Any], references: Sequence[Any]) -> None:
    if len(hypotheses) != len(references):
        raise UserError(f"got {len(hypotheses)} hypotheses for {len(references)} references; expected one each")
    if not references:
        raise UserError("there is nothing to score: no references; give at least one example")
