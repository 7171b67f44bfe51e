"""Rows: which layers, how many rows of each, which neurons, and for which pairs; one function for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuroglot.errors import UserError
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.layers import keep, mean_similarity
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.selecting.options import Options, neurons_of, parts_of
from neuroglot.neurons.selecting.statistics import significant, specificity
from neuroglot.pair import Condition
from neuroglot.selection import Group

# ---- Allocation: which layers, and how many rows of each ------------------------------------------------------------
# **Budget.** `budget` is the share of all neurons of the eligible parts (those with a share of layers above zero) that
# is trainable, so with `layers=0.6` and `budget=0.4` about two thirds of the rows of each kept layer are. The total is
# budget x eligible neurons, rounded, but at most all living rows of the kept layers. `budget=None` takes every row of
# the kept layers, dead ones too, as LLaVA-NeuMT does.
#
# **Per layer** every kept layer gives the same fraction of its rows: first rounded down, then the rows still missing
# go to the layers with the largest remainders, in the order of the model where they tie. **Per part** and **global**,
# the rows with the highest mean importance are taken, whatever their layer: some layers give many, others none.

DEAD = 1e-6
"""A neuron below this share of its layer's mean importance is dead, and no budget is spent on it."""


@dataclass(frozen=True, eq=False)
class Importance:
    """The values by which rows are chosen.

    Attributes:
        values: layer -> [K, N], for each pair, corrected for the contrast or the tasks to keep.
        plain: layer -> [N], the mean over pairs without this correction.
    """

    values: Mapping[str, Tensor]
    plain: Mapping[str, Tensor]

    def alive(self, name: str) -> Tensor:
        """Return which neurons [N] of a layer are not dead."""
        return self.plain[name] > DEAD * self.plain[name].mean()


def kept_layers(profile: Profile, options: Options, importances: Importance) -> list[Layer]:
    """Return the layers that are kept, in the order of the model.

    Relevance is the mean importance of a layer's neurons, without the contrast; the correction for
    tasks to keep is included.
    """
    eligible = neurons_of(profile, options)
    if options.ranking == "similarity":
        ranking = mean_similarity(options.similarities or {})
        if options.neuron == "ffn":  # a block counts as its writing matrix
            ranking = {layer.name: ranking[layer.writes] for layer in eligible if layer.writes in ranking}
    else:
        by = importances.values if options.keep else importances.plain
        ranking = {layer.name: float(by[layer.name].mean()) for layer in eligible}
    names = set(keep(ranking, options.layers, eligible, lowest=options.ranking == "similarity"))
    return [layer for layer in eligible if layer.name in names]


def allocation(profile: Profile, options: Options, importances: Importance) -> dict[str, int]:
    """Return layer -> how many of its rows to take, for the kept layers that give any."""
    layers = kept_layers(profile, options, importances)
    if options.budget is None:
        return {layer.name: layer.neurons for layer in layers}
    eligible = neurons_of(profile, options)
    together = options.rank != "per-part" and not isinstance(options.budget, Mapping)
    quota: dict[str, int] = {}
    for part, part_layers in ({"": eligible} if together else parts_of(eligible)).items():
        chosen = [layer for layer in layers if layer.part == part or together]
        share = options.budget[part] if isinstance(options.budget, Mapping) else options.budget
        if options.rank == "per-layer":
            taken = _evenly(chosen, part_layers, share, options, importances)
        else:
            taken = _ranked(chosen, part_layers, share, options, importances)
        quota |= dict(zip((layer.name for layer in chosen), taken, strict=True))
    return {layer.name: quota[layer.name] for layer in layers if quota[layer.name]}


def _evenly(
    layers: Sequence[Layer], part_layers: Sequence[Layer], share: float, options: Options, importances: Importance
) -> list[int]:
    living = [int(importances.alive(layer.name).sum()) for layer in layers]
    if options.budget_of == "neurons":
        return quotas(living, sum(layer.neurons for layer in part_layers), share)
    weights = sum(rows * cost(layer) for rows, layer in zip(living, layers, strict=True))
    fraction = min(1.0, share * sum(layer.neurons * cost(layer) for layer in part_layers) / max(weights, 1))
    return quotas(living, sum(living), fraction)


def _ranked(
    layers: Sequence[Layer], part_layers: Sequence[Layer], share: float, options: Options, importances: Importance
) -> list[int]:
    """Return how many of the best rows of all layers lie in each."""
    keys, plain, layer_indices = [], [], []
    for index, layer in enumerate(layers):
        alive = importances.alive(layer.name)
        key = importances.values[layer.name].mean(0)[alive]
        keys.append(key / cost(layer) if options.cost == "weights" else key)
        plain.append(importances.plain[layer.name][alive])
        layer_indices.append(torch.full((len(key),), index))
    where = torch.cat(layer_indices)[ranked(torch.cat(keys), torch.cat(plain))]
    if options.budget_of == "neurons":
        where = where[: int(share * sum(layer.neurons for layer in part_layers) + 0.5)]
    else:
        spent = torch.tensor([cost(layer) for layer in layers])[where].cumsum(0)
        where = where[spent <= share * sum(layer.neurons * cost(layer) for layer in part_layers)]
    return torch.bincount(where, minlength=len(layers)).tolist()


def cost(layer: Layer) -> int:
    """Return how many weights one neuron of a layer has."""
    return layer.inputs + layer.bias


def quotas(sizes: Sequence[int], eligible: int, budget: float | None) -> list[int]:
    """Return the rows to take of each kept layer; see the note on the budget above.

    Examples:
        >>> quotas([7, 5, 3], eligible=20, budget=0.4)
        [4, 3, 1]
    """
    total = sum(sizes) if budget is None else min(sum(sizes), int(budget * eligible + 0.5))
    if not total:
        return [0] * len(sizes)
    # In integers, so that no rounding error decides which layer gets a remainder.
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
    indices = torch.argsort(keys[-1], descending=True, stable=True)
    for key in reversed(keys[:-1]):
        indices = indices[torch.argsort(key[indices], descending=True, stable=True)]
    return indices


# ---- Rows: which neurons, and for which pairs -----------------------------------------------------------------------
# Ties between neurons go to the higher best importance, then to the lower row index, and nothing depends on global
# random state.

CONTRAST = ("ocr", "describe")

FALSE_DISCOVERIES = 0.05
"""For `specific: auto`: the share of specific neurons that may be so by chance (Benjamini and Hochberg's q)."""

SILENT = 0.01
"""Added to every neuron's importance for the tasks to keep, in units of its part's mean: a neuron that they do not use
costs little, but not nothing."""

Rows = dict[str, dict[Group, Tensor]]
"""Layer -> group -> indices of its rows, ascending."""


def measured(
    profile: Profile, options: Options, conditions: Sequence[Condition], score: str | None = None
) -> dict[str, Tensor]:
    """Return layer -> importance [K, N] of the neurons that may be chosen.

    Each condition sums to one over its part; over all parts where their rows are ranked together.
    """
    score = score or options.score
    if options.normalise == "none" or options.rank != "global":
        by_layer = profile.importance(score, options.token_class, conditions, options.normalise)
        return {layer.name: by_layer[layer.name] for layer in neurons_of(profile, options)}
    mean = profile.mean(score, options.token_class, conditions)
    values = {layer.name: mean.pop(layer.name) for layer in neurons_of(profile, options)}
    total = torch.stack([x.abs().sum(1, keepdim=True) for x in values.values()]).sum(0)
    total = total.masked_fill(total == 0, 1.0)
    return {name: x / total for name, x in values.items()}


def importance(profile: Profile, options: Options) -> Importance:
    """Return what rows are chosen by: importance, minus that of the contrast or divided by that of tasks to keep.

    Raises:
        UserError: a contrast is asked for and none was profiled.
    """
    pairs = profile.of_task(str(options.task))
    values = measured(profile, options, pairs)
    plain = {name: x.mean(0) for name, x in values.items()}
    if options.keep:
        return Importance(_retaining(profile, options, values), plain)
    others = [c for c in profile.conditions if c.task in CONTRAST and c.task != options.task]
    if options.contrast == "none" or (options.contrast == "auto" and not others):
        return Importance(values, plain)
    if not others:
        raise UserError(
            f"contrast=subtract needs conditions of {' or '.join(CONTRAST)}, but the profile holds none; "
            "profile the same images with these tasks, or say contrast=none"
        )
    rest = measured(profile, options, others)

    def against(pair: Condition) -> list[int]:
        same = [i for i, c in enumerate(others) if c.pair.source == pair.pair.source]
        return same or list(range(len(others)))

    for name in values:
        taken = torch.stack([rest[name][against(pair)].mean(0) for pair in pairs])
        values[name] = (values[name] - taken).clamp(min=0)
    return Importance(values, plain)


def _retaining(profile: Profile, options: Options, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return importance / sqrt(r), with r the importance for the tasks to keep, in units of its part's mean.

    A task that does not reach a part (the vision part in text translation) is not counted there; a part that none
    of them reaches is unchanged.
    """
    conditions = [condition for condition in profile.conditions if condition.task in options.keep]
    rest = measured(profile, options, conditions)
    layers = neurons_of(profile, options)
    part = {layer.name: layer.part for layer in layers}
    total = {p: torch.zeros(len(conditions)).double() for p in options.parts}
    size = dict.fromkeys(options.parts, 0)
    for name, x in rest.items():
        total[part[name]] += x.sum(1)
        size[part[name]] += x.shape[1]
    result = {}
    for name, x in values.items():
        mean = total[part[name]] / size[part[name]]
        reached = mean > 0
        if not bool(reached.any()):
            result[name] = x
            continue
        r = (rest[name][reached] / mean[reached].unsqueeze(1)).mean(0)
        result[name] = x / (r + SILENT).sqrt()
    return result


def sides_of(pairs: Sequence[Condition], side: str) -> dict[Group, list[int]]:
    """Return group -> indices of its pairs, one group for each pair, source or target."""
    groups: dict[str, list[int]] = {}
    for k, condition in enumerate(pairs):
        groups.setdefault(str(condition.pair) if side == "pair" else getattr(condition.pair, side), []).append(k)
    return {frozenset(str(pairs[k].pair) for k in members): members for members in groups.values()}


def dispersion(values: Tensor, kind: str) -> Tensor:
    """Return how much a neuron's importance [K, N] differs over K: [N], unitless for `cv`, 0 for dead neurons."""
    if kind == "variance":
        return values.var(0, correction=0)  # LLaVA-NeuMT, Eq. 5
    mean = values.mean(0)
    # By hand: torch's `std` over a short first axis takes four times as long.
    return (values - mean).square_().mean(0).sqrt_() / mean.masked_fill(mean == 0, 1)


def sets(
    profile: Profile, options: Options, importances: Importance | None = None, quota: Mapping[str, int] | None = None
) -> Rows:
    """Choose specific and agnostic rows by importance: `mnaft`, `neumt` and `neumt-paper`.

    Of a layer's quota q, the candidates are the 2q rows with the highest importance for any pair, without dead ones if
    there is a budget. Specific rows come first (Eq. 7 of LLaVA-NeuMT gives every neuron to some pair; precedence
    resolves its overlap with Eq. 8): the most dispersed candidates, each to its best pair. The candidates with the
    highest mean fill the quota as agnostic.

    Args:
        profile: what was measured.
        options: resolved.
        importances: the importance, if it is known already.
        quota: layer -> how many rows; by default what `allocation` gives.
    """
    pairs = profile.of_task(str(options.task))
    agnostic = frozenset(str(condition.pair) for condition in pairs)
    importances = importance(profile, options) if importances is None else importances
    quota = allocation(profile, options, importances) if quota is None else quota
    tested = _significant(profile, options, pairs)
    rows: Rows = {}
    for layer in neurons_of(profile, options):
        q = quota.get(layer.name, 0)
        if not q:
            continue
        x, tie = importances.values[layer.name], importances.plain[layer.name]  # (K, N), (N,)
        candidates = ranked(x.amax(0), tie)
        if options.budget is not None:
            candidates = candidates[importances.alive(layer.name)[candidates]]
        candidates = candidates[: 2 * q]
        sides = sides_of(pairs, options.specific_to[layer.part])  # type: ignore[index]
        # With one source language the source side has one row, no dispersion, and so nothing specific.
        y = torch.stack([x[members].mean(0) for members in sides.values()])  # (sides, N)
        spread, best = dispersion(y, options.dispersion), y.amax(0)
        fit = (spread > 0) & (best >= options.floor * best.mean())
        if options.specific == "auto":
            fit &= tested[layer.part][layer.name]
        if options.epsilon is not None:
            fit &= spread > options.epsilon
        among = candidates[fit[candidates]]
        among = among[ranked(spread[among])]
        if not isinstance(options.specific, Mapping):
            all_of_them = options.specific == "auto" or options.epsilon is not None
            among = among[: q if all_of_them else int(float(options.specific) * q + 0.5)]
        belongs = _belongs(y[:, among], options.share)
        if isinstance(options.specific, Mapping):
            wanted = [int(float(options.specific[next(iter(side))]) * q + 0.5) for side in sides]
            # The first neurons of each pair, until the quota is used up.
            first = (belongs.cumsum(1) <= torch.tensor(wanted).unsqueeze(1)) & belongs
            positions = first.any(0).nonzero().squeeze(1)[:q]
            among, belongs = among[positions], belongs[:, positions]
        rows[layer.name] = _by_group(among, belongs, list(sides))
        free = torch.ones(layer.neurons, dtype=torch.bool)
        free[among] = False
        rest = candidates[free[candidates]]
        rest = rest[ranked(x.mean(0)[rest])][: q - len(among)]
        if len(rest):
            rest = torch.cat([rest, rows[layer.name].get(agnostic, rest[:0])])
            rows[layer.name][agnostic] = rest.sort().values
    return rows


def _significant(profile: Profile, options: Options, pairs: Sequence[Condition]) -> dict[str, dict[str, Tensor]]:
    """Return part -> layer -> which neurons are specific by the data; the test compares that part's sides."""
    if options.specific != "auto":
        return {}
    by_sides: dict[str, dict[str, Tensor]] = {}
    by_part: dict[str, dict[str, Tensor]] = {}
    for part in options.parts:
        sides = list(sides_of(pairs, options.specific_to[part]).values())  # type: ignore[index]
        if str(sides) not in by_sides:
            if len(sides) > 1:
                tested = specificity(profile, str(options.task), options.score, options.token_class, sides)
                by_sides[str(sides)] = significant(tested, FALSE_DISCOVERIES, options.effect)
            else:
                never = {layer.name: torch.zeros(layer.neurons, dtype=torch.bool) for layer in profile.layers}
                by_sides[str(sides)] = never
        by_part[part] = by_sides[str(sides)]
    return by_part


def _belongs(y: Tensor, share: float | None) -> Tensor:
    """Return which sides [S, M] neurons belong to, by their importance for each; a tie belongs to the first."""
    if share is not None:
        return y >= y.amax(0) * share
    return torch.zeros(y.shape, dtype=torch.bool).scatter_(0, y.argmax(0, keepdim=True), True)


def _by_group(rows: Tensor, belongs: Tensor, sides: Sequence[Group]) -> dict[Group, Tensor]:
    """Divide rows [M] among the groups of the sides [S, M] that they belong to; indices ascend."""
    if not len(rows):
        return {}
    bits = 2 ** torch.arange(len(sides)) if len(sides) < 63 else torch.zeros(len(sides), dtype=torch.long)
    code = bits @ belongs.long() if bits.any() else torch.unique(belongs.T, dim=0, return_inverse=True)[1]
    values, kind = torch.unique(code, return_inverse=True)  # (groups,), (rows,)
    order = torch.argsort(kind * (rows.max() + 1) + rows)  # by group, then ascending
    order = order.split(torch.bincount(kind, minlength=len(values)).tolist())
    groups = {}
    for indices in order:
        members = belongs[:, indices[0]].nonzero().squeeze(1).tolist()
        groups[frozenset().union(*(sides[s] for s in members))] = rows[indices]
    return groups
