"""Parallel files: line 7 of one translates line 7 of the other. Plain or gzip; their line counts must agree."""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from babel import Locale
from babel.core import get_global

from neuroglot.data.example import Example
from neuroglot.data.readers.examples import Piece, examples
from neuroglot.data.readers.files import reading, refuse_other_kinds
from neuroglot.data.readers.layout import Layout, Record, splits_of
from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair, language_code

# ---- Files read side by side ----------------------------------------------------------------------------------------

Line = tuple[int, str | UserError]
"""Number of the line in its file, from 1, and its text without white space around it, or its error."""

_SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg>")
_OPENS = re.compile(r"<seg\b")
_TAG = re.compile(r"</?(doc|url|keywords|speaker|talkid|title|description|reviewer|translator|transcript)\b")
"""How IWSLT's lines with data about a talk begin; a sentence may begin with `<` too."""
_NO_LANGUAGE = {"txt", "md", "json", "jsonl", "csv", "tsv", "py", "sh", "png", "jpg", "zip", "tar", "log",
                "bak", "tmp"}  # fmt: skip
"""Endings of other files; the last two are also old language codes."""


# ---- one file -------------------------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a text file; from IWSLT's tagged and XML files only the sentences.

    Raises:
        UserError: the file is missing or cannot be unpacked.
    """
    tagged = ".tags." in path.name
    segments = path.name.removesuffix(".gz").endswith(".xml")
    for number, line in _plain(path):
        if isinstance(line, str) and tagged and _TAG.match(line):
            continue  # the two languages may have different numbers of them
        if isinstance(line, str) and segments:
            segments_found = _SEGMENT.findall(line)
            if len(segments_found) != len(_OPENS.findall(line)):
                yield number, UserError("a <seg> does not end in its line; write each with its </seg> on one line")
            yield from ((number, _unescaped(text)) for text in segments_found)
            continue
        yield number, line


def _unescaped(text: str) -> str | UserError:
    try:
        return html.unescape(text).strip()
    except ValueError as error:  # a character number with thousands of digits
        return UserError(f"an entity cannot be read: {error}")


def _plain(path: Path) -> Iterator[Line]:
    opened = gzip.open if path.suffix == ".gz" else open
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a text file, plain or .gz")
    refuse_other_kinds(path, but=b"\x1f\x8b" if path.suffix == ".gz" else b"")
    with reading(f"{path} cannot be read", "expected a text file, plain or .gz"), opened(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield number, UserError(f"the line is not UTF-8 (byte {error.start}); save the file as UTF-8")


def _count(path: Path) -> tuple[int, int]:
    """Return the number of a file's lines, with and without blank lines at its end."""
    total = last = 0
    for total, (_, line) in enumerate(lines(path), start=1):
        last = total if line else last
    return total, last


# ---- files side by side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aligned:
    """One record of aligned files.

    Attributes:
        number: number of the record, from 1.
        texts: role of a file -> its line; empty if it cannot be read.
        wrong: the error of the record, with file and line.
    """

    number: int
    texts: Mapping[str, str]
    wrong: UserError | None = None


def together(files: Mapping[str, Path], root: Path, optional: Collection[str] = ()) -> Iterator[Aligned]:
    """Yield the records of aligned files; records that are blank in all files are left out.

    Args:
        files: role (a language, `image` ...) -> file.
        root: folder to which file names in messages are relative.
        optional: roles that may have a blank line when the others have a text.

    Raises:
        UserError: the files have different numbers of lines; this is checked before any line is used.
    """
    counts = {role: _count(path) for role, path in files.items()}
    if max(last for _, last in counts.values()) > min(total for total, _ in counts.values()):
        totals = ", ".join(f"{_name(files[role], root)} has {total}" for role, (total, _) in counts.items())
        raise UserError(f"{root}: files that belong together have different numbers of lines: {totals}; align them")
    for number, row in enumerate(zip(*(lines(path) for path in files.values()), strict=False), start=1):
        by_role = dict(zip(files, row, strict=True))
        if not all(line == "" for _, line in by_role.values()):
            texts = {role: line if isinstance(line, str) else "" for role, (_, line) in by_role.items()}
            yield Aligned(number, texts, _wrong(by_role, files, root, optional))


def _wrong(
    lines_by_role: Mapping[str, Line], files: Mapping[str, Path], root: Path, optional: Collection[str]
) -> UserError | None:
    for role, (number, line) in lines_by_role.items():
        if isinstance(line, UserError) or not (line or role in optional):
            what = line or "the line is blank, and other files have a text there; fill it in"
            return UserError(f"{_name(files[role], root)} line {number}: {what}")
    return None


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


# ---- files by split and language ------------------------------------------------------------------------------------


def language_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Return stem -> language -> file, for files such as `train.en`, `train.en.gz` or `dev.en-de.en.xml`.

    Raises:
        UserError: the ending of one of several files with one stem is no language code.
    """
    by_stem: dict[str, list[tuple[str, Path]]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        stem, dot, ending = path.name.removesuffix(".gz").removesuffix(".xml").rpartition(".")
        if dot and stem and path.is_file() and _like_a_code(ending):
            by_stem.setdefault(stem, []).append((ending, path))
    by_language = {stem: _by_language(of) for stem, of in by_stem.items() if len(of) > 1}
    return {stem: by for stem, by in by_language.items() if len(by) > 1}


def _by_language(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return language -> file.

    Raises:
        UserError: an ending is no language code, or two files have the same language.
    """
    by_language: dict[str, Path] = {}
    for ending, path in files:
        try:
            language = language_code(ending)
        except UserError as error:
            raise UserError(f"{path}: {error}; the file's ending is its language") from None
        if language in by_language:
            raise UserError(
                f"{by_language[language]} and {path.name} are both of the language {language}; leave one out"
            )
        by_language[language] = path
    return by_language


def _like_a_code(ending: str) -> bool:
    """Whether an ending looks like a language code; with three letters it must be a known code or alias."""
    if ending in _NO_LANGUAGE or not re.fullmatch(r"[a-z]{2,3}([_-]\w+)*", ending):
        return False
    first = re.split("[_-]", ending)[0]
    return len(first) == 2 or first in Locale("en").languages or first in get_global("language_aliases")


def pairs_of(layout: Layout, languages: Collection[str], where: Path | str) -> list[Pair]:
    """Return the recipe's pairs, or by default all pairs from English.

    Raises:
        UserError: a language of a pair is missing, or there are no pairs and no English.
    """
    for pair in layout.directions:
        for language in (pair.source, pair.target):
            if language not in languages:
                raise UserError(f"{where} has no {language}, which pair {pair} needs; {nearest(language, languages)}")
    if layout.pairs:
        return list(layout.directions)
    if "en" not in languages:
        raise UserError(
            f"{where} has {', '.join(sorted(languages))} and no English; say in data.pairs what is translated"
        )
    return [Pair("en", language) for language in sorted(languages) if language != "en"]


def of_pairs(piece: Piece, texts: Mapping[str, str], pairs: Sequence[Pair], layout: Layout) -> Iterator[Example]:
    """Yield the examples of a record with a text for each language; one source language after the other."""
    for source in dict.fromkeys(pair.source for pair in pairs):
        targets = {pair: texts[pair.target] for pair in pairs if pair.source == source}
        yield from examples(replace(piece, source=texts[source], targets=targets), layout)


def first_folder(candidates: Iterable[Path], fits: Callable[[Path], object]) -> Path | None:
    """Return the first existing folder for which `fits` is true; None if there is none."""
    return next((folder for folder in candidates if folder.is_dir() and fits(folder)), None)


# ---- Parallel text, rendered as images ------------------------------------------------------------------------------
# How to obtain: IWSLT-2017 from the WIT3 archive (wit3.fbk.eu; CC BY-NC-ND), one folder per pair with `train.tags.en-
# de.en`, `train.tags.en-de.de`, `IWSLT17.TED.dev2010.en-de.en.xml` and so on; other corpora from OPUS in the Moses
# format (`corpus.en-de.en`, `corpus.en-de.de`), or two files `train.en` and `train.de`, plain or .gz.
#
# From IWSLT's files only the sentences are read, not the lines of tags around them. Its development and test sets are
# called `dev2010`, `tst2010`, ...; with several test sets the recipe chooses, as in `data.splits: {test: tst2015}`.
# The run divides files without a split. `data.render` sets how the text is rendered.

Files = dict[str, dict[str, Path]]

_IWSLT = re.compile(r"(?:IWSLT\d+\.TED\.)?(train\.tags|dev\d+|tst\d+)\.[a-z]{2,3}-[a-z]{2,3}")
_PAIR = re.compile(r"\.[a-z]{2,3}-[a-z]{2,3}$")
_YEAR = re.compile(r"(dev|tst)\d{4}")


def read_parallel(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of parallel text.

    Raises:
        UserError: there are no such files, they are not aligned, or a split or language is missing.
    """
    by_split = text_files(path)
    if not by_split:
        raise UserError(f"{path} holds no parallel text; expected files such as train.en and train.de")
    position = 0
    for split, name in _splits(by_split, layout, path):
        _refuse_missing(layout, by_split[name], path)
        for stem, files in by_split[name].items():
            # A folder may contain several corpora of a split, each of another pair (IWSLT's en-de and en-fr).
            pairs = [p for p in layout.directions if {p.source, p.target} <= set(files)]
            if not pairs and layout.pairs and len(by_split[name]) > 1:
                continue
            pairs = pairs or pairs_of(layout, files, path / stem)
            wanted = {language for pair in pairs for language in (pair.source, pair.target)}
            chosen = {language: file for language, file in files.items() if language in wanted}
            for record in together(chosen, path):
                position += 1
                if record.wrong is not None:
                    yield position, record.wrong
                    continue
                piece = Piece(None, {}, f"{stem}-{record.number}", position, split=split)
                yield from ((position, example) for example in of_pairs(piece, record.texts, pairs, layout))


def _refuse_missing(layout: Layout, by_stem: Files, path: Path) -> None:
    languages_held = [set(files) for files in by_stem.values()]
    for pair in layout.directions:
        if not any({pair.source, pair.target} <= languages for languages in languages_held):
            known = ", ".join(sorted(set().union(*languages_held)))
            raise UserError(f"{path} has no files for pair {pair}; it has the languages {known}")


def text_files(path: Path) -> dict[str, Files]:
    """Return the source's split name -> stem -> language -> file."""
    by_split: dict[str, Files] = {}
    for stem, files in language_files(path).items():
        iwslt = _IWSLT.fullmatch(stem)
        name = iwslt[1].removesuffix(".tags") if iwslt else _PAIR.sub("", stem)
        by_split.setdefault(name, {})[stem] = files
    return by_split


def _splits(by_split: dict[str, Files], layout: Layout, path: Path) -> Iterator[tuple[str | None, str]]:
    named = {"dev": "dev", "tst": "test"}
    years: dict[str, list[str]] = {}
    for name in by_split:
        year = _YEAR.fullmatch(name)
        if year and named[year[1]] not in layout.splits and name not in layout.splits.values():
            years.setdefault(named[year[1]], []).append(name)
    for ours, names in years.items():
        if len(names) > 1:
            raise UserError(
                f"{path} has several splits that could be {ours}: {', '.join(sorted(names))}; choose with "
                f"data.splits, such as {{{ours}: {max(names)}}}"
            )
    known = {**{ours: names[0] for ours, names in years.items()}, **layout.splits}
    chosen = splits_of(by_split, Layout(splits=known), path)
    if chosen:
        yield from chosen.items()
    elif len(by_split) == 1:
        yield None, next(iter(by_split))
    else:
        raise UserError(f"{path} has {', '.join(sorted(by_split))}; say in data.splits which is train, dev and test")
