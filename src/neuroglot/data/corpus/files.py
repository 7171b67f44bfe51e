"""A user's own data: which examples train, which test, and what else they hold, chosen on a store's index alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.corpus.division import DEV, TEST, TRAIN, divided
from neuroglot.data.corpus.embedded import sign_retention
from neuroglot.data.corpus.parts import RETAINED, Corpus, Sizes
from neuroglot.data.corpus.replay import Replayed, file_replay
from neuroglot.data.embedded.signs import Sign, signs
from neuroglot.data.example import Example
from neuroglot.data.rendering.fonts import MONOSPACED, font_file
from neuroglot.data.store import SPLITS, View, viewed
from neuroglot.errors import UserError
from neuroglot.pair import Pair

_log = logging.getLogger(__name__)


def file_corpus(
    path: Path,
    examples: View,
    task: str,
    pairs: list[str],
    sizes: Sizes,
    seed: int,
    describes: bool,
    replays: bool,
    kept: Callable[[Sequence[str]], Sequence[Example]],
) -> Corpus:
    """Divide a file's examples; see `load_corpus`.

    Raises:
        UserError: no example of the task or of a pair, an empty split, or nothing to replay where that is wanted.
    """
    kinds, code = examples.store.kinds, examples.column("kind")
    ours = examples.where(np.isin(code, [number for number, kind in enumerate(kinds) if kind.task == task]))
    found = [kinds[number].pair for number in _in_order(ours.column("kind"))]
    if not found:
        tasks = ", ".join(sorted({kinds[number].task for number in _in_order(code)}))
        raise UserError(f"{path} has no {task} examples; it has {tasks}; set task: in the recipe or in the data")
    for pair in pairs:
        if pair not in found:
            raise UserError(f"{path} has no example of pair {pair}; it has {', '.join(found)}")
    pairs = pairs or found
    wanted = [number for number, kind in enumerate(kinds) if kind.task == task and kind.pair in pairs]
    ours = ours.where(np.isin(ours.column("kind"), wanted))
    split = divided(ours, seed)
    for name in ("train", "test"):
        held = ours.column("kind")[split == SPLITS.index(name)]
        for pair in pairs:
            if not any(kinds[number].pair == pair for number in np.unique(held)):
                raise UserError(
                    f"{path}: the {name} split is empty for {pair} ({len(ours)} examples in all); examples that share "
                    f'an item, an image or a text are put in one; add examples, mark some with "split": "{name}", or '
                    f"have a split of the source divided, such as data.splits='{{train: test, test: test}}'"
                )
    train = ours.where(split == TRAIN).first_items(sizes.train)
    fewer = min(sizes.dev, sizes.retention)
    usable = [number for number, kind in enumerate(kinds) if kind.task != task and kind.task in RETAINED
              and (kind.task != "text_translation" or kind.pair in pairs)]  # fmt: skip
    others = examples.where(np.isin(code, usable))
    retention: dict[str, Any]
    dev_retention: dict[str, Any]
    marked = others.column("split")
    if (marked != TRAIN).any():  # what is marked for training may be replayed, and is no test
        retention = _by_task(others.where((marked != TRAIN) & (marked != DEV)), sizes.retention)
        dev_retention = _by_task(others.where(marked == DEV), fewer)
    else:
        sample = signs("test", 100) if sizes.retention else []
        possible = [pair for pair in map(Pair.parse, pairs) if _can_write(sample, pair)]
        retention = sign_retention(possible, sizes.retention, seed, describes)
        dev_retention = sign_retention(possible, fewer, seed, describes, "dev")
    replay: dict[str, Replayed] = {}
    if replays:
        tested = [ours.where(split != TRAIN), others.where(marked >= DEV)]
        tested += map(viewed, (*retention.values(), *dev_retention.values(), kept(pairs)))
        replay = file_replay(path, train, others, tested, task, pairs)
    return Corpus(
        pairs=tuple(pairs),
        train=train,
        profile=train,
        dev=ours.where(split == DEV).first_items(sizes.dev),
        splits={task: ours.where(split == TEST).first_items(sizes.test)},
        retention=retention,
        dev_retention=dev_retention,
        replay=replay,
    )


def _in_order(code: NDArray[Any]) -> list[int]:
    """Return which numbers there are, in the order in which they first come."""
    numbers, first = np.unique(code, return_index=True)
    return [int(number) for number in numbers[np.argsort(first)]]


def _by_task(examples: View, count: int) -> dict[str, View]:
    """Return the first items of each task that there is."""
    if not count:
        return {}
    code, found = examples.column("kind"), {}
    for task in RETAINED:
        numbers = [number for number, kind in enumerate(examples.store.kinds) if kind.task == task]
        part = examples.where(np.isin(code, numbers))
        if len(part):
            found[task] = part.first_items(count)
    return found


def _can_write(sample: Sequence[Sign], pair: Pair) -> bool:
    """Whether the embedded corpus has a pair: CLDR knows both languages, and a font has the source's script."""
    try:
        for sign in sample:
            sign.text(pair.target)
            font_file(MONOSPACED, False, sign.text(pair.source))
    except UserError as error:
        _log.warning("retention is not measured for %s: %s", pair, error)
        return False
    return True
