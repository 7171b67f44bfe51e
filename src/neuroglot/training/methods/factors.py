"""Low-rank factors in every layer: LoRA, and DoRA, which trains the length of each row beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PreTrainedModel

from neuroglot.errors import UserError, nearest


def linear_names(model: nn.Module) -> list[str]:
    """Return the full name of every Linear but the output embeddings: the layers of all three parts."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]


def lora(
    model: nn.Module,
    r: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    modules: Sequence[str] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train LoRA factors in every Linear of the three parts.

    Args:
        model: a base model.
        r: the rank.
        alpha: the scale's numerator, `r` by default (a scale of 1).
        dropout: on the input of the factors.
        modules: full names; every Linear but the output embeddings by default.
        seed: of the factors' initial values.
    """
    return _factors(model, "lora", r, alpha, dropout, modules, seed)


def dora(
    model: nn.Module,
    r: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    modules: Sequence[str] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train DoRA (arXiv 2402.09353, Eq. 5): LoRA of the rows' directions, and their lengths; else as `lora`."""
    return _factors(model, "dora", r, alpha, dropout, modules, seed)


def _factors(
    model: nn.Module,
    method: str,
    r: int,
    alpha: int | None,
    dropout: float,
    modules: Sequence[str] | None,
    seed: int,
) -> nn.Module:
    if r < 1:
        raise UserError(f"{method}: r must be 1 or more, got {r}")
    names = list(linear_names(model) if modules is None else modules)
    config = LoraConfig(
        r=r,
        lora_alpha=r if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=names,
        use_dora=method == "dora",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config)
    matched = set(cast(BaseTuner, peft_model.base_model).targeted_module_names)
    if matched != set(names):  # PEFT matches by suffix
        wrong = min(matched ^ set(names))
        raise UserError(
            f"{method}: module {wrong!r} is not matched by its exact name; {nearest(wrong, linear_names(model))}"
        )
    return peft_model
