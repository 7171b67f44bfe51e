"""A recipe's training section as the trainer takes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from neuroglot.recipe import Recipe

if TYPE_CHECKING:
    from neuroglot.training import TrainOptions


def train_options(recipe: Recipe, **changes: Any) -> TrainOptions:
    """Return the recipe's training options, with changes."""
    from neuroglot.training import TrainOptions

    settings = recipe.train
    found = TrainOptions(
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=recipe.learning_rate,
        specific_lr=settings.specific_lr,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        accumulation=settings.accumulation,
        scheduler=settings.scheduler,
        optimizer=settings.optimizer,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=settings.bf16,
        gradient_checkpointing=settings.gradient_checkpointing,
        save_steps=settings.save_steps,
        log_steps=settings.log_steps,
        non_finite=settings.non_finite,
        max_skipped=settings.max_skipped,
    )
    return replace(found, **changes)
