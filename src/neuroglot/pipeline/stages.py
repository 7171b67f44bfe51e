"""The stages of a run: what each reads, what it writes, and what it does. The only place that knows all the rooms.

    profile -> (probe) -> select -> (align) -> train -> evaluate -> report

A stage is a function of a `Context`; `run.py` decides whether it has to run at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neuroglot.config import EvaluateSection, Recipe
from neuroglot.pipeline.context import Context
from neuroglot.pipeline.evaluation import evaluate, report
from neuroglot.pipeline.neurons import MOVED, probe, profile, select
from neuroglot.pipeline.training import START, align, train, trained_folder

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
    mixed = ("data.temperature", "data.replay", *(kept if recipe.data.replay else ()),
             *(watched if recipe.evaluate.every else ()))  # fmt: skip
    machine = ("train.optimizer", "train.bf16", "train.gradient_checkpointing")
    trained = trained_folder(recipe)

    found: list[Stage] = []
    if recipe.uses_neurons:
        if recipe.select.file is None:
            along = ("probe.steps", "probe.batch_size", "probe.lr", *machine)  # of the fine-tuning it is measured in
            own = ("profile", *(along if recipe.profile.importance_at == "during" else ()))
            found.append(Stage("profile", (*learnt, *own), (), ("profile.safetensors",), profile))
        if recipe.needs_probe:
            # only this estimator looks at the profile
            measured = ("profile.safetensors",) if recipe.probe.estimator == "neurons" else ()
            moved = ("select.score",) if recipe.needs_movement else ()
            made = ("layers.json", MOVED) if moved else ("layers.json",)
            found.append(Stage("probe", (*learnt, "probe", *machine, *moved), measured, made, probe))
        chosen_from = tuple(name for stage in found for name in stage.writes)
        found.append(Stage("select", ("task", "method", "select"), chosen_from, ("selection.safetensors",), select))
        if recipe.aligned:
            own = ("train.parameters", "train.rows", "train.mode", "profile")
            found.append(Stage("align", (*learnt, *own), ("selection.safetensors",), (START,), align))
    before = tuple(name for stage in found for name in stage.writes)
    found += [
        Stage("train", (*learnt, *mixed, "method", "train"), before[-1:],
              (trained, "training.json", "train_log.jsonl"), train,
              replaces=tuple(name for name in METHODS_OWN if name not in (*before, trained))),
        Stage("evaluate", (*tested, "method", *scored, "report", "systems"), (trained,),
              ("scores.json", "hypotheses.jsonl", "gallery.jsonl"), evaluate),
    ]  # fmt: skip
    shown = tuple(name for stage in found for name in stage.writes if name != trained)
    return [*found, Stage("report", tuple(Recipe.model_fields), shown, ("report.html",), report)]
