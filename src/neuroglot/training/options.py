"""The options of a training, their translation into transformers' own, and what a training came to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from neuroglot.errors import UserError


@dataclass(frozen=True)
class TrainOptions:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        batch_size: samples per micro-batch.
        lr: the highest learning rate.
        specific_lr: that of the neurons which not all pairs train; None for the same.
        warmup: share of the steps over which the rate rises to `lr`.
        weight_decay: towards zero; towards the base's weights for the deltas of chosen rows.
        accumulation: micro-batches per step; these may be of different pairs.
        scheduler: name of a transformers scheduler.
        optimizer: name of a transformers optimiser.
        max_grad_norm: clips the gradient of the trainable parameters; 0 does not.
        seed: of the order of batches and of dropout.
        bf16: compute under bfloat16 autocast; chosen rows stay float32.
        gradient_checkpointing: recompute activations in backward.
        save_steps: steps between checkpoints; 0 makes none.
        log_steps: steps between lines of the log.
        non_finite: what becomes of a step whose loss or gradient is not finite: `stop` ends the training with an
            error, `skip` leaves the step out.
        max_skipped: steps that may be left out before the training ends with an error after all.
    """

    steps: int
    batch_size: int = 16
    lr: float = 2e-5
    warmup: float = 0.03
    weight_decay: float = 0.0
    accumulation: int = 1
    scheduler: str = "cosine"
    optimizer: str = "adamw_torch_fused"
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_steps: int = 0
    log_steps: int = 10
    specific_lr: float | None = None
    non_finite: str = "stop"
    max_skipped: int = 10

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("accumulation", 1), ("save_steps", 0), ("log_steps", 1),
                            ("max_skipped", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise UserError(f"train.{name} must be {least} or more, got {getattr(self, name)}")
        if not self.lr > 0:
            raise UserError(f"train.lr must be above 0, got {self.lr}")
        if self.specific_lr is not None and not self.specific_lr > 0:
            raise UserError(f"train.specific_lr must be above 0, got {self.specific_lr}; leave it out for train.lr")
        if self.non_finite not in ("stop", "skip"):
            raise UserError(f"train.non_finite must be stop or skip, got {self.non_finite!r}")
        if not 0 <= self.warmup < 1:
            raise UserError(f"train.warmup must be in [0, 1), got {self.warmup}; it is a share of the steps")


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        steps: optimiser steps in all, those before a resume included.
        resumed_from: the step of the checkpoint that it went on from, 0 for none.
        loss: mean training loss per target token, in nats, over the steps of this call; NaN if none was left.
        skipped: steps that were left out because their loss or gradient was not finite.
        seconds: wall time of the training, that before a resume included up to the checkpoint.
        trainable: number of trainable parameters.
        log: the log file.
    """

    steps: int
    resumed_from: int
    loss: float
    seconds: float
    trainable: int
    log: Path
    skipped: int = 0


def arguments(options: TrainOptions, output_dir: Path) -> TrainingArguments:
    """Translate the options into transformers' own.

    Raises:
        UserError: transformers does not know the optimiser or the scheduler.
    """
    on_cpu = not torch.accelerator.is_available()
    known = {f.name for f in fields(TrainingArguments)}
    # the older name is a deprecated alias of the newer one, which the oldest supported transformers lacks
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    extra: dict[str, Any] = {}
    if options.gradient_checkpointing:
        extra = {checkpointing: True, f"{checkpointing}_kwargs": {"use_reentrant": False}}
    try:
        return TrainingArguments(
            output_dir=str(output_dir),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=options.accumulation,
            learning_rate=options.lr,
            warmup_steps=round(options.warmup * options.steps),
            lr_scheduler_type=options.scheduler,
            optim=options.optimizer,
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
            seed=options.seed,
            bf16=options.bf16,
            logging_steps=options.log_steps,
            logging_first_step=True,
            logging_nan_inf_filter=False,  # it writes the mean of earlier losses where one is NaN
            save_strategy="steps" if options.save_steps else "no",
            save_steps=options.save_steps or 1,
            save_total_limit=2,
            save_only_model=False,
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=not on_cpu,
            remove_unused_columns=False,
            prediction_loss_only=True,
            label_names=["labels"],
            ddp_find_unused_parameters=True,
            use_cpu=on_cpu,
            **extra,
        )
    except ValueError as error:
        raise UserError(f"train: {str(error).splitlines()[0]}") from None
