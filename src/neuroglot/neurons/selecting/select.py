"""Select: from a profile to the neurons to train, and for which pairs. Presets and controls; no model is needed.

Every method goes the same way: rank the layers within each part and keep a share of them (`allocation`); give each
kept layer a quota of rows; choose the rows and divide them into groups (`rows`). `mnaft`, `neumt` and `neumt-paper`
are one function with other options (`options`); a control (`controls`) takes the layers and counts of one of these
and changes one thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from neuroglot.errors import UserError, expect, nearest
from neuroglot.neurons.ffn import FeedForward, spread
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.selecting.controls import CONTROLS
from neuroglot.neurons.selecting.options import PRESETS, TRANSLATION, Options, neurons_of, resolve
from neuroglot.neurons.selecting.rows import Rows, sets
from neuroglot.selection import Selection

__all__ = ["METHODS", "PRESETS", "TRANSLATION", "Options", "select"]

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
    """Return the options as JSON has them."""
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
