"""The examples of a run, by what they are for: the embedded signs or scenes, or the user's own file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from neuroglot.data.corpus.embedded import EMBEDDED, embedded_corpus, sign_examples, sign_retention
from neuroglot.data.corpus.files import file_corpus
from neuroglot.data.corpus.mixture import TrainingSet
from neuroglot.data.corpus.parts import (
    RETAINED,
    Corpus,
    Sizes,
    as_task,
    first_items,
    items_in_turn,
    items_of,
    shortfall,
)
from neuroglot.data.corpus.replay import TRAINS, Replayed
from neuroglot.data.example import Example
from neuroglot.data.readers import read_jsonl
from neuroglot.data.scenes.examples import scene_examples
from neuroglot.data.store import viewed
from neuroglot.errors import UserError
from neuroglot.pair import Pair

__all__ = [
    "EMBEDDED",
    "RETAINED",
    "TRAINS",
    "Corpus",
    "Replayed",
    "Sizes",
    "TrainingSet",
    "as_task",
    "first_items",
    "items_in_turn",
    "items_of",
    "load_corpus",
    "shortfall",
    "sign_retention",
]


def load_corpus(
    source: str,
    task: str,
    pairs: Sequence[str],
    sizes: Sizes,
    seed: int,
    describes: bool,
    examples: Sequence[Example] | None = None,
    domains: Sequence[str] = (),
    replays: bool = False,
    kept: Callable[[Sequence[str]], Sequence[Example]] = lambda pairs: (),
) -> Corpus:
    """Make or read the examples of a run.

    Args:
        source: `signs`, `scenes`, or a JSONL file.
        task: the task that is trained.
        pairs: text forms; for a file, empty means every pair in it.
        sizes: source items of each kind; a file may hold fewer.
        seed: of the embedded corpus and of a file's split.
        describes: whether the model knows the embedded pictures, so that describing them is part of retention.
        examples: what the file holds, where it has been read already; a `View` of a store takes no memory.
        domains: of the scenes' ambiguity; all of them if empty.
        replays: look for examples of other tasks to train on, too.
        kept: what is tested besides, of so many pairs: nothing that shares something with it is replayed.

    Raises:
        UserError: no example of a pair, an empty split, or nothing to replay.
    """
    if source in EMBEDDED:
        if task != EMBEDDED[source]:
            raise UserError(f"the embedded {source} have no task {task}, only {EMBEDDED[source]}; change one of "
                            "task and data.source, or give data.source a JSONL file")  # fmt: skip
        scenes = partial(scene_examples, domains=domains) if domains else scene_examples
        made = sign_examples if source == "signs" else scenes
        return embedded_corpus(task, made, [Pair.parse(p) for p in pairs], sizes, seed, describes, replays, kept)
    found = viewed(list(read_jsonl(source)) if examples is None else examples)
    return file_corpus(Path(source), found, task, list(pairs), sizes, seed, describes, replays, kept)
