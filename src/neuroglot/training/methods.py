"""How each method makes a model trainable: everything, low-rank factors everywhere, or chosen rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PreTrainedModel

from neuroglot.errors import UserError, nearest
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig


def linear_names(model: nn.Module) -> list[str]:
    """Return the full name of every Linear but the output embeddings: the layers of all three parts."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]


def _neurons(
    model: nn.Module, selection: Selection | None, rank: int | None = None, mode: str = "auto", seed: int = 0
) -> nn.Module:
    """Train the rows of a selection, whichever way they were selected.

    Args:
        rank: of a group's delta; None trains the rows themselves.
        mode: `sliced`, `additive` or `auto`; see `neuroglot.tuner.NeuroglotConfig`.
        seed: of the initial values of low-rank factors.
    """
    if selection is None:
        raise UserError("method neurons needs a selection, got none; run the select stage first")
    config = NeuroglotConfig.from_selection(selection, rank=rank, mode=mode)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def _full(model: nn.Module, selection: Selection | None) -> nn.Module:
    """Train every parameter, in float32: at fine-tuning rates most bfloat16 entries would not change in a step."""
    return model.float().requires_grad_(True)


def _lora(
    model: nn.Module,
    selection: Selection | None,
    r: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    modules: Sequence[str] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train LoRA factors in every Linear of the three parts.

    Args:
        r: the rank.
        alpha: the scale's numerator, `r` by default (a scale of 1).
        dropout: on the input of the factors.
        modules: full names; every Linear but the output embeddings by default.
        seed: of the factors' initial values.
    """
    if r < 1:
        raise UserError(f"lora: r must be 1 or more, got {r}")
    names = list(linear_names(model) if modules is None else modules)
    config = LoraConfig(r=r, lora_alpha=r if alpha is None else alpha, lora_dropout=dropout, target_modules=names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config)
    matched = set(cast(BaseTuner, peft_model.base_model).targeted_module_names)
    if matched != set(names):  # PEFT matches by suffix
        wrong = sorted(matched ^ set(names))[0]
        raise UserError(
            f"lora: module {wrong!r} is not matched by its exact name; {nearest(wrong, linear_names(model))}"
        )
    return peft_model


METHODS: dict[str, Callable[..., nn.Module]] = {"full": _full, "lora": _lora, "neurons": _neurons}


def prepare(model: nn.Module, method: str, selection: Selection | None = None, **options: Any) -> nn.Module:
    """Make a model trainable by a method; the model is changed in place.

    Args:
        model: a base model.
        method: `full`, `lora` or `neurons`.
        selection: the rows to train, for `neurons`; the others ignore it.
        options: of the method: for `lora` `r`, `alpha`, `dropout`, `modules`, `seed`; for `neurons` `rank`, `mode`,
            `seed`.

    Returns:
        The model to train: the model itself for `full`, a `PeftModel` around it otherwise.

    Raises:
        UserError: the method is unknown, or one of its options is.
    """
    if method not in METHODS:
        raise UserError(f"training method {method!r} is not known; {nearest(method, METHODS)}")
    function = METHODS[method]
    known = [name for name in function.__annotations__ if name not in ("model", "selection", "return")]
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "it takes none"
            raise UserError(f"training method {method} has no option {option!r}; {hint}")
    return function(model, selection, **options)


def from_adapter(model: nn.Module, folder: Path | str) -> nn.Module:
    """Make a model trainable by going on from a saved adapter of neurons."""
    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
