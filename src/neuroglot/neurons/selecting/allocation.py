"""Allocation: which layers, and how many rows of each.

**Budget.** `budget` is the share of all neurons of the eligible parts (those with a share of layers above zero) that
is trainable, so with `layers=0.6` and `budget=0.4` about two thirds of the rows of each kept layer are. The total is
budget x eligible neurons, rounded, or all living rows of the kept layers where these are fewer. `budget=None` takes
every row of the kept layers, dead ones too, as LLaVA-NeuMT does.

**Per layer** every kept layer gives the same fraction of its rows: first rounded down, then the rows still missing go
to the layers with the largest remainders, in the order of the model where they tie. **Per part** and **global**, the
rows with the highest mean importance are taken wherever they are: the good layers give many, others none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.layers import keep, mean_similarity
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.selecting.options import Options, neurons_of, parts_of

DEAD = 1e-6
"""Of its layer's mean importance: a neuron below it is dead, and a budget is not spent on it."""


@dataclass(frozen=True, eq=False)
class Importance:
    """What the rows are chosen by.

    Attributes:
        values: layer -> [K, N], for each pair, with what the contrast or the tasks to keep take off.
        plain: layer -> [N], the mean over pairs without that.
    """

    values: Mapping[str, Tensor]
    plain: Mapping[str, Tensor]

    def alive(self, name: str) -> Tensor:
        """Return which neurons [N] of a layer do anything at all."""
        return self.plain[name] > DEAD * self.plain[name].mean()


def kept_layers(profile: Profile, options: Options, found: Importance) -> list[Layer]:
    """Return the layers that are kept, in the order of the model.

    Relevance is the mean importance of a layer's neurons, without the contrast; what is to be kept counts in it.
    """
    eligible = neurons_of(profile, options)
    if options.ranking == "similarity":
        ranking = mean_similarity(options.similarities or {})
        if options.neuron == "ffn":  # a block moves as the matrix does that writes what it found
            ranking = {layer.name: ranking[layer.writes] for layer in eligible if layer.writes in ranking}
    else:
        by = found.values if options.keep else found.plain
        ranking = {layer.name: float(by[layer.name].mean()) for layer in eligible}
    names = set(keep(ranking, options.layers, eligible, lowest=options.ranking == "similarity"))
    return [layer for layer in eligible if layer.name in names]


def allocation(profile: Profile, options: Options, found: Importance) -> dict[str, int]:
    """Return layer -> how many of its rows to take, for the kept layers that give any."""
    layers = kept_layers(profile, options, found)
    if options.budget is None:
        return {layer.name: layer.neurons for layer in layers}
    eligible = neurons_of(profile, options)
    together = options.rank != "per-part" and not isinstance(options.budget, Mapping)
    quota: dict[str, int] = {}
    for part, whole in ({"": eligible} if together else parts_of(eligible)).items():
        chosen = [layer for layer in layers if layer.part == part or together]
        share = options.budget[part] if isinstance(options.budget, Mapping) else options.budget
        if options.rank == "per-layer":
            taken = _evenly(chosen, whole, share, options, found)
        else:
            taken = _ranked(chosen, whole, share, options, found)
        quota |= dict(zip((layer.name for layer in chosen), taken, strict=True))
    return {layer.name: quota[layer.name] for layer in layers if quota[layer.name]}


def _evenly(
    layers: Sequence[Layer], whole: Sequence[Layer], share: float, options: Options, found: Importance
) -> list[int]:
    living = [int(found.alive(layer.name).sum()) for layer in layers]
    if options.budget_of == "neurons":
        return quotas(living, sum(layer.neurons for layer in whole), share)
    weights = sum(rows * cost(layer) for rows, layer in zip(living, layers, strict=True))
    fraction = min(1.0, share * sum(layer.neurons * cost(layer) for layer in whole) / max(weights, 1))
    return quotas(living, sum(living), fraction)


def _ranked(
    layers: Sequence[Layer], whole: Sequence[Layer], share: float, options: Options, found: Importance
) -> list[int]:
    """Return how many of the best rows of all layers lie in each."""
    keys, plain, home = [], [], []
    for place, layer in enumerate(layers):
        alive = found.alive(layer.name)
        key = found.values[layer.name].mean(0)[alive]
        keys.append(key / cost(layer) if options.cost == "weights" else key)
        plain.append(found.plain[layer.name][alive])
        home.append(torch.full((len(key),), place))
    where = torch.cat(home)[ranked(torch.cat(keys), torch.cat(plain))]
    if options.budget_of == "neurons":
        where = where[: int(share * sum(layer.neurons for layer in whole) + 0.5)]
    else:
        spent = torch.tensor([cost(layer) for layer in layers])[where].cumsum(0)
        where = where[spent <= share * sum(layer.neurons * cost(layer) for layer in whole)]
    return torch.bincount(where, minlength=len(layers)).tolist()


def cost(layer: Layer) -> int:
    """Return how many weights one neuron of a layer has."""
    return layer.inputs + layer.bias


def quotas(sizes: Sequence[int], eligible: int, budget: float | None) -> list[int]:
    """Return the rows to take of each kept layer, as the module's text on the budget says.

    Examples:
        >>> quotas([7, 5, 3], eligible=20, budget=0.4)
        [4, 3, 1]
    """
    total = sum(sizes) if budget is None else min(sum(sizes), int(budget * eligible + 0.5))
    if not total:
        return [0] * len(sizes)
    # In whole numbers, so that no rounding error decides who gets a remainder.
    taken = [total * size // sum(sizes) for size in sizes]
    left = sorted(range(len(sizes)), key=lambda i: -(total * sizes[i] % sum(sizes)))
    for i in left[: total - sum(taken)]:
        taken[i] += 1
    return taken


def ranked(*keys: Tensor) -> Tensor:
    """Return indices from the highest to the lowest of the first key, ties by the next keys, then by index."""
    first = keys[0].numpy()
    order = np.argsort(-first)  # several times faster than a stable sort, and as good without ties
    if not (np.diff(first[order]) == 0).any():
        return torch.from_numpy(order)
    found = torch.argsort(keys[-1], descending=True, stable=True)
    for key in reversed(keys[:-1]):
        found = found[torch.argsort(key[found], descending=True, stable=True)]
    return found
