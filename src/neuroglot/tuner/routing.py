"""Which pair a step belongs to: one small object shared by a model's layers, one context around forward and backward.

The pair is a plain attribute, not a thread-local one, because autograd runs backward in threads of its own. Why the
context must enclose backward: gradient checkpointing runs layers again during backward, and layers that run under
another pair would send one language's gradient to another's rows. Reentrant checkpointing builds its graph only then,
so no layer remembers the first pair; a hook on the outputs of the first forward does, and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair


class Router:
    """Holds the active pair; every layer of a model looks here.

    Attributes:
        pair: the pair whose data is going through the model, None when nobody said.
        configs: adapter name -> configuration, the tuner's own dictionary.
    """

    def __init__(self) -> None:
        self.pair: str | None = None
        self.configs: Mapping[str, Any] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def pairs(self) -> list[str]:
        """Every pair that some adapter knows."""
        return sorted({pair for config in self.configs.values() for pair in getattr(config, "pairs", ())})

    def attach(self, model: nn.Module) -> None:
        """Watch the model and every transformers model inside it, since some loops call the backbone by itself."""
        watched = [m for m in model.modules() if m is model or hasattr(m, "get_input_embeddings")]
        self._handles = [module.register_forward_hook(self._watch) for module in watched]

    def release(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _watch(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.pair is None or not torch.is_grad_enabled():
            return
        for value in _tensors(output):
            if value.requires_grad:
                value.register_hook(partial(self._confirm, self.pair))

    def _confirm(self, forward_pair: str, grad: torch.Tensor) -> None:
        if self.pair != forward_pair:
            now = f"for pair {self.pair}" if self.pair else "outside of any active_pair context"
            raise UserError(
                f"backward of a forward for pair {forward_pair} runs {now}; expected the same pair; "
                f'call loss.backward() inside the `with active_pair(model, "{forward_pair}"):` that ran the forward'
            )


def _tensors(output: Any) -> list[torch.Tensor]:
    """Return the tensors of a model's output, whether it is one, a tuple or a mapping."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    values = output if isinstance(output, (tuple, list)) else (output,)
    return [value for value in values if torch.is_tensor(value)]


def _find_router(model: nn.Module) -> Router | None:
    for module in model.modules():
        router = getattr(module, "router", None)
        if isinstance(router, Router):
            return router
    return None


def has_router(model: nn.Module) -> bool:
    """Return whether the model carries a neuroglot adapter, so that its training steps need `active_pair`."""
    return _find_router(model) is not None


@contextmanager
def active_pair(model: nn.Module, pair: str | Pair) -> Iterator[None]:
    """Say which pair the data of a training step belongs to; encloses the forward and its backward.

    Within it only the rows whose group holds the pair receive a gradient; the gradients of the others stay None, so
    that optimisers leave their weights and their state alone. Accumulate several pairs by one context after another,
    each with its own backward, before the optimiser's step. (`zero_grad(set_to_none=False)` would undo this: a
    gradient of zeros still moves a row by momentum and weight decay.)

    Args:
        model: a model with a neuroglot adapter, wrapped in anything.
        pair: such as `en-de`.

    Raises:
        UserError: the model has no neuroglot adapter, or no adapter knows the pair; from backward, the pair has
            changed since the forward.
    """
    router = _find_router(model)
    if router is None:
        raise UserError(
            "active_pair: the model has no neuroglot adapter; expected the result of "
            "get_peft_model(model, NeuroglotConfig.from_selection(selection))"
        )
    text = str(pair)
    if text not in router.pairs:
        raise UserError(f"active_pair: pair {text!r} is not one of the adapter's; {nearest(text, router.pairs)}")
    before, router.pair = router.pair, text
    try:
        yield
    finally:
        router.pair = before
