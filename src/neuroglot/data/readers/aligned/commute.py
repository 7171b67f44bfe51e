"""CoMMuTE: ambiguous sentences, each twice, with the photograph and the translation of either reading.

How to obtain: github.com/MatthieuFP/CoMMuTE (CC BY-NC-SA 4.0); the photographs as linked there, unpacked to `images/`
or where `data.images` says.

A folder a direction (`en-de`, `en-fr`, ..., `en-fr_dev`) with `src.en`, `correct.de`, `incorrect.de` and `img.order`,
line-aligned. An example has the sentence as source, the photograph, the right reading as target and the wrong one in
`alternatives`; a model is scored by how often the right one is likelier (Futeral et al. 2023). All of it is for
testing, but for `en-fr_dev`: beside training on another corpus, name it in `evaluate.retention`; to train on that one
folder, say `data.splits: {train: dev}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from neuroglot.data.readers.aligned.lines import together
from neuroglot.data.readers.layout import Layout, Record, check_left_out, splits_of
from neuroglot.data.readers.make import Piece, examples
from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair, language_code

_FOLDER = re.compile(r"([a-z]{2,3})-([a-z]{2,3})(?:_(dev|valid|val|test))?")
ORDER = "img.order"


def directions(path: Path) -> dict[Path, tuple[Pair, str]]:
    """Return folder -> pair and split, of a corpus or of one of its folders.

    Raises:
        UserError: a folder is named by no language code.
    """
    found = {}
    for folder in [path, *sorted(path.iterdir())] if path.is_dir() else ():
        name = _FOLDER.fullmatch(folder.name)
        if name and (any(folder.glob("correct.*")) or (folder / ORDER).is_file()):
            try:
                pair = Pair(language_code(name[1]), language_code(name[2]))
            except UserError as error:
                raise UserError(f"{folder}: {error}; the folder's name is its pair") from None
            found[folder] = pair, "test" if name[3] in (None, "test") else "dev"
    return found


def read_commute(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of CoMMuTE, those of the recipe's pairs where it names some.

    Raises:
        UserError: no folder of a pair is there, or its files are not aligned.
    """
    found = directions(path)
    if not found:
        raise UserError(f"{path} is no CoMMuTE; expected folders such as en-de with src.en, correct.de, incorrect.de")
    known = [str(pair) for pair, _ in found.values()]
    for pair in layout.directions:
        if str(pair) not in known:
            raise UserError(f"{path} has no pair {pair}; {nearest(str(pair), known)}")
    named = {split: str(folder.relative_to(path.parent)) for folder, (_, split) in found.items()}
    chosen = splits_of(named, layout, path)
    check_left_out(named, chosen, layout, path)
    ours = {theirs: split for split, theirs in chosen.items()}
    before = position = 0
    for folder, (pair, theirs) in found.items():
        if (layout.pairs and pair not in layout.directions) or theirs not in ours:
            continue
        before = position
        source, target = folder.name.partition("_")[0].split("-")
        files = {
            "source": folder / f"src.{source}",
            "correct": folder / f"correct.{target}",
            "incorrect": folder / f"incorrect.{target}",
            "image": folder / ORDER,
        }
        images = layout.images or (path if folder != path else path.parent) / "images"
        for record in together(files, path):
            position = before + record.number  # of a single folder, the line of its files
            if record.wrong is not None:
                yield position, record.wrong
                continue
            texts = record.texts
            piece = Piece(
                source=texts["source"],
                targets={pair: texts["correct"]},
                item=f"{texts['source']}|{texts['image']}",
                number=position,
                pictured=(images / texts["image"],),
                alternatives={pair: (texts["incorrect"],)},
                split=ours[theirs],
            )
            # As a default the photograph is looked at; there is nothing written in it to translate.
            asked = layout if layout.tasks else replace(layout, task="multimodal_translation")
            yield from ((position, example) for example in examples(piece, asked))
