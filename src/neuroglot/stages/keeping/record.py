"""What a stage's files depend on, what they were when it made them, and so whether it has to run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot import __version__
from neuroglot.artefact import Format, NewerFileError, digests, read_json, write_json
from neuroglot.errors import UserError
from neuroglot.models.identity import model_identity
from neuroglot.recipe.sections.systems import model_paths
from neuroglot.stages.context import Context

if TYPE_CHECKING:
    from neuroglot.stages import Stage

FORMAT = 2
"""Counts up when a stage's files change their meaning: every older file is then made anew."""

RECORD = Format("record", FORMAT, "run")


def fingerprint(stage: Stage, context: Context) -> str:
    """Return a hash of all that a stage's files depend on: recipe fields, earlier files, model, data, format."""
    tree = context.recipe.model_dump(mode="json")
    parts: dict[str, Any] = {
        "stage": stage.name,
        "format": FORMAT,
        "recipe": {field: _field(tree, field) for field in stage.fields},
        "reads": {name: digests(context.path(name)) for name in stage.reads},
    }
    if "model" in stage.fields:
        parts["model"] = model_identity(context.recipe.model.path)
    if "data.source" in stage.fields and context.data is not None:
        parts["data"] = context.data.identity
    if "evaluate.retention" in stage.fields and context.recipe.evaluate.retention:
        from neuroglot.evaluation.kept import identity

        parts["retention"] = identity(context.recipe.evaluate.retention)
    if "systems" in stage.fields and context.recipe.systems:
        paths = sorted(set().union(*map(model_paths, context.recipe.systems.values())))
        parts["systems"] = {path: model_identity(path) for path in paths if Path(path).is_dir()}
    if "select" in stage.fields and context.recipe.select.file is not None:
        file = Path(context.recipe.select.file)
        if not file.is_file():
            raise UserError(f"select.file {file} does not exist; expected a selection")
        parts["selection"] = digests(file)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def why_again(stage: Stage, context: Context, mark: str) -> str | None:
    """Return why a stage has to run, empty if that goes without saying; None if it is done and unchanged.

    Its files are compared with what they were when they were made, bit for bit.

    Raises:
        UserError: a newer version made them, which this one must not destroy.
    """
    if not all(context.path(name).exists() for name in stage.writes):
        return ""
    if not record_file(stage, context.folder).exists():
        return ""
    try:
        record = read_json(record_file(stage, context.folder), RECORD)
    except NewerFileError:
        folder = context.folder
        raise UserError(
            f"run folder {folder} was made by a newer neuroglot; update neuroglot, or use another"
        ) from None
    except UserError:
        return "its record is damaged, or of an older neuroglot"
    if record["fingerprint"] != mark:
        return ""
    changed = [name for name in stage.writes if digests(context.path(name)) != record["files"].get(name)]
    return f"{context.path(changed[0])} is damaged or was changed" if changed else None


def keep_record(stage: Stage, context: Context, mark: str, seconds: float) -> None:
    """Record that a stage is done, and what it made."""
    files = {name: digests(context.path(name)) for name in stage.writes}
    content = {"fingerprint": mark, "files": files, "seconds": round(seconds, 2), "version": __version__}
    write_json(record_file(stage, context.folder), RECORD, content)


def record_file(stage: Stage, folder: Path) -> Path:
    """Where a stage's record is."""
    return folder / ".stages" / f"{stage.name}.json"


def _field(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree
