"""One language, many spellings: BCP 47 here, ISO 639-3 and scripts in NLLB, territories in mBART.

Notable: the spellings follow from CLDR's aliases and likely subtags, so that there is no table to keep.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache

from babel.core import get_global

from neuroglot.pair import script_of

OWN = {"zh": ("zho", "cmn", "chi"), "ps": ("pbt", "pus", "pbu"), "he": ("heb",), "ro": ("ron", "rum"),
       "sr": ("srp",), "hr": ("hrv",), "id": ("ind",), "yi": ("ydd", "yid"), "no": ("nob", "nor"),
       "fil": ("tgl", "fil")}  # fmt: skip
"""Where CLDR's aliases are not the ISO 639 codes in use, or another one comes first."""


@cache
def three_letters(language: str) -> tuple[str, ...]:
    """Return the ISO 639 codes of three letters of a language, its own or a dialect's that stands for it.

    >>> three_letters("de"), three_letters("lv")
    (('deu', 'ger'), ('lvs', 'lav'))
    """
    if language in OWN or len(language) == 3:
        return OWN.get(language, (language,))
    aliases = get_global("language_aliases")
    return tuple(old for old, new in aliases.items() if new == language and len(old) == 3)


def spelling(language: str, known: Collection[str]) -> str | None:
    """Return how a language is spelt among codes that somebody else uses; None if it is not among them.

    A script other than the language's usual one is never dropped: `zh_Hant` is not `zh`.

    >>> spelling("de", ["eng_Latn", "deu_Latn"]), spelling("cs", ["en_XX", "cs_CZ"]), spelling("zh_Hant", ["zh"])
    ('deu_Latn', 'cs_CZ', None)
    """
    return next((code for code in _spellings(language, known) if code in known), None)


def _spellings(language: str, known: Collection[str]) -> Iterator[str]:
    base = language.partition("_")[0]
    written = script_of(language)
    yield language
    for short in (base, *three_letters(base)):
        yield f"{short}_{written}"
        if written == "Kore":  # CLDR's Korean script is Hangul with Han characters
            yield f"{short}_Hang"
    if written != script_of(base):
        return
    yield from (base, *three_letters(base))
    yield from sorted(code for code in known if re.fullmatch(rf"{base}_[A-Z]{{2}}", code))
