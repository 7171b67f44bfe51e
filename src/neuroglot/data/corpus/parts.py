"""What a run's examples are divided into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from neuroglot.data.example import Example
from neuroglot.data.store import View
from neuroglot.pair import Condition

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
        replay: task -> examples of other tasks to train on against forgetting; none of them is tested.
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
    """How many source items of each kind."""

    train: int
    dev: int
    test: int
    heldout: int
    retention: int


def as_task(example: Example, task: str, target: str | None = None) -> Example | None:
    """The same image put to another task in the source language; None where its reference is not known."""
    known = target if target is not None else example.source if task == "ocr" else None
    if not known:
        return None
    return replace(example, task=task, target_lang=example.source_lang, source=None, target=known, alternatives=())


def as_text(example: Example) -> Example:
    """The source text alone, to translate."""
    return replace(example, task="text_translation", images=(), alternatives=())


def first_items(examples: Iterable[Example], count: int) -> list[Example]:
    """Return the examples of each pair's first `count` items; pairs need not share theirs."""
    if isinstance(examples, View):
        return list(examples.first_items(count))
    items: dict[Condition, dict[str, None]] = {}
    examples = list(examples)
    for example in examples:
        items.setdefault(example.condition, {})[example.item] = None
    kept = {condition: set(list(found)[:count]) for condition, found in items.items()}
    return [e for e in examples if e.item in kept[e.condition]]
