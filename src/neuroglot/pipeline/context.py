"""What the stages of one run share: its recipe, its folder, its data and its model, loaded once."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from neuroglot.config import ModelSection, Recipe
from neuroglot.data.corpus import (
    EMBEDDED,
    TRAINS,
    Corpus,
    Sizes,
    TrainingSet,
    as_task,
    first_items,
    load_corpus,
    shortfall,
)
from neuroglot.data.example import Example
from neuroglot.data.paths import lies_in, shortened, stamp
from neuroglot.data.readers import Bad, Layout, allow, check_records, read_source
from neuroglot.data.readers.checked import Fits, Size
from neuroglot.data.store import Store, View, open_store
from neuroglot.errors import UserError
from neuroglot.file_format import Format, cache_folder, read_json, remove, write_json, write_text
from neuroglot.finite import check_weights
from neuroglot.models.load import model_identity, on_device
from neuroglot.pair import Pair

# ---- The user's data ------------------------------------------------------------------------------------------------

CHECKED = Format("checked", 1, "run")
REJECTED = "rejected.jsonl"
LISTED = 20
"""Most bad records that are listed where they are refused."""
READS = 3
"""Counts up when a reader makes other examples of the same source: stores in the cache are then made anew."""


class Data:
    """A source with the images that it names.

    Args:
        path: the file or folder.
        folder: the run's folder; the rejected records are listed there.
        layout: how the source is read.

    Attributes:
        found_bad: the first records that cannot be used, once `examples` has looked, whether or not it refused them.
        bad_count: how many there are.
    """

    def __init__(self, path: Path, folder: Path, layout: Layout | None = None) -> None:
        self.path = path
        self._folder = folder
        self._layout = layout or Layout()
        self._bad: list[Bad] | None = None
        self.found_bad: Sequence[Bad] = ()
        self.bad_count = 0

    @cached_property
    def records(self) -> Store:
        """Every record, and its example or what is wrong with it.

        Raises:
            UserError: the source is missing, or wrong as a whole.
        """
        name = f"{os.path.abspath(self.path)} {self._layout}"
        return open_store(name, [READS, self._stamps], lambda: read_source(self.path, self._layout))

    @cached_property
    def _stamps(self) -> list[Any]:
        """Path, size and time of change of the file; of a folder a hash of those of all that it holds."""
        if not self.path.is_dir():
            return _stamp(self.path)
        digest = hashlib.sha256()
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            for name in sorted(names):
                digest.update(json.dumps(_stamp(Path(folder, name))).encode())
        return [str(self.path), digest.hexdigest()]

    @cached_property
    def identity(self) -> list[Any]:
        """What identifies the source, and a hash of path, size and time of change of every image that it names.

        Raises:
            UserError: the source is missing.
        """
        digest = hashlib.sha256()
        before = None
        for index in np.flatnonzero(self.records.index["files"]):
            _, example = self.records[int(index)]
            images = [i for i in example.images if isinstance(i, Path)] if isinstance(example, Example) else []
            for image in images if images != before else ():  # what several languages share, looked at once
                digest.update(json.dumps(_stamp(image)).encode())
            before = images
        return [*self._stamps, digest.hexdigest()]

    def examples(self, fits: Fits, limits: Any, most: int, track: Callable[[str, int], Callable[[int], None]]) -> View:
        """Return the examples that can be used.

        A source that some run has checked against the same limits, such as another cell of a grid, is not again.

        Args:
            fits: what the model has to say about an example.
            limits: whatever the answers of `fits` depend on.
            most: how many bad records may be left out.
            track: makes a progress bar.

        Raises:
            UserError: more are bad.
        """
        asked = json.dumps([os.path.abspath(self.path), repr(self._layout), limits, most])
        known = cache_folder("records") / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.checked"
        result = self._known(known)
        if result is None:
            result = self._look(fits, most, track)
            self._keep(known, *result)
        places, bad = result
        self.found_bad, self.bad_count = bad, len(places)
        good = np.ones(len(self.records), bool)
        good[places] = False
        allow(self.path, int(good.sum()), bad, most, len(places))
        self._bad = bad
        return View(self.records, np.flatnonzero(good))

    def _look(
        self, fits: Fits, most: int, track: Callable[[str, int], Callable[[int], None]]
    ) -> tuple[list[int], list[Bad]]:
        """Return the places of all records that cannot be used, and what is wrong with those that are told."""
        places, bad = array("q"), list[Bad]()
        bar = track("checking", len(self.records))
        for index, (_, result) in enumerate(check_records(self.records, fits, bar)):
            if isinstance(result, Bad):
                places.append(index)
                if len(bad) < max(most + 1, LISTED):  # of a million nobody reads all
                    bad.append(result)
        return places.tolist(), bad

    def _known(self, file: Path) -> tuple[list[int], list[Bad]] | None:
        try:
            record = read_json(file, CHECKED)
        except UserError:
            return None
        if record["state"] != self._state:
            return None
        return record["places"], [Bad(**b) for b in record["bad"]]

    @property
    def _state(self) -> str:
        return hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()

    def _keep(self, file: Path, places: list[int], bad: list[Bad]) -> None:
        with suppress(OSError):  # where nothing can be kept, every run checks
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, CHECKED, {"state": self._state, "places": places, "bad": [vars(b) for b in bad]})

    def tell(self, say: Callable[[str], None]) -> None:
        """Write the records that are left out for the user to see."""
        if self._bad is None:
            return
        rejected = self._folder / REJECTED
        lines = [{"file": str(self.path), "line": b.line, "reason": b.reason} for b in self._bad]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        if text and not (rejected.is_file() and rejected.read_text(encoding="utf-8") == text):
            write_text(rejected, text)
            say(f"data: {len(lines)} of {len(self.records)} records left out; see {rejected}")
        if not text:
            remove(rejected)


def _stamp(path: Path) -> list[Any]:
    return [str(path), *(stamp(path) or ())]


# ---- Context --------------------------------------------------------------------------------------------------------

Track = Callable[[str, int], Callable[[int], None]]
"""`track(label, total)` shows a bar and returns a function to call with how much is done."""


@dataclass(frozen=True)
class Context:
    """One run.

    Attributes:
        recipe: what to do.
        folder: where its files are.
        track: makes progress bars.
        say: prints a line.
        trust_remote_code: whether code that comes with the model may run.
        foreign: stages whose files are used although this recipe did not make them.
    """

    recipe: Recipe
    folder: Path
    track: Track
    say: Callable[[str], None]
    trust_remote_code: bool = False
    foreign: frozenset[str] = frozenset()

    def path(self, name: str) -> Path:
        """Return a file of the run."""
        return self.folder / name

    @cached_property
    def processor(self) -> Any:
        """The model's processor."""
        from neuroglot.models.load import load_processor

        return load_processor(self.recipe.model.path, self.trust_remote_code)

    def model(self) -> Any:
        """Return the base model, freshly loaded: every stage starts from the same bits.

        Raises:
            UserError: it cannot be loaded, or a weight of it is not finite.
        """
        model = on_device(asked_model(self.recipe.model, self.trust_remote_code))
        check_weights(model, self.recipe.model.path)
        return model

    @cached_property
    def skeleton(self) -> Any:
        """The base model without its weights."""
        from neuroglot.models.load import load_skeleton

        return load_skeleton(self.recipe.model.path, self.trust_remote_code, self.recipe.model.parts)

    @cached_property
    def batcher(self) -> Any:
        """Turns examples into inputs."""
        from neuroglot.data.batch import Batcher
        from neuroglot.models.load import stop_tokens

        text = self.skeleton.config.get_text_config()
        limits = [
            getattr(self.processor.tokenizer, "model_max_length", 0),
            getattr(text, "max_position_embeddings", 0),
        ]
        data = self.recipe.data
        limit = data.max_length or min((int(limit) for limit in limits if limit), default=0)
        return Batcher(
            self.processor,
            max_length=limit if limit < 10**9 else 0,
            max_pixels=data.max_pixels,
            max_image_tokens=data.max_image_tokens,
            stops=stop_tokens(self.recipe.model.path, self.trust_remote_code),
        )

    @cached_property
    def data(self) -> Data | None:
        """The user's own file; None of the embedded corpus."""
        data = self.recipe.data
        if data.source in EMBEDDED:
            return None
        return Data(Path(data.source), self.folder, data.layout(self.recipe.task))

    @cached_property
    def examples(self) -> Sequence[Example] | None:
        """What can be used of the user's file, every image opened and every text measured; None of the corpus.

        Raises:
            UserError: more records are bad than the recipe allows.
        """
        if self.data is None:
            return None
        return self.data.examples(self.fits, self.limits, self.recipe.data.max_bad, self.track)

    @property
    def limits(self) -> list[Any]:
        """Whatever the answers of `fits` depend on."""
        model, batcher = model_identity(self.recipe.model.path), self.batcher
        return [model, self._asked, batcher.max_length, batcher.max_pixels, batcher.max_image_tokens]

    @property
    def _asked(self) -> tuple[int, tuple[str, ...]]:
        """How many instructions an example may come with, and the tasks that its image is put to besides."""
        settings = self.recipe.profile
        return (settings.instructions, settings.contrast) if self.recipe.uses_neurons else (1, ())

    def fits(self, example: Example, sizes: Sequence[Size]) -> None:
        """Refuse an example that the model cannot take in one of the ways in which a run would show it.

        Raises:
            UserError: what is wrong with it.
        """
        turns, contrast = self._asked
        others: list[Example] = []
        if example.task == "image_translation":
            others += filter(None, (as_task(example, task) for task in contrast))
        for one in (example, *others):
            self.batcher.check(one, sizes, turns)

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the training batch of examples of one pair."""
        first = examples[0]
        pair = first.meta.get(TRAINS) or str(first.pair)
        return {**self.batcher.encode(examples), "pair": pair, "items": [example.item for example in examples]}

    @cached_property
    def training(self) -> TrainingSet:
        """What training draws from: the corpus's training examples, and those that are replayed."""
        return TrainingSet(self.corpus)

    @cached_property
    def corpus(self) -> Corpus:
        """The examples of the run."""
        data = self.recipe.data
        sizes = Sizes(data.train, data.dev, data.test, data.heldout, data.retention)
        describes = self.recipe.model.path == "embedded"
        corpus = load_corpus(data.source, self.recipe.task, data.pairs, sizes, data.seed, describes, self.examples,
                             data.domains, data.replay > 0, self._also_tested)  # fmt: skip
        absent = [task for task in data.replay_tasks if task not in corpus.replay]
        if absent:
            raise UserError(
                f"data.replay_tasks names {absent[0]}, of which there is nothing to replay; there is "
                f"{', '.join(corpus.replay)}"
            )
        chosen = {task: corpus.replay[task] for task in data.replay_tasks or corpus.replay}
        return replace(corpus, replay=chosen)

    def first_items(self, setting: str, examples: Sequence[Example], count: int) -> list[Example]:
        """Return the first `count` items of each pair, and say which pairs have fewer.

        Args:
            setting: what asks for so many, such as `profile.items`.
            examples: to choose among.
            count: items of each pair.
        """
        fewer = shortfall(examples, self.corpus.pairs, count)
        if fewer:
            self.say(f"{setting} asks for {count} items of each pair; some pairs have fewer: {fewer}")
        return list(first_items(examples, count))

    def _also_tested(self, pairs: Sequence[str]) -> list[Example]:
        """Return the examples of all sources that `evaluate.retention` names."""
        return list(chain.from_iterable(self._named(tuple(pairs)).values()))

    @cached_property
    def kept(self) -> dict[str, Sequence[Example]]:
        """What should not be forgotten, by split: the corpus' own tasks, and the sources that the recipe names.

        Raises:
            UserError: a record of such a source cannot be used.
        """
        return {**self.corpus.retention, **self._named(self.corpus.pairs)}

    @cached_property
    def _named(self) -> Callable[[tuple[str, ...]], dict[str, Sequence[Example]]]:
        """Reads the sources that the recipe names, of some pairs; once."""
        from neuroglot.data.image import open_image
        from neuroglot.evaluation.retention_data import read_retention

        def fits(example: Example) -> None:
            self.batcher.check(example, [open_image(image).size for image in example.images])

        settings = self.recipe.evaluate
        root = Path(self.recipe.data.root) if self.recipe.data.root else None
        return cache(lambda pairs: read_retention(settings.retention, settings.retention_items, fits, pairs, root))

    def system(self, model: Any, name: str) -> Any:
        """Return a model as a System."""
        from neuroglot.systems import HFSystem

        settings = self.recipe.evaluate
        return HFSystem(
            model, self.batcher, name, settings.batch_size, settings.max_new_tokens, num_beams=settings.beams,
            length_penalty=settings.length_penalty,
        )  # fmt: skip

    def builder(self, base: Any = None, say: Callable[[str], None] | None = None) -> Any:
        """Return what makes the recipe's systems.

        Args:
            base: the recipe's own model as a system, where one of them may ask it.
            say: prints a line; the run's by default.
        """
        from neuroglot.systems.build import Builder

        data = self.recipe.data
        budget = self.batcher.budget if data.max_pixels or data.max_image_tokens else None
        return Builder(base, self.recipe.evaluate, say or self.say, self.trust_remote_code, budget, data.max_length)

    def check_systems(self) -> None:
        """Refuse systems that lack a package, a program or a key, or do not know a pair of the data.

        Raises:
            UserError: the first thing that is missing.
        """
        if self.recipe.systems:
            pairs, builder = [Pair.parse(pair) for pair in self.corpus.pairs], self.builder()
            for name, settings in self.recipe.systems.items():
                builder.check(name, settings, pairs)
            self._tell_of_uploads()

    def _tell_of_uploads(self) -> None:
        """Say which files outside of the data's folders an endpoint will be sent: the data may be a stranger's."""
        from neuroglot.config.systems import EndpointSection

        seeing = [getattr(settings, "reader", settings) for settings in self.recipe.systems.values()]
        urls = sorted({settings.url for settings in seeing if isinstance(settings, EndpointSection)})
        data = self.recipe.data
        if not urls or data.source in EMBEDDED:
            return
        own = Path(data.source)
        folders = [Path(folder) for folder in (data.images, data.root) if folder]
        if not data.source.startswith("hf:"):
            folders.append(own if own.is_dir() else own.parent)
        tested = (image for part in self.corpus.splits.values() for example in part for image in example.images)
        files = {image for image in tested if isinstance(image, Path)}
        if outside := sorted(file for file in files if not any(lies_in(file, folder) for folder in folders)):
            self.say(
                f"data: {len(outside)} of the images to test on lie outside of the data's folder, such as "
                f"{shortened(outside[0])}, and will be sent to {', '.join(urls)}; data.root refuses images outside of "
                "a folder"
            )

    def check(self) -> None:
        """Refuse the model's kind, the training options, the data and the systems now rather than in a later stage.

        Raises:
            UserError: the first thing wrong with them.
        """
        from neuroglot.neurons import inventory
        from neuroglot.training.trainer import arguments

        quiet()
        if self.data is not None:
            _ = self.data.records  # a missing file is said before a model is fetched
        inventory(self.skeleton)
        arguments(self.recipe.train, self.folder)
        self.batcher.check_chat()
        self.batcher.check_budget()
        _ = self.corpus, self.kept
        self.check_systems()
        if self.recipe.evaluate.every and not len(self.corpus.dev):
            raise UserError("evaluate.every looks at the dev split, which is empty; raise data.dev, or set every to 0")
        for name in self.recipe.evaluate.tokenise.values():
            from neuroglot.evaluation.tokenize import missing

            if missing(name):
                raise UserError(f"evaluate.tokenise: {missing(name)}")
        if self.recipe.evaluate.moses:
            from neuroglot.evaluation.tokenize import needs_moses

            if needs_moses():
                raise UserError(f"evaluate.moses: {needs_moses()}")


def examples_digest(examples: Iterable[Example]) -> str:
    """Return a hash of what examples say; images count by their names."""
    digest = hashlib.sha256()
    for e in examples:
        digest.update(repr((e.images, e.source, e.target, str(e.pair), e.task, e.item)).encode())
    return digest.hexdigest()


def made_for(what: Path | str, wanted: str | None, model: str, instead: str) -> None:
    """Refuse what was made for another model; a user's own selection need not say what for.

    Raises:
        UserError: the fingerprints differ.
    """
    if wanted not in (None, model):
        raise UserError(
            f"{what} was made for another model: one with fingerprint {wanted}, and this one has {model}; {instead}"
        )


def quiet() -> None:
    """Silence what transformers says to people who write training scripts, and Pillow about metadata of images."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def asked_model(settings: ModelSection, trust_remote_code: bool = False, folder: str | None = None) -> Any:
    """Return a recipe's model as the recipe wants it loaded.

    Args:
        settings: the recipe's.
        trust_remote_code: let the model's own code run.
        folder: where a trained one is, instead of the recipe's.

    Raises:
        UserError: it cannot be loaded; the message says why.
    """
    from neuroglot.models.load import load_model

    position, attention = folder or settings.path, settings.attn_implementation
    return load_model(position, settings.dtype, trust_remote_code, settings.parts, attention)
