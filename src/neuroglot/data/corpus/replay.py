"""Replay: examples of other tasks to train on beside the run's own, against forgetting. Nothing tested is among them.

A replayed example trains what a pair of the run trains: its own pair where that is one of the run's; transcribing and
describing, which no pair of the run is, the pairs of the same source language in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.corpus.parts import RETAINED, as_task, as_text
from neuroglot.data.embedded import pictures
from neuroglot.data.example import Example, RenderSpec
from neuroglot.data.store import View, viewed
from neuroglot.errors import UserError
from neuroglot.pair import Pair

TRAINS = "trains"
"""In the `meta` of a replayed example: the pair of the run as which it trains."""


class Replayed(Sequence[Example]):
    """Examples of one task, and whose pair each of them trains.

    Attributes:
        pairs: of every example, the pair of the run as which it trains.
    """

    def __init__(
        self, examples: Sequence[Example], pairs: Sequence[str], made: Callable[[Example], Example] | None = None
    ) -> None:
        self._examples = examples
        self._made = made
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Replayed: ...
    def __getitem__(self, at: int | slice) -> Example | Replayed:
        if isinstance(at, slice):
            return Replayed(self._examples[at], self.pairs[at], self._made)
        example = self._examples[at]
        made = example if self._made is None else self._made(example)
        return replace(made, meta={**made.meta, TRAINS: self.pairs[at]})

    @property
    def shown(self) -> list[bool]:
        """Whether there is an image, of every example."""
        if self._made is as_text:
            return [False] * len(self)
        if isinstance(self._examples, View):
            found: list[bool] = (self._examples.column("image") > 0).tolist()
            return found
        return [bool(example.images) for example in self._examples]


def embedded_replay(
    made: dict[str, list[Example]], pairs: Sequence[Pair], seed: int, tested: Sequence[Example]
) -> dict[str, Replayed]:
    """Return what embedded training items are in other tasks.

    Args:
        made: task -> examples made of training signs.
        pairs: those of the run.
        seed: of the corpus.
        tested: what is tested beside the embedded corpus, which never tests what it trains.

    Raises:
        UserError: all of it is tested.
    """
    if "describe" in made:  # by other names than those that are tested
        made["describe"] = [
            Example((RenderSpec(name, seed, k, kind="picture"),), None, name, "en", "en", "describe",
                    item=f"picture-{k}")
            for k, name in enumerate(pictures.names("pretrain"), start=2_000_000)
        ]  # fmt: skip
    texts = [str(pair) for pair in pairs]
    if tested:
        known = [viewed(tested)]
        made = {task: list(compress(found, untested(viewed(found), known))) for task, found in made.items()}
    if made and not any(made.values()):
        raise UserError("data.replay: every embedded sign is tested by evaluate.retention; name fewer sources there, "
                        "or set data.replay to 0")  # fmt: skip
    return {
        task: Replayed(found, _routes([str(e.pair) for e in found], texts)) for task, found in made.items() if found
    }


def untested(examples: View, tested: Sequence[View]) -> NDArray[np.bool_]:
    """Return which examples share no item, no image and no source text with anything that is tested."""
    items, texts = (np.concatenate([part.column(name) for part in tested]) for name in ("item", "text"))
    images = np.concatenate([part.images()[1] for part in tested])
    seen = np.isin(examples.column("item"), items) | np.isin(examples.column("text"), texts[texts > 0])
    rows, shown = examples.images()
    seen[rows[np.isin(shown, images)]] = True
    return ~seen


def file_replay(
    path: Path, train: View, others: View, tested: Sequence[View], task: str, pairs: Sequence[str]
) -> dict[str, Replayed]:
    """Return what a file has of other tasks, or, of a file without any, its training items in other tasks.

    Args:
        path: the file.
        train: the items that train.
        others: examples of other tasks.
        tested: what is tested, of whatever task and source; see `untested`.
        task: the run's.
        pairs: the run's.

    Raises:
        UserError: there is nothing to replay.
    """
    if len(others):
        found = {}
        free = others.where(untested(others, tested))
        for other in RETAINED:
            numbers = [number for number, kind in enumerate(free.store.kinds) if kind.task == other]
            part = free.where(np.isin(free.column("kind"), numbers))
            if len(part):
                found[other] = Replayed(part, _routes(part.pairs, pairs))
        why = "all its examples of other tasks are tested, or share an item, an image or a source text with what is"
    else:
        # Of what only reads or describes no translation is known.
        known = train.where(train.column("text") > 0) if task.endswith("translation") else train[:0]
        texts, known = len(known), known.where(untested(known, tested))
        read = _readings(known.where(known.column("image") > 0) if task == "image_translation" else known[:0])
        found = {
            "ocr": Replayed(read, _routes([_reading(pair) for pair in read.pairs], pairs), _as_read),
            "text_translation": Replayed(known, known.pairs, as_text),
        }
        found = {name: part for name, part in found.items() if len(part)}
        why = "it has no examples of other tasks, and its training items "
        why += "share what they show or say with what is tested" if texts else (
            "have no source text to transcribe or translate")  # fmt: skip
    if not found:
        raise UserError(f"data.replay: {path} holds nothing to replay: {why}; add some with \"split\": \"train\", or "
                        "set data.replay to 0")  # fmt: skip
    return found


def _reading(pair: str) -> str:
    """Return the pair of transcribing what a pair translates."""
    source, _ = pair.split("-")
    return f"{source}-{source}"


def _as_read(example: Example) -> Example:
    read = as_task(example, "ocr")
    assert read is not None, "chosen for its source"
    return read


def _readings(examples: View) -> View:
    """Return one example of every item and source language: it is read once, however many languages follow."""
    languages = [kind.source_lang for kind in examples.store.kinds]
    number = np.array([languages.index(language) for language in languages], np.uint64)
    key = examples.column("item") ^ number[examples.column("kind")]  # which changes the last bits of a hash
    _, first = np.unique(key, return_index=True)
    return View(examples.store, examples.places[np.sort(first)])


def _routes(own: Sequence[str], pairs: Sequence[str]) -> list[str]:
    """Return for every example's pair a pair of the run: itself, or those that share its source language in turn."""
    turns: dict[str, int] = {}
    likely: dict[str, list[str]] = {}
    routes = []
    for pair in own:
        if pair not in likely:
            source, target = pair.split("-")
            same = [p for p in pairs if p.split("-")[0] == source] or [p for p in pairs if p.split("-")[1] == target]
            likely[pair] = [p for p in pairs if p == pair] or same or list(pairs)
        turn = turns.get(pair, 0)
        turns[pair] = turn + 1
        routes.append(likely[pair][turn % len(likely[pair])])
    return routes
