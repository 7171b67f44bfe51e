"""Options: what may be set in a selection, the presets' defaults, and which values exclude each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neuroglot.config import SelectSection
from neuroglot.errors import UserError, nearest
from neuroglot.models.families import PARTS
from neuroglot.models.modules import in_modules, of_modules
from neuroglot.neurons.inventory import Layer, check_parts
from neuroglot.neurons.layers import layer_fractions
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.pair import Pair

TRANSLATION = ("image_translation", "multimodal_translation", "text_translation")


@dataclass(frozen=True)
class Options:
    """The options of a selection: a preset's defaults, replaced where the user gave a value.

    Attributes:
        task: whose conditions are the pairs; by default the first translation task in the profile.
        similarities: layer -> pair -> R, from the probe; a ranking of layers by similarity needs them.
        token_class: the tokens that importance was taken over.

    The options that a recipe may hold too are fields of `neuroglot.config.SelectSection`, which explains each.
    `neuroglot.neurons.PRESETS` lists where a method's defaults differ from these.
    """

    task: str | None = None
    parts: tuple[str, ...] = PARTS
    modules: tuple[str, ...] = ()
    neuron: str = "rows"
    layers: float | Mapping[str, float] = 0.6
    ranking: str = "relevance"
    similarities: Mapping[str, Mapping[str, float]] | None = None
    budget: float | Mapping[str, float] | None = 0.4
    budget_of: str = "neurons"
    rank: str = "per-layer"
    cost: str = "none"
    specific: float | str | Mapping[str, float] = 0.1
    epsilon: float | None = None
    effect: float = 0.2
    specific_to: str | Mapping[str, str] = "pair"
    share: float | None = None
    score: str = "taylor_token"
    token_class: str = "all"
    normalise: str = "pair"
    dispersion: str = "cv"
    floor: float = 0.1
    contrast: str = "none"
    keep: tuple[str, ...] = ()
    sets: str = "both"
    like: str = "mnaft"
    seed: int = 0


_BY_SIDE = {"vision": "source", "connector": "pair", "language": "target"}
_RAW = {"normalise": "none", "dispersion": "variance", "floor": 0.0}
"""Importance as it is measured, its variance over pairs, each specific neuron to a pair, no contrast, no floor."""
_NEUMT = {"parts": ("connector", "language"), "layers": 0.4, "budget": None, "ranking": "similarity"}

PRESETS: dict[str, dict[str, Any]] = {
    "mnaft": {"specific_to": _BY_SIDE, "contrast": "auto"},
    "mnaft-raw": _RAW,
    "neumt": _NEUMT,
    "neumt-paper": {**_NEUMT, **_RAW},
}
"""Method of the papers -> the defaults that differ from `Options`."""


def neurons_of(profile: Profile, options: Options) -> list[Layer]:
    """Return the layers whose neurons may be chosen: matrices or feed-forward blocks, of the chosen parts."""
    units = options.neuron == "ffn"
    layers = [layer for layer in profile.layers if bool(layer.writes) == units and layer.part in options.parts]
    return [layer for layer in layers if in_modules(layer, options.modules)]


def resolve(profile: Profile, method: str, given: Mapping[str, Any]) -> Options:
    """Return the options of a preset, checked against each other and the profile.

    Raises:
        UserError: the first thing wrong with them.
    """
    given = _checked(given)
    values = _defaults(method, given)
    if "neuron" not in given and profile.layers and all(layer.writes for layer in profile.layers):
        values["neuron"] = "ffn"  # nothing else was profiled
    options = Options(**values)
    _check_ranking(method, given, options)
    of_modules((layer for layer in profile.layers if not layer.writes), options.modules)
    options = _with_parts(profile, method, given, options)
    if options.ranking == "similarity" and options.similarities is None:
        raise UserError(
            f"method {method} ranks layers by similarity, but no similarities were given; expected layer -> pair -> R "
            "from the probe; run the probe, or say ranking=relevance"
        )
    options = _with_task(profile, options)
    return replace(options, **_specific(profile, given, options))


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, each value checked as in a recipe."""
    others = {name: value for name, value in given.items() if name not in SelectSection.model_fields}
    section = SelectSection(**{name: value for name, value in given.items() if name not in others})
    return {name: getattr(section, name) for name in given if name not in others} | others


def _defaults(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset's values and the given ones, with the values that follow from these."""
    values = {**PRESETS[method], **given}
    if values.get("budget") is not None and method.startswith("neumt"):
        if "layers" in given:
            raise UserError(
                f"{method} trains every row of the layers it keeps, so budget sets the share of layers; "
                f"got budget={values['budget']} and layers={given['layers']}; give one of them"
            )
        values |= {"layers": values["budget"], "budget": None}
    if values.get("rank", "per-layer") != "per-layer" and "layers" not in given:
        values["layers"] = 1.0  # the ranking of rows decides which layers
    if values.get("keep") and "contrast" not in given:
        values["contrast"] = "none"
    if isinstance(values.get("specific"), Mapping) and "specific_to" not in given:
        values["specific_to"] = "pair"
    return values


def _check_ranking(method: str, given: Mapping[str, Any], options: Options) -> None:
    """Refuse options for ranking rows that exclude each other."""
    if options.rank != "per-layer" and method.startswith("neumt"):
        raise UserError(f"{method} trains every row of the layers it keeps; rank={options.rank} is for mnaft")
    if options.rank != "per-layer" and options.budget is None:
        raise UserError(f"rank={options.rank} needs a budget, which says how many rows are taken; give one")
    if options.budget is None and options.budget_of != "neurons":
        raise UserError(f"budget_of={options.budget_of} says what a budget is a share of, and {method} has none here")
    if options.rank == "global" and isinstance(options.budget, Mapping):
        raise UserError(
            f"rank=global lets all parts compete for one budget, got {dict(options.budget)}; "
            "give one number, or say rank=per-part"
        )
    if options.rank == "per-layer" and options.cost != "none":
        raise UserError("cost only counts where rows are ranked over layers; say rank=per-part or rank=global too")
    if options.keep and options.contrast == "subtract":
        raise UserError(
            f"keep={','.join(options.keep)} and contrast=subtract are two answers to one question; give one of them"
        )


def _with_parts(profile: Profile, method: str, given: Mapping[str, Any], options: Options) -> Options:
    """Return the options with the eligible parts, and their shares of layers and of neurons."""
    parts = check_parts(options.parts)
    present = {layer.part for layer in neurons_of(profile, replace(options, parts=PARTS))}
    if not present:
        if options.modules:
            raise UserError(f"modules {', '.join(options.modules)} leave no neuron=ffn to choose; leave one out")
        other = "rows" if options.neuron == "ffn" else "ffn"
        raise UserError(f"the profile holds no neuron={options.neuron}; profile them too, or say neuron={other}")
    for part in parts:
        if part not in present and "parts" in given:
            if options.modules and any(layer.part == part for layer in profile.layers):
                raise UserError(
                    f"part {part} has none of the modules {', '.join(options.modules)}; leave it out of parts, or "
                    "name its modules too"
                )
            raise UserError(
                f"part {part} is not in the profile, which holds {', '.join(p for p in PARTS if p in present)}; "
                "profile it too or leave it out of parts"
            )
    parts = tuple(part for part in parts if part in present)
    for name, value in (("layers", options.layers), ("budget", options.budget)):
        asked = value if isinstance(value, Mapping) else {}
        stray = [part for part, share in asked.items() if share and part in PARTS and part not in parts]
        if stray:
            raise UserError(
                f"{name} gives the {stray[0]} part a share, but {method} selects from {', '.join(parts)} here; "
                f"add it to parts, and profile it if the profile lacks it, or leave it out of {name}"
            )
    shares = layer_fractions(options.layers, parts)
    eligible = tuple(part for part in parts if shares[part] > 0)
    if not eligible:
        raise UserError(f"nothing to select from: parts {', '.join(parts) or 'none'} with layers {options.layers}")
    budget = options.budget
    if isinstance(budget, Mapping):
        absent = [part for part in eligible if part not in budget]
        if absent:
            raise UserError(
                f"budget gives no share for the {absent[0]} part, got {dict(budget)}; expected one for each of "
                f"{', '.join(eligible)}; leave a part out with layers or parts"
            )
    return replace(options, parts=eligible, layers=shares)


def _with_task(profile: Profile, options: Options) -> Options:
    task = options.task or next((task for task in TRANSLATION if profile.of_task(task)), None)
    tasks = sorted({condition.task for condition in profile.conditions})
    if task is None or not profile.of_task(task):
        raise UserError(
            f"the profile holds no condition of task {task or 'image_translation'!r}, only of {', '.join(tasks)}; "
            "profile the task or choose one of these"
        )
    for name in options.keep:
        if name == task:
            raise UserError(f"keep names {name}, which is the task to learn; name tasks that must not be forgotten")
        if name not in tasks:
            raise UserError(
                f"keep names {name!r}, of which the profile holds no condition, only of {', '.join(tasks)}; "
                "profile it too (profile.contrast in a recipe)"
            )
    return replace(options, task=task)


def _specific(profile: Profile, given: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return `specific` and `specific_to`, checked."""
    to = options.specific_to
    by_part = {part: to.get(part, "pair") for part in PARTS} if isinstance(to, Mapping) else dict.fromkeys(PARTS, to)
    specific = options.specific
    if isinstance(specific, Mapping):
        pairs = [str(condition.pair) for condition in profile.of_task(str(options.task))]
        specific = {str(Pair.parse(pair)): share for pair, share in specific.items()}
        for pair in specific:
            if pair not in pairs:
                raise UserError(f"specific names pair {pair}, which the profile lacks; {nearest(pair, pairs)}")
        if sum(specific.values()) > 1 + 1e-9:
            raise UserError(f"specific gives pairs {sum(specific.values()):g} of the rows in all; expected 1 at most")
        if set(by_part.values()) != {"pair"} or options.share is not None:
            other = "share" if options.share is not None else "specific_to"
            raise UserError(f"specific with one share per pair excludes {other}; leave one of them out")
        absent = [pair for pair in pairs if pair not in specific]
        if absent:
            raise UserError(
                f"specific gives no share for {', '.join(absent)}; expected one for every pair; use 0 for a pair that "
                "is to have no neurons of its own"
            )
    if options.epsilon is not None and "specific" in given:
        raise UserError(
            f"epsilon says which neurons are specific, and so does specific={specific}; leave one of them out"
        )
    if "effect" in given and specific != "auto":
        raise UserError(f"effect is for specific=auto, got specific={specific}; leave one of them out")
    return {"specific": specific, "specific_to": by_part}


def parts_of(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Return part -> its layers, in the order of the model."""
    return {part: members for part in PARTS if (members := [layer for layer in layers if layer.part == part])}
