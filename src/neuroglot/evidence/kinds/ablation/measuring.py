"""Causal ablation: does silencing the neurons of a pair hurt that pair more than the others, and more than chance?

Three questions, on items that were neither profiled nor trained on: the selection's groups silenced in the base model;
in the trained model, what a group learned taken out; and, ranked by how specific they are to a pair, growing shares of
all neurons silenced. Beside each stand random groups of the same size in each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from neuroglot.data.corpus import items_in_turn
from neuroglot.evidence.kinds.ablation.losses import Losses
from neuroglot.evidence.kinds.ablation.matrix import RESAMPLES, Groups, Silence, drawn_like, draws_of, matrix
from neuroglot.evidence.kinds.ablation.silencing import Place, ablated, mean_units, place_of, size_of
from neuroglot.evidence.kinds.ablation.trained import measure_trained
from neuroglot.evidence.numbers import Array, resamples, spanned
from neuroglot.evidence.setting import Found, Setting, Work, text_pairs
from neuroglot.selection import Group, group_name

DOSES = (0.005, 0.01, 0.02, 0.05, 0.1)
AGNOSTIC = "all pairs"


def work(setting: Setting) -> Work:
    groups = len({group for _, group, _ in setting.selection})
    pairs = len(text_pairs(setting.profile, setting.task))
    draws = draws_of(setting)
    times = 1 + groups * (1 + draws) + len(DOSES) * (pairs + draws)
    if setting.context.path("adapter").is_dir():
        times += 1 + groups * (1 + draws)
    return Work(forward=times * len(setting.heldout) + (setting.items * pairs if setting.ablate == "mean" else 0))


def measure(setting: Setting) -> Found:
    """Silence what there is to silence."""
    model, losses = setting.model, Losses(setting, setting.model)
    groups = groups_of(setting)
    axes = setting.selection.axes
    names = dict.fromkeys(name for _, units in groups.values() for name in units)
    chosen = {name: place_of(model, name, axes.get(name, 0)) for name in names}
    ranked = {layer.name: place_of(model, layer) for layer in setting.profile.layers if layer.part in setting.parts}
    means = _means(setting, [*chosen.values(), *ranked.values()]) if setting.ablate == "mean" else None

    def silence(places: Mapping[str, Place]) -> Silence:
        return lambda units: ablated(model, {places[name]: index for name, index in units.items()}, means)

    base = losses.nats()
    pool = {name: torch.arange(size_of(model, place)) for name, place in chosen.items()}
    found: Found = {
        "ablate": setting.ablate,
        "pairs": losses.pairs,
        "items": len(losses.items),
        "draws": draws_of(setting),
        "base": losses.per_character(base, np.ones(len(losses.items))).tolist(),
        "groups": matrix(losses, base, groups, silence(chosen), pool, draws_of(setting)),
        "doses": doses(losses, base, setting, silence(ranked)),
        "interval": "95 % bootstrap interval over held-out items; of differences to random groups over draws as well",
    }
    if setting.context.path("adapter").is_dir():
        found["trained"] = measure_trained(setting, groups)
    return found


def groups_of(setting: Setting) -> Groups:
    """Return the groups of the selection: the specific ones in the order of the pairs, then the agnostic one."""
    units: dict[Group, dict[str, Tensor]] = {}
    for module, group, index in setting.selection:
        units.setdefault(group, {})[module] = index
    agnostic = setting.selection.agnostic
    places = {pair: place for place, pair in enumerate(setting.context.corpus.pairs)}
    order = sorted(units, key=lambda group: (group == agnostic, sorted(places.get(p, len(places)) for p in group)))
    single = len(agnostic) == 1  # then the one group is specific and agnostic at once
    return {AGNOSTIC if g == agnostic and not single else group_name(g): (g, units[g]) for g in order}


def _means(setting: Setting, places: Sequence[Place]) -> dict[Place, Tensor]:
    from neuroglot.models.families import family_of

    family = family_of(setting.model)
    parts = {place: family.part_of(place.module) or "language" for place in places}
    examples = list(items_in_turn(setting.context.corpus.profile, setting.items))
    batches = setting.context.batcher.batches(examples, setting.recipe.profile.batch_size)
    found = mean_units(setting.model, parts, batches)
    setting.progress(len(examples))
    return found


def ranked_for(setting: Setting, pair: int) -> dict[str, Tensor]:
    """Return layer -> its neurons from the most to the least specific to a pair of the task, by its place.

    The key is how much a neuron's importance for the pair exceeds its mean over the other pairs, of its mean over all;
    neurons that are nearly dead (best importance below a tenth of the layer's mean best) come last.
    """
    conditions = setting.profile.of_task(setting.task)
    importance = setting.profile.importance(setting.score, setting.token_class, conditions)
    others = [k for k in range(len(conditions)) if k != pair]
    ranked = {}
    for name, x in importance.items():
        mean, best = x.mean(0), x.amax(0)
        key = (x[pair] - x[others].mean(0)) / mean.masked_fill(mean == 0, 1)
        alive = (best >= 0.1 * best.mean()) & (mean > 0)
        ranked[name] = torch.argsort(torch.where(alive, key, key.min() - 1), descending=True, stable=True)
    return ranked


def doses(losses: Losses, base: Array, setting: Setting, silence: Silence) -> Found | None:
    """Silence growing shares of all neurons, ranked by how specific they are to each pair; None for one pair.

    Every layer gives the same share, so all pairs' groups have the same sizes and share their random groups.
    """
    from neuroglot.neurons.selecting.rows import quotas

    pairs = text_pairs(setting.profile, setting.task)
    if len(pairs) < 2:
        return None
    layers = [layer for layer in setting.profile.layers if layer.part in setting.parts]
    ranked = {pair: ranked_for(setting, place) for place, pair in enumerate(pairs)}
    pool = {layer.name: torch.arange(layer.neurons) for layer in layers}
    total = sum(layer.neurons for layer in layers)
    masks = np.array([[other == pair for other in losses.pairs] for pair in pairs if pair in losses.pairs])
    rows = []
    for dose in DOSES:
        counts = dict(zip(pool, quotas([layer.neurons for layer in layers], total, dose), strict=True))
        own = []
        for pair in pairs:
            if pair in losses.pairs:
                with silence({name: ranked[pair][name][:count] for name, count in counts.items() if count}):
                    own.append(losses.nats() - base)
        like = {name: torch.empty(count) for name, count in counts.items() if count}
        drawn = []
        for draw in range(draws_of(setting)):
            with silence(drawn_like(like, pool, seed=7_000_000 + draw)):
                drawn.append(losses.nats() - base)
        a, r = np.stack(own), np.stack(drawn)
        rng = np.random.default_rng(0)
        values: dict[str, list[float]] = {name: [] for name in ("own", "others", "random", "gap", "beyond")}
        for place, weights in enumerate(resamples(len(losses.items), RESAMPLES)):
            x, y = losses.per_character(a, weights), losses.per_character(r, weights)
            chosen = rng.integers(0, len(r), len(r)) if place else np.arange(len(r))
            inside = float((x * masks).sum() / masks.sum())
            outside = float((x * ~masks).sum() / (~masks).sum())
            random = float(y[chosen].mean())
            for name, value in zip(values, (inside, outside, random, inside - outside, inside - random), strict=True):
                values[name].append(value)
        rows.append(
            {
                "share": dose,
                "neurons": sum(counts.values()),
                **{name: spanned(np.asarray(value)) for name, value in values.items()},
                "matrix": losses.per_character(a, np.ones(len(losses.items))).tolist(),
            }
        )
    return {"pairs": [pair for pair in pairs if pair in losses.pairs], "rows": rows}
