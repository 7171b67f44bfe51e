"""How it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroglot.recipe.sections.section import Section, Seed


class TrainSection(Section):
    """How it is trained."""

    steps: int = Field(200, ge=1, description="optimiser steps")
    batch_size: int = Field(24, ge=1, description="samples a micro-batch")
    accumulation: int = Field(1, ge=1, description="micro-batches a step; these may be of different pairs")
    lr: float | None = Field(
        None,
        gt=0,
        description="unset: 1e-3 for neurons, lora, dora and connector; 2e-4 for full, vision and language; "
        "1e-2 for bitfit and norms; 3e-2 for prompt",
    )
    specific_lr: float | None = Field(None, gt=0, description="of language-specific neurons; unset: lr")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="of the learning rate, after the warm-up"
    )
    optimizer: str = Field("adamw_torch_fused", description="name of an optimiser of transformers")
    weight_decay: float = Field(0.0, ge=0, description="towards zero; of chosen rows, towards the base's weights")
    max_grad_norm: float = Field(1.0, ge=0, description="clips the gradient; 0 does not")
    rank: int = Field(16, ge=1, description="of LoRA and DoRA")
    prompt_tokens: int = Field(16, ge=1, description="of prompt: how many vectors are learned")
    neuron_rank: int | None = Field(None, ge=1, description="of a group's delta; unset: each row trains by itself")
    parameters: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of all layers' weights that is trained, as low-rank deltas of the chosen rows that start "
        "along the gradient; layers get ranks by their gradient; instead of neuron_rank",
    )
    rows: float = Field(
        1.0,
        gt=0,
        le=1,
        description="with parameters: of the rows that select chose in a layer, the share with the largest gradients "
        "that is trained",
    )
    mode: Literal["auto", "sliced", "additive"] = Field("auto", description="how chosen rows are computed")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    bf16: bool = Field(False, description="compute under bfloat16 autocast; chosen rows stay float32")
    save_steps: int = Field(100, ge=1, description="checkpoint every so many steps")
    log_steps: int = Field(10, ge=1, description="steps from one line of the log to the next")
    non_finite: Literal["stop", "skip"] = Field(
        "stop", description="a step whose loss or gradient is not finite ends the training, or is left out"
    )
    max_skipped: int = Field(10, ge=0, description="with non_finite=skip: steps left out at most")
    seed: Seed = Field(0, description="of the order of batches, and of dropout")
