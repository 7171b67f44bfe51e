"""Faults of texts: too long for the model, targets that no person wrote, source and target swapped."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.example import INSTRUCTION, Example, blank
from neuroglot.data.readers.examples import NOTES
from neuroglot.errors import UserError
from neuroglot.pair import language_name, script_of
from neuroglot.validation.findings import LISTED, Tally

if TYPE_CHECKING:
    from neuroglot.data.batch import Batcher
    from neuroglot.data.readers.checked import Fits


# ---- Lengths --------------------------------------------------------------------------------------------------------

LONGEST = 100_000
"""Longer lengths count as this one, so that a histogram stays small."""

Size = tuple[int, int]


@dataclass
class Histogram:
    """How often each length occurs."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, length: int) -> None:
        """Count one length."""
        self.counts[min(length, LONGEST)] += 1

    @property
    def total(self) -> int:
        """Number of lengths counted."""
        return self.counts.total()

    def quantile(self, share: float) -> int:
        """Return the smallest length that at least a share `share` of all do not exceed."""
        reached = 0
        for length in sorted(self.counts):
            reached += self.counts[length]
            if reached >= share * self.total:
                return length
        return 0

    def facts(self) -> dict[str, Any]:
        """Return statistics and bins as plain data."""
        edges, bins = self.bins()
        total = sum(length * count for length, count in self.counts.items())
        return {
            "count": self.total,
            "mean": round(total / self.total, 2) if self.total else None,
            **{name: self.quantile(share) for name, share in
               (("min", 0.0), ("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))},
            "edges": edges,
            "bins": bins,
        }  # fmt: skip

    def bins(self, most: int = 30) -> tuple[list[int], list[int]]:
        """Return edges and counts of at most `most` bins of one round width; the last also counts longer ones.

        The last bin begins at the 99.9 % quantile, so that a single outlier does not flatten the rest.
        """
        if not self.counts:
            return [0, 1], [0]
        low, high = min(self.counts), max(self.quantile(0.999), min(self.counts))
        width = next(w for e in range(6) for w in (10**e, 2 * 10**e, 5 * 10**e) if (high - low) // w < most)
        start = low // width * width
        edges = list(range(start, high + width + 1, width))
        bins = [0] * (len(edges) - 1)
        for length, count in self.counts.items():
            bins[min((length - start) // width, len(bins) - 1)] += count
        return edges, bins


@dataclass
class Lengths:
    """Measures examples with the model's tokenizer: all of them, or a random sample of bounded size.

    Attributes:
        batcher: the model's; None to measure characters only.
        fits: refuses an example that the model cannot take; by default one that cannot be encoded.
        most: number of examples to measure; 0 for all.
    """

    batcher: Batcher | None
    fits: Fits | None = None
    most: int = 10_000
    histograms: dict[str, Histogram] = field(default_factory=dict)
    refused: Tally = field(default_factory=lambda: Tally(LISTED))
    offered: int = 0
    measured: int = 0
    over: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(0)
        self._kept: list[tuple[int, Example, Sequence[Size]]] = []

    def offer(self, position: int, example: Example, sizes: Sequence[Size]) -> None:
        """Take an example with the sizes of its images."""
        if example.source:
            self._add("source_characters", len(example.source))
        self._add("target_characters", len(example.target))
        if self.batcher is None:
            return
        self.offered += 1
        if not self.most:
            self._measure(position, example, sizes)
            return
        index = len(self._kept) if len(self._kept) < self.most else self._rng.randrange(self.offered)
        if index < self.most:
            # The image's bytes are no longer needed and may be megabytes; of `meta` only the question is.
            meta = {key: value for key, value in example.meta.items() if key == INSTRUCTION}
            entry = (position, replace(example, images=(Path(),) * len(sizes), meta=meta), sizes)
            self._kept[index : index + 1] = [entry]

    def finish(self, progress: Callable[[str, int], None]) -> None:
        """Measure the sampled examples."""
        for number, entry in enumerate(sorted(self._kept, key=lambda item: item[0])):
            if number % 100 == 0:
                progress("measured", number)
            self._measure(*entry)
        self._kept = []

    def _add(self, name: str, length: int) -> None:
        self.histograms.setdefault(name, Histogram()).add(length)

    def _measure(self, position: int, example: Example, sizes: Sequence[Size]) -> None:
        assert self.batcher is not None
        self.measured += 1
        try:
            text, image, target = self.batcher.lengths(example, sizes)
        except UserError as error:  # an image size that its processor refuses
            self.refused.add(position, example.target, str(error))
            return
        self._add("prompt_tokens", text)
        self._add("target_tokens", target)
        if example.images:
            self._add("image_tokens", image)
        self._add("tokens", text + image + target)
        try:
            (self.fits or self.batcher.check)(example, sizes)
        except UserError as error:
            self.refused.add(position, example.target, str(error))
            self.over += bool(self.batcher.max_length and text + image + target > self.batcher.max_length)


# ---- Targets --------------------------------------------------------------------------------------------------------

TRANSLATING = ("image_translation", "multimodal_translation", "text_translation")

_CHATTER = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely)\W+(?:here|i|the)\b"
    r"|\bhere(?:'s|’s| is| are) (?:the|your|a|my) (?:\w+ )?translat"
    r"|\bas an ai\b|\bi(?:'m| am) (?:sorry|unable)\b.{0,40}\b(?:translat|assist|image|text)"
    r"|\bi can(?:'t|’t|not| not) (?:translate|assist|read the)"
    r"|\blet me know if\b.{0,60}\btranslat"
    r"|\bvoici (?:la|une) traduction\b|\bhier ist die übersetzung\b|\baqu[ií] (?:est[aá]|tienes) la traducción\b"
    r"|^以下是.{0,8}(?:翻译|翻譯|译文|譯文)",
    re.IGNORECASE,
)
_HINTS = ("sure", "certainly", "of course", "absolutely", "translat", "as an ai", "i'm ", "i am ", "i can", "voici la",
          "voici une", "übersetzung", "traducci", "以下是")  # fmt: skip
"""Every match of the pattern contains one of these; searching for them first takes a tenth of the time."""

_HTML = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,7}|#x[0-9a-f]{1,6});"
    r"|</?(?:a|b|br|div|em|font|h[1-6]|i|img|li|ol|p|pre|span|strong|sub|sup|table|td|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_INCHES = re.compile(r'(?<=\d)"')
_THINK = re.compile(r"</?(?:think(?:ing)?|thought|reason(?:ing)?)>|<\|?(?:begin|end)_of_thought\|?>", re.IGNORECASE)
_WORD = re.compile(r"\S+")

SHORT = 12
"""Number of letters from which a text must be mostly in its language's script: a brand may be in Latin letters."""


def faults(example: Example) -> Iterator[tuple[str, str]]:
    """Yield (kind, why) for faults of an example's target, for U+FFFD in its source, and for its reader's notes."""
    yield from ((kind, why) for kind, why in example.meta.get(NOTES, ()))
    target, source = example.target, example.source or ""
    if blank(target):
        yield "empty_target", ""
        return
    if "\ufffd" in target or "\ufffd" in source:
        yield "replacement_character", "in the target" if "\ufffd" in target else "in the source"
    if _untranslated(example):
        yield "identical_target", ""
    if "```" in target:
        yield "code_fence", ""
    if (":" in target or "：" in target) and _labelled(target, source, example.target_lang):
        yield "label", ""
    if _talks(target):
        yield "chatter", ""
    if "<" in target and (thought := _THINK.search(target)) and not _THINK.search(source):
        yield "reasoning", thought[0]
    if "<image>" in target.lower() and "<image>" not in source.lower():
        yield "image_mark", ""
    for text, position in (
        (target, "target"),
        (source, "source"),
        *((a, "wrong reading") for a in example.alternatives),
    ):
        if not unicodedata.is_normalized("NFC", text):
            yield "decomposed", f"in the {position}"
            break
    readings = [unicodedata.normalize("NFC", text).strip() for text in (target, *example.alternatives)]
    if len(set(readings)) < len(readings):
        yield "same_reading", ""
    if target.lstrip()[0] in "{[" and not source.lstrip().startswith(("{", "[")) and _is_json(target):
        yield "json_wrapper", ""
    if ("&" in target or "<" in target) and _HTML.search(target) and not _HTML.search(source):
        yield "html", ""
    if (mark := _unbalanced(target)) and not _unbalanced(source):
        yield "quotes", f"an odd number of {mark}"
    if not crossed(example) and (why := _strange_script(target, example.target_lang)):
        yield "foreign_script", why


def _talks(target: str) -> bool:
    lowered = target.lower()
    return any(hint in lowered for hint in _HINTS) and bool(_CHATTER.search(target))


def _untranslated(example: Example) -> bool:
    if example.source is None or example.task not in TRANSLATING or example.source_lang == example.target_lang:
        return False
    same = example.source.strip() == example.target.strip()
    return same and any(c.isalpha() for c in example.target)


@cache
def _label(language: str) -> re.Pattern[str]:
    name = re.escape(language_name(language).partition(" (")[0])
    words = rf"(?:{name} )?translation|translated text|output|answer|assistant|transcription|(?:in )?{name}"
    before, after = r"^[\"'*_#\s]{0,3}(?:the\s+)?", r"(?:\s+(?:in|into|to)\s+\w+|\s*\([^)]*\))?[\"'*_]{0,3}\s*[:：]"
    return re.compile(f"{before}(?:{words}){after}", re.IGNORECASE)


def _labelled(target: str, source: str, language: str) -> bool:
    """Whether a target begins with a label and the source has no colon, which would explain it."""
    return not re.search("[:：]", source) and bool(_label(language).match(target))


def _is_json(text: str) -> bool:
    if text.rstrip()[-1] not in "}]":
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _unbalanced(text: str) -> str:
    """Return the quotation marks of which a text has an odd number; empty if none.

    Languages differ in which mark opens and which closes, so that only their sum is checked.
    """
    if text.count('"') % 2 and _INCHES.sub("", text).count('"') % 2:
        return '"'
    for marks in ("„“”", "«»", "「」", "『』"):
        if sum(map(text.count, marks)) % 2:
            return marks
    return ""


# ---- Scripts ------------------------------------------------------------------------------------------------------

_WRITTEN = {
    "Hans": {"Hani", "Bopo"},
    "Hant": {"Hani", "Bopo"},
    "Jpan": {"Hani", "Hira", "Kana"},
    "Kore": {"Hang", "Hani"},
}
_NEUTRAL = ("Zyyy", "Zinh", "Zzzz", "")


@cache
def scripts_of(language: str) -> frozenset[str]:
    """Return the ISO 15924 codes of the scripts that a language is written in, from CLDR; none if unknown.

    Examples:
        >>> sorted(scripts_of("ja"))
        ['Hani', 'Hira', 'Kana']
    """
    script = script_of(language)
    return frozenset(_WRITTEN.get(script, {script})) if script else frozenset()


@cache
def _script(character: str) -> str:
    """Return the script of a letter; empty for other characters."""
    from fontTools.unicodedata import script

    return str(script(character)) if unicodedata.category(character)[0] == "L" else ""


def _strange_script(text: str, language: str) -> str:
    expected = scripts_of(language)
    if not expected or (text.isascii() and "Latn" in expected):
        return ""
    scripts = {_script(c) for c in set(text)}
    foreign = scripts - expected - {"Latn", *_NEUTRAL}
    if foreign:
        return f"{', '.join(sorted(foreign))} in a text of {language}"
    if "Latn" in scripts and "Latn" not in expected:
        letters = [s for s in map(_script, text) if s not in _NEUTRAL]
        expected_letters = sum(s in expected for s in letters)
        if len(letters) >= SHORT and expected_letters < len(letters) / 2:
            return f"mostly Latn in a text of {language}"
        if expected & {"Cyrl", "Grek"} and any({"Latn"} | expected <= {_script(c) for c in w} for w in _words(text)):
            return f"Latn inside a word of {language}"
    return ""


def crossed(example: Example) -> bool:
    """Whether source and target are each written only in the script of the other's language.

    Examples:
        >>> crossed(Example((), "出口", "exit", "en", "zh", "text_translation"))
        True
    """
    source, target = example.source_lang, example.target_lang
    if scripts_of(source) == scripts_of(target) or example.task not in TRANSLATING:
        return False
    shown, answer = ({_script(c) for c in text} - {*_NEUTRAL} for text in (example.source or "", example.target))
    source_scripts, target_scripts = scripts_of(source), scripts_of(target)
    return (
        bool(shown and answer)
        and shown <= target_scripts
        and answer <= source_scripts
        and not (shown <= source_scripts or answer <= target_scripts)
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


# ---- Source and target swapped --------------------------------------------------------------------------------------
# Letter trigrams are hashed and counted by language, so that no language has to be known beforehand and memory does
# not grow. A single swapped record is found if most others are right; a corpus that is swapped completely is found if
# its languages have different scripts.

MOST = 50_000
"""Number of examples that are counted and judged, from the first."""

SURE = 3.0
"""Nats by which each of the two texts must be likelier in the other's language: a factor of twenty."""

_SIZE = 2**16
_SEEN = 0.1
"""Added to each count (smoothing)."""


@dataclass
class Swaps:
    """Counts of hashed letter trigrams by language."""

    counts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    examples: int = 0

    def add(self, example: Example) -> None:
        """Count the texts of an example that translates."""
        if self.examples < MOST and judged(example):
            self.examples += 1
            for language, text in _texts(example):
                if language not in self.counts:
                    self.counts[language] = np.zeros(_SIZE)
                grams = _trigrams(text)
                np.add.at(self.counts[language], grams, 1)
                self.totals[language] += len(grams)

    def swapped(self, example: Example) -> bool:
        """Whether each text of a judged example is in the other's script, or likelier in the other's language."""
        (source, shown), (target, answer) = _texts(example)
        if crossed(example):
            return True
        return self._leans(shown, source, target) > SURE and self._leans(answer, target, source) > SURE

    def _leans(self, text: str, language: str, other: str) -> float:
        """Return the log-likelihood ratio of a text, the other language to its own, without the text's own counts."""
        grams, times = np.unique(_trigrams(text), return_counts=True)
        own_counts, other_counts = self.counts[language], self.counts[other]
        as_own = (np.maximum(own_counts[grams] - times, 0) + _SEEN) / (
            self.totals[language] - times.sum() + _SEEN * _SIZE
        )
        as_other = (other_counts[grams] + _SEEN) / (self.totals[other] + _SEEN * _SIZE)
        return float((times * np.log(as_other / as_own)).sum())


def judged(example: Example) -> bool:
    """Whether an example has texts in two languages."""
    source, target = example.source_lang.partition("_")[0], example.target_lang.partition("_")[0]
    return bool(example.source) and example.task in TRANSLATING and source != target


def _texts(example: Example) -> Iterator[tuple[str, str]]:
    yield example.source_lang, example.source or ""
    yield example.target_lang, example.target


def _trigrams(text: str) -> NDArray[np.int64]:
    """Return the hashes of a text's letter trigrams, with spaces between words, without signs and digits."""
    words = "".join(c if c.isalpha() else " " for c in text.casefold()).split()
    codes = np.frombuffer(f" {' '.join(words)} ".encode("utf-32-le", "ignore"), dtype=np.uint32).astype(np.uint64)
    mixed = codes[:-2] * np.uint64(2654435761) ^ codes[1:-1] * np.uint64(40503) ^ codes[2:] * np.uint64(2246822519)
    return ((mixed * np.uint64(11400714819323198485)) >> np.uint64(48)).astype(np.int64)
