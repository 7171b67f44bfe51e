"""What the kinds of analysis share: a run's files and model, how much to measure, and what a kind is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.analysis.profiles import Chunks, Records
from neuroglot.config import Recipe
from neuroglot.data.corpus import items_in_turn
from neuroglot.errors import UserError
from neuroglot.file_format import PROFILE
from neuroglot.pipeline.context import Context, made_for

if TYPE_CHECKING:
    from neuroglot.data.example import Example
    from neuroglot.neurons import Profile
    from neuroglot.report.figures import Draw
    from neuroglot.selection import Selection

ABLATE = ("zero", "mean")
FEWEST = 2
"""Source items and seeds below which nothing can be said about spread."""


@dataclass(frozen=True)
class Work:
    """What a kind has to do.

    Attributes:
        forward: samples that go forward only.
        backward: samples that go forward and backward.
        chunks: whether it reads the chunks, which are profiled once for all kinds.
        records: the same of the records.
    """

    forward: int = 0
    backward: int = 0
    chunks: bool = False
    records: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its caption, and rows of text, header first."""

    caption: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A figure: the name of its file, what it shows in words, and the function that draws it."""

    name: str
    alt: str
    draw: Draw


Found = dict[str, Any]
"""What a kind found, as JSON holds it; `{"skipped": why}` where a run has nothing to show of it."""


@dataclass(frozen=True)
class Kind:
    """A kind of analysis.

    Attributes:
        name: as in `--only`.
        title: its heading.
        question: what it answers.
        version: counts up when what it measures changes.
        work: how much there is to do, before anything is done.
        measure: does it.
        sentence: what the numbers say, in one sentence made from them.
        tables: the numbers.
        figures: the drawings.
        reads: files of the run that it depends on.
        options: fields of the setting that it depends on.
    """

    name: str
    title: str
    question: str
    version: int
    work: Callable[[Setting], Work]
    measure: Callable[[Setting], Found]
    sentence: Callable[[Found], str]
    tables: Callable[[Found], list[Table]]
    figures: Callable[[Found], list[Figure]]
    reads: tuple[str, ...] = ("profile.safetensors", "selection.safetensors")
    options: tuple[str, ...] = ("items", "seeds")


@dataclass(frozen=True)
class Setting:
    """One run, and how much to measure.

    Attributes:
        context: the run.
        items: source items that a measurement takes, at most.
        seeds: repetitions with other draws.
        ablate: what an ablated neuron yields, `zero` or its `mean`.
        progress: called with the samples that were done since the last call.
    """

    context: Context
    items: int
    seeds: int
    ablate: str = "zero"
    progress: Callable[[int], None] = lambda done: None

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        return self.context.recipe

    @property
    def task(self) -> str:
        """The task that the run trains."""
        return self.recipe.task

    @property
    def work_folder(self) -> Path:
        """Where intermediate results lie until the analysis is complete."""
        return self.context.path(".analysis")

    @cached_property
    def profile(self) -> Profile:
        """The run's profile, verified to be of the run's model.

        Raises:
            UserError: it is missing, damaged, or of another model.
        """
        from neuroglot.neurons import Profile, inventory
        from neuroglot.neurons.inventory import fingerprint

        path = self.context.path("profile.safetensors")
        result = Profile.load(path)
        names = {name for name, _ in self.model.named_modules()} | {name for name, _ in self.model.named_parameters()}
        same = all(layer.name in names for layer in result.layers)
        own = fingerprint(self.model, result.layers) if same else fingerprint(self.model, inventory(self.model))
        made_for(path, result.fingerprint, own, PROFILE.again)
        return result

    @cached_property
    def selection(self) -> Selection:
        """The run's selection."""
        from neuroglot.selection import Selection

        return Selection.load(self.context.path("selection.safetensors"))

    @cached_property
    def model(self) -> Any:
        """The base model; whoever changes it puts it back."""
        return self.context.model()

    @property
    def score(self) -> str:
        """The score that the run selects by."""
        return str(self.selection.meta.get("options", {}).get("score") or self.recipe.select.score or "taylor_token")

    @property
    def token_class(self) -> str:
        """The positions that it was taken over."""
        return self.recipe.profile.tokens

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the run selects from, of those that were profiled."""
        asked = self.selection.meta.get("neurons") or {layer.part: 0 for layer in self.profile.layers}
        return tuple(dict.fromkeys(layer.part for layer in self.profile.layers if layer.part in asked))

    @cached_property
    def chunks(self) -> Chunks:
        """Profiles of a few items each, that add up."""
        return Chunks(self.context, self.work_folder, 2 * self.items, self._scores, self.progress)

    @cached_property
    def records(self) -> Records:
        """The importance of some neurons for every sample."""
        return Records.make(self.context, self.model, self.items, self.score, self.progress)

    @property
    def _scores(self) -> tuple[str, ...]:
        own = (self.recipe.method,) if self.recipe.method in self.recipe.profile.scores else ()
        return tuple(dict.fromkeys((self.score, *own)))

    @cached_property
    def heldout(self) -> list[Example]:
        """Examples that nobody profiled or trained on: dev items, or test items where there are no dev items.

        Raises:
            UserError: the data has neither.
        """
        corpus = self.context.corpus
        examples = corpus.dev if len(corpus.dev) else corpus.splits.get(self.task, ())
        if not len(examples):
            raise UserError("there are no dev or test items to measure losses on; set data.dev to 10 or more")
        return list(items_in_turn(examples, max(FEWEST, self.items // 2)))

    def choose(self, profile: Profile) -> Selection:
        """Select from another profile as the run selected from its own."""
        from neuroglot.neurons import select
        from neuroglot.pipeline.neurons import select_options

        return select(profile, method=self.recipe.method, **select_options(self.context))


def check(folder: Path, recipe: Recipe, items: int | None, seeds: int, ablate: str) -> int:
    """Refuse what cannot be measured, before a model is loaded; return the number of items.

    Raises:
        UserError: a method without neurons, a file that is missing, a number out of range.
    """
    from neuroglot.file_format import SELECTION

    if not recipe.uses_neurons:
        raise UserError(
            f"analysis is about the choice of neurons, and {folder} is a run of method={recipe.method}, which chooses "
            "none; give a run of a method such as mnaft"
        )
    for name, kind in (("profile.safetensors", PROFILE), ("selection.safetensors", SELECTION)):
        if not (folder / name).exists():
            raise kind.missing(folder / name)
    result = recipe.profile.items if items is None else items
    for option, value in (("--items", result), ("--seeds", seeds)):
        if value < FEWEST:
            raise UserError(f"{option} must be {FEWEST} or more, got {value}; of fewer nothing can be said on spread")
    if ablate not in ABLATE:
        raise UserError(f"--ablate must be zero or mean, got {ablate!r}")
    return result


def text_pairs(profile: Profile, task: str) -> list[str]:
    """Return the text forms of a task's pairs, in the order of the profile."""
    return [str(condition.pair) for condition in profile.of_task(task)]


def known(value: float | None) -> bool:
    """Whether a number read from JSON is one: what could not be computed is null there."""
    return value is not None and math.isfinite(value)


def interval(result: Mapping[str, float], digits: int = 2) -> str:
    """Return `mean [low, high]`, the mean alone where there is no interval, or `unknown`."""
    if not known(result["mean"]):
        return "unknown"
    if not known(result["low"]):
        return f"{result['mean']:.{digits}f}"
    return f"{result['mean']:.{digits}f} [{result['low']:.{digits}f}, {result['high']:.{digits}f}]"
