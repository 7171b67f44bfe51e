"""How a target language is split into tokens: sacreBLEU's tokenisers, and Moses' for figures beside older papers.

Notable: without MeCab a Japanese or Korean target is split by character (`tok:char`). sacreBLEU's `13a` would take a
Japanese sentence for one token, so that its BLEU is 0 or 100 and says nothing; and the signature names what was used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

from sacrebleu.metrics import BLEU

from neuroglot.errors import UserError, nearest

TOKENISERS = ("none", "13a", "intl", "char", "zh", "ja-mecab", "ko-mecab")
"""Those of sacreBLEU that need no download."""

UNSEGMENTED = ("zh", "ja", "ko")
"""Languages that Moses does not split: their lower-cased BLEU takes sacreBLEU's tokeniser."""

_log = logging.getLogger(__name__)


def language_of(target_lang: str) -> str:
    """Return the language of a code without script and region.

    >>> language_of("zh_Hans")
    'zh'
    """
    return target_lang.partition("_")[0]


@cache
def tokeniser(target_lang: str) -> str:
    """Return sacreBLEU's tokeniser for a target language.

    Chinese is split by character; Japanese and Korean by MeCab, or by character where that is not installed;
    everything else is `13a`.

    >>> tokeniser("zh_Hans"), tokeniser("de")
    ('zh', '13a')
    """
    language = language_of(target_lang)
    if language == "zh":
        return "zh"
    if language in ("ja", "ko"):
        name = f"{language}-mecab"
        if not missing(name):
            return name
        _log.warning("BLEU of %s is by character (tok:char): %s", target_lang, missing(name))
        return "char"
    return "13a"


@cache
def missing(name: str) -> str:
    """Return what a tokeniser of sacreBLEU lacks and how to get it; empty where it works."""
    try:
        BLEU(tokenize=name, force=True)
    except (ImportError, RuntimeError):
        return f"the tokeniser {name} needs MeCab; pip install 'neuroglot[mecab]'"
    return ""


def check_tokeniser(name: str) -> str:
    """Return the name of a tokeniser that a user asked for.

    Raises:
        UserError: it is not known, or its package is not installed.
    """
    if name not in TOKENISERS:
        raise UserError(f"tokeniser {name!r} is not known; {nearest(name, TOKENISERS)}")
    if missing(name):
        raise UserError(missing(name))
    return name


def moses_lower(texts: Sequence[str], target_lang: str) -> list[str]:
    """Return texts as Moses' scripts prepare them: punctuation normalised, tokenised, lower-cased.

    The tokens are separated by blanks, for BLEU without a tokeniser of its own. Nothing is escaped (`&` stays `&`).

    Raises:
        UserError: the package that does it is not installed.
    """
    normaliser, tokens = _moses(language_of(target_lang))
    made = (tokens.tokenize(normaliser.normalize(text), escape=False) for text in texts)
    return [" ".join(words).lower() for words in made]


def moses_signature(target_lang: str, sacrebleus: str) -> str:
    """Return the signature of the lower-cased BLEU: sacreBLEU's, with what came before it."""
    language = language_of(target_lang)
    if language in UNSEGMENTED:
        return sacrebleus
    used = f"tok:moses-{language}|norm:moses"
    return sacrebleus.replace("case:mixed", "case:lc").replace("tok:none", used) + f"|sacremoses:{_version()}"


def needs_moses() -> str:
    """Return what the lower-cased BLEU lacks and how to get it; empty where it works."""
    try:
        import sacremoses  # noqa: F401
    except ImportError:
        return "the lower-cased, Moses-tokenised BLEU needs sacremoses; pip install 'neuroglot[moses]'"
    return ""


def _version() -> str:
    return metadata.version("sacremoses")


@cache
def _moses(language: str) -> tuple[Any, Any]:
    if needs_moses():
        raise UserError(needs_moses())
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    return MosesPunctNormalizer(lang=language), MosesTokenizer(lang=language)
