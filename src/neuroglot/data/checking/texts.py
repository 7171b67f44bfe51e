"""What is wrong with a target that a person did not write, or that something else wrote for them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from neuroglot.data.example import Example, blank
from neuroglot.data.readers.make import NOTES
from neuroglot.pair import language_name, script_of

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
"""One of these is in whatever the pattern finds; looking for them first takes a tenth of the time."""

_HTML = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,7}|#x[0-9a-f]{1,6});"
    r"|</?(?:a|b|br|div|em|font|h[1-6]|i|img|li|ol|p|pre|span|strong|sub|sup|table|td|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_INCHES = re.compile(r'(?<=\d)"')
_THINK = re.compile(r"</?(?:think(?:ing)?|thought|reason(?:ing)?)>|<\|?(?:begin|end)_of_thought\|?>", re.IGNORECASE)
_WORD = re.compile(r"\S+")

SHORT = 12
"""Letters from which on a text must be mostly in its language's script: a brand alone may stand in Latin letters."""


def faults(example: Example) -> Iterator[tuple[str, str]]:
    """Yield (kind, why) of each fault in an example's target, of U+FFFD in its source, and of what its reader did."""
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
    for text, place in ((target, "target"), (source, "source"), *((a, "wrong reading") for a in example.alternatives)):
        if not unicodedata.is_normalized("NFC", text):
            yield "decomposed", f"in the {place}"
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
    """Whether a target begins with a label, which a source with a colon of its own would explain."""
    return not re.search("[:：]", source) and bool(_label(language).match(target))


def _is_json(text: str) -> bool:
    if text.rstrip()[-1] not in "}]":
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _unbalanced(text: str) -> str:
    """Return the quotation marks of which a text has an odd number, or nothing.

    Languages differ in which mark opens and which closes, so that only their sum says something.
    """
    if text.count('"') % 2 and _INCHES.sub("", text).count('"') % 2:
        return '"'
    for marks in ("„“”", "«»", "「」", "『』"):
        if sum(map(text.count, marks)) % 2:
            return marks
    return ""


# ---- scripts ------------------------------------------------------------------------------------------------------

_WRITTEN = {
    "Hans": {"Hani", "Bopo"},
    "Hant": {"Hani", "Bopo"},
    "Jpan": {"Hani", "Hira", "Kana"},
    "Kore": {"Hang", "Hani"},
}
_NEUTRAL = ("Zyyy", "Zinh", "Zzzz", "")


@cache
def scripts_of(language: str) -> frozenset[str]:
    """Return the ISO 15924 codes of the scripts that a language is written in, as CLDR says; none if it does not.

    Examples:
        >>> sorted(scripts_of("ja"))
        ['Hani', 'Hira', 'Kana']
    """
    script = script_of(language)
    return frozenset(_WRITTEN.get(script, {script})) if script else frozenset()


@cache
def _script(character: str) -> str:
    """Return the script of a letter; nothing of anything else."""
    from fontTools.unicodedata import script

    return str(script(character)) if unicodedata.category(character)[0] == "L" else ""


def _strange_script(text: str, language: str) -> str:
    expected = scripts_of(language)
    if not expected or (text.isascii() and "Latn" in expected):
        return ""
    found = {_script(c) for c in set(text)}
    foreign = found - expected - {"Latn", *_NEUTRAL}
    if foreign:
        return f"{', '.join(sorted(foreign))} in a text of {language}"
    if "Latn" in found and "Latn" not in expected:
        letters = [s for s in map(_script, text) if s not in _NEUTRAL]
        own = sum(s in expected for s in letters)
        if len(letters) >= SHORT and own < len(letters) / 2:
            return f"mostly Latn in a text of {language}"
        if expected & {"Cyrl", "Grek"} and any({"Latn"} | expected <= {_script(c) for c in w} for w in _words(text)):
            return f"Latn inside a word of {language}"
    return ""


def crossed(example: Example) -> bool:
    """Whether source and target are each written in the script of the other's language, and not in that of their own.

    Examples:
        >>> crossed(Example((), "出口", "exit", "en", "zh", "text_translation"))
        True
    """
    source, target = example.source_lang, example.target_lang
    if scripts_of(source) == scripts_of(target) or example.task not in TRANSLATING:
        return False
    shown, answer = ({_script(c) for c in text} - {*_NEUTRAL} for text in (example.source or "", example.target))
    own, other = scripts_of(source), scripts_of(target)
    return bool(shown and answer) and shown <= other and answer <= own and not (shown <= own or answer <= other)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)
