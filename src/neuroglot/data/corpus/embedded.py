"""The embedded corpora: signs and scenes, and what tuning on them should not cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from neuroglot.data.corpus.parts import Corpus, Sizes, as_task, as_text
from neuroglot.data.corpus.replay import embedded_replay
from neuroglot.data.embedded import pictures
from neuroglot.data.embedded.signs import Sign, signs
from neuroglot.data.example import Example, RenderSpec, split_seed
from neuroglot.pair import Pair

EMBEDDED = {"signs": "image_translation", "scenes": "multimodal_translation"}
"""Embedded corpus -> its task."""


def _example(sign: Sign, pair: Pair, spec: RenderSpec, item: str) -> Example:
    return Example((spec,), sign.text(pair.source), sign.text(pair.target), pair.source, pair.target,
                   "image_translation", item=item)  # fmt: skip


def sign_examples(split: str, count: int, pairs: Sequence[Pair], seed: int, one_image: bool = True) -> list[Example]:
    """Each sign in every pair; on one image, or each pair on a rendering of its own."""
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
    """Make an embedded corpus; `made` makes the examples of a split. See `load_corpus` for the rest."""
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
    """What tuning should not cost: transcribing, translating text, naming pictures; on signs of a split."""
    if not count:
        return {}
    translated = sign_examples(split, count, pairs, seed)
    read = {(e.item, e.source_lang): as_task(e, "ocr") for e in translated}
    kept = {
        "ocr": [e for e in read.values() if e is not None],
        "text_translation": [as_text(e) for e in translated],
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
