"""Taps: where a layer's activation meets its gradient, and per-sample scores are taken.

A tap is an identity behind a layer. It gives autograd what it needs in the backward pass (the activation, for some
scores the layer's input) as saved tensors, so that gradient checkpointing drops and recomputes them like any other.
Its backward, where the scores are taken, runs once per real backward however often the forward runs. The tensor that
goes on downstream is the activation itself, not a copy: most activations are held by the next operation anyway. If a
model overwrites a layer's output afterwards, the version counter of the tensor shows it; the batch then runs again
with copies behind these layers.

Shapes: B samples, T tokens, N neurons, S scores, C token classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.neurons.inventory import Layer, matrix
from neuroglot.neurons.profiling.positions import Positions
from neuroglot.neurons.profiling.scores import LayerUse, Score

Sink = Callable[[LayerUse], None]


class _Tap(torch.autograd.Function):
    """Identity whose backward receives the gradient, the activation and what else is asked for."""

    @staticmethod
    def forward(
        ctx: Any, activation: Tensor, recorder: Recorder, layer: Layer, beside: Mapping[str, Tensor]
    ) -> Tensor:
        held = {"activation": activation} if recorder.holds_activation else {}
        held |= beside
        ctx.save_for_backward(*held.values())
        ctx.names, ctx.versions = tuple(held), tuple(x._version for x in held.values())
        ctx.recorder, ctx.layer = recorder, layer
        return activation.clone() if layer.name in recorder.copied else activation.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        try:
            held = ctx.saved_tensors
            intact = all(x._version == version for x, version in zip(held, ctx.versions, strict=True))
        except RuntimeError as error:  # without hooks, autograd compares the versions itself
            if "modified by an inplace operation" not in str(error):
                raise
            intact = False
        if intact:
            ctx.recorder.record(ctx.layer, LayerUse(gradient=gradient, **dict(zip(ctx.names, held, strict=True))))
        else:
            ctx.recorder.overwritten.add(ctx.layer.name)
        return gradient, None, None, None


class Recorder:
    """Collects one batch's scores per sample; `positions` is set before each forward.

    Attributes:
        positions: of the batch.
        copied: names of the layers whose outputs the model overwrites.
        overwritten: those found in this batch.
    """

    positions: Positions

    def __init__(self, scores: Sequence[Score]) -> None:
        self._scores = tuple(scores)
        self._means: dict[str, Tensor] = {}
        self._room: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.copied: set[str] = set()
        self.overwritten: set[str] = set()
        needs = {need for score in scores for need in score.needs}
        self.holds_activation, self.holds_input, self.holds_gate = (
            need in needs for need in ("activation", "input", "gate")
        )

    def record(self, layer: Layer, seen: LayerUse) -> None:
        dtype = torch.promote_types(seen.gradient.dtype, torch.float32)
        seen = seen.to(dtype)
        room = self._scratch(seen.gradient)
        mean = torch.stack([score.per_sample(self.positions, layer, seen, room) for score in self._scores])
        old = self._means.get(layer.name)  # another use of the same matrix
        self._means[layer.name] = mean if old is None else old + mean

    def _scratch(self, like: Tensor) -> Tensor:
        """Return memory in the shape of a tensor, the same for every layer: allocating it each time is slow."""
        key = like.device, like.dtype
        if key not in self._room or self._room[key].numel() < like.numel():
            self._room[key] = like.new_empty(like.numel())
        return self._room[key][: like.numel()].view(like.shape)

    def take(self) -> dict[str, Tensor] | None:
        """Return layer -> [S, B, C, N] and forget it; None if the batch has to run again, with copies."""
        means, self._means = self._means, {}
        if self.overwritten:
            self.copied |= self.overwritten
            self.overwritten = set()
            return None
        for mean in means.values():
            for s, score in enumerate(self._scores):
                if score.finish is not None:
                    mean[s] = score.finish(mean[s])
        return means


@contextmanager
def tapped(model: nn.Module, layers: Sequence[Layer], recorder: Recorder) -> Iterator[None]:
    """Put a tap behind every matrix and in front of every writing matrix of a feed-forward block among the layers."""
    rows = {id(matrix(model, layer)): layer for layer in layers if not layer.writes}
    with ExitStack() as hooks:

        def add(handle: Any) -> None:
            hooks.callback(handle.remove)

        for module in model.modules():
            for parameter in module.parameters(recurse=False):  # a bare matrix's output is its module's
                if id(parameter) in rows:
                    add(module.register_forward_hook(_behind(rows[id(parameter)], recorder)))
        for layer in layers:
            if layer.writes:
                gates: list[Tensor] = []
                if recorder.holds_gate and len(layer.reads) > 1:
                    gate = model.get_submodule(_gate(layer))
                    add(gate.register_forward_hook(lambda module, args, output, gates=gates: gates.append(output)))
                hook = _before(layer, recorder, gates)
                add(model.get_submodule(layer.writes).register_forward_pre_hook(hook))
        yield


def _behind(layer: Layer, recorder: Recorder) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        # Without a graph (the first forward under reentrant checkpointing) there is nothing to tap.
        if not output.requires_grad:
            return None
        beside = {"input": args[0].detach()} if recorder.holds_input else {}
        return _Tap.apply(output, recorder, layer, beside)

    return hook


def _before(layer: Layer, recorder: Recorder, gates: list[Tensor]) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, args: Any) -> Any:
        beside = {"gate": gates.pop().detach()} if gates else {}
        if not args[0].requires_grad:
            return None
        return (_Tap.apply(args[0], recorder, layer, beside), *args[1:])

    return hook


def _gate(layer: Layer) -> str:
    """Return which of a gated block's reading matrices is the gate: the one with that name, or the first."""
    return next((name for name in layer.reads if "gate" in name.rpartition(".")[2]), layer.reads[0])
