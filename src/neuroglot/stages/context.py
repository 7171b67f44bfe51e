"""What the stages of one run share: its recipe, its folder, and what several of them need, loaded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroglot.data.corpus import EMBEDDED, Corpus, Sizes, as_task, load_corpus
from neuroglot.data.example import Example
from neuroglot.data.readers.checked import Size
from neuroglot.errors import UserError
from neuroglot.recipe import Recipe
from neuroglot.stages.data import Data

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
        """Return the base model, freshly loaded: every stage starts from the same bits."""
        from neuroglot.models.load import load_model

        settings = self.recipe.model
        return placed(load_model(settings.path, settings.dtype, self.trust_remote_code, settings.parts))

    @cached_property
    def skeleton(self) -> Any:
        """The base model without its weights."""
        from neuroglot.models.load import load_skeleton

        return load_skeleton(self.recipe.model.path, self.trust_remote_code, self.recipe.model.parts)

    @cached_property
    def batcher(self) -> Any:
        """Turns examples into inputs."""
        from neuroglot.data.batch import Batcher

        text = self.skeleton.config.get_text_config()
        limits = [
            getattr(self.processor.tokenizer, "model_max_length", 0),
            getattr(text, "max_position_embeddings", 0),
        ]
        limit = self.recipe.data.max_length or min((int(limit) for limit in limits if limit), default=0)
        return Batcher(self.processor, max_length=limit if limit < 10**9 else 0)

    @cached_property
    def data(self) -> Data | None:
        """The user's own file; None of the embedded corpus."""
        source = self.recipe.data.source
        return None if source in EMBEDDED else Data(Path(source), self.folder)

    @cached_property
    def examples(self) -> list[Example] | None:
        """What can be used of the user's file, every image opened and every text measured; None of the corpus.

        Raises:
            UserError: more records are bad than the recipe allows.
        """
        if self.data is None:
            return None
        settings = self.recipe.profile
        turns, contrast = (settings.instructions, settings.contrast) if self.recipe.uses_neurons else (1, ())

        def fits(example: Example, sizes: Sequence[Size]) -> None:
            others = [replace(example, target=text) for text in example.alternatives]
            if example.task == "image_translation":
                others += filter(None, (as_task(example, task) for task in contrast))
            for one in (example, *others):
                self.batcher.check(one, sizes, turns)

        limits = [self.recipe.model.path, self.batcher.max_length, turns, contrast]
        return self.data.examples(fits, limits, self.recipe.data.max_bad, self.track)

    @cached_property
    def corpus(self) -> Corpus:
        """The examples of the run."""
        data = self.recipe.data
        sizes = Sizes(data.train, data.dev, data.test, data.heldout, data.retention)
        describes = self.recipe.model.path == "embedded"
        return load_corpus(data.source, self.recipe.task, data.pairs, sizes, data.seed, describes, self.examples,
                           data.domains)  # fmt: skip

    def system(self, model: Any, name: str) -> Any:
        """Return a model as a System."""
        from neuroglot.systems import HFSystem

        settings = self.recipe.evaluate
        return HFSystem(
            model, self.batcher, name, settings.batch_size, settings.max_new_tokens, num_beams=settings.beams
        )

    def check(self) -> None:
        """Refuse the model's kind, the training options and the data now rather than in a later stage.

        Raises:
            UserError: the first thing wrong with them.
        """
        from neuroglot.neurons import inventory
        from neuroglot.stages.training import options
        from neuroglot.training.options import arguments

        quiet()
        if self.data is not None:
            _ = self.data.records  # a missing file is said before a model is fetched
        inventory(self.skeleton)
        arguments(options(self.recipe), self.folder)
        _ = self.processor, self.corpus


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


def placed(model: Any) -> Any:
    """Return a model on the accelerator, where there is one."""
    import torch

    return model.to(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else model


def quiet() -> None:
    """Silence what transformers says to people who write training scripts."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
