"""Walking the stages of a run: what is done and unchanged is skipped, what is interrupted goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from neuroglot import __version__
from neuroglot.data.corpus import SIGNS
from neuroglot.errors import UserError
from neuroglot.models.load import resolve
from neuroglot.recipe import Recipe, dump
from neuroglot.stages import Context, Stage, Track, stages
from neuroglot.stages.files import held, remove, sweep, write_json, write_text

FORMAT = 1
"""Counts up when a stage's files change their meaning: every older file is then made anew."""

WHOLE_FILE = 256 * 2**20
"""Files up to this size are identified by their content, larger ones by size and time."""


def execute(
    recipe: Recipe,
    runs: Path,
    track: Track,
    say: Callable[[str], None],
    only: str | None = None,
    force: bool = False,
) -> Path:
    """Run a recipe, or one stage of it.

    Args:
        recipe: what to run.
        runs: the folder that holds runs; this one's is `runs / recipe.name`.
        track: makes progress bars.
        say: prints a line.
        only: one stage's name; what it reads must be there.
        force: do it again even if nothing has changed.

    Returns:
        The run's folder.

    Raises:
        UserError: whatever the user can mend. What a stage made before is then as it was, and a folder in which no
            stage was ever finished is not left behind.
    """
    every = stages(recipe)
    chosen = every if only is None else [stage for stage in every if stage.name == only]
    if not chosen:
        names = ", ".join(stage.name for stage in every)
        raise UserError(f"method {recipe.method} has no {only} stage; it has {names}")
    folder = runs / recipe.name
    made = _make(folder)
    with held(folder), _nothing_left(folder, made):
        sweep(folder)
        context = Context(recipe, folder, track, say)
        for stage in every[: every.index(chosen[0])]:
            if not _as_asked(stage, recipe, folder):
                say(f"{stage.name}: not made by this recipe; used as it is")
        for stage in chosen:
            _require(stage, folder, every)
            mark = fingerprint(stage, recipe, folder)
            if not force and _finished(stage, folder) == mark:
                say(f"{stage.name}: unchanged")
                continue
            if "data.source" in stage.fields:
                context.check()
            _keep(recipe, folder)
            _work(stage, context, mark, force)
        _keep(recipe, folder)
    return folder


def _work(stage: Stage, context: Context, mark: str, force: bool) -> None:
    """Do one stage: go on with what was interrupted if it was the same, and record that it is done."""
    records = context.path(".stages")
    records.mkdir(exist_ok=True)
    done, begun, unfinished = _record(stage, context.folder), records / f"{stage.name}.begun", f".{stage.name}"
    done.unlink(missing_ok=True)
    if force or not begun.exists() or begun.read_text() != mark:  # checkpoints of another recipe are of no use
        remove(context.path(unfinished))
        write_text(begun, mark)
    began = time.perf_counter()
    stage.function(context)
    seconds = time.perf_counter() - began
    for name in stage.replaces:
        remove(context.path(name))
    write_json(done, {"fingerprint": mark, "seconds": round(seconds, 2), "version": __version__})
    begun.unlink()
    context.say(f"{stage.name}: {seconds:.0f} s")


def _record(stage: Stage, folder: Path) -> Path:
    return folder / ".stages" / f"{stage.name}.json"


def _finished(stage: Stage, folder: Path) -> str | None:
    """Return the fingerprint that a stage's files were made under; None if it is not done or a file is gone."""
    if not all((folder / name).exists() for name in stage.writes):
        return None
    try:
        return str(json.loads(_record(stage, folder).read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _as_asked(stage: Stage, recipe: Recipe, folder: Path) -> bool:
    """Whether what a stage made, if it is there, is what this recipe would make."""
    there = all((folder / name).exists() for name in (*stage.reads, *stage.writes))
    return not there or _finished(stage, folder) == fingerprint(stage, recipe, folder)


def _require(stage: Stage, folder: Path, every: Sequence[Stage]) -> None:
    for name in stage.reads:
        if not (folder / name).exists():
            maker = next(s.name for s in every if name in s.writes)
            raise UserError(f"{stage.name} needs {folder / name}, which is not there; run the {maker} stage first")


def _keep(recipe: Recipe, folder: Path) -> None:
    """Keep the recipe with what it made."""
    path, text = folder / "recipe.yaml", dump(recipe)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _make(folder: Path) -> list[Path]:
    """Make a folder and return what was made for it: none, itself, or itself and folders above it."""
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # of an earlier run, or of one that began just now
            folder.mkdir()
            return absent
        if not folder.is_dir():
            raise NotADirectoryError(0, "a file of this name is in the way")
    except OSError as error:
        raise UserError(f"run folder {folder} cannot be made: {error.strerror}; choose another with --runs") from None
    return []


@contextmanager
def _nothing_left(folder: Path, made: Sequence[Path]) -> Iterator[None]:
    """Take a new folder away again if the user's mistake ends a run in it before any stage is done."""
    try:
        yield
    except UserError:
        if folder in made and not list((folder / ".stages").glob("*.json")):
            shutil.rmtree(folder, ignore_errors=True)
            for place in made[1:]:
                with suppress(OSError):  # something else is in it by now
                    place.rmdir()
        raise


def fingerprint(stage: Stage, recipe: Recipe, folder: Path) -> str:
    """Return a hash of all that a stage's files depend on: recipe fields, earlier files, model, data, format."""
    tree = recipe.model_dump(mode="json")
    parts: dict[str, Any] = {
        "stage": stage.name,
        "format": FORMAT,
        "recipe": {field: _field(tree, field) for field in stage.fields},
        "reads": {name: _identity(folder / name) for name in stage.reads},
    }
    if "model" in stage.fields:
        parts["model"] = _model_identity(recipe.model.path)
    if "data.source" in stage.fields and recipe.data.source != SIGNS:
        parts["data"] = _stamp(Path(recipe.data.source))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _field(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def _identity(path: Path) -> Any:
    if path.is_dir():
        return {p.name: _identity(p) for p in sorted(path.iterdir()) if not p.name.startswith(".")}
    if path.stat().st_size > WHOLE_FILE:
        return _stamp(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stamp(path: Path) -> Any:
    try:
        status = path.stat()
    except OSError:
        raise UserError(f"data file {path} does not exist; give a JSONL file or `signs`") from None
    return [str(path), status.st_size, status.st_mtime_ns]


def _model_identity(model: str) -> Any:
    place = Path(resolve(model))
    if not place.is_dir():
        return str(place)
    # By content for what is small, so that the embedded model is itself wherever it is installed.
    return {p.name: _identity(p) for p in sorted(place.iterdir()) if p.suffix in (".json", ".jinja", ".safetensors")}
