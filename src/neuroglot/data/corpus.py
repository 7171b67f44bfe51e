"""The examples of a run, by what they are for: the embedded signs or scenes, or the user's own file."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from neuroglot.data import pictures
from neuroglot.data.example import Example, RenderSpec, split_seed
from neuroglot.data.fonts import MONOSPACED, font_file
from neuroglot.data.readers import read_jsonl
from neuroglot.data.scenes.examples import scene_examples
from neuroglot.data.signs import Sign, signs
from neuroglot.errors import UserError
from neuroglot.pair import Pair

_log = logging.getLogger(__name__)

EMBEDDED = {"signs": "image_translation", "scenes": "multimodal_translation"}
"""Embedded corpus -> its task."""

RETAINED = ("ocr", "text_translation", "describe")


@dataclass(frozen=True)
class Corpus:
    """Examples of one task.

    Attributes:
        pairs: every pair, in the order asked for or found.
        train: each item in every pair, each with a rendering of its own where it is rendered.
        profile: the same items, an item's pairs on one image.
        splits: name -> examples to score: `<task>` (test), `<task>_heldout`.
        dev: examples to choose settings by.
        retention: task -> examples of what the model could do before.
        dev_retention: the same tasks on other examples, to choose settings by; empty where a file marks none as dev.
    """

    pairs: tuple[str, ...]
    train: Sequence[Example]
    profile: Sequence[Example]
    dev: Sequence[Example]
    splits: Mapping[str, Sequence[Example]]
    retention: Mapping[str, Sequence[Example]]
    dev_retention: Mapping[str, Sequence[Example]]


@dataclass(frozen=True)
class Sizes:
    """How many source items of each kind."""

    train: int
    dev: int
    test: int
    heldout: int
    retention: int


def load_corpus(
    source: str,
    task: str,
    pairs: Sequence[str],
    sizes: Sizes,
    seed: int,
    describes: bool,
    examples: Sequence[Example] | None = None,
    domains: Sequence[str] = (),
) -> Corpus:
    """Make or read the examples of a run.

    Args:
        source: `signs`, `scenes`, or a JSONL file.
        task: the task that is trained.
        pairs: text forms; for a file, empty means every pair in it.
        sizes: source items of each kind; a file may hold fewer.
        seed: of the embedded corpus and of a file's split.
        describes: whether the model knows the embedded pictures, so that describing them is part of retention.
        examples: what the file holds, where it has been read already.
        domains: of the scenes' ambiguity; all of them if empty.

    Raises:
        UserError: no example of a pair, or an empty split.
    """
    if source in EMBEDDED:
        if task != EMBEDDED[source]:
            raise UserError(f"the embedded {source} have no task {task}, only {EMBEDDED[source]}; change one of "
                            "task and data.source, or give data.source a JSONL file")  # fmt: skip
        scenes = partial(scene_examples, domains=domains) if domains else scene_examples
        made = _sign_examples if source == "signs" else scenes
        return _embedded_corpus(task, made, [Pair.parse(p) for p in pairs], sizes, seed, describes)
    found = list(read_jsonl(source) if examples is None else examples)
    return _file_corpus(Path(source), found, task, list(pairs), sizes, seed, describes)


def _example(sign: Sign, pair: Pair, spec: RenderSpec, item: str) -> Example:
    return Example((spec,), sign.text(pair.source), sign.text(pair.target), pair.source, pair.target,
                   "image_translation", item=item)  # fmt: skip


def _sign_examples(split: str, count: int, pairs: Sequence[Pair], seed: int, one_image: bool = True) -> list[Example]:
    """Each sign in every pair; on one image, or each pair on a rendering of its own."""
    examples = []
    for number, sign in enumerate(signs(split, count, seed) if count else []):
        for k, pair in enumerate(pairs):
            index = number if one_image else 1_000_000 + number * len(pairs) + k
            spec = RenderSpec(sign.text(pair.source), split_seed(split, seed), index)
            examples.append(_example(sign, pair, spec, f"{split}-{number}"))
    return examples


def _embedded_corpus(
    task: str, made: Callable[..., list[Example]], pairs: Sequence[Pair], sizes: Sizes, seed: int, describes: bool
) -> Corpus:
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
    )


def sign_retention(
    pairs: Sequence[Pair], count: int, seed: int, describes: bool, split: str = "test"
) -> dict[str, list[Example]]:
    """What tuning should not cost: transcribing, translating text, naming pictures; on signs of a split."""
    if not count:
        return {}
    translated = _sign_examples(split, count, pairs, seed)
    read = {(e.item, e.source_lang): as_task(e, "ocr") for e in translated}
    kept = {
        "ocr": [e for e in read.values() if e is not None],
        "text_translation": [replace(e, task="text_translation", images=()) for e in translated],
    }
    if describes:
        names = pictures.names("test")
        random.Random(seed).shuffle(names)
        # The two splits take the few names from either end; where they meet, the pictures still differ.
        order, first = (names, 0) if split == "test" else (names[::-1], 1_000_000)
        kept["describe"] = [
            Example((RenderSpec(name, seed, k, kind="picture"),), None, name, "en", "en", "describe",
                    item=f"picture-{k}")
            for k, name in enumerate(order[:count], start=first)
        ]  # fmt: skip
    return kept


def as_task(example: Example, task: str, target: str | None = None) -> Example | None:
    """The same image put to another task in the source language; None where its reference is not known."""
    known = target if target is not None else example.source if task == "ocr" else None
    if not known:
        return None
    return replace(example, task=task, target_lang=example.source_lang, source=None, target=known, alternatives=())


def _file_corpus(
    path: Path, examples: list[Example], task: str, pairs: list[str], sizes: Sizes, seed: int, describes: bool
) -> Corpus:
    ours = [e for e in examples if e.task == task]
    found = list(dict.fromkeys(str(e.pair) for e in ours))
    if not found:
        tasks = ", ".join(sorted({e.task for e in examples}))
        raise UserError(f"{path} has no {task} examples; it has {tasks}; set task: in the recipe or in the data")
    for pair in pairs:
        if pair not in found:
            raise UserError(f"{path} has no example of pair {pair}; it has {', '.join(found)}")
    pairs = pairs or found
    ours = [e for e in ours if str(e.pair) in pairs]
    by_split: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for example in ours:
        by_split[example.meta.get("split") or _bucket(example.item, seed)].append(example)
    for split in ("train", "test"):
        for pair in pairs:
            if not any(str(e.pair) == pair for e in by_split[split]):
                raise UserError(
                    f"{path}: the {split} split is empty for {pair} ({len(ours)} examples in all); "
                    f'add examples, or mark some with "split": "{split}"'
                )
    train = _first_items(by_split["train"], sizes.train)
    kept = min(sizes.dev, sizes.retention)
    others = [e for e in examples if e.task != task and e.task in RETAINED]
    others = [e for e in others if e.task != "text_translation" or str(e.pair) in pairs]
    if others:
        retention = _by_task([e for e in others if e.meta.get("split") != "dev"], sizes.retention)
        dev_retention = _by_task([e for e in others if e.meta.get("split") == "dev"], kept)
    else:
        sample = signs("test", 100) if sizes.retention else []
        possible = [pair for pair in map(Pair.parse, pairs) if _can_write(sample, pair)]
        retention = sign_retention(possible, sizes.retention, seed, describes)
        dev_retention = sign_retention(possible, kept, seed, describes, "dev")
    return Corpus(
        pairs=tuple(pairs),
        train=train,
        profile=train,
        dev=_first_items(by_split["dev"], sizes.dev),
        splits={task: _first_items(by_split["test"], sizes.test)},
        retention=retention,
        dev_retention=dev_retention,
    )


def _by_task(examples: Sequence[Example], count: int) -> dict[str, list[Example]]:
    """Return the first items of each task that there is."""
    found = {e.task for e in examples} if count else set()
    return {t: _first_items([e for e in examples if e.task == t], count) for t in RETAINED if t in found}


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


def _first_items(examples: Sequence[Example], count: int) -> list[Example]:
    """Return the examples of each pair's first items, in the order of the file: what is parallel stays parallel."""
    items: dict[str, dict[Pair, None]] = {}
    for example in examples:
        items.setdefault(example.item, {})[example.pair] = None
    taken: Counter[Pair] = Counter()
    kept = set()
    for item, pairs in items.items():
        for pair in pairs:
            taken[pair] += 1
            if taken[pair] <= count:
                kept.add((item, pair))
    return [e for e in examples if (e.item, e.pair) in kept]


def _bucket(item: str, seed: int) -> str:
    """Four fifths train, a tenth dev, a tenth test, decided by the item so that its languages stay together."""
    share = hashlib.sha256(f"{seed}:{item}".encode()).digest()[0] / 256
    return "train" if share < 0.8 else "dev" if share < 0.9 else "test"
