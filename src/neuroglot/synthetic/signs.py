"""Signs: parallel texts in any language of CLDR, made by Babel. The embedded model was trained on them."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import random
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from babel import Locale, UnknownLocaleError, dates, lists, numbers, units

from neuroglot.errors import UserError, nearest

# ---- Names: places, languages, days and months ----------------------------------------------------------------------
# Also the lists of currencies and units, and which names are held out. Signs draw from these lists by position: adding
# to a list or sorting it changes the corpus.

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
    """Return a number below 1000 that depends only on the text and the salt."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{text}".encode()).digest()[:4], "big") % 1000


HELD_OUT_NAMES = frozenset(c for c in (*TERRITORIES, *TONGUES) if bucket(c, "name") < 200)


@cache
def cldr(language: str) -> Locale:
    """Return the CLDR data of a language.

    Raises:
        UnknownLocaleError: CLDR does not know the language.
    """
    locale = Locale.parse(language)
    locale.languages.get(language)  # reads its data
    # Babel's locales share inherited data and write into it on look-up: after a look-up of the Japanese months, the
    # Spanish months are Japanese. A copy shares nothing.
    return copy.deepcopy(locale)


def day_name(language: str, number: int, width: Literal["wide", "abbreviated"] = "wide") -> str:
    """Return the name of a day of the week in a language; 0 is Monday."""
    return str(dates.get_day_names(width, context="stand-alone", locale=cldr(language))[number])


def call(language: str, kind: str, code: str) -> str:
    """Return the name in a language of a kind and code."""
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


# ---- Signs ----------------------------------------------------------------------------------------------------------
# A sign is a template (date, opening hours, price ...) and its arguments; Babel formats its text in a language.
# Nothing is stored: sign `index` of seed `seed` is always the same sign (Babel is pinned to one CLDR release).
#
# Splits are disjoint by English text, because the text decides its split. Some names (countries, languages) and two
# complete templates are *held out*: tuning never uses them, and they make the second test set `heldout`.

LANGUAGES = ("fr", "cs", "de", "lv", "hi", "tr")
"""The six target languages of the embedded model, in the papers' order."""

SPLITS = ("pretrain", "train", "dev", "test", "heldout")
MAX_SOURCE, MAX_WORD, MAX_TARGET = 28, 12, 40

GRANULARITY: dict[int, Literal["minute", "hour"]] = {60: "minute", 3600: "hour"}
DAY_SKELETONS = ("MMMd", "MMMEd", "yMMMEd", "yMMMM", "MMMMd")
HELD_OUT_TEMPLATES = frozenset({"range", "delta"})


def _clock(language: str, minutes: int) -> str:
    return dates.format_time(dt.time(minutes // 60 % 24, minutes % 60), "short", locale=cldr(language))


def _pick_date(rng: random.Random) -> dt.date:
    return dt.date(2020, 1, 1) + dt.timedelta(days=rng.randrange(3652))


def _pick_minutes(rng: random.Random) -> int:
    return rng.randrange(24) * 60 + rng.choice((0, 0, 15, 30, 30, 45))


def _pick_money(rng: random.Random) -> tuple[float, str]:
    amount = rng.choice((rng.randrange(1, 100), rng.randrange(100, 100_000) / 100, rng.randrange(100, 5000, 50)))
    return amount, rng.choice(CURRENCIES)


def _money(language: str, money: tuple[float, str]) -> str:
    amount, currency = money
    pattern = None if amount != int(amount) else numbers.get_currency_unit_pattern(currency, locale=cldr(language))
    if pattern and amount < 100:  # "5 euros"; larger and fractional amounts have the symbol
        return numbers.format_currency(
            int(amount),
            currency,
            locale=cldr(language),
            format_type="name",
            currency_digits=False,
            decimal_quantization=False,
        )
    return numbers.format_currency(amount, currency, locale=cldr(language))


Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class _Template:
    weight: int
    draw: Callable[[random.Random], Arguments]
    write: Callable[..., str]  # (language, *arguments) -> text


def _price_label(language: str, name: Name, money: tuple[float, str]) -> str:
    return f"{call(language, *name)}: {_money(language, money)}"


def _amount(language: str, value: float, unit: str) -> str:
    lengths: tuple[Literal["long", "short", "narrow"], ...] = ("long", "short", "narrow")
    for length in lengths:
        text = units.format_unit(value, unit, length, locale=cldr(language))
        if unit not in text:  # Babel writes the key if a length is inherited, as in Hindi, Turkish and Japanese
            return text
    raise KeyError(unit)


def _compact(language: str, value: int) -> str:
    form: Literal["long", "short"] = "long" if "long" in cldr(language).compact_decimal_formats else "short"
    # In Japanese, short is long; Hindi counts in lakhs, so that 822 thousand needs its decimals.
    return numbers.format_compact_decimal(value, format_type=form, locale=cldr(language), fraction_digits=2)


TEMPLATES: dict[str, _Template] = {
    "date": _Template(
        10,
        lambda r: (_pick_date(r), r.choice(("long", "full"))),
        lambda lang, day, form: dates.format_date(day, form, locale=cldr(lang)),
    ),
    "skeleton": _Template(
        8,
        lambda r: (_pick_date(r), r.choice(DAY_SKELETONS)),
        lambda lang, day, form: dates.format_skeleton(form, dt.datetime.combine(day, dt.time()), locale=cldr(lang)),
    ),
    "time": _Template(2, lambda r: (_pick_minutes(r),), _clock),
    "daytime": _Template(
        7,
        lambda r: (r.randrange(7), _pick_minutes(r)),
        lambda lang, day, minutes: f"{day_name(lang, day)}, {_clock(lang, minutes)}",
    ),
    "hours": _Template(
        9,
        lambda r: (r.choice((None, *range(7))), _pick_minutes(r), 15 * r.randrange(4, 40)),
        lambda lang, day, start, length: (
            ("" if day is None else day_name(lang, day, "abbreviated") + " ")
            + f"{_clock(lang, start)} – {_clock(lang, start + length)}"
        ),
    ),
    "price": _Template(9, lambda r: (_pick_money(r),), _money),
    "price_label": _Template(7, lambda r: (pick_name(r), _pick_money(r)), _price_label),
    "unit": _Template(
        11,
        lambda r: (r.choice((r.randrange(1, 30), r.randrange(30, 2000), r.randrange(1, 100) / 10)), r.choice(UNITS)),
        _amount,
    ),
    "delta": _Template(
        5,
        lambda r: (r.choice((1, -1)) * r.randrange(1, 60), r.choice((60, 3600, 86400, 604800))),
        lambda lang, count, unit: dates.format_timedelta(
            dt.timedelta(seconds=count * unit),
            granularity=GRANULARITY.get(unit, "day"),
            threshold=1e9 if unit < 604800 else 0.85,
            add_direction=True,
            locale=cldr(lang),
        ),
    ),
    "list": _Template(
        9,
        lambda r: (pick_names(r, r.choice((2, 2, 3))), r.choice(("standard", "or"))),
        lambda lang, names, form: lists.format_list([call(lang, *n) for n in names], form, locale=cldr(lang)),
    ),
    "range": _Template(
        6,
        lambda r: pick_names(r, 2),
        lambda lang, first, last: f"{call(lang, *first)} – {call(lang, *last)}",
    ),
    "label": _Template(
        10,
        lambda r: (pick_name(r), _pick_minutes(r)),
        lambda lang, name, minutes: f"{call(lang, *name)}: {_clock(lang, minutes)}",
    ),
    "place": _Template(
        7,
        lambda r: (r.choice(TERRITORIES), r.choice(TONGUES)),
        lambda lang, place, tongue: f"{call(lang, 'territory', place)} ({call(lang, 'tongue', tongue)})",
    ),
    "percent": _Template(
        3,
        lambda r: (pick_name(r), r.randrange(1, 101)),
        lambda lang, name, value: f"{call(lang, *name)}: " + numbers.format_percent(value / 100, locale=cldr(lang)),
    ),
    "compact": _Template(
        2,
        lambda r: (r.randrange(1, 1000) * r.choice((1_000, 1_000_000, 1_000_000_000)),),
        _compact,
    ),
}


def tidy(text: str) -> str:
    """Return a text in NFC with plain spaces instead of CLDR's special ones and without direction marks."""
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", " ".join(spaced.split()))


@dataclass(frozen=True)
class Sign:
    """A sign, independent of language."""

    template: str
    arguments: Arguments

    def text(self, language: str) -> str:
        """Return the sign in a language.

        Raises:
            UserError: CLDR lacks data of the language for the sign.
        """
        try:
            return tidy(TEMPLATES[self.template].write(language, *self.arguments))
        except (UnknownLocaleError, KeyError) as error:
            missing = "the language" if isinstance(error, UnknownLocaleError) else f"its word for {error}"
            raise UserError(
                f"the embedded corpus cannot be written in {language}: CLDR lacks {missing}; "
                "choose another language or give data.source a JSONL file"
            ) from None

    @property
    def held_out(self) -> bool:
        """Whether it has a held-out template or a held-out name."""
        return self.template in HELD_OUT_TEMPLATES or any(c in HELD_OUT_NAMES for c in _codes(self.arguments))

    @property
    def split(self) -> str | None:
        """The one split that this sign's English text belongs to; None for a held-out text outside the test share."""
        share = bucket(self.text("en"), "split")
        split = "pretrain" if share < 700 else "train" if share < 880 else "dev" if share < 920 else "test"
        if not self.held_out or split == "pretrain":
            return split
        return "heldout" if split == "test" else None


def _codes(arguments: Arguments) -> Iterator[str]:
    """Yield every string inside nested arguments."""
    for value in arguments:
        if isinstance(value, tuple):
            yield from _codes(value)
        elif isinstance(value, str):
            yield value


def draw(rng: random.Random) -> Sign:
    """Draw one sign, of any split."""
    names = list(TEMPLATES)
    template = rng.choices(names, [TEMPLATES[n].weight for n in names])[0]
    return Sign(template, TEMPLATES[template].draw(rng))


def signs(split: str, count: int, seed: int = 0) -> list[Sign]:
    """Return `count` distinct signs of one split, in an order fixed by the seed.

    Raises:
        UserError: an unknown split, or more signs than the templates can make.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} is not known; {nearest(split, SPLITS)}")
    rng = random.Random(f"{split}:{seed}")
    by_text: dict[str, Sign] = {}
    for _ in range(400 * count + 10_000):
        if len(by_text) == count:
            return list(by_text.values())
        sign = draw(rng)
        text = sign.text("en")
        if text in by_text or not _fits(text) or sign.split != split or _ambiguous(sign):
            continue
        if all(len(sign.text(language)) <= MAX_TARGET for language in LANGUAGES):
            by_text[text] = sign
    if len(by_text) == count:
        return list(by_text.values())
    raise UserError(f"the embedded corpus holds fewer than {count} {split} signs; got {len(by_text)}; ask for fewer")


def _fits(text: str) -> bool:
    return len(text) <= MAX_SOURCE and max(map(len, text.split())) <= MAX_WORD


def _ambiguous(sign: Sign) -> bool:
    """Whether a date is in May: its full and short English forms are the same, but its translations may differ."""
    return any(isinstance(a, dt.date) and a.month == 5 for a in sign.arguments)
