"""One language, many codes: ours, and those of a translation model, an OCR engine or another program."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from neuroglot.errors import UserError
from neuroglot.pair import language_code, script_of

WITHIN = {"no": "nb", "ps": "pbt", "qu": "quy", "ff": "fuv", "din": "dik", "ak": "tw"}
"""Languages of which models often have one member only, under the code of either."""


def spelling(language: str, known: Collection[str]) -> str | None:
    """Return the code of a language among those that somebody else uses; None if it is not among them.

    The script must be the same: `zh_Hant` is not `zh`. A code of the same region comes first, then one of no region.

    Examples:
        >>> spelling("de", ["eng_Latn", "deu_Latn"]), spelling("cs", ["en_XX", "cs_CZ"]), spelling("zh_Hant", ["zh"])
        ('deu_Latn', 'cs_CZ', None)
    """
    if language in known or (parts := _parts(language)) is None:
        return language if language in known else None
    base, region, script = parts
    near = {base, WITHIN.get(base), *(whole for whole, member in WITHIN.items() if member == base)}
    fits = []
    for code in known:
        own = _parts(code)
        if own and own[0] in near and own[2] == script:
            fits.append((own[0] != base, own[1] != region, own[1] != "", code))
    return min(fits)[-1] if fits else None


@cache
def _parts(code: str) -> tuple[str, str, str] | None:
    """Return language, region and script of a code; None if it is not one of a language."""
    try:
        subtags = language_code(code).split("_")
    except UserError:
        return None
    region = next((part for part in subtags[1:] if len(part) in (2, 3)), "")
    return subtags[0], region, script_of("_".join(subtags))
