"""Pair and condition: what a sample is translated from and to, and the task it belongs to."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache

import langcodes
from babel import Locale, UnknownLocaleError
from babel.core import get_global

from neuroglot.errors import UserError, nearest

TASKS = ("image_translation", "multimodal_translation", "ocr", "text_translation", "describe")

INSTRUCT = "instruct"
"""Free question answering: the example brings its instruction. It is scored for retention and never translated."""

_CODE = re.compile(r"([a-z]{2,3})(_[A-Z][a-z]{3})?(_(?:[A-Z]{2}|\d{3}))?")


@cache
def language_code(code: str) -> str:
    """Return a BCP 47 code in this project's spelling (`zh_Hans`, `pt_BR`).

    Raises:
        UserError: the code is malformed or names no language known to CLDR.

    >>> language_code("PT-br")
    'pt_BR'
    """
    subtags = [s for s in re.split(r"[-_]", code.strip()) if s]
    tidy = "_".join(s.lower() if i == 0 else s.title() if len(s) == 4 else s.upper() for i, s in enumerate(subtags))
    parts = _CODE.fullmatch(tidy)
    english = Locale("en")
    known = (english.languages, english.scripts, english.territories)
    if parts and all(p is None or p.strip("_") in names for p, names in zip(parts.groups(), known, strict=True)):
        return tidy
    by_name = {name.lower(): key for key, name in english.languages.items()}
    close = difflib.get_close_matches(code.strip().lower(), by_name, n=1, cutoff=0.8)
    raise UserError(
        f"language code {code!r} is {'not known' if parts else 'malformed'}; "
        "expected a BCP 47 code such as de, pt_BR or zh_Hans" + "".join(f"; did you mean {by_name[c]}?" for c in close)
    )


@cache
def language_name(code: str, display: str = "en") -> str:
    """Return the name of a language in another one: `language_name("de")` is `German`."""
    try:
        name = Locale.parse(code).get_display_name(display)
    except UnknownLocaleError:  # CLDR has the names of many more languages than it has data for
        name = Locale.parse(display).languages.get(code.partition("_")[0])
    return str(name or code)


@cache
def script_of(code: str) -> str:
    """Return the ISO 15924 script of a language code: the one it names, or the one the language is usually written in.

    Args:
        code: of any form that `langcodes` reads (`zh_TW`, `zho_Hant`, `cmn`).

    Returns:
        Four letters (`Jpan` for Japanese, `Kore` for Korean); empty where nobody has said how a language is written.

    Raises:
        UserError: the code is malformed.

    >>> script_of("zh"), script_of("zh_TW"), script_of("th"), script_of("arb"), script_of("sr_Latn")
    ('Hans', 'Hant', 'Thai', 'Arab', 'Latn')
    """
    try:
        tag = langcodes.Language.get(code.replace("_", "-"))
    except langcodes.LanguageTagError as error:
        raise UserError(f"language code {code!r} is malformed: {error}") from None
    if tag.script:
        return str(tag.script)
    # Babel's table is newer and four times as long as the one behind langcodes' own `maximize`.
    likely = get_global("likely_subtags")
    for language in (tag, tag.prefer_macrolanguage()):
        found = likely.get(f"{language.language}_{tag.territory}") or likely.get(str(language.language))
        if found:
            return next(part for part in found.split("_") if len(part) == 4)
    return ""


@dataclass(frozen=True, order=True)
class Pair:
    """A translation direction; transcribing is a pair of a language with itself.

    >>> str(Pair.parse("en-zh_Hans"))
    'en-zh_Hans'
    """

    source: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Pair:
        """Read the text form `source-target`.

        Raises:
            UserError: not two language codes joined by one hyphen.
        """
        parts = str(text).split("-")
        if len(parts) != 2 or not all(parts):
            raise UserError(
                f"pair {text!r} is malformed; expected source-target such as en-de; "
                "write scripts and regions with an underscore, as in en-zh_Hans"
            )
        return cls(language_code(parts[0]), language_code(parts[1]))

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"


@dataclass(frozen=True, order=True)
class Condition:
    """What one profiled or scored sample is an instance of: a task and a pair.

    >>> str(Condition.parse("ocr:en-en"))
    'ocr:en-en'
    """

    task: str
    pair: Pair

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read the text form `task:source-target`."""
        task, _, pair = text.partition(":")
        if task not in (*TASKS, INSTRUCT):
            raise UserError(f"task {task!r} is not known; {nearest(task, TASKS)}")
        return cls(task, Pair.parse(pair))

    def __str__(self) -> str:
        return f"{self.task}:{self.pair}"
