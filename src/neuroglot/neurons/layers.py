"""Layers: which of them to train. Two rankings: by how much a layer matters, and by how much training changes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import PARTS, family_of
from neuroglot.neurons.inventory import Layer, inventory, module_of
from neuroglot.neurons.profiling.positions import Positions, forward_inputs, unpack
from neuroglot.neurons.profiling.profile import Profile, wide
from neuroglot.pair import Condition


def relevance(
    profile: Profile,
    score: str = "taylor_token",
    token_class: str = "all",
    conditions: Sequence[Condition] | None = None,
    normalise: str = "pair",
) -> dict[str, float]:
    """Return layer -> mean importance of its neurons over the conditions; the higher, the more relevant (MNAFT).

    Only layers of one part compare: with `normalise="pair"` every part's importances sum to one.
    """
    importance = profile.importance(score, token_class, conditions, normalise)
    return {name: float(x.mean()) for name, x in importance.items()}


def mean_similarity(similarities: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return layer -> R averaged over pairs; the lower, the more a layer adapted (LLaVA-NeuMT, section 3.2)."""
    return {name: sum(by_pair.values()) / len(by_pair) for name, by_pair in similarities.items() if by_pair}


def keep(
    ranking: Mapping[str, float],
    fraction: float | Mapping[str, float],
    layers: Sequence[Layer],
    lowest: bool = False,
) -> list[str]:
    """Return the names of the best layers of each part, in the order of the model.

    Args:
        ranking: layer -> value; ranked within each part, ties in the order of the model.
        fraction: the share of a part's layers to keep, one number or one for each part, rounded to the nearest
            count but at least one layer; 0 leaves a part out.
        layers: the layers to choose among.
        lowest: keep the lowest values (similarity) and not the highest (relevance).

    Raises:
        UserError: a fraction outside [0, 1], an unknown or unnamed part, or a layer without a value.
    """
    parts = [part for part in PARTS if any(layer.part == part for layer in layers)]
    shares = layer_fractions(fraction, parts)
    best: set[str] = set()
    for part in parts:
        names = [layer.name for layer in layers if layer.part == part]
        missing = [name for name in names if name not in ranking]
        if shares[part] and missing:
            raise UserError(
                f"the layer ranking has no value for {missing[0]} and {len(missing) - 1} more of the {part} part; "
                "expected one for every layer; rank the same parts that are selected from"
            )
        strange = [name for name in names if not math.isfinite(ranking.get(name, 0))]
        if shares[part] and strange:
            raise UserError(
                f"the layer ranking has no number for {strange[0]} but {ranking[strange[0]]}; a model or a probe that "
                "diverged cannot rank layers; make the ranking again"
            )
        if shares[part]:
            count = max(1, int(shares[part] * len(names) + 0.5))
            best.update(sorted(names, key=lambda name: ranking[name] if lowest else -ranking[name])[:count])
    return [layer.name for layer in layers if layer.name in best]


def layer_fractions(fraction: float | Mapping[str, float], parts: Sequence[str]) -> dict[str, float]:
    """Return part -> share of its layers to keep, checked."""
    if isinstance(fraction, Mapping):
        for part in fraction:
            if part not in PARTS:
                raise UserError(f"layers names part {part!r}; {nearest(part, PARTS)}")
        absent = [part for part in parts if part not in fraction]
        if absent:
            raise UserError(
                f"layers gives no share for the {absent[0]} part, got {dict(fraction)}; expected one for each of "
                f"{', '.join(parts)}; use 0 to leave a part out"
            )
        shares = {part: float(fraction[part]) for part in parts}
    else:
        shares = dict.fromkeys(parts, float(fraction))
    for part, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"layers.{part} must be in [0, 1], got {share:g}; use 0 to leave the {part} part out")
    return shares


@torch.no_grad()
def activation_similarity(
    model: nn.Module,
    batches: Iterable[Sequence[Any]],
    before: Callable[[], AbstractContextManager[Any]],
    after: Callable[[], AbstractContextManager[Any]],
    layers: Sequence[Layer] | None = None,
    progress: Callable[[int], None] | None = None,
    apart: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, dict[str, float]]:
    """Return layer -> pair -> R, how alike a layer's outputs are before and after fine-tuning (LLaVA-NeuMT, Eq. 3).

        R = <X_before, X_after> / (|X_before| |X_after| + eps) per token, averaged over the tokens of a sample that
        are no padding (in the vision part and the connector: the rows of its images), then over samples.

    Each batch goes through the model twice. Between the two passes the outputs of one batch's layers are held in the
    model's own dtype; each is compared, one layer at a time in float64, and freed as the second pass reaches it.
    After a short tuning R differs from 1 by 1e-7, which float32 does not resolve, so 1 - R is summed; see `distance`.

    Args:
        model: a transformers model in either state; with a PEFT adapter, `peft_model.get_base_model()`.
        batches: as for `neuroglot.neurons.profiling.importance.profile`.
        before: makes a context in which the model is as before fine-tuning, such as `peft_model.disable_adapter`.
        after: the same for after, such as `contextlib.nullcontext`.
        layers: which layers, by default the whole inventory; to be taken before an adapter wraps the model.
        progress: called after each batch with the number of batches done.
        apart: another measure of how far a token's outputs before and after are apart, [..., T, N] -> [..., T, 1];
            `distance` by default. The result is 1 minus its mean.

    Raises:
        UserError: no batches, a layer never reached, or an R that is not finite.
    """
    layers = inventory(model) if layers is None else layers
    family = family_of(model)
    record = _Similarity(apart or distance)
    modes = [(module, module.training) for module in model.modules()]
    done = 0
    try:
        model.eval()
        for batch in batches:
            inputs, condition, _ = unpack(batch)
            record.start(str(condition.pair), Positions(model, family, inputs, ("all",)))
            tensors = forward_inputs(model, inputs, gradient=False)
            for state, hook in ((before, record.store), (after, record.compare)):
                with state(), _hooked(model, layers, hook):
                    model(**tensors, use_cache=False)
            done += 1
            if progress is not None:
                progress(done)
    finally:
        for module, mode in modes:
            module.training = mode
    if not done:
        raise UserError("no batches to compare activations on; expected at least one; check the data's tasks")
    return record.result(layers)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 - R of every token, [..., T, N] -> [..., T, 1]: from the difference of the directions, |u - v|^2 / 2.

    1 - <u, v> would lose all digits where x and y are nearly the same. The paper's eps only avoids division
    by zero. It is left out, because with small activations it would exceed what is measured: a token whose activation
    is all zeros before or after counts as similarity 0; one with zeros both times has not changed.
    """
    x, y = wide(x), wide(y)
    u, v = (z / z.norm(dim=-1, keepdim=True).masked_fill(~z.any(-1, keepdim=True), 1) for z in (x, y))
    zeros = (~x.any(-1, keepdim=True)) ^ (~y.any(-1, keepdim=True))
    return ((u - v).square().sum(-1, keepdim=True) / 2).masked_fill(zeros, 1)


class _Similarity:
    """Sums of 1 - R over samples, layer -> pair, and the first pass's outputs of the current batch."""

    positions: Positions
    pair: str

    def __init__(self, apart: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._apart = apart
        self._held: dict[str, list[Tensor]] = {}
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._counts: dict[tuple[str, str], Tensor] = {}
        self._pairs: dict[str, None] = {}

    def start(self, pair: str, positions: Positions) -> None:
        self.pair, self.positions = pair, positions
        self._pairs[pair] = None
        self._held.clear()

    def store(self, layer: Layer, output: Tensor) -> None:
        # A copy, for models that change an output in place afterwards; a list, for layers used more than once.
        self._held.setdefault(layer.name, []).append(output.clone())

    def compare(self, layer: Layer, output: Tensor) -> None:
        apart = self._apart(self._held[layer.name].pop(0), output)
        per_sample = wide(self.positions.average(layer, apart))[:, 0, 0]
        counted = self.positions.counted(layer, output)
        key = (layer.name, self.pair)
        self._sums[key] = self._sums.get(key, 0) + per_sample[counted.to(per_sample.device)].sum()
        self._counts[key] = self._counts.get(key, 0) + counted.sum()

    def result(self, layers: Sequence[Layer]) -> dict[str, dict[str, float]]:
        reached = {layer.part for layer in layers for pair in self._pairs if (layer.name, pair) in self._sums}
        for layer in layers:
            if layer.part not in reached:
                raise UserError(
                    f"the batches never reach the {layer.part} part; expected samples with images; "
                    "compare without the part's layers or add such samples"
                )

        def of(name: str, pair: str) -> float:
            if (name, pair) not in self._sums:
                return 1.0  # a layer of a reached part that no forward uses (a pooling head) has not adapted
            similarity = 1 - float(self._sums[name, pair] / self._counts[name, pair])
            if not math.isfinite(similarity):
                raise UserError(
                    f"R of {name} for {pair} is not finite: before or after the probe the model puts out numbers "
                    "that are none; look at the model, or lower probe.lr"
                )
            return similarity

        return {layer.name: {pair: of(layer.name, pair) for pair in self._pairs} for layer in layers}


@contextmanager
def _hooked(model: nn.Module, layers: Sequence[Layer], hook: Callable[[Layer, Tensor], None]) -> Iterator[None]:
    def on(layer: Layer) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, args, output: hook(layer, output)

    handles = [module_of(model, layer).register_forward_hook(on(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
