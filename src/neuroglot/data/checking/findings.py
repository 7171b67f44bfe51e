"""What a check has to say: kinds of findings, how serious each is, and a tally that keeps the first of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SEVERITIES = ("error", "warning", "note")
"""`error`: training would refuse or be wrong. `warning`: look at it. `note`: good to know."""

SHOWN = 5
"""Examples of a finding that are kept."""

LEFT_OUT = ("bad_record", "bad_image", "missing_font", "cannot_render", "refused")
"""Kinds of what a run leaves out, or refuses to begin with."""

LISTED = 1000
"""Records that a run leaves out and that are listed, each with its reason."""

REASONS = 200
"""Different reasons that are told apart; what comes after is counted as one."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding: how serious it is by itself, what it says of `count` examples, and what to do."""

    severity: str
    says: str
    advice: str


KINDS: dict[str, Kind] = {
    "bad_record": Kind("error", "cannot be read as an example", "repair them, or allow them with data.max_bad"),
    "bad_image": Kind("error", "name an image that is missing or cannot be opened",
                      "repair them, or allow them with data.max_bad"),
    "missing_font": Kind("error", "hold a character that no installed font can draw",
                         "install a font (Debian: apt-get install fonts-noto-core fonts-noto-cjk), or allow them with "
                         "data.max_bad"),
    "cannot_render": Kind("error", "hold a text that cannot be drawn",
                          "shorten them, render them larger, or allow them with data.max_bad"),
    "refused": Kind("error", "would be refused by the model's processor",
                    "leave them out, raise data.max_length, or allow them with data.max_bad"),
    "no_examples": Kind("error", "the recipe's task and pairs have no example", "change task or data.pairs"),
    "empty_split": Kind("error", "have no example in a split that a run needs", "add some, or mark some with a split"),
    "small_split": Kind("warning", "with too few examples in a split to say much", "add some, or leave the pair out"),
    "empty_target": Kind("error", "have a target that is empty or blank", "remove them"),
    "swapped": Kind("warning", "seem to have source and target the wrong way round",
                    "swap the two texts, or source_lang and target_lang"),
    "identical_target": Kind("warning", "have a target that is the source text, in another language",
                             "see whether they were left untranslated"),
    "code_fence": Kind("warning", "have a code fence in the target", "strip what the generator added"),
    "label": Kind("warning", "have a target that begins with a label such as `Translation:`",
                  "strip what the generator added"),
    "chatter": Kind("warning", "have a target that talks about the translation", "strip what the generator added"),
    "reasoning": Kind("warning", "have a target with a model's reasoning (<think>)", "strip what the generator added"),
    "image_mark": Kind("warning", "have the mark of an image (<image>) in the target", "remove it: targets are texts"),
    "json_wrapper": Kind("warning", "have a target wrapped in JSON", "take the text out of it"),
    "html": Kind("warning", "have HTML entities or tags in the target", "unescape them"),
    "quotes": Kind("warning", "have a target with an unbalanced quotation mark", "see whether the text was cut"),
    "replacement_character": Kind("warning", "hold U+FFFD, where a byte was lost", "decode the source file again"),
    "decomposed": Kind("warning", "have a text that is not in Unicode's composed form (NFC)",
                       "normalise them: two spellings of one text are two texts to a model"),
    "same_reading": Kind("warning", "have a wrong reading that is the target, or twice the same one",
                         "remove it: nothing can be told apart by it"),
    "foreign_script": Kind("warning", "have a target in a script that its language is not written in",
                           "see whether the language code is right"),
    "repeated_example": Kind("warning", "repeat an earlier example of their split: same input, same target",
                             "remove them, or they count twice"),
    "repeated_image": Kind("note", "repeat an image with its target beside another source text",
                           "see that it is meant"),
    "repeated_text": Kind("note", "repeat a source text with its target beside another image", "see that it is meant"),
    "leaked_input": Kind("error", "show the model what an earlier split showed it", "remove them from one of the two"),
    "leaked_source": Kind("warning", "have a source text that an earlier split has too",
                          "remove them from one of the two"),
    "leaked_image": Kind("warning", "show an image that an earlier split shows too, beside another source text",
                         "report such images apart"),
    "leaked_near_image": Kind("warning", "show an image that looks like one of an earlier split",
                              "look at some of them, and remove what is the same picture"),
    "leaked_replay": Kind("warning", "of another task share an item, an image or a source text with what is tested",
                          "remove them: data.replay leaves out what it can tell by names and texts"),
    "cleaned": Kind("note", "have a text that was cleaned when it was read", "see that nothing of it is missing"),
    "other_split": Kind("warning", "name another split than the file that they are in",
                        "see that nothing is both trained and tested"),
    "unused": Kind("note", "are more than the recipe takes", "raise data.train to use them"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: a name in `KINDS`.
        severity: one of `SEVERITIES`.
        count: how many examples, records or pairs it is about.
        total: out of how many; 0 where that says nothing.
        where: the task, pair or splits that it is about; empty where it is about all.
        message: one line for people.
        examples: the first few, of what a run leaves out the first thousand; each with its position (line or record)
            where it has one.
        reasons: why, with a count each, the most frequent first.
    """

    kind: str
    severity: str
    count: int
    total: int = 0
    where: str = ""
    message: str = ""
    examples: tuple[Mapping[str, Any], ...] = ()
    reasons: tuple[tuple[str, int], ...] = ()


def finding(
    kind: str,
    count: int,
    total: int = 0,
    where: str = "",
    severity: str = "",
    subject: str = "examples",
    remark: str = "",
    **more: Any,
) -> Finding:
    """Return a finding with its message: how many of how many, what they do, and what to do about it."""
    known = KINDS[kind]
    share = f" of {total:,} ({_percent(count, total)})" if total else ""
    who = f"{count:,}{share} {subject}" if count != 1 or share else f"1 {subject.removesuffix('s')}"
    said = known.says if kind == "no_examples" else f"{who} {known.says}"
    message = f"{said}{f' ({where})' if where else ''}{f'; {remark}' if remark else ''}; {known.advice}"
    return Finding(kind, severity or known.severity, count, total, where, message, **more)


def _percent(count: int, total: int) -> str:
    share = 100 * count / total
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


@dataclass
class Tally:
    """Counts of one kind, its first examples and its reasons; of bounded size whatever it is fed."""

    most: int = SHOWN
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, position: int, text: str, why: str = "") -> None:
        """Count one, and keep it if it is among the first."""
        self.count += 1
        again = bool(self.examples) and self.examples[-1]["position"] == position  # another pair of the same record
        if len(self.examples) < self.most and not again:
            self.examples.append({"position": position, "text": text[:200]} | ({"why": why} if why else {}))
        if why:
            reason = _reason(why)
            self.reasons[reason if reason in self.reasons or len(self.reasons) < REASONS else "other reasons"] += 1

    def finding(self, kind: str, total: int, **more: Any) -> Finding:
        """Return what was counted as a finding."""
        reasons = tuple(self.reasons.most_common(20))
        return finding(kind, self.count, total, examples=tuple(self.examples), reasons=reasons, **more)


_QUOTED = re.compile(r"(?<![^\s(\[])(?:'[^']{4,}'|\"[^\"]{4,}\")(?!\w)")
_PLACE = re.compile(r"(?<!\w)(?:[A-Za-z]:)?[\w.~-]*[/\\][^\s;:]*")
_NUMBER = re.compile(r"(?<![\w+])\d[\d,.]*")


def _reason(why: str) -> str:
    """Return a reason without what is special to its record, so that alike ones count as one."""
    return _NUMBER.sub("N", _PLACE.sub("…", _QUOTED.sub("…", why))).partition("; ")[0][:160]
