"""The stages of a run: what each reads, what it writes, and what it does. The only place that knows all the rooms.

    profile -> (probe) -> select -> (align) -> train -> evaluate -> report

A stage is a function of a `Context`. One that is done and unchanged is skipped, an interrupted one resumes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuroglot import __version__
from neuroglot.config import EvaluateSection, Recipe, dump
from neuroglot.config.systems import model_paths
from neuroglot.errors import UserError
from neuroglot.file_format import Format, NewerFileError, digests, read_json, remove, write_json, write_text
from neuroglot.models.load import model_identity
from neuroglot.pipeline.context import Context, Track
from neuroglot.pipeline.evaluation import evaluate, report
from neuroglot.pipeline.folder import locked, sweep
from neuroglot.pipeline.neurons import MOVED, probe, profile, select
from neuroglot.pipeline.training import START, align, train, trained_folder

# ---- The stages -----------------------------------------------------------------------------------------------------

METHODS_OWN = ("profile.safetensors", "layers.json", MOVED, "selection.safetensors", "start", "adapter", "model")
"""What some methods write and others do not."""


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        name: its verb.
        fields: of the recipe, that it depends on: sections, or single fields as `data.test`.
        reads: files of earlier stages.
        writes: files and folders that it makes.
        function: what it does.
        replaces: files that another method left in the folder and that would contradict what it makes.
    """

    name: str
    fields: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    function: Callable[[Context], None]
    replaces: tuple[str, ...] = ()


def stages(recipe: Recipe) -> list[Stage]:
    """Return the stages of a recipe, in order."""
    laid_out = tuple(f"data.{name}" for name in ("format", "columns", "splits", "images", "root", "tasks", "render"))
    sized = tuple(f"data.{name}" for name in ("max_length", "max_pixels", "max_image_tokens"))
    base = ("task", "model", "data.source", "data.pairs", "data.domains", "data.seed", *laid_out, *sized)
    learnt = (*base, "data.train")
    tested = (*base, "data.test", "data.heldout", "data.retention")
    looks = ("every", "items")
    scored = tuple(f"evaluate.{name}" for name in EvaluateSection.model_fields if name not in looks)
    watched = ("data.dev", "evaluate.every", "evaluate.items", "evaluate.max_new_tokens")
    kept = ("data.dev", "data.retention", "evaluate.retention", "evaluate.retention_items")  # which is not replayed
    mixed = ("data.temperature", "data.replay", "data.replay_tasks", *(kept if recipe.data.replay else ()),
             *(watched if recipe.evaluate.every else ()))  # fmt: skip
    machine = ("train.optimizer", "train.bf16", "train.gradient_checkpointing")
    trained = trained_folder(recipe)

    result: list[Stage] = []
    if recipe.uses_neurons:
        if recipe.select.file is None:
            along = ("probe.steps", "probe.batch_size", "probe.lr", *machine)  # of the fine-tuning it is measured in
            own = ("profile", *(along if recipe.profile.importance_at == "during" else ()))
            result.append(Stage("profile", (*learnt, *own), (), ("profile.safetensors",), profile))
        if recipe.needs_probe:
            # only this estimator looks at the profile
            measured = ("profile.safetensors",) if recipe.probe.estimator == "neurons" else ()
            moved = ("select.score",) if recipe.needs_movement else ()
            made = ("layers.json", MOVED) if moved else ("layers.json",)
            result.append(Stage("probe", (*learnt, "probe", *machine, *moved), measured, made, probe))
        chosen_from = tuple(name for stage in result for name in stage.writes)
        result.append(Stage("select", ("task", "method", "select"), chosen_from, ("selection.safetensors",), select))
        if recipe.aligned:
            own = ("train.parameters", "train.rows", "train.mode", "profile")
            result.append(Stage("align", (*learnt, *own), ("selection.safetensors",), (START,), align))
    before = tuple(name for stage in result for name in stage.writes)
    modules = () if recipe.uses_neurons else ("select.modules",)
    result += [
        Stage("train", (*learnt, *mixed, *modules, "method", "train"), before[-1:],
              (trained, "training.json", "train_log.jsonl"), train,
              replaces=tuple(name for name in METHODS_OWN if name not in (*before, trained))),
        Stage("evaluate", (*tested, "method", *scored, "report", "systems"), (trained,),
              ("scores.json", "hypotheses.jsonl", "gallery.jsonl"), evaluate),
    ]  # fmt: skip
    shown = tuple(name for stage in result for name in stage.writes if name != trained)
    return [*result, Stage("report", tuple(Recipe.model_fields), shown, ("report.html",), report)]


# ---- What a stage depends on ----------------------------------------------------------------------------------------

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
        from neuroglot.evaluation.retention_data import identity

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


# ---- Running the stages ---------------------------------------------------------------------------------------------


def execute(
    recipe: Recipe,
    runs: Path,
    track: Track,
    say: Callable[[str], None],
    only: str | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    table: Callable[[Recipe], list[Stage]] | None = None,
) -> Path:
    """Run a recipe, or one stage of it.

    Args:
        recipe: what to run.
        runs: the folder that holds runs; this one's is `runs / recipe.name`.
        track: makes progress bars.
        say: prints a line.
        only: one stage's name; what it reads must be there.
        force: do it again even if nothing has changed.
        trust_remote_code: let code that comes with the model run.
        table: the stages of a recipe; a comparison's cells have their own.

    Returns:
        The run's folder.

    Raises:
        UserError: whatever the user can mend. What a stage made before is then as it was, what it can go on from is
            kept, and a folder with no finished stage and nothing to resume from is removed.
    """
    every = (table or stages)(recipe)
    chosen = every if only is None else [stage for stage in every if stage.name == only]
    if not chosen:
        names = ", ".join(stage.name for stage in every)
        raise UserError(f"method {recipe.method} has no {only} stage; it has {names}")
    folder = runs / recipe.name
    made = _make(folder)
    with locked(folder), _rolled_back(folder, made, every):
        sweep(folder)
        before = every[: every.index(chosen[0])]
        plain = Context(recipe, folder, track, say, trust_remote_code)
        foreign = [stage.name for stage in before if not _as_asked(stage, plain)]
        for name in foreign:
            say(f"{name}: not made by this recipe; used as it is")
        context = replace(plain, foreign=frozenset(foreign)) if foreign else plain
        for stage in chosen:
            _require(stage, folder, every)
            mark = fingerprint(stage, context)
            why = why_again(stage, context, mark)
            if why is None and not force:
                _forget(stage.name, folder)
                say(f"{stage.name}: unchanged")
                continue
            if why:
                say(f"{stage.name}: {why}; made again")
            if "data.source" in stage.fields:
                context.check()
            if context.data is not None:
                context.data.tell(say)
            _keep(recipe, folder)
            _work(stage, context, mark, force)
        _keep(recipe, folder)
        for begun in folder.glob(".stages/*.begun") if only is None else ():  # by another method
            _forget(begun.stem, folder)
    return folder


def _work(stage: Stage, context: Context, mark: str, force: bool) -> None:
    """Do one stage: go on with what was interrupted if it was the same, and record that it is done."""
    begun = _begun(stage.name, context.folder)
    begun.parent.mkdir(exist_ok=True)
    goes_on = not force and begun.exists() and begun.read_text(encoding="utf-8") == mark
    if not goes_on:  # checkpoints of another recipe are of no use
        _forget(stage.name, context.folder)
        write_text(begun, mark)
    began = time.perf_counter()
    try:
        stage.function(context)
    except UserError:
        if not _left(stage.name, context.folder):
            _forget(stage.name, context.folder)
        raise
    seconds = time.perf_counter() - began
    for name in stage.replaces:
        remove(context.path(name))
    keep_record(stage, context, mark, seconds)
    _forget(stage.name, context.folder)
    context.say(f"{stage.name}: {seconds:.0f} s")


def _begun(stage: str, folder: Path) -> Path:
    """The file that says under which fingerprint a stage was begun."""
    return folder / ".stages" / f"{stage}.begun"


def _left(stage: str, folder: Path) -> bool:
    """Whether an interrupted stage, killed or ended by an error, left anything to go on from."""
    return any(path.is_file() for path in (folder / f".{stage}").rglob("*"))


def _forget(stage: str, folder: Path) -> None:
    """Remove what an interrupted stage left to go on from."""
    remove(folder / f".{stage}")
    _begun(stage, folder).unlink(missing_ok=True)


def _as_asked(stage: Stage, context: Context) -> bool:
    """Whether what a stage made, if it is there, is what this recipe would make."""
    there = all(context.path(name).exists() for name in (*stage.reads, *stage.writes))
    return not there or why_again(stage, context, fingerprint(stage, context)) is None


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
    absent = [position for position in (folder, *folder.parents) if not position.exists()]
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
def _rolled_back(folder: Path, made: Sequence[Path], every: Sequence[Stage]) -> Iterator[None]:
    """Leave a folder as it was if the user's mistake ends a run before any stage is done: a new one is taken away."""
    recipe = folder / "recipe.yaml"
    before = recipe.read_text(encoding="utf-8") if recipe.exists() else None
    done = _done(folder, every)
    try:
        yield
    except UserError:
        if folder in made and not _done(folder, every) and not any(_left(stage.name, folder) for stage in every):
            shutil.rmtree(folder, ignore_errors=True)
            for position in made[1:]:
                with suppress(OSError):  # something else is in it by now
                    position.rmdir()
        elif before is not None and _done(folder, every) == done and recipe.read_text(encoding="utf-8") != before:
            write_text(recipe, before)
        raise


def _done(folder: Path, every: Sequence[Stage]) -> list[int]:
    """When each stage was last done."""
    records = (record_file(stage, folder) for stage in every)
    return [record.stat().st_mtime_ns for record in records if record.exists()]
