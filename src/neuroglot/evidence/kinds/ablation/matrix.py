"""What silencing groups costs every pair, beside random groups of their size: a matrix, and its statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from neuroglot.evidence.kinds.ablation.losses import Losses
from neuroglot.evidence.numbers import Array, resamples, spanned
from neuroglot.evidence.setting import Found, Setting
from neuroglot.selection import Group

DRAWS = 5
"""Random groups at least."""
RESAMPLES = 1000

Silence = Callable[[Mapping[str, Tensor]], AbstractContextManager[None]]
"""Makes a context in which units (layer -> indices) are silenced."""
Groups = Mapping[str, tuple[Group, Mapping[str, Tensor]]]
"""Name -> its pairs, and its units: layer -> indices."""


def draws_of(setting: Setting) -> int:
    """Return the number of random groups."""
    return max(DRAWS, setting.seeds)


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
