"""Select: choose from a profile the neurons to train, and for which pairs. No model is needed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from neuroglot.errors import UserError, expect, nearest
from neuroglot.neurons.ffn import FeedForward, spread
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.profiling.scores import lape
from neuroglot.neurons.selecting.options import PRESETS, Options, neurons_of, resolve
from neuroglot.neurons.selecting.rows import Rows, allocation, importance, measured, ranked, sets
from neuroglot.selection import Selection

# ---- Controls -------------------------------------------------------------------------------------------------------
# The controls of rows keep a method's layers, rows per layer and group sizes and take other rows: a method's gain over
# `random` is the value of its choice of rows. `random-layers` keeps its way of choosing rows and takes other layers:
# each kept layer gives its number of rows to a random layer of the same part and shape, so that rows, weights and cost
# stay the same: a method's gain over it is the value of its choice of layers. For `neumt`, which trains every row of
# the layers it keeps, a control of rows only assigns the rows to other groups; compare it with `random-layers`.

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
            # The agnostic group comes last and takes the remaining rows.
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
    values = _by_score(options.score)(profile, options, layers)
    return {name: (-key, x) for name, (key, x) in values.items()}


def _lape(profile: Profile, options: Options, layers: list[Layer]) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Rank by the entropy over pairs of the probability of being active, the lowest first (LAPE).

    LAPE considers only neurons that are often active for some language; here these are the ones whose best
    probability reaches `floor` of their layer's mean best, as for specific neurons. The others are taken last.
    """
    pairs = profile.of_task(str(options.task))
    mean = profile.mean("activation_probability", options.token_class, pairs)
    entropy = lape(profile, options.token_class, pairs)
    rankings = {}
    for layer in layers:
        x = mean[layer.name]
        best = x.amax(0)
        hardly = (best == 0) | (best < options.floor * best.mean())
        rankings[layer.name] = (-entropy[layer.name] - hardly.double() * len(pairs), x)
    return rankings


def _random(profile: Profile, options: Options, layers: list[Layer]) -> Mapping[str, tuple[Tensor, Tensor]]:
    def draw(layer: Layer) -> tuple[Tensor, Tensor]:
        # One generator per layer, seeded by its name: the draw does not depend on which layers were kept.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed} {layer.name}".encode()))
        pairs = len(profile.of_task(str(options.task)))
        key = torch.randperm(layer.neurons, generator=generator).double()
        return key, torch.rand(pairs, layer.neurons, generator=generator).double()

    return {layer.name: draw(layer) for layer in layers}


def _random_layers(profile: Profile, options: Options) -> Rows:
    """Choose rows by the same rule in other layers: a kept layer's count goes to one of its part and shape."""
    importances = importance(profile, options)
    quota = allocation(profile, options, importances)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed} layers".encode()))
    layers = neurons_of(profile, options)
    drawn: dict[str, int] = {}
    for kind in sorted({_kind(layer) for layer in layers if layer.name in quota}):
        alike = [layer.name for layer in layers if _kind(layer) == kind]
        counts = [quota[name] for name in alike if name in quota]
        order = torch.randperm(len(alike), generator=generator)[: len(counts)]
        drawn |= dict(zip((alike[i] for i in order.tolist()), counts, strict=True))
    return sets(profile, options, importances, drawn)


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
"""Control -> its function of a profile and the options of the method that it is compared with."""


# ---- Select ---------------------------------------------------------------------------------------------------------
# Every method has the same steps: rank the layers within each part and keep a share of them; give each kept layer a
# quota of rows (`allocation`); choose the rows and divide them into groups (`sets`). `mnaft`, `neumt` and
# `neumt-paper` are one function with different options (`PRESETS`); a control (`CONTROLS`) takes the layers and counts
# of one of these and changes one thing.

METHODS = (*PRESETS, *CONTROLS)


def select(profile: Profile, method: str = "mnaft", **options: Any) -> Selection:
    """Return the neurons that a method trains, and for which pairs.

    Args:
        profile: of a translation task, with one condition per pair.
        method: a name in `neuroglot.neurons.METHODS`.
        **options: fields of `neuroglot.neurons.Options`.

    Raises:
        UserError: an unknown method or option, a value out of range, or something that the profile does not hold.
    """
    expect("profile", profile, Profile, "a Profile, which profile(model, batches) makes and Profile.load(path) reads")
    expect("method", method, str, f"one of {', '.join(METHODS)}")
    if method not in METHODS:
        raise UserError(f"method {method!r} is not known; {nearest(method, METHODS)}")
    known = {field.name for field in fields(Options)}
    for name in options:
        if name not in known:
            raise UserError(f"option {name!r} of select is not known; {nearest(name, known)}")
    if method in CONTROLS:  # a control: everything else is as in the method that it is compared with
        like = options.get("like", "mnaft")
        if like not in PRESETS:
            raise UserError(f"like must be a method that is no control, got {like!r}; {nearest(str(like), PRESETS)}")
        chosen = replace(resolve(profile, like, options), like=like)
        return _selection(profile, method, chosen, CONTROLS[method](profile, chosen))
    chosen = resolve(profile, method, options)
    return _selection(profile, method, chosen, sets(profile, chosen))


def _selection(profile: Profile, method: str, options: Options, rows: Rows) -> Selection:
    eligible = neurons_of(profile, options)
    every = frozenset(str(condition.pair) for condition in profile.of_task(str(options.task)))
    if options.sets != "both":
        agnostic = options.sets == "agnostic"
        rows = {name: {g: x for g, x in groups.items() if (g == every) is agnostic} for name, groups in rows.items()}
        if not any(len(x) for groups in rows.values() for x in groups.values()):
            raise UserError(f"sets={options.sets}: {method} chose no {options.sets} neuron; change specific")
    rows = {name: dict(groups) for name, groups in rows.items() if groups}
    if options.neuron == "ffn":
        blocks = {x.name: FeedForward(x.name, x.part, x.neurons, x.reads, x.writes) for x in eligible}
        sizes = {
            name: {"part": block.part, "neurons": block.size(name)}
            for block in blocks.values()
            if block.name in rows
            for name in (*block.reads, block.writes)
        }
        rows, axes = spread(blocks, rows)
    else:
        sizes = {x.name: {"part": x.part, "neurons": x.neurons} for x in eligible if x.name in rows}
        axes = {x.name: x.axis for x in eligible if x.axis and x.name in rows}
    meta = {
        "method": method,
        "task": options.task,
        "options": _shown(method, options),
        "model": profile.model,
        "fingerprint": profile.fingerprint,
        "neurons": {part: sum(x.neurons for x in eligible if x.part == part) for part in options.parts},
        "layers": {part: sum(x.part == part for x in eligible) for part in options.parts},
        "chosen": sizes,
    }
    if options.neuron == "ffn":
        meta["neuron"] = "ffn"
    pairs = tuple(str(condition.pair) for condition in profile.of_task(str(options.task)))
    return Selection(pairs, rows, meta, axes)


def _shown(method: str, options: Options) -> dict[str, Any]:
    """Return the options as JSON values."""
    shown: dict[str, Any] = {}
    for field in fields(Options):
        value = getattr(options, field.name)
        shown[field.name] = (
            dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        )
    shown["similarities"] = options.similarities is not None
    if method in PRESETS:
        del shown["like"], shown["seed"]
    return shown
