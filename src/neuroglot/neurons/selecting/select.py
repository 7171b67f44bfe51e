"""Select: from a profile to the neurons to train, and for which pairs. Presets and controls; no model is needed.

Every method goes the same way: rank the layers within each part and keep a share of them; give each kept layer a quota
of rows; choose the rows; divide them into groups. `mnaft`, `neumt` and `neumt-paper` are one function (`rows.sets`)
with other options; a control (`controls`) takes the layers and counts of one of these and changes one thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import PARTS
from neuroglot.neurons.inventory import check_parts
from neuroglot.neurons.layers import layer_fractions
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.selecting.controls import CONTROLS
from neuroglot.neurons.selecting.rows import Rows, sets
from neuroglot.selection import Selection

TRANSLATION = ("image_translation", "multimodal_translation", "text_translation")


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


_BY_SIDE = {"vision": "source", "connector": "pair", "language": "target"}
_NEUMT = {"parts": ("connector", "language"), "layers": 0.4, "budget": None, "ranking": "similarity"}

PRESETS: dict[str, dict[str, Any]] = {
    "mnaft": {"specific_to": _BY_SIDE, "contrast": "auto"},
    "neumt": _NEUMT,
    "neumt-paper": {**_NEUMT, "normalise": "none", "dispersion": "variance", "floor": 0.0},
}
"""Method of the papers -> where its defaults differ from `Options`."""

METHODS = (*PRESETS, *CONTROLS)


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
    if method in CONTROLS:  # a control: everything else is as in the method that it is compared with
        like = options.get("like", "mnaft")
        if like not in PRESETS:
            raise UserError(f"like must be a method that is no control, got {like!r}; {nearest(str(like), PRESETS)}")
        chosen = replace(_resolve(profile, like, options), like=like)
        return _selection(profile, method, chosen, CONTROLS[method](profile, chosen))
    chosen = _resolve(profile, method, options)
    return _selection(profile, method, chosen, sets(profile, chosen))


def _resolve(profile: Profile, method: str, given: Mapping[str, Any]) -> Options:
    """Return the options of a preset, checked against each other and the profile."""
    values = {**PRESETS[method], **given}
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


def _selection(profile: Profile, method: str, options: Options, rows: Rows) -> Selection:
    eligible = [layer for layer in profile.layers if layer.part in options.parts]
    shown = {field.name: getattr(options, field.name) for field in fields(Options)}
    shown["similarities"] = options.similarities is not None
    if method in PRESETS:
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
