"""The stage train: chosen neurons, or a competitor, with the proof that nothing else changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from neuroglot.artefact import ADAPTER, MODEL, TRAINING, digests, fresh, remove, seal, write_json, write_text
from neuroglot.recipe import Recipe
from neuroglot.stages.context import Context, examples_digest, made_for, quiet
from neuroglot.stages.memory import watch

if TYPE_CHECKING:
    from neuroglot.data.example import Example
    from neuroglot.neurons import Layer
    from neuroglot.selection import Selection
    from neuroglot.training import TrainOptions


START = "start"
"""The adapter that an aligned training starts from."""


def home(recipe: Recipe) -> str:
    """Return the folder that holds what was trained: an adapter, or, of full fine-tuning, the whole model."""
    return "model" if recipe.method == "full" else "adapter"


def options(recipe: Recipe, **changes: Any) -> TrainOptions:
    """Return the recipe's training options, with changes."""
    from neuroglot.training import TrainOptions

    settings = recipe.train
    found = TrainOptions(
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=recipe.learning_rate,
        specific_lr=settings.specific_lr,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        accumulation=settings.accumulation,
        scheduler=settings.scheduler,
        optimizer=settings.optimizer,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=settings.bf16,
        gradient_checkpointing=settings.gradient_checkpointing,
        save_steps=settings.save_steps,
        log_steps=settings.log_steps,
    )
    return replace(found, **changes)


def collate(context: Context) -> Callable[[list[Example]], dict[str, Any]]:
    """Return the function that turns examples of one pair into a training batch."""

    def batch(examples: list[Example]) -> dict[str, Any]:
        return {**context.batcher.encode(examples), "pair": str(examples[0].pair)}

    return batch


def align(context: Context) -> None:
    """Let the low-rank factors of the chosen neurons start along the gradient, on the items of the profile."""
    from neuroglot.neurons import inventory
    from neuroglot.selection import Selection
    from neuroglot.stages.choosing import first_items
    from neuroglot.training import aligned

    quiet()
    recipe, model = context.recipe, context.model()
    share, settings = recipe.train.parameters or 0.0, recipe.profile
    weights = sum(layer.neurons * (layer.inputs + layer.bias) for layer in inventory(model))
    examples = first_items(context.corpus.profile, settings.items)
    batches = list(context.batcher.batches(examples, settings.batch_size, settings.instructions))
    found = aligned(
        model,
        Selection.load(context.path("selection.safetensors")),
        batches,
        int(share * weights + 0.5),
        recipe.train.rows,
        recipe.train.mode,
        progress=context.track("aligning", len(batches)),
    )
    place = context.path(START)
    remove(place)
    found.save(place)


def train(context: Context) -> None:
    """Train, save, and compare every weight with the base."""
    from neuroglot.neurons import inventory
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.selection import Selection
    from neuroglot.training import from_adapter, prepare, snapshot
    from neuroglot.training import train as fit
    from neuroglot.tuner import modes, selection_of, trained_entries

    quiet()
    recipe = context.recipe
    peak = watch()
    base = context.model()
    layers = inventory(base)
    total = sum(p.numel() for p in base.parameters())
    made_from = {"model": fingerprint(base, layers), "data": examples_digest(context.corpus.train)}
    selection = None
    if recipe.uses_neurons:
        file = context.path("selection.safetensors")
        selection = Selection.load(file)
        made_for(
            file, selection.meta.get("fingerprint"), made_from["model"], "run the profile and select stages again"
        )
        made_from["selection"] = digests(file)
    if recipe.aligned:
        tuned = from_adapter(base, context.path(START))
        selection = selection_of(tuned)
        context.say(f"tuner: {modes(tuned)}")
    elif selection is not None:
        settings = recipe.train
        tuned = prepare(base, "neurons", selection, rank=settings.neuron_rank, mode=settings.mode, seed=settings.seed)
        context.say(f"tuner: {modes(tuned)}")
    elif recipe.method == "lora":
        names = [layer.name for layer in layers if not layer.axis]  # LoRA knows no bare matrix
        tuned = prepare(base, "lora", r=recipe.train.rank, modules=names, seed=recipe.train.seed)
    else:
        tuned = prepare(base, "full")
    bar = context.track("training", recipe.train.steps)
    work = context.path(".train")
    result = fit(tuned, context.corpus.train, collate(context), options(recipe), work, resume=True,
                 progress=lambda step, steps, loss: bar(step))  # fmt: skip
    facts = {
        "method": recipe.method,
        "made_from": made_from,
        "parts": _parts(layers, selection, trained_entries(tuned) if selection is not None else {}),
        "seconds": round(result.seconds, 2),
        "steps": result.steps,
        "peak_memory_bytes": peak(),
        "trainable_parameters": result.trainable,
        "total_parameters": total,
    }
    with fresh(context.path(home(recipe))) as part:
        _save(context, tuned, part)
        if selection is not None:
            facts["audit"] = _audit(context, snapshot(context.model()), tuned, selection)
        about = {"method": recipe.method, "base": recipe.model.path, "pairs": context.corpus.pairs}
        seal(part, MODEL if recipe.method == "full" else ADAPTER, {**about, "made_from": made_from})
    facts["saved_bytes"] = sum(p.stat().st_size for p in context.path(home(recipe)).glob("*.safetensors"))
    write_text(context.path("train_log.jsonl"), result.log.read_text(encoding="utf-8"))
    write_json(context.path("training.json"), TRAINING, facts)
    remove(work)


def _save(context: Context, tuned: Any, folder: Any) -> None:
    import torch

    dtype = context.recipe.model.dtype
    if context.recipe.method == "full":
        if dtype != "auto":  # it was trained in float32
            tuned = tuned.to(getattr(torch, dtype))
        context.processor.save_pretrained(folder)
    if context.recipe.method == "lora":  # a set, which would be written in another order by every process
        tuned.peft_config["default"].target_modules = sorted(tuned.peft_config["default"].target_modules)
    if context.recipe.uses_neurons:
        tuned.peft_config["default"].trained_on = _trained_on(context)
    tuned.save_pretrained(folder)


def _trained_on(context: Context) -> dict[str, Any]:
    """Return what the adapter's card says of its training; of a user's file the name, and not where it lies."""
    recipe, examples = context.recipe, context.corpus.train
    return {
        "method": recipe.method,
        "task": recipe.task,
        "data": PurePath(recipe.data.source).name,
        "examples": len(examples),
        "steps": recipe.train.steps,
        "batch size": recipe.train.batch_size,
        "dtype": recipe.model.dtype,
    }


def _audit(context: Context, before: Any, tuned: Any, selection: Selection) -> dict[str, Any]:
    """Compare the merged model with the base, bit for bit.

    Raises:
        RuntimeError: a weight outside the selection changed; that is a defect.
    """
    from neuroglot.training import audit

    tuned.base_model.merge_adapter()
    found = audit(before, tuned, selection)
    context.say(str(found))
    if found.outside:
        raise RuntimeError(f"weights outside the selection changed: {found}; this is a defect of neuroglot")
    return {"selected": found.selected, "trained": found.trained, "outside": sorted(found.outside)}


def _parts(
    layers: Sequence[Layer], selection: Selection | None, entries: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Return per part the layers and neurons trained, of how many, and the entries trained; without selection all."""
    parts: dict[str, dict[str, int]] = {}
    for layer in layers:
        row = parts.setdefault(
            layer.part,
            {"layers": 0, "eligible_layers": 0, "neurons": 0, "eligible_neurons": 0, "parameters": 0,
             "all_parameters": 0},
        )  # fmt: skip
        width = layer.inputs + layer.bias
        groups = {} if selection is None else selection.rows.get(layer.name, {})
        chosen = layer.neurons if selection is None else sum(map(len, groups.values()))
        row["eligible_layers"] += 1
        row["eligible_neurons"] += layer.neurons
        row["all_parameters"] += layer.neurons * width
        row["layers"] += chosen > 0
        row["neurons"] += chosen
        row["parameters"] += chosen * width if selection is None else entries.get(layer.name, 0)
    return parts
