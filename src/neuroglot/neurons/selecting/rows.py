"""Rows: which neurons of which layers, from a profile and options; one function serves every method of the papers.

**Budget.** `budget` is the share of all neurons of the eligible parts (those with a share of layers above zero) that
is trainable, so with `layers=0.6` and `budget=0.4` about two thirds of the rows of each kept layer are. The total is
budget x eligible neurons, rounded, or all rows of the kept layers where these are fewer. Every kept layer gives the
same fraction of its rows: first rounded down, then the rows still missing go to the layers with the largest
remainders, in the order of the model where they tie. `budget=None` takes every row of the kept layers.

Ties between neurons go to the higher best importance, then to the lower row index, and nothing depends on global
random state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neuroglot.errors import UserError
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.layers import keep, mean_similarity, relevance
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.pair import Condition
from neuroglot.selection import Group

if TYPE_CHECKING:
    from neuroglot.neurons.selecting.select import Options

CONTRAST = ("ocr", "describe")

Rows = dict[str, dict[Group, Tensor]]
"""Layer -> group -> indices of its rows, ascending."""


def contrasted(profile: Profile, options: Options) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the importance [K, N] of the task's pairs, with and without the contrast tasks taken off."""
    pairs = profile.of_task(str(options.task))
    plain = profile.importance(options.score, options.token_class, pairs, options.normalise)
    others = [c for c in profile.conditions if c.task in CONTRAST and c.task != options.task]
    if options.contrast == "none" or (options.contrast == "auto" and not others):
        return plain, plain
    if not others:
        raise UserError(
            f"contrast=subtract needs conditions of {' or '.join(CONTRAST)}, but the profile holds none; "
            "profile the same images with these tasks, or say contrast=none"
        )
    rest = profile.importance(options.score, options.token_class, others, options.normalise)

    def against(pair: Condition) -> list[int]:
        same = [i for i, c in enumerate(others) if c.pair.source == pair.pair.source]
        return same or list(range(len(others)))

    return {
        name: torch.stack([(x[k] - rest[name][against(pair)].mean(0)).clamp(min=0) for k, pair in enumerate(pairs)])
        for name, x in plain.items()
    }, plain


def kept_layers(profile: Profile, options: Options) -> list[Layer]:
    if options.ranking == "similarity":
        ranking = mean_similarity(options.similarities or {})
    else:
        ranking = relevance(
            profile, options.score, options.token_class, profile.of_task(str(options.task)), options.normalise
        )
    eligible = [layer for layer in profile.layers if layer.part in options.parts]
    names = set(keep(ranking, options.layers, eligible, lowest=options.ranking == "similarity"))
    return [layer for layer in eligible if layer.name in names]


def quotas(sizes: Sequence[int], eligible: int, budget: float | None) -> list[int]:
    """Return the rows to take of each kept layer, as the module's text on the budget says.

    >>> quotas([7, 5, 3], eligible=20, budget=0.4)
    [4, 3, 1]
    """
    total = sum(sizes) if budget is None else min(sum(sizes), int(budget * eligible + 0.5))
    # In whole numbers, so that no rounding error decides who gets a remainder.
    taken = [total * size // sum(sizes) for size in sizes]
    left = sorted(range(len(sizes)), key=lambda i: -(total * sizes[i] % sum(sizes)))
    for i in left[: total - sum(taken)]:
        taken[i] += 1
    return taken


def ranked(*keys: Tensor) -> Tensor:
    """Return indices from the highest to the lowest of the first key, ties by the next keys, then by index."""
    order = torch.arange(len(keys[0]))
    for key in reversed(keys):
        order = order[torch.argsort(key[order], descending=True, stable=True)]
    return order


def _sides(pairs: Sequence[Condition], side: str) -> dict[Group, list[int]]:
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
    return values.std(0, correction=0) / mean.masked_fill(mean == 0, 1)


def sets(profile: Profile, options: Options, layers: Sequence[Layer] | None = None) -> Rows:
    """Choose specific and agnostic rows by importance: `mnaft`, `neumt` and `neumt-paper`.

    Of a layer's quota q, the candidates are the 2q rows with the highest importance for any pair. Specific come first
    (Eq. 7 of LLaVA-NeuMT gives every neuron to some pair; precedence resolves its overlap with Eq. 8): the most
    dispersed candidates, each to its best pair. The candidates with the highest mean fill the quota as agnostic.
    """
    pairs = profile.of_task(str(options.task))
    agnostic = frozenset(str(condition.pair) for condition in pairs)
    importance, plain = contrasted(profile, options)
    layers = kept_layers(profile, options) if layers is None else layers
    eligible = sum(layer.neurons for layer in profile.layers if layer.part in options.parts)
    rows: Rows = {}
    for layer, quota in zip(layers, quotas([layer.neurons for layer in layers], eligible, options.budget)):
        x, tie = importance[layer.name], plain[layer.name].mean(0)  # (K, N), (N,)
        candidates = ranked(x.amax(0), tie)[: 2 * quota]
        sides = _sides(pairs, options.specific_to[layer.part])  # type: ignore[index]
        found: dict[Group, list[int]] = {}
        # With one source language the source side has one row, no dispersion, and so nothing specific.
        y = torch.stack([x[members].mean(0) for members in sides.values()])
        spread, best = dispersion(y, options.dispersion), y.amax(0)
        fit = (spread > 0) & (best >= options.floor * best.mean())
        among = candidates[fit[candidates]]
        specific = among[ranked(spread[among])][: int(options.specific * quota + 0.5)]
        belongs = y >= best * (1.0 if options.share is None else options.share)
        if options.share is None:  # a tie belongs to the first
            belongs &= belongs.cumsum(0) == 1
        for row in specific.tolist():
            group = frozenset().union(*(g for g, member in zip(sides, belongs[:, row].tolist()) if member))
            found.setdefault(group, []).append(row)
        rest = candidates[~torch.isin(candidates, specific)]
        rest = rest[ranked(x.mean(0)[rest])][: quota - len(specific)]
        found.setdefault(agnostic, []).extend(rest.tolist())
        rows[layer.name] = {group: torch.tensor(sorted(index)) for group, index in found.items() if index}
    return rows
