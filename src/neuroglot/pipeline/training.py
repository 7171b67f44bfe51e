"""The stage train: chosen neurons, or a baseline method, with the proof that nothing else changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from neuroglot.config import FACTORS, SMALL, WHOLE, Recipe
from neuroglot.file_format import (
    ADAPTER,
    MODEL,
    TRAINING,
    digests,
    fresh,
    remove,
    write_json,
    write_manifest,
    write_text,
)
from neuroglot.models.modules import of_modules
from neuroglot.pipeline.context import Context, examples_digest, made_for, quiet
from neuroglot.pipeline.folder import watch

if TYPE_CHECKING:
    from neuroglot.neurons import Layer
    from neuroglot.selection import Selection
    from neuroglot.training import Mix

START = "start"
"""The adapter that an aligned training starts from."""


def trained_folder(recipe: Recipe) -> str:
    """Return the folder that holds what was trained: an adapter, or, of full fine-tuning of any part, the model."""
    return "model" if recipe.trains_whole else "adapter"


def align(context: Context) -> None:
    """Let the low-rank factors of the chosen neurons start along the gradient, on the items of the profile."""
    from neuroglot.neurons import inventory
    from neuroglot.selection import Selection
    from neuroglot.training import aligned

    quiet()
    recipe, model = context.recipe, context.model()
    share, settings = recipe.train.parameters or 0.0, recipe.profile
    weights = sum(layer.neurons * (layer.inputs + layer.bias) for layer in inventory(model))
    examples = context.first_items("profile.items", context.corpus.profile, settings.items)
    batches = list(context.batcher.batches(examples, settings.batch_size, settings.instructions))
    result = aligned(
        model,
        Selection.load(context.path("selection.safetensors")),
        batches,
        int(share * weights + 0.5),
        recipe.train.rows,
        recipe.train.mode,
        progress=context.track("aligning", len(batches)),
    )
    position = context.path(START)
    remove(position)
    result.save(position)


def train(context: Context) -> None:
    """Train, save, and compare every weight with the base."""
    from neuroglot.neurons import inventory
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.selection import Selection
    from neuroglot.training import Mix, from_adapter, prepare, snapshot, trained_vectors
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
    else:
        tuned = prepare(base, recipe.method, **_method_options(recipe, layers))
        if recipe.method in SMALL:
            context.say(trained_vectors(tuned))
    bar = context.track("training", recipe.train.steps)
    work = context.path(".train")
    examples = context.training
    mix = Mix(examples.kinds, recipe.data.temperature, sum(examples.replayed.values()), recipe.data.replay)
    replay = _replay(context, mix)
    options = recipe.train.model_copy(update={"lr": recipe.learning_rate})
    result = fit(tuned, examples, context.collate, options, work, pairs=examples.pairs, mix=mix,
                 resume=True, progress=lambda step, steps, loss: bar(step), look=_look(context))  # fmt: skip
    facts = {
        "method": recipe.method,
        "made_from": made_from,
        **replay,
        "parts": _parts(layers, selection, trained_entries(tuned) if selection is not None else None, tuned),
        **({"modules": list(recipe.select.modules)} if recipe.select.modules else {}),
        "seconds": round(result.seconds, 2),
        "steps": result.steps,
        **({"skipped_steps": result.skipped} if result.skipped else {}),
        "peak_memory_bytes": peak(),
        "trainable_parameters": result.trainable,
        "total_parameters": total,
    }
    with fresh(context.path(trained_folder(recipe))) as part:
        _save(context, tuned, part)
        if selection is not None:
            facts["audit"] = _audit(context, snapshot(context.model()), tuned, selection)
        elif recipe.method != "full" or recipe.select.modules:
            facts["audit"] = _audit_names(context, snapshot(context.model()), tuned)
        about = {"method": recipe.method, "base": recipe.model.path, "pairs": context.corpus.pairs}
        write_manifest(part, MODEL if recipe.trains_whole else ADAPTER, {**about, "made_from": made_from})
    facts["saved_bytes"] = sum(p.stat().st_size for p in context.path(trained_folder(recipe)).glob("*.safetensors"))
    write_text(context.path("train_log.jsonl"), result.log.read_text(encoding="utf-8"))
    write_json(context.path("training.json"), TRAINING, facts)
    remove(work)


def _method_options(recipe: Recipe, layers: Sequence[Layer]) -> dict[str, Any]:
    """Return what the recipe says of a baseline method, as `neuroglot.training.prepare` takes it."""
    settings, chosen = recipe.train, of_modules(layers, recipe.select.modules or ())
    if recipe.method in FACTORS:
        names = [layer.name for layer in chosen if not layer.axis]  # LoRA knows no bare matrix
        return {"r": settings.rank, "modules": names, "seed": settings.seed}
    if recipe.method in WHOLE:
        return {"modules": [layer.name for layer in chosen]} if recipe.select.modules else {}
    return {"tokens": settings.prompt_tokens, "seed": settings.seed} if recipe.method == "prompt" else {}


def _replay(context: Context, mix: Mix) -> dict[str, Any]:
    """Return what the run writes of replayed examples, and say it; nothing where none are."""
    from neuroglot.training import OnePairBatchSampler

    if not mix.share:
        return {}
    sampler = OnePairBatchSampler(context.training.pairs, context.recipe.train.batch_size, mix=mix)
    held = context.training.replayed
    tasks = ", ".join(f"{task} ({count} examples)" for task, count in held.items())
    context.say(f"replay: {sampler.replays} of {len(sampler)} batches an epoch are of other tasks: {tasks}")
    epoch = {"batches": len(sampler), "replayed": sampler.replays}
    digest = examples_digest(chain.from_iterable(context.corpus.replay.values()))
    return {"replay": {"share": mix.share, "examples": held, "epoch": epoch, "data": digest}}


def _look(context: Context) -> tuple[int, Callable[[Any], dict[str, Any]]] | None:
    """Return how often training looks at the dev split, and how: greedily, on the first items; None if never."""
    settings = context.recipe.evaluate
    if not settings.every:
        return None
    from neuroglot.evaluation import score_rows
    from neuroglot.systems import HFSystem

    examples = context.first_items("evaluate.items", context.corpus.dev, settings.items)

    def look(model: Any) -> dict[str, Any]:
        # A batch at a time, and of a batch nothing but the tokens: no logits are kept.
        system = HFSystem(model, context.batcher, "dev", settings.batch_size, settings.max_new_tokens)
        said = system.translate(examples)
        rows = [
            {"pair": str(e.pair), "reference": e.target, "hypothesis": s} for e, s in zip(examples, said, strict=True)
        ]
        result = score_rows(rows, tokenise=settings.tokenise)["average"]
        return {name: result[name] for name in ("bleu", "chrf", "exact", "n")}

    return settings.every, look


def _save(context: Context, tuned: Any, folder: Any) -> None:
    import torch

    dtype = context.recipe.model.dtype
    if context.recipe.trains_whole:
        if dtype != "auto":  # it was trained in float32
            tuned = tuned.to(getattr(torch, dtype))
        context.processor.save_pretrained(folder)
    if context.recipe.method in FACTORS:  # a set, which would be written in another order by every process
        tuned.peft_config["default"].target_modules = sorted(tuned.peft_config["default"].target_modules)
    if context.recipe.method in SMALL:
        tuned.peft_config["default"].pairs = list(context.corpus.pairs)
    if context.recipe.uses_neurons or context.recipe.method in SMALL:
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
        **({"replayed share": recipe.data.replay} if recipe.data.replay else {}),
        "dtype": recipe.model.dtype,
    }


def _audit(context: Context, before: Any, tuned: Any, selection: Selection) -> dict[str, Any]:
    """Compare the merged model with the base, bit for bit.

    Raises:
        RuntimeError: a weight outside the selection changed; that is a defect.
    """
    from neuroglot.training import audit

    tuned.base_model.merge_adapter()
    result = audit(before, tuned, selection)
    context.say(str(result))
    if result.outside:
        raise RuntimeError(f"weights outside the selection changed: {result}; this is a defect of neuroglot")
    return {"selected": result.selected, "trained": result.trained, "outside": sorted(result.outside)}


def _audit_names(context: Context, before: Any, tuned: Any) -> dict[str, Any]:
    """Compare the model with the base, bit for bit, parameter by parameter.

    Raises:
        RuntimeError: a parameter that was not trained changed; that is a defect.
    """
    from neuroglot.training import audit_names, trained_names

    names = trained_names(tuned)
    if context.recipe.trains_whole and context.recipe.model.dtype == "auto":  # it is saved in float32
        before = {name: value.float() if value.is_floating_point() else value for name, value in before.items()}
    if context.recipe.method in ("bitfit", "norms"):
        tuned.base_model.merge_adapter()
    result = audit_names(before, tuned, names)
    context.say(str(result))
    if result.outside:
        raise RuntimeError(f"parameters that were not trained changed: {result}; this is a defect of neuroglot")
    return {"selected": result.selected, "trained": result.trained, "outside": list(result.outside)}


def _parts(
    layers: Sequence[Layer], selection: Selection | None, entries: Mapping[str, int] | None, tuned: Any
) -> dict[str, dict[str, int]]:
    """Return per part the layers and neurons trained, of how many, and the entries trained in these layers.

    Where no rows were selected, every neuron of a layer with a trained entry counts as trained.
    """
    from neuroglot.training import layer_entries

    entries = layer_entries(tuned, [layer.name for layer in layers]) if entries is None else entries
    parts: dict[str, dict[str, int]] = {}
    for layer in layers:
        row = parts.setdefault(
            layer.part,
            {"layers": 0, "eligible_layers": 0, "neurons": 0, "eligible_neurons": 0, "parameters": 0,
             "all_parameters": 0},
        )  # fmt: skip
        trained = entries.get(layer.name, 0)
        groups = {} if selection is None else selection.rows.get(layer.name, {})
        chosen = sum(map(len, groups.values())) if selection is not None else layer.neurons * (trained > 0)
        row["eligible_layers"] += 1
        row["eligible_neurons"] += layer.neurons
        row["all_parameters"] += layer.neurons * (layer.inputs + layer.bias)
        row["layers"] += chosen > 0
        row["neurons"] += chosen
        row["parameters"] += trained
    return parts
