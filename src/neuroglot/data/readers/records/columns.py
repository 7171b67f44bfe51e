"""A column map for a table whose columns have names of their own: a proposal that its user looks at."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from functools import cache, lru_cache

from babel import Locale

from neuroglot.errors import UserError
from neuroglot.pair import language_code

_USUAL = {
    "image": ("images", "img", "image_path", "img_path", "image_file", "image_name", "file", "filename", "file_name",
              "filepath", "file_path", "path", "picture", "photo", "photograph"),
    "target": ("translation", "tgt", "tgt_text", "target_text", "translated", "output", "reference", "ref", "answer",
               "response", "label"),
    "source": ("src", "src_text", "source_text", "original", "text", "sentence", "input", "caption"),
    "source_lang": ("src_lang", "source_language", "lang_src", "src_language"),
    "target_lang": ("tgt_lang", "target_language", "lang_tgt", "tgt_language"),
}  # fmt: skip
"""Our field -> what others call it, the likelier first."""

_BESIDE = {"text", "txt", "source", "src", "target", "tgt", "sentence", "caption", "label", "translation", "string",
           "name", "title", "lang", "reference", "ref"}  # fmt: skip
"""What may stand beside a language in the name of a column."""


def proposal(names: Iterable[str]) -> str:
    """Return the end of a message that proposes a column map; empty where no column looks like a translation.

    Examples:
        >>> proposal(["file", "english", "german"])
        ", such as data.columns='{image: file, source: english, target: german, source_lang: =en, target_lang: =de}'"
    """
    found = _proposed(tuple(str(name) for name in names))
    return f", such as data.columns={shlex.quote(found)}" if found else ""


@lru_cache
def _proposed(names: tuple[str, ...]) -> str:
    known = {name.strip().lower(): name for name in reversed(names)}
    found = {}
    for ours, usual in _USUAL.items():
        theirs = next((known[name] for name in (ours, *usual) if name in known), None)
        if theirs is not None:
            found[ours] = theirs
    languages = {code: name for name in reversed(names) if (code := _language(name))}
    if len(languages) > 1:
        source = "en" if "en" in languages else next(reversed(languages))
        target = next(code for code in reversed(languages) if code != source)
        found |= {"source": languages[source], "target": languages[target]}
        found |= {"source_lang": f"={source}", "target_lang": f"={target}"}
    if "target" not in found:
        return ""
    order = ("image", "source", "target", "source_lang", "target_lang")
    return "{" + ", ".join(f"{ours}: {quoted(found[ours])}" for ours in order if ours in found) + "}"


def quoted(text: str) -> str:
    """Return a text as a YAML mapping on one line reads it back, in quotes where it needs them."""
    return text if re.fullmatch(r"=?[A-Za-z/][\w./-]*( [\w./-]+)*", text) else json.dumps(text, ensure_ascii=False)


def _language(name: str) -> str | None:
    """Return the language that the name of a column is, or has beside a word such as `text`."""
    if name.strip().lower() == "id":
        return None
    parts = [part for part in re.split(r"[\s_.:-]+", name.strip().lower()) if part]
    left = [part for part in parts if part not in _BESIDE]
    if len(left) != 1:
        return None
    if left[0] in _names():
        return _names()[left[0]]
    try:
        return language_code(left[0]) if len(left[0]) == 2 else None
    except UserError:
        return None


@cache
def _names() -> dict[str, str]:
    return {name.lower(): code for code, name in Locale("en").languages.items()}
