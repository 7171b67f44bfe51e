"""Which pair a step belongs to: one small object shared by a model's layers, one context around forward and backward.

The pair is a plain attribute, not a thread-local one, because autograd runs backward in its own threads. The context
must enclose backward, because gradient checkpointing runs layers again during backward, and layers that run with
another pair would send one language's gradient to another's rows. Reentrant checkpointing builds its graph only then,
so no layer stores the first pair; a hook on the outputs of the first forward stores and compares it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.hooks import RemovableHandle

from neuroglot.errors import UserError, expect, nearest
from neuroglot.pair import Pair


@dataclass(frozen=True)
class Mixture:
    """A batch whose samples belong to several pairs.

    Attributes:
        pairs: the pair of each sample.
        images: how many images (or tiles) each sample brought to the vision part; None for one each.
    """

    pairs: tuple[str, ...]
    images: tuple[int, ...] | None = None
    _found: dict[Any, torch.Tensor | None] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        return "+".join(dict.fromkeys(self.pairs))

    def samples(self, group: str, length: int, part: str | None, device: torch.device) -> torch.Tensor | None:
        """Return which entries of a layer's first axis may train a group: their indices, or None for all of them.

        Args:
            group: the group's text.
            length: of the first axis of the layer's input.
            part: the layer's part; `packed` where a vision part keeps all images on one axis.
            device: where the indices are needed.

        Raises:
            UserError: the first axis cannot be divided into samples.
        """
        key = (group, length, part, device)
        if key not in self._found:
            members = set(group.split(","))
            mine = [i for i, owner in enumerate(self._owners(length, part)) if self.pairs[owner] in members]
            self._found[key] = None if len(mine) == length else torch.tensor(mine, dtype=torch.long, device=device)
        return self._found[key]

    def _owners(self, length: int, part: str | None) -> list[int]:
        """Return the sample that each entry of the first axis belongs to."""
        if part == "packed":
            raise UserError(
                "active_pair: this model's vision part keeps the images of all samples on one axis, so a mixed batch "
                "cannot be told apart there; make batches of one pair, or select neurons of the language part only"
            )
        counts = [1] * len(self.pairs)
        if part in ("vision", "connector") and self.images is not None:
            counts = list(self.images)
        owners = [sample for sample, count in enumerate(counts) for _ in range(count)]
        if part in ("vision", "connector") and owners and length % len(owners) == 0:
            each = length // len(owners)  # a connector may see the patches of all images on one axis
            return [owner for owner in owners for _ in range(each)]
        if length != len(owners):
            what = "images (or tiles)" if part in ("vision", "connector") else "samples"
            raise UserError(
                f"active_pair: a layer's input has {length} entries on its first axis, the mixed batch {len(owners)} "
                f"{what}; expected one each; say how many images each sample brought with "
                "active_pair(model, pairs, images=[...]), or make batches of one pair"
            )
        return owners


class Router:
    """Holds the active pair; every layer of a model reads it.

    Attributes:
        pair: the pair, or the mixture of pairs, whose data is going through the model; None if none is set.
        configs: adapter name -> configuration, the tuner's own dictionary.
        sharded: whether FSDP gathers the model's weights for each forward, so that nothing can be kept in them.
        adapters: the adapter of each sample, as PEFT's `adapter_names` has it; None while all take the active ones.
    """

    def __init__(self) -> None:
        self.pair: str | Mixture | None = None
        self.adapters: tuple[str, ...] | None = None
        self.configs: Mapping[str, Any] = {}
        self.sharded = False
        self._handles: list[RemovableHandle] = []

    @property
    def pairs(self) -> list[str]:
        """Every pair that some adapter knows."""
        return sorted({pair for config in self.configs.values() for pair in getattr(config, "pairs", ())})

    def samples_by_adapter(self, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Return adapter -> indices along a first axis of `length`, on which each sample has as many entries.

        Raises:
            UserError: the first axis is no multiple of the samples.
        """
        adapters = self.adapters or ()
        if not adapters or length % len(adapters):
            raise UserError(
                f"adapter_names names {len(adapters)} adapters, but a layer's input has {length} entries on its first "
                "axis; expected as many for each sample; run the samples of each adapter by themselves"
            )
        each = torch.arange(length, device=device).split(length // len(adapters))
        return {
            name: torch.cat([indices for indices, adapter in zip(each, adapters, strict=True) if adapter == name])
            for name in dict.fromkeys(adapters)
        }

    def attach(self, model: nn.Module) -> None:
        """Watch the model and every transformers model inside it, since some loops call the backbone directly."""
        watched = [m for m in model.modules() if m is model or hasattr(m, "get_input_embeddings")]
        self._handles = [module.register_forward_hook(self._watch) for module in watched]
        self._handles += [module.register_forward_pre_hook(self._look, with_kwargs=True) for module in watched]

    def release(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _look(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        # PEFT's wrapper removes this keyword, and transformers' models accept any keyword silently
        if kwargs.get("adapter_names") is not None:
            raise UserError(
                "adapter_names needs PEFT's wrapper; make the model with get_peft_model or "
                "PeftModel.from_pretrained, or choose the adapter of a batch with set_adapter"
            )
        if _distributed():
            self.sharded = self.sharded or is_sharded(module)

    def _watch(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.pair is None or not torch.is_grad_enabled():
            return
        for value in _tensors(output):
            if value.requires_grad:
                value.register_hook(partial(self._confirm, self.pair))

    def _confirm(self, forward_pair: str | Mixture, grad: torch.Tensor) -> None:
        if self.pair != forward_pair:
            now = f"for pair {self.pair}" if self.pair else "outside of any active_pair context"
            raise UserError(
                f"backward of a forward for pair {forward_pair} runs {now}; expected the same pair; "
                f'call loss.backward() inside the `with active_pair(model, "{forward_pair}"):` that ran the forward'
            )


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP (1 or 2) or ZeRO-3 keeps only a piece of the model's weights on this process."""
    if not dist.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    if any(isinstance(module, FSDPModule | FullyShardedDataParallel) for module in model.modules()):
        return True
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


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


def _same_everywhere(pair: str | Mixture, device: torch.device) -> None:
    """Check that all ranks train one pair: sharded gradients are averaged over ranks whatever their pair.

    Raises:
        UserError: they do not.
    """
    text = ",".join(pair.pairs) if isinstance(pair, Mixture) else pair
    mine = torch.tensor([zlib.crc32(text.encode())], dtype=torch.long, device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    if any(not torch.equal(other, mine) for other in everyone):
        raise UserError(
            f"active_pair: rank {dist.get_rank()} trains {text}, another rank another pair; with sharded weights "
            "(FSDP, ZeRO) all ranks must train one pair per micro-step; "
            "use neuroglot.training.OnePairBatchSampler(..., world=number of processes)"
        )


@contextmanager
def active_pair(
    model: nn.Module, pair: str | Pair | Sequence[str | Pair], *, images: Sequence[int] | None = None
) -> Iterator[None]:
    """Set the pair of a training step's data; encloses the forward and its backward.

    Within it only the rows whose group holds the pair receive a gradient; the gradients of the others stay None, so
    that optimisers leave their weights and their state alone. Accumulate several pairs by one context after another,
    each with its own backward, before the optimiser's step. (`zero_grad(set_to_none=False)` would undo this: a
    gradient of zeros still moves a row by momentum and weight decay.)

    A batch of several pairs names one per sample: each group then receives the gradient of its own samples, the sum
    that one-pair batches of the same samples would have given.

    Args:
        model: a model with a neuroglot adapter, inside any wrapper.
        pair: such as `en-de`, or one such per sample.
        images: of a mixed batch, the number of images (of tiled models: tiles) that each sample brings; one each by
            default.

    Raises:
        UserError: the model has no neuroglot adapter, or no adapter knows the pair; `images` does not match; ranks
            of a sharded model train different pairs; from backward, the pair has changed since the forward.
    """
    expect("active_pair: model", model, nn.Module, "a model with a neuroglot adapter")
    expect("active_pair: pair", pair, (str, Pair, list, tuple), "such as 'en-de', or a list of one for each sample")
    router = _find_router(model)
    if router is None:
        raise UserError(
            "active_pair: the model has no neuroglot adapter; expected the result of "
            "get_peft_model(model, NeuroglotConfig.from_selection(selection))"
        )
    texts = (str(pair),) if isinstance(pair, str | Pair) else tuple(str(one) for one in pair)
    for text in texts:
        if text not in router.pairs:
            raise UserError(f"active_pair: pair {text!r} is not one of the adapter's; {nearest(text, router.pairs)}")
    if not texts or (images is not None and len(images) != len(texts)):
        raise UserError(f"active_pair: {len(texts)} pairs, images of {len(images or ())} samples; expected as many")
    active: str | Mixture = (
        texts[0] if len(set(texts)) == 1 else Mixture(texts, tuple(images) if images is not None else None)
    )
    if _distributed() and is_sharded(model):
        _same_everywhere(active, next(model.parameters()).device)
    before, router.pair = router.pair, active
    try:
        yield
    finally:
        router.pair = before
