"""Integrated gradients of named layers: what a neuron adds to the loss on the path from zero to its activation.

First-order scores look at one point, where a saturated neuron has hardly any gradient. Integrated gradients
(Sundararajan et al. 2017, Eq. 1, with a layer's output in place of the input and zero as the baseline) go along the
straight path to it:

    IG[n, t] = A[n, t] * integral over a from 0 to 1 of dL(a A) / dA[n, t]

They are complete: over all neurons and tokens of the layer they sum to L(A) - L(0), as far as the steps resolve the
path. They do not where zero is a singular point: an RMS norm scales an output that is its only input, such as that of
a connector's last matrix, to full length from the first step on. The cost is one forward and backward pass for each
step of the path and each layer, which is why layers have to be named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroglot.errors import UserError, nearest
from neuroglot.finite import usable
from neuroglot.models.families import family_of
from neuroglot.neurons.ffn import ffn_layers
from neuroglot.neurons.inventory import Layer, inventory, module_of
from neuroglot.neurons.profiling.importance import frozen, token_loss
from neuroglot.neurons.profiling.positions import Positions, forward_inputs, unpack
from neuroglot.pair import Condition

STEPS = 16
"""Points of the path: the nodes of a Gauss-Legendre rule, of which few are enough on a smooth path."""


def integrated_gradients(
    model: nn.Module, batches: Iterable[Sequence[Any]], layers: Sequence[str], steps: int = STEPS
) -> dict[Condition, dict[str, Tensor]]:
    """Return the mean over samples of |sum over tokens of IG|: condition -> layer -> [N] float64.

    Args:
        model: a transformers image-text-to-text model.
        batches: as for `profile`.
        layers: names of matrices or feed-forward blocks; each should be called once in a forward.
        steps: points of the path.

    Raises:
        UserError: a layer is not known, `steps` is below one, or a value is not finite.
    """
    if steps < 1:
        raise UserError(f"steps must be 1 or more, got {steps}; 8 to 32 are usual")
    known = {layer.name: layer for layer in (*inventory(model), *ffn_layers(model))}
    for name in layers:
        if name not in known:
            raise UserError(f"layer {name!r} is not known; {nearest(name, known)}")
    sums: dict[Condition, dict[str, Tensor]] = {}
    counts: dict[Condition, int] = {}
    for batch in batches:
        inputs, condition, _ = unpack(batch)
        counts[condition] = counts.get(condition, 0) + len(inputs["input_ids"])
        by_layer = sums.setdefault(condition, {})
        for name in layers:
            each = attributions(model, inputs, condition, known[name], steps)
            if not usable([each]):
                raise UserError(
                    f"the integrated gradients of {name} for {condition} are not finite; look at the model"
                )
            by_layer[name] = by_layer.get(name, 0) + each.abs().sum(0).double().cpu()
    return {
        condition: {name: x / counts[condition] for name, x in by_layer.items()}
        for condition, by_layer in sums.items()
    }


def attributions(
    model: nn.Module, inputs: Mapping[str, Any], condition: Condition, layer: Layer, steps: int = STEPS
) -> Tensor:
    """Return the sum over each sample's tokens of IG, [B, N], with its sign.

    For every sample the sum over the neurons is its loss minus its loss with the layer's output at zero.
    """
    positions = Positions(model, family_of(model), inputs, ("all",))
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    total: Tensor | None = None
    with frozen(model), torch.enable_grad():
        for module in model.modules():
            module.training = False  # also turns off gradient checkpointing, which would run the layer twice
        for point, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            with _scaled(model, layer, float(point)) as uses:
                loss = token_loss(model, forward_inputs(model, inputs, gradient=False), inputs["labels"], condition)
            if not uses:
                break  # a batch without images
            gradients = torch.autograd.grad(loss, [scaled for _, scaled in uses], allow_unused=True)
            for (activation, _), gradient in zip(uses, gradients, strict=True):
                if gradient is not None:
                    part = activation * gradient * weight
                    total = part if total is None else total + part
    by_sample = torch.zeros(len(inputs["input_ids"]), layer.neurons, dtype=torch.float64)
    if total is not None:
        flat = total.flatten(0, -2)
        for sample, rows, _ in positions.by_sample(layer, total):
            by_sample[sample] = flat[rows].double().sum(0).cpu()
    return by_sample


@contextmanager
def _scaled(model: nn.Module, layer: Layer, factor: float) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Scale a layer's output (of a block, the writing matrix's input); list it and the scaled one of each use."""
    uses: list[tuple[Tensor, Tensor]] = []

    def scale(activation: Tensor) -> Tensor:
        scaled = (activation.detach() * factor).requires_grad_()
        uses.append((activation.detach(), scaled))
        return scaled.clone()  # a copy, which may be changed in place

    if layer.writes:
        writer = model.get_submodule(layer.writes)
        handle = writer.register_forward_pre_hook(lambda module, args: (scale(args[0]), *args[1:]))
    else:
        handle = module_of(model, layer).register_forward_hook(lambda module, args, output: scale(output))
    try:
        yield uses
    finally:
        handle.remove()
