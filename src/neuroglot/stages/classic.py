"""A classic multimodal translation system as a contender: its training stage, and the system that is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from neuroglot.artefact import MANIFEST, TRAINING, read_json, write_json
from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.recipe import Recipe
from neuroglot.stages.context import Context, examples_digest, quiet
from neuroglot.stages.keeping.memory import watch

HOME = "classic"
"""The folder of a trained one."""


def train_classic(context: Context, kind: str, cache: Path) -> None:
    """Train a system on the run's examples and write it, with training.json beside it.

    Args:
        context: the run.
        kind: which system.
        cache: folder of image features, which several cells share.

    Raises:
        UserError: whatever the user can mend.
    """
    from neuroglot.systems.classic import Settings, train
    from neuroglot.systems.classic.settings import CLASSIC

    quiet()
    peak = watch()
    section = context.recipe.classic
    given = {f.name: getattr(section, f.name) for f in fields(Settings) if f.name in type(section).model_fields}
    settings = Settings(**given, lr=context.recipe.train.lr or 1e-3, seed=context.recipe.train.seed)
    corpus = context.corpus
    bar = context.track("training", settings.steps)
    train(
        kind,
        as_text(corpus.train, context.recipe),
        as_text(corpus.dev, context.recipe),
        _features(context, cache),
        settings,
        context.path(HOME),
        context.path(".train"),
        lambda step, steps, loss: bar(step),
    )
    made = read_json(context.path(HOME) / MANIFEST, CLASSIC)
    facts = {
        "method": kind,
        "made_from": {"data": examples_digest(corpus.train)},
        "seconds": made["seconds"],
        "steps": made["steps"],
        "peak_memory_bytes": peak(),
        "trainable_parameters": made["parameters"],
        "total_parameters": made["parameters"],
        "saved_bytes": sum(p.stat().st_size for p in context.path(HOME).glob("*.safetensors")),
    }
    write_json(context.path("training.json"), TRAINING, facts)


def load_classic(context: Context, cache: Path) -> Any:
    """Return a trained system, as the run's task is put to it."""
    from neuroglot.systems import Control
    from neuroglot.systems.classic import load

    settings = context.recipe.evaluate
    system = load(
        context.path(HOME),
        _features(context, cache),
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.beams,
        length_penalty=settings.length_penalty,
    )
    if context.recipe.task == "multimodal_translation":
        return system
    told = Control(system, "", lambda example: as_text([example], context.recipe)[0])
    told.name = system.name
    return told


def as_text(examples: Sequence[Example], recipe: Recipe) -> Sequence[Example]:
    """Return the examples as a classic system is shown them: of image translation, the text that the image holds.

    Raises:
        UserError: that text is not known.
    """
    if recipe.task != "image_translation":
        return examples
    for example in examples:
        if not example.source:
            raise UserError(
                f"text-transformer translates what the images say, and {example.item or example.target[:40]!r} does "
                "not tell it; add the source texts to the data, or leave text-transformer out"
            )
    return [replace(example, task="text_translation", images=()) for example in examples]


def _features(context: Context, cache: Path) -> Any:
    from neuroglot.systems.classic import TowerFeatures

    model, section = context.recipe.model, context.recipe.classic
    return TowerFeatures(
        model.path,
        section.tower,
        section.image_tokens,
        cache,
        parts=model.parts,
        trust_remote_code=context.trust_remote_code,
    )
