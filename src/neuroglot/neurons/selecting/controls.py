"""Controls: selections of the same size that a method has to beat before its choice can be said to matter.

The controls of rows keep a method's layers, rows per layer and group sizes and take other rows: what a method gains
over `random` is what its rows are worth. `random-layers` keeps its way of choosing rows and takes other layers: each
kept layer gives its number of rows to one drawn among the layers of the same part and shape, so that rows, weights
and cost stay the same: what a method gains over it is what its layers are worth. For `neumt`, which trains every row
of the layers it keeps, a control of rows only deals the rows to other groups; there `random-layers` is the one to
look at.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.profiling.scores import lape
from neuroglot.neurons.selecting.allocation import allocation, ranked
from neuroglot.neurons.selecting.options import Options, neurons_of
from neuroglot.neurons.selecting.rows import Rows, importance, measured, sets

Ranking = Callable[[Profile, Options, list[Layer]], Mapping[str, tuple[Tensor, Tensor]]]
"""Yields, per layer, a key [N] whose highest rows are taken and an importance [K, N]."""


def _other_rows(ranking: Ranking) -> Callable[[Profile, Options], Rows]:
    """Return a method that keeps the layers, row counts and group sizes of another and takes other rows.

    Each specific group gets, in the order of group names, those of the taken rows that prefer its pairs most.
    """

    def run(profile: Profile, options: Options) -> Rows:
        reference = sets(profile, options)
        names = [str(condition.pair) for condition in profile.of_task(str(options.task))]
        rankings = ranking(profile, options, [x for x in neurons_of(profile, options) if x.name in reference])
        rows: Rows = {}
        for layer, groups in reference.items():
            key, x = rankings[layer]
            taken = ranked(key)[: sum(len(index) for index in groups.values())]
            x = x[:, taken]
            mean = x.mean(0)
            x = x / mean.masked_fill(mean == 0, 1)
            free = torch.ones(len(taken), dtype=torch.bool)
            rows[layer] = {}
            # The agnostic group comes last and takes what is left.
            for group in sorted(groups, key=lambda g: (len(g) == len(names), sorted(g))):
                index = free.nonzero().squeeze(1)
                if len(group) < len(names):
                    members = [k for k, name in enumerate(names) if name in group]
                    preference = x[members[0]] if len(members) == 1 else x[members].mean(0)
                    index = index[ranked(preference[index])[: len(groups[group])]]
                rows[layer][group] = taken[index].sort().values
                free[index] = False
        return rows

    return run


def _by_score(score: str) -> Ranking:
    def ranking(profile: Profile, options: Options, layers: list[Layer]) -> Mapping[str, tuple[Tensor, Tensor]]:
        values = measured(profile, options, profile.of_task(str(options.task)), score)
        return {layer.name: (values[layer.name].mean(0), values[layer.name]) for layer in layers}

    return ranking


def _least(profile: Profile, options: Options, layers: list[Layer]) -> Mapping[str, tuple[Tensor, Tensor]]:
    found = _by_score(options.score)(profile, options, layers)
    return {name: (-key, x) for name, (key, x) in found.items()}


def _lape(profile: Profile, options: Options, layers: list[Layer]) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Rank by the entropy over pairs of the probability of being active, the lowest first (LAPE).

    LAPE looks only at neurons that are often active for some language; here those count whose best probability
    reaches `floor` of their layer's mean best, as for specific neurons, and the others are taken last.
    """
    pairs = profile.of_task(str(options.task))
    mean = profile.mean("activation_probability", options.token_class, pairs)
    entropy = lape(profile, options.token_class, pairs)
    made = {}
    for layer in layers:
        x = mean[layer.name]
        best = x.amax(0)
        hardly = (best == 0) | (best < options.floor * best.mean())
        made[layer.name] = (-entropy[layer.name] - hardly.double() * len(pairs), x)
    return made


def _random(profile: Profile, options: Options, layers: list[Layer]) -> Mapping[str, tuple[Tensor, Tensor]]:
    def draw(layer: Layer) -> tuple[Tensor, Tensor]:
        # One generator per layer, seeded by its name: the draw does not depend on which layers were kept.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed} {layer.name}".encode()))
        pairs = len(profile.of_task(str(options.task)))
        key = torch.randperm(layer.neurons, generator=generator).double()
        return key, torch.rand(pairs, layer.neurons, generator=generator).double()

    return {layer.name: draw(layer) for layer in layers}


def _random_layers(profile: Profile, options: Options) -> Rows:
    """Choose rows as ever, in other layers: each kept one's number goes to a random one of its part and shape."""
    found = importance(profile, options)
    quota = allocation(profile, options, found)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed} layers".encode()))
    layers = neurons_of(profile, options)
    drawn: dict[str, int] = {}
    for kind in sorted({_kind(layer) for layer in layers if layer.name in quota}):
        alike = [layer.name for layer in layers if _kind(layer) == kind]
        counts = [quota[name] for name in alike if name in quota]
        order = torch.randperm(len(alike), generator=generator)[: len(counts)]
        drawn |= dict(zip((alike[i] for i in order.tolist()), counts, strict=True))
    return sets(profile, options, found, drawn)


def _kind(layer: Layer) -> tuple[str, int, int, bool]:
    return layer.part, layer.neurons, layer.inputs, layer.bias


CONTROLS: dict[str, Callable[[Profile, Options], Rows]] = {
    "random": _other_rows(_random),
    "gradient": _other_rows(_by_score("gradient")),
    "activation": _other_rows(_by_score("activation")),
    "weight": _other_rows(_by_score("weight")),
    "lape": _other_rows(_lape),
    "least": _other_rows(_least),
    "random-layers": _random_layers,
}
"""Control -> its function, of a profile and the options of the method that it is like."""
