"""What the stages of one run share: its recipe, its folder, and what several of them need, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroglot.data.corpus import Corpus, Sizes, load_corpus
from neuroglot.recipe import Recipe

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
    """

    recipe: Recipe
    folder: Path
    track: Track
    say: Callable[[str], None]

    def path(self, name: str) -> Path:
        """Return a file of the run."""
        return self.folder / name

    @cached_property
    def processor(self) -> Any:
        """The model's processor."""
        from neuroglot.models.load import load_processor

        return load_processor(self.recipe.model.path)

    def model(self) -> Any:
        """Return the base model, freshly loaded: every stage starts from the same bits."""
        from neuroglot.models.load import load_model

        return placed(load_model(self.recipe.model.path, self.recipe.model.dtype))

    @cached_property
    def batcher(self) -> Any:
        """Turns examples into inputs."""
        from neuroglot.data.batch import Batcher

        limit = self.recipe.data.max_length or int(getattr(self.processor.tokenizer, "model_max_length", 0))
        return Batcher(self.processor, max_length=limit if limit < 10**9 else 0)

    @cached_property
    def corpus(self) -> Corpus:
        """The examples of the run."""
        data = self.recipe.data
        sizes = Sizes(data.train, data.dev, data.test, data.heldout, data.retention)
        describes = self.recipe.model.path == "embedded"
        return load_corpus(data.source, self.recipe.task, data.pairs, sizes, data.seed, describes)

    def system(self, model: Any, name: str) -> Any:
        """Return a model as a System."""
        from neuroglot.systems import HFSystem

        settings = self.recipe.evaluate
        return HFSystem(
            model, self.batcher, name, settings.batch_size, settings.max_new_tokens, num_beams=settings.beams
        )

    def check(self) -> None:
        """Refuse the data, the model's processor and the training options now rather than in a later stage.

        Raises:
            UserError: the first thing wrong with them.
        """
        from neuroglot.stages.training import options
        from neuroglot.training.options import arguments

        _ = self.corpus, self.processor
        arguments(options(self.recipe), self.folder)


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
