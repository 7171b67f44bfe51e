"""Causal ablation: does silencing the neurons of a pair hurt that pair more than the others, and more than chance?

Three questions, on items that were neither profiled nor trained on: the selection's groups silenced in the base model;
in the trained model, what a group learned taken out; and, ranked by how specific they are to a pair, growing shares of
all neurons silenced. Beside each stand random groups of the same size in each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from neuroglot.evidence.kinds.ablation.losses import Losses
from neuroglot.evidence.kinds.ablation.silencing import Place, ablated, mean_units, place_of, size_of
from neuroglot.evidence.numbers import Array, resamples, spanned
from neuroglot.evidence.records import items_in_turn
from neuroglot.evidence.setting import Found, Setting, Work, text_pairs
from neuroglot.selection import Group, group_name

DRAWS = 5
"""Random groups at least."""
DOSES = (0.005, 0.01, 0.02, 0.05, 0.1)
AGNOSTIC = "all pairs"
RESAMPLES = 1000

Silence = Callable[[Mapping[str, Tensor]], AbstractContextManager[None]]
"""Makes a context in which units (layer -> indices) are silenced."""
Groups = Mapping[str, tuple[Group, Mapping[str, Tensor]]]
"""Name -> its pairs, and its units: layer -> indices."""


def draws_of(setting: Setting) -> int:
    """Return the number of random groups."""
    return max(DRAWS, setting.seeds)


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
    from neuroglot.evidence.kinds.ablation.trained import measure_trained

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
    examples = items_in_turn(setting.context.corpus.profile, setting.items)
    batches = setting.context.batcher.batches(examples, setting.recipe.profile.batch_size)
    found = mean_units(setting.model, parts, batches)
    setting.progress(len(examples))
    return found


def matrix(
    losses: Losses, base: Array, groups: Groups, silence: Silence, pool: Mapping[str, Tensor], draws: int
) -> Found:
    """Silence each group, and random groups of its size per layer; return the loss added for every pair.

    Args:
        losses: what is measured.
        base: nats before, (items, pairs).
        groups: what is silenced.
        silence: how.
        pool: layer -> the units that random groups are drawn from.
        draws: random groups for each group.
    """
    own, random = [], []
    for place, (_, units) in enumerate(groups.values()):
        with silence(units):
            own.append(losses.nats() - base)
        drawn = []
        for draw in range(draws):
            with silence(drawn_like(units, pool, seed=1000 * draw + place)):
                drawn.append(losses.nats() - base)
        random.append(drawn)
    a, r = np.stack(own), np.stack([np.stack(drawn) for drawn in random])  # (G, I, K), (G, R, I, K)
    members = [group for group, _ in groups.values()]
    masks = np.array([[pair in group for pair in losses.pairs] for group in members])  # (G, K)
    ones = np.ones(len(losses.items))
    return {
        "names": list(groups),
        "sizes": [sum(len(index) for index in units.values()) for _, units in groups.values()],
        "matrix": losses.per_character(a, ones).tolist(),
        "random": losses.per_character(r, ones).mean(1).tolist(),
        **_statistics(losses, a, r, masks),
    }


def drawn_like(units: Mapping[str, Tensor], pool: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return as many units of each layer, drawn at random from the pool."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: pool[name][torch.randperm(len(pool[name]), generator=generator)[: len(index)]].sort().values
        for name, index in sorted(units.items())
    }


def diagonal(added: Array, masks: Array) -> Array:
    """Return how much more a group's own pairs lose than the other pairs, over groups: (..., G, K) -> (...).

    Every pair counts once as own and once, with the others, as other; so a pair that any damage hurts more than the
    rest does not look specific. Groups of all pairs, which have no others, are left out.
    """
    specific = masks.any(1) & ~masks.all(1)
    if not specific.any():
        return np.full(added.shape[:-2], np.nan)
    x, own = added[..., specific, :], masks[specific]
    inside = (x * own).sum(-1) / own.sum(-1)
    other = np.logical_not(own)
    outside = (x * other).sum(-1) / other.sum(-1)
    return np.asarray((inside - outside).mean(-1))


def _statistics(losses: Losses, a: Array, r: Array, masks: Array) -> Found:
    """Return diagonal minus off-diagonal of the groups, of random groups, and their difference, with intervals."""
    rng = np.random.default_rng(0)
    own, chance, mean_own, mean_chance = [], [], [], []
    for place, weights in enumerate(resamples(len(losses.items), RESAMPLES)):
        x = losses.per_character(a, weights)  # (G, K)
        y = losses.per_character(r, weights)  # (G, R, K)
        drawn = rng.integers(0, r.shape[1], r.shape[1]) if place else np.arange(r.shape[1])
        own.append(diagonal(x, masks))
        chance.append(float(diagonal(y[:, drawn].mean(1), masks)))
        mean_own.append(x.mean(1))
        mean_chance.append(y[:, drawn].mean((1, 2)))
    each = [
        float(diagonal(losses.per_character(r[:, d], np.ones(len(losses.items))), masks)) for d in range(r.shape[1])
    ]
    found: Found = {"own_highest": None}
    ones = np.ones(len(losses.items))
    x = losses.per_character(a, ones)
    specific = masks.any(1) & ~masks.all(1)
    if specific.any():
        o, c = np.asarray(own, dtype=float), np.asarray(chance)
        # Fragile pairs lose most whatever is silenced, so a pair's loss is held against its mean over groups.
        relative = x[specific] - x[specific].mean(0)
        best = relative.argmax(1)
        found = {
            "own_highest": int(sum(masks[specific][g, k] for g, k in enumerate(best))),
            "specific_groups": int(specific.sum()),
            "diagonal": spanned(o),
            "diagonal_random": spanned(c),
            "diagonal_random_each": each,
            "diagonal_beyond_random": spanned(o - c),
        }
    mo, mc = np.stack(mean_own), np.stack(mean_chance)  # (draws, G)
    found["harm"] = [spanned(mo[:, g]) for g in range(mo.shape[1])]
    found["harm_random"] = [spanned(mc[:, g]) for g in range(mc.shape[1])]
    found["harm_beyond_random"] = [spanned(mo[:, g] - mc[:, g]) for g in range(mo.shape[1])]
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
