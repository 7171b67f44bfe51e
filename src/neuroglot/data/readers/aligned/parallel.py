"""Parallel text, whose source is rendered into images when they are looked at: IWSLT-2017, OPUS, anything aligned.

How to obtain: IWSLT-2017 from the WIT3 archive (wit3.fbk.eu; CC BY-NC-ND), one folder a pair with
`train.tags.en-de.en`, `train.tags.en-de.de`, `IWSLT17.TED.dev2010.en-de.en.xml` and so on; other corpora from OPUS in
the Moses format (`corpus.en-de.en`, `corpus.en-de.de`), or two files of your own, `train.en` and `train.de`, plain or
.gz.

Of IWSLT's files the sentences are read, and not the lines of tags around them. Its development and test sets are
called `dev2010`, `tst2010`, ...; with several test sets the recipe chooses, as in `data.splits: {test: tst2015}`.
Files without a split are divided by the run. How the text is rendered says `data.render`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from neuroglot.data.readers.aligned.lines import language_files, of_pairs, pairs_of, together
from neuroglot.data.readers.layout import Layout, Record, splits_of
from neuroglot.data.readers.make import Piece
from neuroglot.errors import UserError

Files = dict[str, dict[str, Path]]

_IWSLT = re.compile(r"(?:IWSLT\d+\.TED\.)?(train\.tags|dev\d+|tst\d+)\.[a-z]{2,3}-[a-z]{2,3}")
_PAIR = re.compile(r"\.[a-z]{2,3}-[a-z]{2,3}$")
_YEAR = re.compile(r"(dev|tst)\d{4}")


def read_parallel(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of parallel text.

    Raises:
        UserError: no such files are there, they are not aligned, or a split or language is missing.
    """
    found = text_files(path)
    if not found:
        raise UserError(f"{path} holds no parallel text; expected files such as train.en and train.de")
    position = 0
    for split, name in _splits(found, layout, path):
        _refuse_missing(layout, found[name], path)
        for stem, files in found[name].items():
            # A folder may hold several corpora of a split, each of its own pair (IWSLT's en-de and en-fr).
            pairs = [p for p in layout.directions if {p.source, p.target} <= set(files)]
            if not pairs and layout.pairs and len(found[name]) > 1:
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
    held = [set(files) for files in by_stem.values()]
    for pair in layout.directions:
        if not any({pair.source, pair.target} <= languages for languages in held):
            known = ", ".join(sorted(set().union(*held)))
            raise UserError(f"{path} has no files for pair {pair}; it has the languages {known}")


def text_files(path: Path) -> dict[str, Files]:
    """Return split as the source calls it -> stem -> language -> file."""
    found: dict[str, Files] = {}
    for stem, files in language_files(path).items():
        iwslt = _IWSLT.fullmatch(stem)
        name = iwslt[1].removesuffix(".tags") if iwslt else _PAIR.sub("", stem)
        found.setdefault(name, {})[stem] = files
    return found


def _splits(found: dict[str, Files], layout: Layout, path: Path) -> Iterator[tuple[str | None, str]]:
    named = {"dev": "dev", "tst": "test"}
    years: dict[str, list[str]] = {}
    for name in found:
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
    chosen = splits_of(found, Layout(splits=known), path)
    if chosen:
        yield from chosen.items()
    elif len(found) == 1:
        yield None, next(iter(found))
    else:
        raise UserError(f"{path} has {', '.join(sorted(found))}; say in data.splits which is train, dev and test")
