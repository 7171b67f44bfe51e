"""Two ways of profiling for analysis: in chunks of a few items, which add up, and sample by sample, of some neurons.

Chunks lie on disk, so that only what is being added is in memory and an interrupted measurement goes on. Records hold
numbers of a seeded draw of neurons only: what a few hundred samples of every neuron would take is more than a profile.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.corpus import items_in_turn
from neuroglot.errors import UserError
from neuroglot.file_format import fresh, remove, write_text
from neuroglot.models.load import model_identity
from neuroglot.pipeline.context import Context
from neuroglot.pipeline.neurons import with_contrast

if TYPE_CHECKING:
    from neuroglot.data.example import Example
    from neuroglot.neurons import Profile

CHUNK = 4
"""Items of a chunk where the instructions do not say better."""
MOST = 6
"""Instructions of which a chunk holds each once."""
NEURONS = 512
"""Of each part, that records hold."""
CONTRAST = ("ocr", "describe")


@dataclass(frozen=True)
class Chunks:
    """Profiles of `size` items each: all pairs of the task, and the contrast tasks on the same images.

    Attributes:
        context: the run.
        folder: where they are kept.
        items: source items in all, at most.
        scores: what is measured.
        progress: called with the samples done since the last call.
    """

    context: Context
    folder: Path
    items: int
    scores: tuple[str, ...]
    progress: Callable[[int], None]

    @property
    def size(self) -> int:
        """Items of a chunk: one for each instruction, so that every chunk holds them equally often."""
        instructions = self.context.recipe.profile.instructions
        return instructions if 1 < instructions <= MOST else CHUNK

    @property
    def count(self) -> int:
        """How many whole chunks there are."""
        return len({example.item for example in items_in_turn(self.context.corpus.profile, self.items)}) // self.size

    @property
    def samples(self) -> int:
        """How many samples there are to profile, those of the contrast tasks included."""
        return len(self._examples) + self.count * self.size * len(contrast_of(self.context))

    @property
    def _examples(self) -> list[Example]:
        return list(items_in_turn(self.context.corpus.profile, self.count * self.size))

    def make(self, model: Any) -> list[Path]:
        """Profile whatever is not there yet; return the files."""
        folder = self.folder / f"chunks-{self._mark}"
        folder.mkdir(parents=True, exist_ok=True)
        for other in self.folder.glob("chunks-*"):
            if other != folder:
                remove(other)
        files = [folder / f"{number:04d}.safetensors" for number in range(self.count)]
        missing = [number for number, file in enumerate(files) if not file.exists()]
        if missing:
            self._profile(model, files, missing)
        return files

    def _profile(self, model: Any, files: Sequence[Path], missing: Sequence[int]) -> None:
        from neuroglot.neurons import profile

        settings = self.context.recipe.profile
        by_item: dict[str, list[Example]] = {}
        for example in with_contrast(_with_tasks(self.context), self._examples):
            by_item.setdefault(example.item, []).append(example)
        items = list(by_item)
        tasks = list(dict.fromkeys(e.task for group in by_item.values() for e in group))
        for number in missing:
            examples = [e for item in items[number * self.size : (number + 1) * self.size] for e in by_item[item]]
            # Task by task, because an item's instruction follows from its place.
            examples.sort(key=lambda e: tasks.index(e.task))
            batches = self.context.batcher.batches(examples, self.size, settings.instructions)
            began = time.perf_counter()
            result = profile(model, batches, scores=self.scores, classes=(settings.tokens,))
            write_text(files[number].with_suffix(".seconds"), f"{time.perf_counter() - began}")
            with fresh(files[number]) as part:
                result.save(part)
            self.progress(len(examples))

    def merged(self, model: Any, numbers: Iterable[int]) -> Profile:
        """Return the profile of some chunks together."""
        from neuroglot.neurons import Profile
        from neuroglot.neurons.profiling.merge import merge

        files = self.make(model)
        return reduce(merge, (Profile.load(files[number]) for number in numbers))

    def seconds(self, model: Any) -> float:
        """Return what profiling all chunks took."""
        return sum(float(file.with_suffix(".seconds").read_text()) for file in self.make(model))

    @property
    def _mark(self) -> str:
        recipe = self.context.recipe
        data = recipe.data.model_dump(mode="json", exclude={"dev", "test", "heldout", "retention"})
        own = self.context.data.identity if self.context.data is not None else None
        parts = [model_identity(recipe.model.path), recipe.model.dtype, recipe.task, data, own, self.scores, self.size]
        parts += [recipe.profile.instructions, recipe.profile.tokens, contrast_of(self.context)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def contrast_of(context: Context) -> tuple[str, ...]:
    """Return the tasks that translating is held against on the same images; none where texts are translated."""
    if context.recipe.task != "image_translation":
        return ()
    return context.recipe.profile.contrast or CONTRAST


def _with_tasks(context: Context) -> Context:
    """Return the run as if its recipe named the contrast tasks."""
    recipe = context.recipe
    section = recipe.profile.model_copy(update={"contrast": contrast_of(context)})
    other = replace(context, recipe=recipe.model_copy(update={"profile": section}))
    loaded = ("processor", "skeleton", "batcher", "data", "examples", "corpus")
    other.__dict__.update({name: context.__dict__[name] for name in loaded if name in context.__dict__})
    return other


@dataclass(frozen=True)
class Records:
    """The share of importance of some neurons in each sample.

    A share is a sample's score of a neuron divided by its sum over the part, so that samples compare.

    Attributes:
        shares: (samples, neurons).
        parts: the part of each neuron.
        layers: the layer of each neuron.
        items: the source item of each sample.
        pairs: the pair of each sample.
        lengths: target tokens of each sample.
        losses: nats per target token of each sample.
    """

    shares: NDArray[np.float64]
    parts: NDArray[np.str_]
    layers: NDArray[np.str_]
    items: NDArray[np.str_]
    pairs: NDArray[np.str_]
    lengths: NDArray[np.float64]
    losses: NDArray[np.float64]

    @classmethod
    def make(cls, context: Context, model: Any, items: int, score: str, progress: Callable[[int], None]) -> Records:
        """Profile some items one by one; seeded, `NEURONS` of each part are kept."""
        from neuroglot.neurons import inventory, profile

        examples = list(items_in_turn(context.corpus.profile, items))
        by_item: dict[str, list[Example]] = {}
        for example in examples:
            by_item.setdefault(example.item, []).append(example)
        tokens = context.recipe.profile.tokens
        chosen = draw_neurons([(layer.part, layer.name, layer.neurons) for layer in inventory(model)])
        shares, order = [], []
        for item, group in by_item.items():
            result = profile(model, context.batcher.batches(group, 1), scores=(score,), classes=(tokens,))
            importance = result.importance(score, tokens)
            for row, condition in enumerate(result.conditions):
                values = [importance[name][row].numpy()[rows] for _, name, rows in chosen]
                shares.append(np.concatenate(values))
                order.append((item, str(condition.pair)))
            progress(len(group))
        by_key = {(e.item, str(e.pair)): e for e in examples}
        ordered = [by_key[key] for key in order]
        nats = np.asarray(context.system(model, "base").nll(ordered))
        lengths = np.asarray(context.batcher.target_tokens(ordered))
        return cls(
            shares=np.stack(shares),
            parts=np.concatenate([np.full(len(rows), part) for part, _, rows in chosen]),
            layers=np.concatenate([np.full(len(rows), name) for _, name, rows in chosen]),
            items=np.asarray([item for item, _ in order]),
            pairs=np.asarray([pair for _, pair in order]),
            lengths=lengths.astype(np.float64),
            losses=nats / lengths,
        )

    @property
    def parallel(self) -> bool:
        """Whether every item was seen with every pair, once."""
        keys = set(zip(self.items.tolist(), self.pairs.tolist(), strict=True))
        return len(keys) == len(self.items) == len(set(self.items.tolist())) * len(set(self.pairs.tolist()))


def draw_neurons(
    layers: Sequence[tuple[str, str, int]], count: int = NEURONS, seed: int = 0
) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Draw neurons of each part without replacement: (part, layer, rows), layers without a drawn row left out.

    Raises:
        UserError: there are no layers.
    """
    if not layers:
        raise UserError("there are no layers to draw neurons from; profile a part of the model")
    rng = np.random.default_rng(seed)
    result = []
    for part in dict.fromkeys(part for part, _, _ in layers):
        own = [(name, neurons) for p, name, neurons in layers if p == part]
        ends = np.cumsum([neurons for _, neurons in own])
        places = np.sort(rng.choice(ends[-1], size=min(count, int(ends[-1])), replace=False))
        for (name, neurons), end in zip(own, ends.tolist(), strict=True):
            rows = places[(places >= end - neurons) & (places < end)] - (end - neurons)
            if len(rows):
                result.append((part, name, rows))
    return result
