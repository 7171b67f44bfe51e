"""Pair and condition: what a sample is translated from and to, and the task it belongs to."""

from __future__ import annotations

import difflib
import logging
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NoReturn

import langcodes
from babel import Locale
from babel.core import get_global
from babel.localedata import locale_identifiers
from langcodes.data_dicts import MACROLANGUAGES

from neuroglot.errors import UserError, expect, nearest

TASKS = ("image_translation", "multimodal_translation", "ocr", "text_translation", "describe")

INSTRUCT = "instruct"
"""Free question answering: the example brings its instruction. It is scored for retention and never translated."""

_log = logging.getLogger(__name__)

_OTHER_CODES = {"ns": "nso"}
"""Codes of published models (here M2M-100's) that no standard has."""

_NO_LANGUAGE = ("und", "mul", "zxx", "mis")
"""Undetermined, multiple, no linguistic content, uncoded."""

LIKE_COUNTRIES = ("ae", "ch", "ee", "kr", "la", "se", "tw")
"""Codes that are often written for a country's language, and are those of Avestan, Chamorro, Ewe, Kanuri ..."""


@cache
def language_code(code: str) -> str:
    """Return a language code in this project's spelling: BCP 47 in its shortest form, with underscores.

    Read are BCP 47 with hyphens or underscores (also deprecated, grandfathered and extlang tags), the three-letter
    codes of ISO 639, and the codes of FLORES-200, NLLB, mBART-50 and M2M-100. Two codes are the same language exactly
    if they come out equal:

    - a language has its shortest code (`deu`, `ger` -> `de`; `iw` -> `he`; `cmn`, `zh-cmn` -> `zh`; `arb` -> `ar`);
    - a script is left out if the language is not usually written in another (`deu_Latn` -> `de`). Where CLDR writes
      it, it stays (`zho_Hans` -> `zh_Hans`, `srp_Cyrl` -> `sr_Cyrl`), and `zh` says nothing about the script;
    - a region or a variant stays (`pt_BR`, `de_1996`), other than an unknown region (`en_XX` -> `en`).

    Raises:
        UserError: the code is malformed, or is not the code of one language.

    Examples:
        >>> [language_code(code) for code in ("PT-br", "zho_Hans", "jpn_Jpan", "iw")]
        ['pt_BR', 'zh_Hans', 'ja', 'he']
    """
    text = code.strip().replace("_", "-")
    try:
        tag = langcodes.Language.get(_OTHER_CODES.get(text.lower(), text))
    except langcodes.LanguageTagError:
        _refuse(code, "is malformed")
    language = str(tag.language or "und")
    if tag.extlangs:  # `ar-arz` is Egyptian Arabic, and `en-deu` is nothing
        if any(MACROLANGUAGES.get(part) != language and language != "sgn" for part in tag.extlangs):
            _refuse(code, "is not known")
        return language_code(text.partition("-")[2])
    territory = None if tag.territory in ("XX", "ZZ") else tag.territory
    english = Locale("en")
    if tag.extensions or tag.private or language.startswith("x-"):
        _refuse(code, "has an extension or a private part, which names no language")
    if language in _NO_LANGUAGE or ("qaa" <= language <= "qtz" and len(language) == 3):
        _refuse(code, "does not name one language")
    unknown = (tag.script and tag.script not in english.scripts, territory and territory not in english.territories)
    newer = language in english.languages and not tag.variants  # Babel's table of languages is the newer one
    if not (tag.is_valid() or newer) or any(unknown):
        _refuse(code, "is not known")
    if text.lower() in LIKE_COUNTRIES and (meant := _of_country(text)):
        _log.warning("language code %r is %s; for the language of %s write %s", code, tag.display_name(), *meant)

    macro = str(tag.prefer_macrolanguage().language)
    language = macro if len(language) == 3 and len(macro) == 2 else language
    script = "Kore" if (language, tag.script) == ("ko", "Hang") else tag.script
    bare = "_".join(filter(None, (language, territory)))
    if script and script == script_of(bare) and f"{language}_{script}" not in locale_identifiers():
        script = None
    return "_".join(filter(None, (language, script, territory, *(tag.variants or ()))))


def _of_country(code: str) -> tuple[str, str] | None:
    """Return the country that has these two letters, and the code of its main language if that is another one."""
    country = Locale("en").territories.get(code.upper())
    language, script, *_ = get_global("likely_subtags").get(f"und_{code.upper()}", "_").split("_")
    if not country or language in ("", code.lower()):
        return None
    return country, language if script == script_of(language) else f"{language}_{script}"


def _refuse(code: str, why: str) -> NoReturn:
    raise UserError(f"language code {code!r} {why}; expected a BCP 47 code such as de, pt_BR or zh_Hans{_hint(code)}")


@lru_cache(1000)  # one wrong code may stand in each of a million records
def _hint(code: str) -> str:
    """Return the code that may be meant: of a country's language, or of a language by its name."""
    if meant := _of_country(code.strip()):
        return f"; did you mean {meant[1]}? {code.strip().upper()} is the country {meant[0]}"
    by_name = {name.lower(): key for key, name in Locale("en").languages.items()}
    close = difflib.get_close_matches(code.strip().lower()[:60], by_name, n=1, cutoff=0.8)
    return "".join(f"; did you mean {by_name[name]}?" for name in close)


@cache
def language_name(code: str, display: str = "en") -> str:
    """Return the name of a language in another one: `language_name("de")` is `German`; the code if it has none."""
    try:
        tag = langcodes.Language.get(code.replace("_", "-"))
    except langcodes.LanguageTagError:
        return code
    return str(tag.display_name(display) if tag.is_valid() else Locale.parse(display).languages.get(code, code))


@cache
def script_of(code: str) -> str:
    """Return the ISO 15924 script of a language code: the one it names, or the one the language is usually written in.

    Args:
        code: of any form that `langcodes` reads (`zh_TW`, `zho_Hant`, `cmn`).

    Returns:
        Four letters (`Jpan` for Japanese, `Kore` for Korean); empty where nobody has said how a language is written.

    Raises:
        UserError: the code is malformed.

    Examples:
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
        result = likely.get(f"{language.language}_{tag.territory}") or likely.get(str(language.language))
        if result:
            return next(part for part in result.split("_") if len(part) == 4)
    return ""


@dataclass(frozen=True, order=True)
class Pair:
    """A translation direction; transcribing is a pair of a language with itself.

    Examples:
        >>> str(Pair.parse("en-zh_Hans"))
        'en-zh_Hans'
    """

    source: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Pair:
        """Read the text form `source-target`; scripts and regions may have hyphens where they can be told apart.

        Raises:
            UserError: no two language codes joined by a hyphen, or more than one way to read them.

        Examples:
            >>> str(Pair.parse("en-zh-CN")), str(Pair.parse("eng_Latn-deu_Latn"))
            ('en-zh_CN', 'en-de')
        """
        subtags = str(text).strip().split("-")
        cuts = [("-".join(subtags[:cut]), "-".join(subtags[cut:])) for cut in range(1, len(subtags))]
        if len(cuts) == 1 and all(subtags):
            return cls(*map(language_code, subtags))
        readings = {sides: pair for sides in cuts if (pair := _readable(cls, sides))}
        if len(readings) > 1:  # `br` is Breton, `BR` is Brazil
            readings = {sides: pair for sides, pair in readings.items() if all(map(_USUAL_CASE.fullmatch, sides))}
        if len(readings) == 1:
            return next(iter(readings.values()))
        raise UserError(
            f"pair {text!r} is malformed; expected source-target such as en-de; "
            "write scripts and regions with an underscore, as in en-zh_Hans"
        )

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"


_USUAL_CASE = re.compile(r"[a-z]{2,3}([-_][a-z]{3})?([-_][A-Z][a-z]{3})?([-_]([A-Z]{2}|\d{3}))?([-_][a-z0-9]{4,8})*")


def _readable(make: type[Pair], sides: tuple[str, str]) -> Pair | None:
    try:
        return make(*map(language_code, sides))
    except UserError:
        return None


@dataclass(frozen=True, order=True)
class Condition:
    """What one profiled or scored sample is an instance of: a task and a pair.

    Examples:
        >>> str(Condition.parse("ocr:en-en"))
        'ocr:en-en'
    """

    task: str
    pair: Pair

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read the text form `task:source-target`."""
        expect("a condition", text, str, "task:source-target, such as ocr:en-en")
        task, _, pair = text.partition(":")
        if task not in (*TASKS, INSTRUCT):
            raise UserError(f"task {task!r} is not known; {nearest(task, TASKS)}")
        return cls(task, Pair.parse(pair))

    def __str__(self) -> str:
        return f"{self.task}:{self.pair}"
