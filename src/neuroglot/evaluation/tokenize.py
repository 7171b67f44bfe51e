"""How a target language is split into tokens: sacreBLEU's tokenisers, and Moses' for figures beside older papers.

Notable: the script decides. Where words are not separated by spaces (Chinese, Japanese, Thai, Khmer, Tibetan and many
more), sacreBLEU's `13a` would take a sentence for one token, so that BLEU is 0 for nearly right answers. The script is
that of the references where they have letters, since a language may be written in several (Serbian, romanised Thai)
and outputs may come without the name of their language. The signature names what was used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import regex
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair, language_code, script_of

SPM = ("flores101", "flores200", "spm", "spBLEU-1K")
"""Tokenisers of sacreBLEU that need sentencepiece and a model that sacreBLEU downloads; `spm` is `flores101`."""

TOKENISERS = ("none", "13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", *SPM)

Tokenise = str | Mapping[str, str] | None
"""A tokeniser, or those of some pairs or target languages; None where the script decides."""

_LETTER = regex.compile(r"\p{L}")
# Unicode's line breaking classes of letters between which a line may be broken without a space. Tibetan, Vai, Buginese
# and Rejang write no spaces between words either, but have other break points.
_UNSPACED = regex.compile(
    r"[\p{lb=SA}\p{lb=ID}\p{lb=CJ}\p{lb=AK}\p{lb=AS}\p{sc=Tibt}\p{sc=Vaii}\p{sc=Bugi}\p{sc=Rjng}]"
)
_KANA, _HAN = regex.compile(r"[\p{sc=Hira}\p{sc=Kana}]"), regex.compile(r"\p{sc=Hani}")
_NAMES = {"Hans": "Hani", "Hant": "Hani", "Jpan": "Hira", "Hrkt": "Kana", "Kore": "Hang"}
"""ISO 15924 codes that Unicode does not use -> a script of Unicode."""

_log = logging.getLogger(__name__)


def writing(target_lang: str, references: Sequence[str] = ()) -> str:
    """Return how texts of a target language are written, by the tokeniser of sacreBLEU that fits.

    Args:
        target_lang: a language code; decides where the references say nothing else.
        references: all of the pair. The code is overruled where it means a script with spaces and most letters are
            of one without, or where it means one without and fewer than a tenth of the letters are.

    Returns:
        `zh`, `ja` or `ko`, `char` for any other script without spaces between words, `13a` for all that have them.

    Examples:
        >>> writing("zh_Hans"), writing("de"), writing("th"), writing("jv_Java"), writing("jv")
        ('zh', '13a', 'char', 'char', '13a')
        >>> writing("th", ["hong nam yu thi nai"]), writing("und", ["ห้องน้ำอยู่ที่ไหน"])
        ('13a', 'char')
    """
    written = _NAMES.get(script_of(target_lang), script_of(target_lang))
    usual = _unspaced_letters(written)
    letters = "".join(_LETTER.findall("".join(references)))
    unspaced = "".join(_UNSPACED.findall(letters)) if letters else usual
    if not unspaced or len(unspaced) < (0.1 if usual else 0.5) * len(letters):
        return "ko" if written == "Hang" else "13a"
    kana, han = (len(kind.findall(unspaced)) for kind in (_KANA, _HAN))
    if 2 * (kana + han) < len(unspaced):
        return "char"
    return "ja" if written in ("Hira", "Kana") or (written != "Hani" and 10 * kana > len(unspaced)) else "zh"


def tokeniser(target_lang: str, references: Sequence[str] = ()) -> str:
    """Return sacreBLEU's tokeniser for texts, see `writing`: without MeCab Japanese and Korean are split by character.

    Examples:
        >>> tokeniser("zh_Hans"), tokeniser("de"), tokeniser("km")
        ('zh', '13a', 'char')
    """
    kind = writing(target_lang, references)
    return _mecab(kind) if kind in ("ja", "ko") else kind


@cache
def _unspaced_letters(script: str) -> str:
    """Return some letters of a script of Unicode that writes no spaces; none of any other."""
    try:
        pattern = regex.compile(rf"[\p{{L}}&&\p{{sc={script}}}]", regex.V1)
    except regex.error:
        return ""
    letters = "".join(pattern.findall("".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))))
    unspaced = "".join(_UNSPACED.findall(letters))
    return unspaced[:100] if 2 * len(unspaced) > len(letters) else ""


@cache
def _mecab(language: str) -> str:
    name = f"{language}-mecab"
    if not missing(name):
        return name
    _log.warning("BLEU of %s is by character (tok:char): %s", language, missing(name))
    return "char"


def chosen(tokenise: Tokenise, pair: str) -> str | None:
    """Return the tokeniser that a user chose for a pair: for the pair, its target language, or for all.

    Examples:
        >>> chosen({"ja": "char"}, "en-ja"), chosen({"zh": "char"}, "en-zh_Hant"), chosen({"ja": "char"}, "en-de")
        ('char', 'char', None)
    """
    if tokenise is None or isinstance(tokenise, str):
        return tokenise
    target = pair.split("-")[1]
    return next((tokenise[name] for name in (pair, target, language_of(target)) if name in tokenise), None)


def read_tokenise(text: str) -> Tokenise:
    """Read the form of the command line: a tokeniser, or `ja=char,en-th=flores200`.

    Raises:
        UserError: a tokeniser is not known or not installed, or a language is none.
    """
    if "=" not in text:
        return check_tokeniser(text)
    parts = known_tokenisers(dict(part.strip().partition("=")[::2] for part in text.split(",")))
    for name in parts.values():
        check_tokeniser(name)
    return parts


def known_tokenisers(parts: Mapping[str, str]) -> dict[str, str]:
    """Return tokenisers by pair or target language, these spelt as rows have theirs.

    Raises:
        UserError: a tokeniser is not known, or a language is none.
    """
    for name in parts.values():
        _check_known(name)
    return {str(Pair.parse(key)) if "-" in key else language_code(key): name for key, name in parts.items()}


@cache
def missing(name: str) -> str:
    """Return what a tokeniser of sacreBLEU lacks and how to get it; empty where it works. Nothing is downloaded."""
    if name in SPM:
        if util.find_spec("sentencepiece") is None:
            return f"the tokeniser {name} needs sentencepiece; pip install 'neuroglot[mt]'"
        url = SPM_MODELS[name]["url"]
        model = Path(SACREBLEU_DIR) / "models" / os.path.basename(url)
        if not model.is_file():  # sacreBLEU would fetch it, and wait for a network that may not be there
            return f"the tokeniser {name} needs its model; download {url} to {model}"
    try:
        BLEU(tokenize=name, force=True)
    except Exception as error:  # of three foreign libraries, which raise what they like
        if name in SPM:
            return f"the tokeniser {name} cannot read its model {model} ({error}); download {url} again"
        return f"the tokeniser {name} needs MeCab; pip install 'neuroglot[mecab]'"
    return ""


def language_of(target_lang: str) -> str:
    """Return the language of a code without script and region.

    Examples:
        >>> language_of("zh_Hans")
        'zh'
    """
    return target_lang.partition("_")[0]


def check_tokeniser(name: str) -> str:
    """Return the name of a tokeniser that a user asked for.

    Raises:
        UserError: it is not known, or its package or model is not installed.
    """
    _check_known(name)
    if missing(name):
        raise UserError(missing(name))
    return name


def _check_known(name: str) -> None:
    if name not in TOKENISERS:
        raise UserError(f"tokeniser {name!r} is not known; {nearest(name, TOKENISERS)}")


def moses_lower(texts: Sequence[str], target_lang: str) -> list[str]:
    """Return texts as Moses' scripts prepare them: punctuation normalised, tokenised, lower-cased.

    The tokens are separated by blanks, for BLEU with `tokenize="none"`. Nothing is escaped (`&` stays `&`).

    Raises:
        UserError: the package that does it is not installed.
    """
    normaliser, tokens = _moses(language_of(target_lang))
    made = (tokens.tokenize(normaliser.normalize(text), escape=False) for text in texts)
    return [" ".join(words).lower() for words in made]


def moses_signature(target_lang: str, sacrebleus: str) -> str:
    """Return the signature of the lower-cased BLEU: sacreBLEU's, with what came before it."""
    used = f"tok:moses-{language_of(target_lang)}|norm:moses"
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
