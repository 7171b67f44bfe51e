"""Layout: settings of a reader for a source; and a proposed column map for a table with other column names."""

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
        columns: our field -> theirs (`text`, or `translation.de` for a nested one), or `=value` for a constant.
        pairs: directions; if records do not name their languages, the pairs to make examples of.
        splits: ours (train, dev, test) -> the source's name for it, if that is not a usual one.
        images: folder that image names are relative to; None for the layout's default folder.
        root: folder that must contain all images, after resolving `..` and symbolic links; None for no bound.
        tasks: tasks of records that do not name one; if empty, `task` and the record decide.
        task: the task that the run trains.
        render: style of images that are rendered from the source text, as sorted (key, value) pairs; None to render
            only if the layout has no images.
        seed: seed of rendered images.
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
        """The tasks of records that do not name one."""
        return self.tasks or (self.task,)

    @property
    def directions(self) -> tuple[Pair, ...]:
        """The pairs, parsed."""
        return _parsed(self.pairs)


@cache
def _parsed(pairs: tuple[str, ...]) -> tuple[Pair, ...]:
    return tuple(Pair.parse(pair) for pair in pairs)


Record = tuple[int, Example | UserError]
"""Position (line or record, from 1; never falling, and the same for all examples of a record), and the result."""

Reader = Callable[[Path, Layout], Iterator[Record]]


def divided(name: str, layout: Layout) -> bool:
    """Whether `data.splits` uses a split of the source for several of ours: then the run divides it."""
    return list(layout.splits.values()).count(name) > 1


def split_of(name: str, layout: Layout) -> str | None:
    """Return our name for a split of the source; None if it is not used, or the run divides it."""
    if divided(name, layout):
        return None
    from_recipe = next((ours for ours, theirs in layout.splits.items() if theirs == name), None)
    usual = next((ours for ours, names in _USUAL.items() if name.lower() in names), None)
    return from_recipe or (usual if usual not in layout.splits else None)


def splits_of(names: Iterable[str], layout: Layout, where: Path | str) -> dict[str | None, str]:
    """Return our split -> the source's, for the splits that a source has.

    A name such as `test_2016_flickr` counts as test if it is the only one that begins with `test`. A split that
    `data.splits` uses for several of ours, as in `{train: test, test: test}`, is divided by the run; its key is None.

    Raises:
        UserError: a split that the recipe names is missing, or several splits match one of ours.
    """
    names = sorted(names)
    for ours, theirs in layout.splits.items():
        if theirs not in names:
            raise UserError(
                f"{where} has no split {theirs!r}, which data.splits.{ours} names; {nearest(theirs, names)}"
            )
    splits = dict(layout.splits)
    free = [name for name in names if name not in splits.values()]
    for ours, usual in _USUAL.items():
        if ours in splits:
            continue
        exact = [name for name in free if name.lower() in usual]
        near = exact or [name for name in free if re.split(r"[._-]", name.lower())[0] in usual]
        if len(near) > 1:
            raise UserError(
                f"{where} has several splits that could be {ours}: {', '.join(near)}; choose with data.splits, "
                f"such as {{{ours}: {near[0]}}}"
            )
        if near:
            splits[ours] = near[0]
    # At most one name can be shared among three splits.
    ordered: dict[str | None, str] = {
        ours: splits[ours] for ours in SPLITS if ours in splits and not divided(splits[ours], layout)
    }
    ordered.update((None, theirs) for theirs in splits.values() if divided(theirs, layout))
    return ordered


def check_left_out(
    files: Mapping[str, str], splits: Mapping[str | None, str], layout: Layout, where: Path | str
) -> None:
    """Refuse a source with a part that belongs to no split; if the recipe names splits, only log a warning.

    Args:
        files: split of the source -> its name in messages.
        splits: result of `splits_of`; nothing is left out of a source without splits.
        layout: how the source is laid out.
        where: the source.

    Raises:
        UserError: names a part, and how to use it or leave it out.
    """
    left = sorted(set(files) - set(splits.values()))
    if not splits or not left:
        return
    if layout.splits:
        _log.warning("%s: not read, since data.splits names others: %s", where, ", ".join(files[x] for x in left))
        return
    free = next((ours for ours in SPLITS if ours not in splits), SPLITS[-1])
    first = next(iter(splits.items()))
    raise UserError(
        f"{where} has the splits {', '.join(splits.values())}, and {files[left[0]]} belongs to none; "
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
"""Our field -> usual names of it, the likelier first."""

_BESIDE = {"text", "txt", "source", "src", "target", "tgt", "sentence", "caption", "label", "translation", "string",
           "name", "title", "lang", "reference", "ref"}  # fmt: skip
"""Words that may stand beside a language in the name of a column."""


def proposal(names: Iterable[str]) -> str:
    """Return the end of a message that proposes a column map; empty where no column looks like a translation.

    Examples:
        >>> proposal(["file", "english", "german"])
        ", such as data.columns='{image: file, source: english, target: german, source_lang: =en, target_lang: =de}'"
    """
    columns = _proposed(tuple(str(name) for name in names))
    return f", such as data.columns={shlex.quote(columns)}" if columns else ""


@lru_cache
def _proposed(names: tuple[str, ...]) -> str:
    known = {name.strip().lower(): name for name in reversed(names)}
    columns = {}
    for ours, usual in _USUAL_NAMES.items():
        theirs = next((known[name] for name in (ours, *usual) if name in known), None)
        if theirs is not None:
            columns[ours] = theirs
    languages = {code: name for name in reversed(names) if (code := _language(name))}
    if len(languages) > 1:
        source = "en" if "en" in languages else next(reversed(languages))
        target = next(code for code in reversed(languages) if code != source)
        columns |= {"source": languages[source], "target": languages[target]}
        columns |= {"source_lang": f"={source}", "target_lang": f"={target}"}
    if "target" not in columns:
        return ""
    order = ("image", "source", "target", "source_lang", "target_lang")
    return "{" + ", ".join(f"{ours}: {quoted(columns[ours])}" for ours in order if ours in columns) + "}"


def quoted(text: str) -> str:
    """Return a text as a value of a YAML mapping on one line, in quotes if it needs them."""
    return text if re.fullmatch(r"=?[A-Za-z/][\w./-]*( [\w./-]+)*", text) else json.dumps(text, ensure_ascii=False)


def _language(name: str) -> str | None:
    """Return the language in the name of a column, alone or beside a word such as `text`; None if there is none."""
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
