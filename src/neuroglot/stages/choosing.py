"""Which neurons: the stage select."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.artefact import LAYERS, MOVEMENT, digests, fresh, load_tensors, read_json
from neuroglot.errors import UserError
from neuroglot.stages.context import Context, made_for
from neuroglot.stages.measuring import MOVED

if TYPE_CHECKING:
    from neuroglot.selection import Selection


def select(context: Context) -> None:
    """Choose the neurons."""
    from neuroglot.neurons import Profile, inventory
    from neuroglot.neurons import select as choose
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.neurons.profiling.scores import with_static

    if context.recipe.select.file is not None:
        found = _given(context, Path(context.recipe.select.file))
        with fresh(context.path("selection.safetensors")) as part:
            found.save(part)
        return
    file = context.path("profile.safetensors")
    measured = Profile.load(file)
    if "profile" in context.foreign:
        model = context.model()
        own = fingerprint(model, inventory(model))
        made_for(file, measured.fingerprint, own, "run the profile stage again")
        known = [str(condition.pair) for condition in measured.of_task(context.recipe.task)]
        lacking = [pair for pair in context.recipe.data.pairs if pair not in known]
        if lacking:
            raise UserError(
                f"{file} was made by another recipe: of {context.recipe.task} it holds "
                f"{', '.join(known) or 'no pair'}, and this one has {lacking[0]} too; run the profile stage again"
            )
    if context.recipe.needs_movement:
        moved, _ = load_tensors(context.path(MOVED), MOVEMENT)
        measured = with_static(measured, movement=moved)
    found = choose(measured, method=context.recipe.method, **select_options(context))
    found = replace(found, meta={**found.meta, "profile": digests(file)})
    with fresh(context.path("selection.safetensors")) as part:
        found.save(part)


def _given(context: Context, file: Path) -> Selection:
    """Return the selection of a file, after comparing it with the model and the recipe's pairs.

    Raises:
        UserError: it is of another model, or lacks a pair.
    """
    from neuroglot.neurons import inventory
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.selection import Selection

    found = Selection.load(file)
    if found.meta.get("fingerprint") is not None:
        model = context.model()
        own = fingerprint(model, inventory(model))
        made_for(f"selection {file}", found.meta["fingerprint"], own, "choose for this model, or name another file")
    lacking = [pair for pair in context.recipe.data.pairs if pair not in found.pairs]
    if lacking:
        raise UserError(
            f"selection {file} is for the pairs {', '.join(found.pairs)}, and the recipe has {lacking[0]} too; "
            "leave it out of data.pairs, or put it into the file's pairs and groups"
        )
    return found


def select_options(context: Context) -> dict[str, Any]:
    """Return what the recipe says of the selection, as `neuroglot.neurons.select` takes it."""
    recipe = context.recipe
    given = {name: value for name, value in recipe.select.model_dump().items() if value is not None}
    if not recipe.draws:
        del given["seed"]
    if recipe.ranks_by_similarity:
        given |= {"ranking": "similarity", "similarities": read_layers(context.path("layers.json"))}
    return given | {"task": recipe.task, "token_class": recipe.profile.tokens}


def read_layers(path: Path) -> dict[str, dict[str, float]]:
    """Read the similarities that the probe wrote: layer -> pair -> R.

    Raises:
        UserError: the file is not there, is damaged, or is not what the probe writes.
    """
    similarity: dict[str, dict[str, float]] = read_json(path, LAYERS)["similarity"]
    return similarity
