"""Select: from a profile to the neurons to train, and for which pairs. Presets and controls; no model is needed.

Every method goes the same way: rank the layers within each part and keep a share of them; give each kept layer a quota
of rows; choose the rows; divide them into groups. `mnaft`, `neumt` and `neumt-paper` are one function with other
options. A control takes the layers, rows per layer and group sizes of one of these and only chooses other rows.

**Budget.** `budget` is the share of all neurons of the eligible parts (those with a share of layers above zero) that
is trainable, so with `layers=0.6` and `budget=0.4` about two thirds of the rows of each kept layer are. The total is
budget x eligible neurons, rounded, or all rows of the kept layers where these are fewer. Every kept layer gives the
same fraction of its rows: first rounded down, then the rows still missing go to the layers with the largest
remainders, in the order of the model where they tie. `budget=None` takes every row of the kept layers.

Ties between neurons go to the higher best importance, then to the lower row index, and nothing depends on global
random state.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import PARTS
from neuroglot.neurons.inventory import Layer, check_parts
from neuroglot.neurons.layers import keep, layer_fractions, mean_similarity, relevance
from neuroglot.neurons.profile import Profile
from neuroglot.pair import Condition
from neuroglot.selection import Group, Selection

TRANSLATION = ("image_translation", "multimodal_translation", "text_translation")
CONTRAST = ("ocr", "describe")


@dataclass(frozen=True)
class Options:
    """What may be set; a method's defaults differ from these where `METHODS` says so.

    Attributes:
        task: whose conditions are the pairs; by default the first translation task in the profile.
        parts: the parts to choose from.
        layers: share of the layers to keep, one number or one per part; 0 leaves a part out.
        ranking: of layers, `relevance` or `similarity`; similarity needs `similarities`.
        similarities: layer -> pair -> R, from the probe.
        budget: share of all neurons of the eligible parts, None for all rows of the kept layers.
        specific: share of the chosen rows of a layer that is specific, at most.
        specific_to: what a specific neuron is specific to, `pair`, `source` or `target`; one value or one per part.
        share: None, or a neuron belongs to every pair (source, target) within this share of its best.
        score: the score that importance is.
        token_class: the tokens it was taken over.
        normalise: `pair` or `none`, see `Profile.importance`.
        dispersion: over pairs, `cv` (coefficient of variation) or `variance`.
        floor: a specific neuron's best importance is at least this share of its layer's mean best. Without a floor
            the coefficient of variation favours neurons that are nearly dead.
        contrast: `subtract` takes the importance for reading and describing off that for translating, floored at 0;
            `auto` does if such conditions were profiled; `none`. Layers are ranked without it.
        like: of a control, the method whose layers and counts it takes over.
        seed: of random choices.
    """

    task: str | None = None
    parts: tuple[str, ...] = PARTS
    layers: float | Mapping[str, float] = 0.6
    ranking: str = "relevance"
    similarities: Mapping[str, Mapping[str, float]] | None = None
    budget: float | None = 0.4
    specific: float = 0.1
    specific_to: str | Mapping[str, str] = "pair"
    share: float | None = None
    score: str = "taylor_token"
    token_class: str = "all"
    normalise: str = "pair"
    dispersion: str = "cv"
    floor: float = 0.1
    contrast: str = "none"
    like: str = "mnaft"
    seed: int = 0


def select(profile: Profile, method: str = "mnaft", **options: Any) -> Selection:
    """Return the neurons that a method trains, and for which pairs.

    Args:
        profile: of a translation task, with one condition per pair.
        method: a name in `METHODS`.
        **options: fields of `Options`.

    Raises:
        UserError: an unknown method or option, a value out of range, or something that the profile does not hold.
    """
    if method not in METHODS:
        raise UserError(f"method {method!r} is not known; {nearest(method, METHODS)}")
    known = {field.name for field in fields(Options)}
    for name in options:
        if name not in known:
            raise UserError(f"option {name!r} of select is not known; {nearest(name, known)}")
    run, defaults = METHODS[method]
    chosen = _resolve(profile, method, defaults, options)
    return _selection(profile, method, chosen, run(profile, chosen))


Rows = dict[str, dict[Group, Tensor]]


def _resolve(profile: Profile, method: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """Return the options of a method, checked against each other and the profile."""
    if defaults.get("like"):  # a control: everything else is as in the method that it is compared with
        like = given.get("like", defaults["like"])
        if like not in METHODS or METHODS[like][1].get("like"):
            methods = [name for name, (_, preset) in METHODS.items() if not preset.get("like")]
            raise UserError(f"like must be a method that is no control, got {like!r}; {nearest(str(like), methods)}")
        return replace(_resolve(profile, like, METHODS[like][1], given), like=like)
    values = {**defaults, **given}
    if values.get("budget") is not None and method.startswith("neumt"):
        if "layers" in given:
            raise UserError(
                f"{method} trains every row of the layers it keeps, so budget sets the share of layers; "
                f"got budget={values['budget']} and layers={given['layers']}; give one of them"
            )
        values |= {"layers": values["budget"], "budget": None}
    options = Options(**values)

    parts = check_parts(options.parts)
    present = {layer.part for layer in profile.layers}
    for part in parts:
        if part not in present and "parts" in given:
            raise UserError(
                f"part {part} is not in the profile, which holds {', '.join(p for p in PARTS if p in present)}; "
                "profile it too or leave it out of parts"
            )
    parts = tuple(part for part in parts if part in present)
    asked = options.layers if isinstance(options.layers, Mapping) else {}
    stray = [part for part, share in asked.items() if share and part not in parts]
    if stray:
        raise UserError(
            f"layers gives the {stray[0]} part a share, but {method} selects from {', '.join(parts)} here; "
            "add it to parts, and profile it if the profile lacks it, or leave it out of layers"
        )
    shares = layer_fractions(options.layers, parts)
    eligible = tuple(part for part in parts if shares[part] > 0)
    if not eligible:
        raise UserError(f"nothing to select from: parts {', '.join(parts) or 'none'} with layers {options.layers}")

    for name, low, value in (
        ("budget", "(", options.budget),
        ("share", "(", options.share),
        ("specific", "[", options.specific),
        ("floor", "[", options.floor),
    ):
        if value is not None and not (0 < value <= 1 or (low == "[" and value == 0)):
            raise UserError(f"{name} must be in {low}0, 1], got {value!r}; it is a share, 0.4 for 40 %")
    choices = {
        "ranking": ("relevance", "similarity"),
        "normalise": ("pair", "none"),
        "dispersion": ("cv", "variance"),
        "contrast": ("none", "subtract", "auto"),
    }
    for name, allowed in choices.items():
        if getattr(options, name) not in allowed:
            raise UserError(f"{name} must be one of {', '.join(allowed)}, got {getattr(options, name)!r}")
    if options.ranking == "similarity" and options.similarities is None:
        raise UserError(
            f"method {method} ranks layers by similarity, but no similarities were given; expected layer -> pair -> R "
            "from the probe; run the probe, or say ranking=relevance"
        )
    to = options.specific_to
    by_part = {part: to.get(part, "pair") for part in PARTS} if isinstance(to, Mapping) else dict.fromkeys(PARTS, to)
    for part, side in by_part.items():
        if side not in ("pair", "source", "target"):
            raise UserError(f"specific_to.{part} must be pair, source or target, got {side!r}")

    task = options.task or next((task for task in TRANSLATION if profile.of_task(task)), None)
    if task is None or not profile.of_task(task):
        tasks = sorted({condition.task for condition in profile.conditions})
        raise UserError(
            f"the profile holds no condition of task {task or 'image_translation'!r}, only of {', '.join(tasks)}; "
            "profile the task or choose one of these"
        )
    return replace(options, task=task, parts=eligible, layers=shares, specific_to=by_part)


# ---- what all methods share -------------------------------------------------------------------------------------


def _contrasted(profile: Profile, options: Options) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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


def _kept_layers(profile: Profile, options: Options) -> list[Layer]:
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


# ---- the methods ------------------------------------------------------------------------------------------------


def _sets(profile: Profile, options: Options) -> Rows:
    """Choose specific and agnostic rows by importance: `mnaft`, `neumt` and `neumt-paper`.

    Of a layer's quota q, the candidates are the 2q rows with the highest importance for any pair. Specific come first
    (Eq. 7 of LLaVA-NeuMT gives every neuron to some pair; precedence resolves its overlap with Eq. 8): the most
    dispersed candidates, each to its best pair. The candidates with the highest mean fill the quota as agnostic.
    """
    pairs = profile.of_task(str(options.task))
    agnostic = frozenset(str(condition.pair) for condition in pairs)
    importance, plain = _contrasted(profile, options)
    layers = _kept_layers(profile, options)
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


def _control(ranking: Callable[[Profile, Options], Mapping[str, tuple[Tensor, Tensor]]]) -> Callable[..., Rows]:
    """Return a method that keeps the layers, row counts and group sizes of `like` and takes other rows.

    `ranking` yields, per layer, a key [N] whose highest rows are taken and an importance [K, N]; each specific group
    then gets, in the order of group names, those of the taken rows that prefer its pairs most.
    """

    def run(profile: Profile, options: Options) -> Rows:
        reference = METHODS[options.like][0](profile, options)
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


def _by_score(score: str) -> Callable[[Profile, Options], Mapping[str, tuple[Tensor, Tensor]]]:
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


_BY_SIDE = {"vision": "source", "connector": "pair", "language": "target"}
_NEUMT = {"parts": ("connector", "language"), "layers": 0.4, "budget": None, "ranking": "similarity"}

METHODS: dict[str, tuple[Callable[..., Rows], dict[str, Any]]] = {
    "mnaft": (_sets, {"specific_to": _BY_SIDE, "contrast": "auto"}),
    "neumt": (_sets, _NEUMT),
    "neumt-paper": (_sets, {**_NEUMT, "normalise": "none", "dispersion": "variance", "floor": 0.0}),
    "random": (_control(_random), {"like": "mnaft"}),
    "gradient": (_control(_by_score("gradient")), {"like": "mnaft"}),
    "activation": (_control(_by_score("activation")), {"like": "mnaft"}),
    "weight": (_control(_by_score("weight")), {"like": "mnaft"}),
    "least": (_control(_least), {"like": "mnaft"}),
}
"""Method -> its function and where its defaults differ from `Options`; those with `like` are controls."""


def _selection(profile: Profile, method: str, options: Options, rows: Rows) -> Selection:
    eligible = [layer for layer in profile.layers if layer.part in options.parts]
    shown = {field.name: getattr(options, field.name) for field in fields(Options)}
    shown["similarities"] = options.similarities is not None
    if not METHODS[method][1].get("like"):
        del shown["like"], shown["seed"]
    meta = {
        "method": method,
        "task": options.task,
        "options": shown | {"parts": list(options.parts)},
        "model": profile.model,
        "fingerprint": profile.fingerprint,
        "neurons": {part: sum(x.neurons for x in eligible if x.part == part) for part in options.parts},
        "layers": {part: sum(x.part == part for x in eligible) for part in options.parts},
        "chosen": {x.name: {"part": x.part, "neurons": x.neurons} for x in eligible if x.name in rows},
    }
    pairs = tuple(str(condition.pair) for condition in profile.of_task(str(options.task)))
    return Selection(pairs, {name: dict(groups) for name, groups in rows.items() if groups}, meta)
