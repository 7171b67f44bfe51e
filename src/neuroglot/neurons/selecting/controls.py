"""Controls: selections of the same size that a method has to beat before its choice can be said to matter.

The controls of rows keep a method's layers, rows per layer and group sizes and take other rows. `random-layers` keeps
its way of choosing rows and takes other layers: each kept layer is exchanged for one drawn among the layers of the
same part and shape, so that rows, weights and cost stay the same. For `neumt`, which trains every row of the layers it
keeps, a control of rows only deals the rows to other groups; there `random-layers` is the one to look at.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.selecting.rows import Rows, kept_layers, ranked, sets

if TYPE_CHECKING:
    from neuroglot.neurons.selecting.select import Options

Ranking = Callable[[Profile, "Options"], Mapping[str, tuple[Tensor, Tensor]]]
"""Yields, per layer, a key [N] whose highest rows are taken and an importance [K, N]."""


def _other_rows(ranking: Ranking) -> Callable[[Profile, Options], Rows]:
    """Return a method that keeps the layers, row counts and group sizes of another and takes other rows.

    Each specific group gets, in the order of group names, those of the taken rows that prefer its pairs most.
    """

    def run(profile: Profile, options: Options) -> Rows:
        reference = sets(profile, options)
        names = [str(condition.pair) for condition in profile.of_task(str(options.task))]
        rankings = ranking(profile, options)
        rows: Rows = {}
        for layer, groups in reference.items():
            key, x = rankings[layer]
            free = ranked(key)[: sum(len(index) for index in groups.values())]
            rows[layer] = {}
            # The agnostic group comes last and takes what is left.
            for group in sorted(groups, key=lambda g: (len(g) == len(names), sorted(g))):
                inside = x[[name in group for name in names]].mean(0)
                preference = inside / x.mean(0).masked_fill(x.mean(0) == 0, 1)
                index = free[ranked(preference[free])][: len(groups[group])]
                free = free[~torch.isin(free, index)]
                rows[layer][group] = index.sort().values
        return rows

    return run


def _by_score(score: str) -> Ranking:
    def ranking(profile: Profile, options: Options) -> Mapping[str, tuple[Tensor, Tensor]]:
        pairs = profile.of_task(str(options.task))
        importance = profile.importance(score, options.token_class, pairs, options.normalise)
        return {name: (x.mean(0), x) for name, x in importance.items()}

    return ranking


def _least(profile: Profile, options: Options) -> Mapping[str, tuple[Tensor, Tensor]]:
    return {name: (-key, x) for name, (key, x) in _by_score(options.score)(profile, options).items()}


def _random(profile: Profile, options: Options) -> Mapping[str, tuple[Tensor, Tensor]]:
    def draw(layer: Layer) -> tuple[Tensor, Tensor]:
        # One generator per layer, seeded by its name: the draw does not depend on which layers were kept.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed} {layer.name}".encode()))
        pairs = len(profile.of_task(str(options.task)))
        key = torch.randperm(layer.neurons, generator=generator).double()
        return key, torch.rand(pairs, layer.neurons, generator=generator).double()

    return {layer.name: draw(layer) for layer in profile.layers}


def _random_layers(profile: Profile, options: Options) -> Rows:
    """Choose rows as ever, in other layers: for each kept one, a random one of its part and shape."""
    kept = [_kind(layer) for layer in kept_layers(profile, options)]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed} layers".encode()))
    drawn: set[str] = set()
    for kind in sorted(set(kept)):
        alike = [layer.name for layer in profile.layers if _kind(layer) == kind]
        order = torch.randperm(len(alike), generator=generator)[: kept.count(kind)]
        drawn.update(alike[i] for i in order.tolist())
    return sets(profile, options, [layer for layer in profile.layers if layer.name in drawn])


def _kind(layer: Layer) -> tuple[str, int, int, bool]:
    return layer.part, layer.neurons, layer.inputs, layer.bias


CONTROLS: dict[str, Callable[[Profile, Options], Rows]] = {
    "random": _other_rows(_random),
    "gradient": _other_rows(_by_score("gradient")),
    "activation": _other_rows(_by_score("activation")),
    "weight": _other_rows(_by_score("weight")),
    "least": _other_rows(_least),
    "random-layers": _random_layers,
}
"""Control -> its function, of a profile and the options of the method that it is like."""
