"""Layout: what a reader is told about a source; and a proposed column map for a table with other column names."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

from babel import Locale

from neuroglot.data.example import Example
from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair, language_code

# ---- Layout ---------------------------------------------------------------------------------------------------------

_log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")

_USUAL = {
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation", "eval"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Layout:
    """How a source is read.

    Attributes:
        format: a key of `READERS`, or `auto`.
        columns: our field -> theirs (`text`, or `translation.de` for what lies deeper), or `=value` for a constant.
        pairs: directions; where the records do not say their languages, those to make examples of.
        splits: ours (train, dev, test) -> the name that the source has for it, where that is not a usual one.
        images: folder that image names are relative to; None for the place that the layout has for them.
        root: folder that all images must lie in, wherever `..` and symbolic links lead; None for no bound.
        tasks: what to make of records that do not say their task; empty for what `task` and the record suggest.
        task: the task that the run trains.
        render: style of images that are rendered from the source text, as sorted (key, value) pairs; None to render
            only where the layout has no images of its own.
        seed: of rendered images.
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    pairs: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    images: Path | None = None
    root: Path | None = None
    tasks: tuple[str, ...] = ()
    task: str = "image_translation"
    render: tuple[tuple[str, str], ...] | None = None
    seed: int = 0

    @property
    def made(self) -> tuple[str, ...]:
        """The tasks of records that cannot say theirs."""
        return self.tasks or (self.task,)

    @property
    def directions(self) -> tuple[Pair, ...]:
        """The pairs, parsed."""
        return _parsed(self.pairs)


@cache
def _parsed(pairs: tuple[str, ...]) -> tuple[Pair, ...]:
    return tuple(Pair.parse(pair) for pair in pairs)


Record = tuple[int, Example | UserError]
"""Where it is (line or record, from 1; growing, and the same for all examples of one record), and what was read."""

Reader = Callable[[Path, Layout], Iterator[Record]]


def divided(name: str, layout: Layout) -> bool:
    """Whether `data.splits` names a split of the source for several of ours: then the run divides it."""
    return list(layout.splits.values()).count(name) > 1


def split_of(name: str, layout: Layout) -> str | None:
    """Return our name for a split of the source; None for one that is not used, or that the run divides."""
    if divided(name, layout):
        return None
    named = next((ours for ours, theirs in layout.splits.items() if theirs == name), None)
    usual = next((ours for ours, names in _USUAL.items() if name.lower() in names), None)
    return named or (usual if usual not in layout.splits else None)


def splits_of(names: Iterable[str], layout: Layout, where: Path | str) -> dict[str | None, str]:
    """Return our split -> the source's, of those that a source has.

    A name such as `test_2016_flickr` counts as test where it is the only one that begins so. What `data.splits` names
    for several of ours, as in `{train: test, test: test}`, is divided by the run, and is in none here.

    Raises:
        UserError: a split that the recipe names is not there, or several could be meant.
    """
    names = sorted(names)
    for ours, theirs in layout.splits.items():
        if theirs not in names:
            raise UserError(
                f"{where} has no split {theirs!r}, which data.splits.{ours} names; {nearest(theirs, names)}"
            )
    result = dict(layout.splits)
    free = [name for name in names if name not in result.values()]
    for ours, usual in _USUAL.items():
        if ours in result:
            continue
        exact = [name for name in free if name.lower() in usual]
        near = exact or [name for name in free if re.split(r"[._-]", name.lower())[0] in usual]
        if len(near) > 1:
            raise UserError(
                f"{where} has several splits that could be {ours}: {', '.join(near)}; choose with data.splits, "
                f"such as {{{ours}: {near[0]}}}"
            )
        if near:
            result[ours] = near[0]
    # Three splits can share only one name.
    own: dict[str | None, str] = {
        ours: result[ours] for ours in SPLITS if ours in result and not divided(result[ours], layout)
    }
    own.update((None, theirs) for theirs in result.values() if divided(theirs, layout))
    return own


def check_left_out(
    files: Mapping[str, str], result: Mapping[str | None, str], layout: Layout, where: Path | str
) -> None:
    """Refuse a source of which a part belongs to no split; a recipe that names splits has chosen, and is told.

    Args:
        files: split of the source -> what it is called in a message.
        result: what `splits_of` returned; nothing is left out of a source without splits.
        layout: how the source is laid out.
        where: the source.

    Raises:
        UserError: a part, and how to name it or leave it out.
    """
    left = sorted(set(files) - set(result.values()))
    if not result or not left:
        return
    if layout.splits:
        _log.warning("%s: not read, since data.splits names others: %s", where, ", ".join(files[x] for x in left))
        return
    free = next((ours for ours in SPLITS if ours not in result), SPLITS[-1])
    first = next(iter(result.items()))
    raise UserError(
        f"{where} has the splits {', '.join(result.values())}, and {files[left[0]]} belongs to none; "
        f"rename or move it, name it in data.splits, such as {{{free}: {left[0]}}}, or leave it out with "
        f"{{{first[0]}: {first[1]}}}"
    )


# ---- A proposed column map ------------------------------------------------------------------------------------------

_USUAL_NAMES = {
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
    result = _proposed(tuple(str(name) for name in names))
    return f", such as data.columns={shlex.quote(result)}" if result else ""


@lru_cache
def _proposed(names: tuple[str, ...]) -> str:
    known = {name.strip().lower(): name for name in reversed(names)}
    result = {}
    for ours, usual in _USUAL_NAMES.items():
        theirs = next((known[name] for name in (ours, *usual) if name in known), None)
        if theirs is not None:
            result[ours] = theirs
    languages = {code: name for name in reversed(names) if (code := _language(name))}
    if len(languages) > 1:
        source = "en" if "en" in languages else next(reversed(languages))
        target = next(code for code in reversed(languages) if code != source)
        result |= {"source": languages[source], "target": languages[target]}
        result |= {"source_lang": f"={source}", "target_lang": f"={target}"}
    if "target" not in result:
        return ""
    order = ("image", "source", "target", "source_lang", "target_lang")
    return "{" + ", ".join(f"{ours}: {quoted(result[ours])}" for ours in order if ours in result) + "}"


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
