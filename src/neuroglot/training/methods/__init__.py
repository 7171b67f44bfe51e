"""How each method makes a model trainable: all of it or a part, low-rank factors, vectors, a prompt, chosen rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from neuroglot.errors import UserError, nearest
from neuroglot.selection import Selection
from neuroglot.training.methods.factors import dora, linear_names, lora
from neuroglot.training.methods.rows import neurons
from neuroglot.training.methods.small import bitfit, norms, prompt
from neuroglot.training.methods.whole import connector, full, language, vision

__all__ = ["METHODS", "from_adapter", "linear_names", "prepare"]

METHODS: dict[str, Callable[..., nn.Module]] = {
    "full": full,
    "vision": vision,
    "connector": connector,
    "language": language,
    "lora": lora,
    "dora": dora,
    "prompt": prompt,
    "bitfit": bitfit,
    "norms": norms,
    "neurons": neurons,
}


def prepare(model: nn.Module, method: str, selection: Selection | None = None, **options: Any) -> nn.Module:
    """Make a model trainable by a method; the model is changed in place.

    Args:
        model: a base model.
        method: `full`; `vision`, `connector` or `language`, one part of it; `lora` or `dora`, low-rank factors;
            `prompt`, learned vectors in front; `bitfit`, the biases; `norms`; or `neurons`.
        selection: the rows to train, for `neurons`; the others ignore it.
        options: of the method: for `lora` and `dora` `r`, `alpha`, `dropout`, `modules`, `seed`; for `prompt`
            `tokens`, `seed`; for `neurons` `rank`, `mode`, `seed`.

    Returns:
        The model to train: the model itself for `full` and the parts, a `PeftModel` around it otherwise.

    Raises:
        UserError: the method is unknown, or one of its options is, or the model has nothing that it trains.
    """
    if method not in METHODS:
        raise UserError(f"training method {method!r} is not known; {nearest(method, METHODS)}")
    function = METHODS[method]
    known = [name for name in inspect.signature(function).parameters if name not in ("model", "selection")]
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "it takes none"
            raise UserError(f"training method {method} has no option {option!r}; {hint}")
    given = (model, selection) if method == "neurons" else (model,)
    return function(*given, **options)


def from_adapter(model: nn.Module, folder: Path | str) -> nn.Module:
    """Make a model trainable by going on from a saved adapter of neurons."""
    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
