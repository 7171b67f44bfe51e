"""Scores: what a neuron is judged by. A streaming score is a function of one sample's activations and gradients.

With A[n, t] the output of neuron n at token t, G[n, t] = dL/dA[n, t], and T the sample's tokens of a class:

    taylor_token            mean over t in T of |A G|                     LLaVA-NeuMT, Eq. 4
    taylor_sample           |mean over t in T of A G|                     removing the neuron, to first order
    gradient                mean over t in T of |G|
    activation              mean over t in T of |A|
    activation_probability  share of t in T with A > 0                    LAPE; of a gated block's unit, of its gate
    row_gradient            norm of (sum over t in T of G[n, t] x[t])     the gradient of the neuron's row of weights

A static score needs no data: `weight` (norm of a neuron's weights), `movement` (how far training moved them),
`random`. `lape` derives from the profile how specific a neuron is to a language.

Shapes: B samples, T tokens, N neurons, C token classes, K conditions.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.positions import Positions
from neuroglot.neurons.profiling.profile import STATIC, Profile
from neuroglot.pair import Condition


@dataclass(frozen=True)
class LayerUse:
    """What a tap records of one use of a layer, each [..., T, N] or, the input, [..., T, inputs].

    Attributes:
        gradient: of the loss by the activation.
        activation: what the layer put out, if a score needs it.
        input: what it took in, if a score needs it.
        gate: of a gated feed-forward block, what the gate matrix put out, if a score needs it.
    """

    gradient: Tensor
    activation: Tensor | None = None
    input: Tensor | None = None
    gate: Tensor | None = None

    def to(self, dtype: torch.dtype) -> LayerUse:
        """Return everything in another dtype."""
        return LayerUse(*(None if x is None else x.detach().to(dtype) for x in vars(self).values()))  # type: ignore[arg-type]

    @property
    def output(self) -> Tensor:
        """The activation, where a score has asked for it."""
        assert self.activation is not None
        return self.activation


@dataclass(frozen=True)
class Score:
    """A streaming score of each sample: the mean over its tokens of `token`, then `finish`.

    Attributes:
        token: what was seen, and memory of the activation's shape to write to -> [..., T, N].
        finish: applied to each sample's mean.
        needs: what a tap has to hold for it: `activation`, `input`, `gate`.
        whole: in place of `token`, a function of all that a layer saw -> [B, C, N].
        rows_only: it is not defined of a feed-forward block's units.
    """

    token: Callable[[LayerUse, Tensor], Tensor] | None = None
    finish: Callable[[Tensor], Tensor] | None = None
    needs: tuple[str, ...] = ("activation",)
    whole: Callable[[Positions, Layer, LayerUse], Tensor] | None = None
    rows_only: bool = False

    def per_sample(self, positions: Positions, layer: Layer, seen: LayerUse, room: Tensor) -> Tensor:
        """Return [B, C, N], before `finish`; `room` is overwritten."""
        if self.whole is not None:
            return self.whole(positions, layer, seen)
        assert self.token is not None
        return positions.average(layer, self.token(seen, room))


def _positive(seen: LayerUse, room: Tensor) -> Tensor:
    # Every activation function in use is positive exactly where its argument is, so the gate's output is enough.
    return torch.gt(seen.output if seen.gate is None else seen.gate, 0, out=room)


def _row_gradient(positions: Positions, layer: Layer, seen: LayerUse) -> Tensor:
    """Return the norm of each sample's gradient of each row [B, C, N]; a bias is no part of it.

    |sum_t G[t, n] x[t]|^2 is computed from the product G' X, or from G' (X X') G without forming that product:
    whichever costs less for the sample's number of tokens.
    """
    assert seen.input is not None
    G, X = seen.gradient.flatten(0, -2), seen.input.flatten(0, -2)  # (rows, N), (rows, inputs)
    norms = G.new_zeros(*positions.present.shape, layer.neurons)
    for sample, rows, masks in positions.by_sample(layer, seen.gradient):
        x = X[rows]
        for c, mask in enumerate(masks):
            if not bool(mask.any()):
                continue
            g = G[rows].masked_fill(~mask.unsqueeze(1), 0)
            T, N, inputs = len(g), g.shape[1], x.shape[1]
            if T * (N + inputs) < N * inputs:
                square = (g * ((x @ x.T) @ g)).sum(0).clamp(min=0)
            else:
                square = (g.T @ x).square().sum(1)
            norms[sample, c] = square.sqrt()
    return norms


SCORES = {
    "taylor_token": Score(lambda s, room: torch.mul(s.output, s.gradient, out=room).abs_()),
    "taylor_sample": Score(lambda s, room: torch.mul(s.output, s.gradient, out=room), torch.abs),
    "gradient": Score(lambda s, room: torch.abs(s.gradient, out=room), needs=()),
    "activation": Score(lambda s, room: torch.abs(s.output, out=room)),
    "activation_probability": Score(_positive, needs=("activation", "gate")),
    "row_gradient": Score(needs=("input",), whole=_row_gradient, rows_only=True),
}
"""Streaming scores: one pass over data collects any number of them. `row_gradient` holds every layer's input as well,
and costs as much again as the weight gradient or, with few tokens, as the tokens' products with each other."""

STATIC_SCORES = STATIC
"""Scores that need no pass over data."""


def lape(
    profile: Profile, token_class: str = "all", conditions: Sequence[Condition] | None = None
) -> dict[str, Tensor]:
    """Return the entropy over conditions of a neuron's activation probability: layer -> [N], in nats.

    Language activation probability entropy (Tang et al. 2024, Eq. 4 to 6): the probabilities of a neuron over K
    languages are divided by their sum; a neuron that is active in one language alone has entropy 0, one that does not
    tell them apart log K. One that is never active counts as log K too.

    Raises:
        UserError: the profile lacks `activation_probability`, the class or a condition.
    """
    entropy = {}
    for name, p in profile.mean("activation_probability", token_class, conditions).items():
        total = p.sum(0)
        q = torch.where(total > 0, p / total, 1 / len(p))
        entropy[name] = torch.special.entr(q).sum(0)
    return entropy


def neuron_norms(weight: Callable[[str], Tensor | None], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Return the norm of each neuron's weights: layer -> [N] float64.

    A matrix's neuron has a row (a bare matrix stored as [inputs, outputs], a column); a feed-forward block's unit has
    its rows of the reading matrices and its column of the writing one, taken together.

    Args:
        weight: a matrix's name -> weight as it is stored, or None where it is not known.
        layers: those with a matrix that is not known are absent from the result.
    """
    by_layer = {}
    for layer in layers:
        squares = torch.zeros(layer.neurons, dtype=torch.float64)
        for name, axis in [(name, 0) for name in layer.reads or (layer.name,)] + [(layer.writes, 1)]:
            if not name:
                continue
            x = weight(name)
            axis = layer.axis if not layer.writes else axis
            if x is None or not x.is_floating_point() or x.dim() != 2 or x.shape[axis] % layer.neurons:
                break
            norms = torch.linalg.vector_norm(x.detach().float(), dim=1 - axis).double().cpu()
            squares += norms.view(-1, layer.neurons).square().sum(0)  # a fused matrix holds two rows of each unit
        else:
            by_layer[layer.name] = squares.sqrt()
    return by_layer


def movement(
    before: Callable[[str], Tensor | None], after: Callable[[str], Tensor | None], layers: Sequence[Layer]
) -> dict[str, Tensor]:
    """Return how far training moved each neuron's weights: layer -> [N] float64, the norm of the difference."""

    def moved(name: str) -> Tensor | None:
        x, y = before(name), after(name)
        return None if x is None or y is None else y.detach().float() - x.detach().float()

    return neuron_norms(moved, layers)


def adapter_movement(tuned: nn.Module, layers: Sequence[Layer], adapter: str = "default") -> dict[str, Tensor]:
    """Return `movement` by a PEFT adapter: for LoRA, the norms of the rows of scaled B A.

    Args:
        tuned: what `get_peft_model` returned; a matrix without an adapter has not moved.
        layers: of the base model.
        adapter: which one.
    """
    base = tuned.get_base_model()  # type: ignore[operator]

    def delta(name: str) -> Tensor:
        module = base.get_submodule(name.removesuffix(".weight"))
        change = getattr(module, "get_delta_weight", None)
        return torch.zeros_like(module.weight) if change is None else change(adapter)

    return neuron_norms(delta, [layer for layer in layers if not layer.axis])


def weight_of(model: nn.Module) -> Callable[[str], Tensor | None]:
    """Return a function from a layer's name, of a module or of a bare parameter, to its weight."""

    def weight(name: str) -> Tensor | None:
        owner, _, last = name.rpartition(".")
        value = getattr(model.get_submodule(owner), last)
        return value if isinstance(value, Tensor) else value.weight

    return weight


def random_scores(layers: Sequence[Layer], seed: int) -> dict[str, Tensor]:
    """Return a number in [0, 1) for each neuron: layer -> [N] float64; a layer's draw depends on its name and seed."""

    def draw(layer: Layer) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {layer.name}".encode()))
        return torch.rand(layer.neurons, generator=generator, dtype=torch.float64)

    return {layer.name: draw(layer) for layer in layers}


def with_static(profile: Profile, **scores: Mapping[str, Tensor]) -> Profile:
    """Return the profile with more static scores, such as `movement=...`: layer -> [N]."""
    return replace(profile, static={**profile.static, **scores})
