"""Loss over target tokens: logits are computed where a target token is predicted, and at no other position.

With a vocabulary of 150,000 entries, the logits of some hundred image and prompt tokens take more memory than all
activations of a small model, and the loss needs none of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

IGNORED = -100
"""The label of a position that is no target, as transformers has it."""


def keeps_some_logits(model: nn.Module) -> bool:
    """Whether the forward of a model, or of the base in a PEFT model, can compute the logits of chosen positions."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def target_columns(labels: Tensor) -> Tensor:
    """Return the positions [T] that predict a target token of some sample, of labels [B, L].

    The token at position c is predicted at c - 1, so that position 0 is never predicted.
    """
    return (labels[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(1)


def on_targets(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a forward whose logits are those of target positions, and whose loss is the same.

    transformers' loss drops the first label and the last logit; therefore one position stands twice at the end, and
    an ignored label at the beginning.

    Args:
        inputs: with `labels` [B, L]; without, they are returned as they are.
    """
    labels = inputs.get("labels")
    if labels is None:
        return dict(inputs)
    columns = target_columns(labels)
    last = columns[-1:] if len(columns) else columns.new_zeros(1)
    first = labels.new_full((len(labels), 1), IGNORED)
    return {
        **inputs,
        "labels": torch.cat([first, labels[:, columns + 1]], dim=1),  # (B, T + 1)
        "logits_to_keep": torch.cat([columns, last]),
    }
