"""The examples of a run, grouped by purpose: training, validation, test, retention and replay.

They come from the embedded signs or scenes, or from a file of the user.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from neuroglot.data.example import Example, RenderSpec, split_seed
from neuroglot.data.readers import read_jsonl
from neuroglot.data.store import SPLITS, View, first_of_each, viewed
from neuroglot.errors import UserError
from neuroglot.pair import Pair
from neuroglot.synthetic import pictures
from neuroglot.synthetic.fonts import MONOSPACED, font_file
from neuroglot.synthetic.scenes import scene_examples
from neuroglot.synthetic.signs import Sign, signs

# ---- The parts of a corpus ------------------------------------------------------------------------------------------

RETAINED = ("ocr", "text_translation", "describe")


@dataclass(frozen=True)
class Corpus:
    """Examples of one task.

    Attributes:
        pairs: every pair, in the order of the recipe or of the file.
        train: each item in every pair; where images are rendered, each example has a different rendering.
        profile: the same items; all pairs of an item share one image.
        splits: name -> examples to score; the names are `<task>` (test) and `<task>_heldout`.
        dev: examples for choosing settings.
        retention: task -> examples of what the model could do before training.
        dev_retention: the same tasks on other examples, for choosing settings; empty if a file marks none as dev.
        replay: task -> examples of other tasks, trained on to prevent forgetting; none of them is tested.
    """

    pairs: tuple[str, ...]
    train: Sequence[Example]
    profile: Sequence[Example]
    dev: Sequence[Example]
    splits: Mapping[str, Sequence[Example]]
    retention: Mapping[str, Sequence[Example]]
    dev_retention: Mapping[str, Sequence[Example]]
    replay: Mapping[str, Sequence[Example]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """Number of source items of each kind."""

    train: int
    dev: int
    test: int
    heldout: int
    retention: int


def as_task(example: Example, task: str, target: str | None = None) -> Example | None:
    """Return the example as another task in the source language; None if its reference is not known."""
    known = target if target is not None else example.source if task == "ocr" else None
    if not known:
        return None
    return replace(example, task=task, target_lang=example.source_lang, source=None, target=known, alternatives=())


def as_text(example: Example) -> Example:
    """Return the example as text translation, without its images."""
    return replace(example, task="text_translation", images=(), alternatives=())


def first_items(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """Return the examples of the first `count` items of each task and pair, in their order; see `first_of_each`.

    For a file, only the index is read, no record.
    """
    return _taken(examples, np.flatnonzero(first_of_each(*_keys(examples), count)))


def items_in_turn(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """Return the examples of `count` items in total, taken in turn from each set of pairs that items have.

    For parallel data these are the first items. A file that is not parallel may begin with hundreds of one pair. For
    a file, only the index is read.
    """
    kind, item = _keys(examples)
    if not len(item):
        return _taken(examples, np.zeros(0, np.intp))
    _, first, number = np.unique(item, return_index=True, return_inverse=True)
    # An item's set of pairs as one number: the XOR of random numbers, one for each pair.
    kinds, code = np.unique(kind, return_inverse=True)
    both = np.unique(number * len(kinds) + code)
    starts = np.flatnonzero(np.diff(both // len(kinds), prepend=-1))
    drawn = np.random.default_rng(0).integers(1, 2**63, len(kinds))
    group = np.bitwise_xor.reduceat(drawn[both % len(kinds)], starts)[np.argsort(first)]
    _, begins, group = np.unique(group, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    turn = np.empty(len(order), np.intp)
    turn[order] = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    chosen = np.argsort(first)[np.lexsort((begins[group], turn))[:count]]
    position = np.full(len(first), len(first))
    position[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(position[number] < len(first))
    return _taken(examples, rows[np.argsort(position[number[rows]], kind="stable")])


def items_of(examples: Sequence[Example]) -> dict[str, int]:
    """Return the number of items of each pair."""
    if isinstance(examples, View):
        code = examples.column("kind")
        names = [kind.pair for kind in examples.store.kinds]
        return {names[number]: len(np.unique(examples.column("item")[code == number])) for number in np.unique(code)}
    items_by_pair: dict[str, set[str]] = {}
    for example in examples:
        items_by_pair.setdefault(str(example.pair), set()).add(example.item)
    return {pair: len(items) for pair, items in items_by_pair.items()}


def shortfall(examples: Sequence[Example], pairs: Sequence[str], count: int) -> str:
    """Return the pairs with fewer than `count` items, and how many they have: `en-fr 3, en-tr 0`; empty if none."""
    counts = items_of(examples)
    return ", ".join(f"{pair} {counts.get(pair, 0)}" for pair in pairs if counts.get(pair, 0) < count)


def _keys(examples: Sequence[Example]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return for every example a number for its task and pair, and a number for its item."""
    if isinstance(examples, View):
        return examples.column("kind"), examples.column("item")
    kinds: dict[str, int] = {}
    items: dict[str, int] = {}
    numbers = [
        (kinds.setdefault(str(e.condition), len(kinds)), items.setdefault(e.item, len(items))) for e in examples
    ]
    keys = np.array(numbers, np.int64).reshape(-1, 2)
    return keys[:, 0], keys[:, 1]


def _taken(examples: Sequence[Example], rows: NDArray[np.intp]) -> Sequence[Example]:
    if isinstance(examples, View):
        return View(examples.store, examples.places[rows])
    return [examples[row] for row in rows]


# ---- The split, where records do not name one -----------------------------------------------------------------------
# Examples that share an item, an image or a source text go into the same split, even indirectly;
# otherwise test data would contain training data. Only a store's index is needed for this.

TRAIN, DEV, TEST = (SPLITS.index(split) for split in ("train", "dev", "test"))

MANY = 20
"""Number of items above which a group can be too large for the tenth of the data that is the test, or a shared
image or text too common to link items."""


def splits_of(examples: View, task: str, pairs: Sequence[str], seed: int) -> NDArray[np.uint8]:
    """Return the split of every record of a store: the run's examples and each other task are divided separately."""
    kinds = examples.store.kinds
    parts = [(kind.task, kind.task == task and (not pairs or kind.pair in pairs)) for kind in kinds]
    split = np.zeros(len(examples.store), np.uint8)
    for part in dict.fromkeys(parts):
        numbers = [number for number, other in enumerate(parts) if other == part]
        mine = examples.where(np.isin(examples.column("kind"), numbers))
        split[mine.places] = divided(mine, seed)
    return split


def divided(examples: View, seed: int) -> NDArray[np.uint8]:
    """Return the split of every example: the one it names, or that of its group, or a random one.

    The random draw depends only on the name of an item, not on the order of the records or on other groups: four
    fifths are train, a tenth is dev, a tenth test. A group of more than a tenth of all items is train; the shares of
    the other groups are adjusted to that.
    """
    split = examples.column("split").copy()
    free = np.flatnonzero(split == 0)
    if not len(free):
        return split
    keys = list(_telling(examples))
    item = examples.column("item")[free]
    names, first, number = np.unique(item, return_index=True, return_inverse=True)
    group = _groups(number, keys, free, len(examples))
    of_item = group[first]  # sorted: the first of a group has its smallest hash
    groups, draws, sizes = np.unique(of_item, return_index=True, return_counts=True)
    large = sizes > max(MANY, len(names) // 10)
    mark = _marks(split, keys, group, free, len(groups))
    mark[(mark == 0) & large] = TRAIN
    trained = 0.8 - sizes[large].sum() / len(names)
    share = max(0.0, trained / (trained + 0.2)) if large.any() else 0.8
    for index in np.flatnonzero(mark == 0):
        mark[index] = _bucket(examples[int(free[first[draws[index]]])].item, seed, share)
    split[free] = mark[group]
    return split


def _bucket(item: str, seed: int, share: float) -> int:
    """Draw a split: train with probability `share`, dev and test with equal probabilities."""
    drawn = hashlib.sha256(f"{seed}:{item}".encode()).digest()[0] / 256
    return TRAIN if drawn < share else DEV if drawn < (1 + share) / 2 else TEST


def _telling(examples: View) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint64]]]:
    """Yield hashes of items, images and texts, each with the indices of their examples.

    An image or a text of more than half of all items, such as a blank picture instead of none, is left out.
    """
    item, every = examples.column("item"), np.arange(len(examples))
    yield every, item
    limit = max(MANY, len(np.unique(item)) // 2)
    text = examples.column("text")
    for rows, keys in (examples.images(), (every[text > 0], text[text > 0])):
        distinct, number, counts = np.unique(keys, return_inverse=True, return_counts=True)
        for index in np.flatnonzero(counts > limit):  # an item may have several examples
            counts[index] = len(np.unique(item[rows[keys == distinct[index]]]))
        usable = (counts <= limit)[number]
        yield rows[usable], keys[usable]


def _groups(
    number: NDArray[np.intp],
    keys: list[tuple[NDArray[np.intp], NDArray[np.uint64]]],
    free: NDArray[np.intp],
    count: int,
) -> NDArray[np.intp]:
    """Return the group of every free example: items that share an image or a text, directly or through others.

    Args:
        number: (free,) the item of each free example.
        keys: see `_telling`.
        free: indices of the free examples among all.
        count: number of all examples.
    """
    item = np.full(count, -1, np.int64)
    item[free] = number
    ends: list[NDArray[Any]] = []
    for rows, key in keys[1:]:
        mine = item[rows] >= 0
        owner, key = item[rows[mine]], key[mine]
        order = np.argsort(key, kind="stable")
        owner, key = owner[order], key[order]
        linked = (key[1:] == key[:-1]) & (owner[1:] != owner[:-1])
        ends.append(np.stack([owner[:-1][linked], owner[1:][linked]]).astype(np.int32))
    a, b = np.concatenate(ends, axis=1)
    items = int(number.max()) + 1
    links = coo_array((np.ones(len(a), np.uint8), (a, b)), shape=(items, items))
    _, group = connected_components(links, directed=False)
    return np.asarray(group, np.intp)[number]


def _marks(
    split: NDArray[np.uint8],
    keys: list[tuple[NDArray[np.intp], NDArray[np.uint64]]],
    group: NDArray[np.intp],
    free: NDArray[np.intp],
    count: int,
) -> NDArray[np.uint8]:
    """Return for every group the highest split of a marked example that shares something with it; 0 for none."""
    mark = np.zeros(count, np.uint8)
    of_row = np.full(len(split), -1, np.int64)
    of_row[free] = group
    for rows, key in keys:
        unmarked = of_row[rows] >= 0
        for name in (TRAIN, DEV, TEST):
            touched = np.isin(key[unmarked], key[split[rows] == name])
            groups = of_row[rows[unmarked][touched]]
            mark[groups] = np.maximum(mark[groups], name)
    return mark


# ---- Replay: examples of other tasks, against forgetting ------------------------------------------------------------
# A replayed example trains the parameters of one pair of the run: of the example's pair if the run has it; otherwise,
# as for transcribing and describing, of the pairs of the same source language in turn.

TRAINS = "trains"
"""Key in the `meta` of a replayed example: the pair of the run for which it trains."""


class Replayed(Sequence[Example]):
    """Examples of one task, and the pair for which each of them trains.

    Attributes:
        pairs: for every example, the pair of the run for which it trains.
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
        converted = example if self._made is None else self._made(example)
        return replace(converted, meta={**converted.meta, TRAINS: self.pairs[at]})

    @property
    def shown(self) -> list[bool]:
        """Whether each example has an image."""
        if self._made is as_text:
            return [False] * len(self)
        if isinstance(self._examples, View):
            shown: list[bool] = (self._examples.column("image") > 0).tolist()
            return shown
        return [bool(example.images) for example in self._examples]


def embedded_replay(
    made: dict[str, list[Example]], pairs: Sequence[Pair], seed: int, tested: Sequence[Example]
) -> dict[str, Replayed]:
    """Return the embedded training items as examples of other tasks.

    Args:
        made: task -> examples made from training signs.
        pairs: pairs of the run.
        seed: seed of the corpus.
        tested: further tested examples; the embedded corpus itself never tests what it trains.

    Raises:
        UserError: all examples are tested.
    """
    if "describe" in made:  # other names than the tested ones
        made["describe"] = [
            Example((RenderSpec(name, seed, k, kind="picture"),), None, name, "en", "en", "describe",
                    item=f"picture-{k}")
            for k, name in enumerate(pictures.names("pretrain"), start=2_000_000)
        ]  # fmt: skip
    texts = [str(pair) for pair in pairs]
    if tested:
        known = [viewed(tested)]
        made = {task: list(compress(part, untested(viewed(part), known))) for task, part in made.items()}
    if made and not any(made.values()):
        raise UserError("data.replay: every embedded sign is tested by evaluate.retention; name fewer sources there, "
                        "or set data.replay to 0")  # fmt: skip
    return {task: Replayed(part, _routes([str(e.pair) for e in part], texts)) for task, part in made.items() if part}


def untested(examples: View, tested: Sequence[View]) -> NDArray[np.bool_]:
    """Return which examples share no item, image or source text with a tested example, as a mask."""
    items, texts = (np.concatenate([part.column(name) for part in tested]) for name in ("item", "text"))
    images = np.concatenate([part.images()[1] for part in tested])
    seen = np.isin(examples.column("item"), items) | np.isin(examples.column("text"), texts[texts > 0])
    rows, shown = examples.images()
    seen[rows[np.isin(shown, images)]] = True
    return ~seen


def file_replay(
    path: Path, train: View, others: View, tested: Sequence[View], task: str, pairs: Sequence[str]
) -> dict[str, Replayed]:
    """Return a file's examples of other tasks; if it has none, its training items as examples of other tasks.

    Args:
        path: the file.
        train: the training examples.
        others: examples of other tasks.
        tested: tested examples of any task and source; see `untested`.
        task: task of the run.
        pairs: pairs of the run.

    Raises:
        UserError: there is nothing to replay.
    """
    if len(others):
        replay = {}
        free = others.where(untested(others, tested))
        for other in RETAINED:
            numbers = [number for number, kind in enumerate(free.store.kinds) if kind.task == other]
            part = free.where(np.isin(free.column("kind"), numbers))
            if len(part):
                replay[other] = Replayed(part, _routes(part.pairs, pairs))
        why = "all its examples of other tasks are tested, or share an item, an image or a source text with what is"
    else:
        # Without a translation task (transcribing, describing), no translation is known.
        known = train.where(train.column("text") > 0) if task.endswith("translation") else train[:0]
        texts, known = len(known), known.where(untested(known, tested))
        read = _readings(known.where(known.column("image") > 0) if task == "image_translation" else known[:0])
        replay = {
            "ocr": Replayed(read, _routes([_reading(pair) for pair in read.pairs], pairs), _as_read),
            "text_translation": Replayed(known, known.pairs, as_text),
        }
        replay = {name: part for name, part in replay.items() if len(part)}
        why = "it has no examples of other tasks, and its training items "
        why += "share what they show or say with what is tested" if texts else (
            "have no source text to transcribe or translate")  # fmt: skip
    if not replay:
        raise UserError(f"data.replay: {path} holds nothing to replay: {why}; add some with \"split\": \"train\", or "
                        "set data.replay to 0")  # fmt: skip
    return replay


def _reading(pair: str) -> str:
    """Return the pair for transcribing the source of a pair: its source language twice."""
    source, _ = pair.split("-")
    return f"{source}-{source}"


def _as_read(example: Example) -> Example:
    read = as_task(example, "ocr")
    assert read is not None, "chosen for its source"
    return read


def _readings(examples: View) -> View:
    """Return one example of every item and source language: its text is the same for all target languages."""
    languages = [kind.source_lang for kind in examples.store.kinds]
    number = np.array([languages.index(language) for language in languages], np.uint64)
    key = examples.column("item") ^ number[examples.column("kind")]  # changes the last bits of a hash
    _, first = np.unique(key, return_index=True)
    return View(examples.store, examples.places[np.sort(first)])


def _routes(example_pairs: Sequence[str], pairs: Sequence[str]) -> list[str]:
    """Return a pair of the run for every example's pair: the same one, or in turn those with its source language."""
    turns: dict[str, int] = {}
    likely: dict[str, list[str]] = {}
    routes = []
    for pair in example_pairs:
        if pair not in likely:
            source, target = pair.split("-")
            same = [p for p in pairs if p.split("-")[0] == source] or [p for p in pairs if p.split("-")[1] == target]
            likely[pair] = [p for p in pairs if p == pair] or same or list(pairs)
        turn = turns.get(pair, 0)
        turns[pair] = turn + 1
        routes.append(likely[pair][turn % len(likely[pair])])
    return routes


# ---- The embedded corpora -------------------------------------------------------------------------------------------

EMBEDDED = {"signs": "image_translation", "scenes": "multimodal_translation"}
"""Embedded corpus -> its task."""


def _example(sign: Sign, pair: Pair, spec: RenderSpec, item: str) -> Example:
    return Example((spec,), sign.text(pair.source), sign.text(pair.target), pair.source, pair.target,
                   "image_translation", item=item)  # fmt: skip


def sign_examples(split: str, count: int, pairs: Sequence[Pair], seed: int, one_image: bool = True) -> list[Example]:
    """Return each sign in every pair; all pairs of a sign on one image, or each pair on a different rendering."""
    examples = []
    for number, sign in enumerate(signs(split, count, seed) if count else []):
        for k, pair in enumerate(pairs):
            index = number if one_image else 1_000_000 + number * len(pairs) + k
            spec = RenderSpec(sign.text(pair.source), split_seed(split, seed), index)
            examples.append(_example(sign, pair, spec, f"{split}-{number}"))
    return examples


def embedded_corpus(
    task: str,
    made: Callable[..., list[Example]],
    pairs: Sequence[Pair],
    sizes: Sizes,
    seed: int,
    describes: bool,
    replays: bool,
    kept: Callable[[Sequence[str]], Sequence[Example]],
) -> Corpus:
    """Make an embedded corpus; `made` makes the examples of a split. For the other arguments see `load_corpus`."""
    splits = {task: made("test", sizes.test, pairs, seed)}
    if sizes.heldout:
        splits[f"{task}_heldout"] = made("heldout", sizes.heldout, pairs, seed)
    return Corpus(
        pairs=tuple(map(str, pairs)),
        train=made("train", sizes.train, pairs, seed, one_image=False),
        profile=made("train", sizes.train, pairs, seed),
        dev=made("dev", sizes.dev, pairs, seed),
        splits=splits,
        retention=sign_retention(pairs, sizes.retention, seed, describes),
        dev_retention=sign_retention(pairs, min(sizes.dev, sizes.retention), seed, describes, "dev"),
        replay=embedded_replay(
            sign_retention(pairs, sizes.train, seed, describes, "train"), pairs, seed, kept(list(map(str, pairs)))
        )
        if replays
        else {},
    )


def sign_retention(
    pairs: Sequence[Pair], count: int, seed: int, describes: bool, split: str = "test"
) -> dict[str, list[Example]]:
    """Return tasks that tuning should not harm, on signs of a split: reading, translating text, naming pictures."""
    if not count:
        return {}
    translated = sign_examples(split, count, pairs, seed)
    read = {(e.item, e.source_lang): as_task(e, "ocr") for e in translated}
    retention = {
        "ocr": [e for e in read.values() if e is not None],
        "text_translation": [as_text(e) for e in translated],
    }
    if describes:
        names = pictures.names("test")
        random.Random(seed).shuffle(names)
        # Names are few: the two splits take them from opposite ends. Where they overlap, the pictures still differ.
        order, first = (names, 0) if split == "test" else (names[::-1], 1_000_000)
        retention["describe"] = [
            Example((RenderSpec(name, seed, k, kind="picture"),), None, name, "en", "en", "describe",
                    item=f"picture-{k}")
            for k, name in enumerate(order[:count], start=first)
        ]  # fmt: skip
    return retention


# ---- The user's files -----------------------------------------------------------------------------------------------

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
        UserError: no example of the task or of a pair, an empty split, or nothing to replay although `replays` is set.
    """
    kinds, code = examples.store.kinds, examples.column("kind")
    ours = examples.where(np.isin(code, [number for number, kind in enumerate(kinds) if kind.task == task]))
    available = [kinds[number].pair for number in _in_order(ours.column("kind"))]
    if not available:
        tasks = ", ".join(sorted({kinds[number].task for number in _in_order(code)}))
        raise UserError(f"{path} has no {task} examples; it has {tasks}; set task: in the recipe or in the data")
    for pair in pairs:
        if pair not in available:
            raise UserError(f"{path} has no example of pair {pair}; it has {', '.join(available)}")
    pairs = pairs or available
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
    if (marked != TRAIN).any():  # examples marked for training may be replayed, and are not tested
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
    """Return the distinct numbers in the order of their first occurrence."""
    numbers, first = np.unique(code, return_index=True)
    return [int(number) for number in numbers[np.argsort(first)]]


def _by_task(examples: View, count: int) -> dict[str, View]:
    """Return the first items of each retained task that has examples."""
    if not count:
        return {}
    code, by_task = examples.column("kind"), {}
    for task in RETAINED:
        numbers = [number for number, kind in enumerate(examples.store.kinds) if kind.task == task]
        part = examples.where(np.isin(code, numbers))
        if len(part):
            by_task[task] = part.first_items(count)
    return by_task


def _can_write(sample: Sequence[Sign], pair: Pair) -> bool:
    """Whether the embedded corpus can make a pair: CLDR has both languages, and a font has the source's script."""
    try:
        for sign in sample:
            sign.text(pair.target)
            font_file(MONOSPACED, False, sign.text(pair.source))
    except UserError as error:
        _log.warning("retention is not measured for %s: %s", pair, error)
        return False
    return True


# ---- The training set: the run's examples and replayed ones ---------------------------------------------------------


class TrainingSet(Sequence[Example]):
    """The training examples of a corpus, followed by the replayed ones.

    Attributes:
        pairs: for every example, the pair for which it trains.
        kinds: for every example, what a batch must not mix: whether it has images, and the task of a replayed one.
        replayed: number of replayed examples by task.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._parts: list[Sequence[Example]] = [corpus.train, *corpus.replay.values()]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.replayed = {task: len(part) for task, part in corpus.replay.items()}
        self.pairs = _pairs(corpus.train)
        self.kinds = _shown(corpus.train, "")
        for task, part in corpus.replay.items():
            self.pairs += _pairs(part)
            self.kinds += _shown(part, f"{task} ")

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        if isinstance(at, slice):
            return [self[k] for k in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        part = int(np.searchsorted(self._ends, at, side="right"))
        return self._parts[part][at - int(self._ends[part - 1] if part else 0)]


def _pairs(examples: Sequence[Example]) -> list[str]:
    """Return each example's pair; examples of a pair share one string."""
    if isinstance(examples, View | Replayed):
        return list(examples.pairs)
    known: dict[str, str] = {}
    return [known.setdefault(text, text) for text in (str(example.pair) for example in examples)]


def _shown(examples: Sequence[Example], before: str) -> list[str]:
    names = (before, f"{before}image")
    if isinstance(examples, View):
        return [names[shown] for shown in (examples.column("image") > 0).tolist()]
    if isinstance(examples, Replayed):
        return [names[shown] for shown in examples.shown]
    return [names[bool(example.images)] for example in examples]


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
        sizes: number of source items of each kind; a file may hold fewer.
        seed: seed of the embedded corpus and of a file's split.
        describes: whether the model knows the embedded pictures, so that describing them is part of retention.
        examples: the file's examples if it has been read already; a `View` of a store takes no memory.
        domains: domains of the scenes' ambiguity; all of them if empty.
        replays: whether to look for examples of other tasks to train on.
        kept: returns for the pairs what else is tested; an example that shares something with it is not replayed.

    Raises:
        UserError: no example of a pair, an empty split, or nothing to replay.
    """
    if source in EMBEDDED:
        if task != EMBEDDED[source]:
            raise UserError(f"the embedded {source} have no task {task}, only {EMBEDDED[source]}; change one of "
                            "task and data.source, or give data.source a JSONL file")  # fmt: skip
        scenes = partial(scene_examples, domains=domains) if domains else scene_examples
        make_examples = sign_examples if source == "signs" else scenes
        return embedded_corpus(
            task, make_examples, [Pair.parse(p) for p in pairs], sizes, seed, describes, replays, kept
        )
    view = viewed(list(read_jsonl(source)) if examples is None else examples)
    return file_corpus(Path(source), view, task, list(pairs), sizes, seed, describes, replays, kept)
