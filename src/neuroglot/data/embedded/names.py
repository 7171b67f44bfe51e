"""The names that signs hold: which places, languages, days and months there are, and what a language calls each.

Also the lists of currencies and units, and which names are held out. Signs draw from these lists by place: whoever
adds to one or sorts it makes another corpus.
"""

from __future__ import annotations

import copy
import hashlib
import random
from functools import cache
from typing import Any, Literal

from babel import Locale, dates

TERRITORIES = [
    "AT", "BE", "BR", "CA", "CN", "CU", "CY", "CZ", "DE", "DK", "EE", "EG", "ES", "FI", "FR", "GB", "GR", "HU", "IE",
    "IN", "IS", "IT", "JP", "KE", "LT", "LU", "LV", "MT", "MX", "NL", "NO", "NZ", "PE", "PL", "PT", "RO", "RS", "RU",
    "SE", "SI", "SK", "TR", "UA", "US", "ZA", "AR", "CL", "CO", "DZ", "ET", "GE", "HR", "ID", "IL", "IQ", "IR", "JM",
    "JO", "KR", "MA", "MY", "NG", "NP", "PH", "QA", "SG", "SY", "TH", "TN", "VN",
]  # fmt: skip
TONGUES = [
    "ar", "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "ga", "hi", "hr", "hu", "id", "is", "it", "ja",
    "ko", "lt", "lv", "mt", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "th", "tr", "uk", "vi", "zh",
]  # fmt: skip
CURRENCIES = ["EUR", "USD", "GBP", "JPY", "CHF", "CZK", "TRY", "INR", "PLN", "SEK", "NOK", "DKK"]
UNITS = [
    "length-kilometer", "length-meter", "length-centimeter", "length-mile", "length-foot",
    "duration-day", "duration-hour", "duration-minute", "duration-week", "duration-month", "duration-year",
    "duration-second", "mass-kilogram", "mass-gram", "volume-liter", "speed-kilometer-per-hour",
    "temperature-celsius", "area-square-meter", "digital-gigabyte", "energy-kilowatt-hour",
]  # fmt: skip

Name = tuple[str, str]
"""A kind and its code in CLDR: `("territory", "DE")`, `("day", "0")`."""


def bucket(text: str, salt: str) -> int:
    """Return a number below 1000 that depends on nothing but the text and what it is asked for."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{text}".encode()).digest()[:4], "big") % 1000


HELD_OUT_NAMES = frozenset(c for c in (*TERRITORIES, *TONGUES) if bucket(c, "name") < 200)


@cache
def cldr(language: str) -> Locale:
    """Return what CLDR knows of a language.

    Raises:
        UnknownLocaleError: nothing.
    """
    locale = Locale.parse(language)
    locale.languages.get(language)  # reads its data
    # Babel's locales share what they inherit and write what they look up into it: once Japanese has been asked for its
    # months, the Spanish ones are Japanese. A copy shares nothing.
    return copy.deepcopy(locale)


def day_name(language: str, number: int, width: Literal["wide", "abbreviated"] = "wide") -> str:
    """Return what a language calls a day of the week; 0 is Monday."""
    return str(dates.get_day_names(width, context="stand-alone", locale=cldr(language))[number])


def call(language: str, kind: str, code: str) -> str:
    """Return what a language calls the thing of that kind and code."""
    if kind == "territory":
        return str(cldr(language).territories[code])
    if kind == "tongue":
        return str(cldr(language).languages[code])
    if kind == "day":
        return day_name(language, int(code))
    return str(dates.get_month_names("wide", context="stand-alone", locale=cldr(language))[int(code)])


def pick_name(rng: random.Random) -> Name:
    """Draw a name of any kind."""
    kind = rng.choices(("territory", "tongue", "day", "month"), (5, 3, 1, 1))[0]
    pool: Any = {"territory": TERRITORIES, "tongue": TONGUES, "day": range(7), "month": range(1, 13)}[kind]
    return kind, str(rng.choice(pool))


def pick_names(rng: random.Random, count: int) -> tuple[Name, ...]:
    """Draw different names."""
    names: dict[Name, None] = {}
    while len(names) < count:
        names[pick_name(rng)] = None
    return tuple(names)
