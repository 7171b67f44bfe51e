"""Which neurons: the stages profile, probe and select."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuroglot.artefact import LAYERS, digests, fresh, read_json, remove, write_json
from neuroglot.data.corpus import as_task
from neuroglot.data.example import Example
from neuroglot.stages.context import Context, examples_digest, made_for, quiet

ANSWER_TOKENS = 48
"""At most, of what the base answers where a contrast task has no reference."""
PROBE_RANK = 8
"""Of the probe's LoRA: enough to tell layers apart by how far they move."""


def profile(context: Context) -> None:
    """Measure what every neuron does for every pair, on the training items."""
    from neuroglot.neurons import profile as measure

    quiet()
    settings = context.recipe.profile
    examples = profile_examples(context, settings.items)
    batches = context.batcher.batches(examples, settings.batch_size, settings.instructions)
    found = measure(
        context.model(),
        _counted(batches, context.track("profiling", len(examples))),
        scores=settings.scores,
        classes=(settings.tokens,),
    )
    with fresh(context.path("profile.safetensors")) as part:
        replace(found, data=examples_digest(examples)).save(part)


def profile_examples(context: Context, items: int) -> list[Example]:
    """Return the first training items in every pair, and the contrast tasks on their images.

    A contrast task's reference is the source text where that is known; otherwise it is what the base itself answers:
    the question is which neurons work when the task is done, not whether it is done well.
    """
    recipe = context.recipe
    translated = first_items(context.corpus.profile, items)
    single = {e.item: e for e in translated}
    examples = list(translated)
    for task in recipe.profile.contrast if recipe.task == "image_translation" else ():
        known = {item: as_task(e, task) for item, e in single.items()}
        unknown = [as_task(single[item], task, "?") for item, e in known.items() if e is None]
        asked = [e for e in unknown if e is not None]
        answers = _answers(context, asked) if asked else []
        answered = [replace(e, target=a) for e, a in zip(asked, answers, strict=True) if a]
        examples += [e for e in known.values() if e is not None] + answered
    return examples


def _answers(context: Context, examples: list[Example]) -> list[str]:
    """Return what the base says, without the recipe's settings of evaluation: a profile does not depend on those."""
    from neuroglot.systems import HFSystem

    size = context.recipe.profile.batch_size
    return HFSystem(context.model(), context.batcher, "base", size, ANSWER_TOKENS).translate(examples)


def first_items(examples: Iterable[Example], count: int) -> list[Example]:
    """Return the examples of the first `count` items."""
    examples = list(examples)
    items = set(list(dict.fromkeys(e.item for e in examples))[:count])
    return [e for e in examples if e.item in items]


def _counted(batches: Iterable[Any], bar: Callable[[int], None]) -> Iterator[Any]:
    """Pass batches on and tell a progress bar how many examples are done."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.items)
        bar(done)


def probe(context: Context) -> None:
    """Tune briefly and compare every layer's activations before and after (LLaVA-NeuMT, Eq. 3)."""
    from neuroglot.neurons import activation_similarity, inventory
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.stages.training import collate
    from neuroglot.training import TrainOptions, prepare, train

    quiet()
    settings = context.recipe.probe
    began = time.perf_counter()
    model = context.model()
    layers = inventory(model)
    tuned: Any
    before: Any
    after: Any
    if settings.estimator == "lora":
        tuned = prepare(model, "lora", r=PROBE_RANK, modules=[layer.name for layer in layers])
    else:
        tuned = prepare(context.model(), "full")
    machine = context.recipe.train
    options = TrainOptions(
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=context.recipe.data.seed,
        optimizer=machine.optimizer,
        bf16=machine.bf16,
        gradient_checkpointing=machine.gradient_checkpointing,
    )
    bar = context.track("probing", settings.steps)
    work = context.path(".probe")
    train(tuned, context.corpus.train, collate(context), options, work, progress=lambda step, steps, loss: bar(step))
    batches = context.batcher.batches(first_items(context.corpus.profile, settings.items), settings.batch_size)
    if settings.estimator == "lora":
        before, after = tuned.disable_adapter, nullcontext
        model = tuned.get_base_model()
    else:
        before, after = _states(model, tuned)
    similarity = activation_similarity(model, batches, before, after, layers)
    cost = {"steps": settings.steps, "seconds": round(time.perf_counter() - began, 2)}
    write_json(
        context.path("layers.json"),
        LAYERS,
        {
            "method": "similarity",
            "estimator": settings.estimator,
            "made_from": {"model": fingerprint(model, layers), "data": examples_digest(context.corpus.train)},
            "similarity": similarity,
            "cost": cost,
        },
    )
    remove(work)


State = Callable[[], AbstractContextManager[None]]


def _states(model: Any, tuned: Any) -> tuple[State, State]:
    """Return contexts that give `model` its own weights, or those of `tuned`: full tuning keeps both in memory."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = tuned.state_dict()

    @contextmanager
    def holding(state: dict[str, Any]) -> Iterator[None]:
        model.load_state_dict(state)
        yield

    return lambda: holding(own), lambda: holding(other)


def select(context: Context) -> None:
    """Choose the neurons."""
    from neuroglot.neurons import Profile, inventory
    from neuroglot.neurons import select as choose
    from neuroglot.neurons.inventory import fingerprint

    recipe = context.recipe
    given = {name: value for name, value in recipe.select.model_dump().items() if value is not None}
    if not recipe.draws:
        del given["seed"]
    if recipe.needs_probe:
        given |= {"ranking": "similarity", "similarities": read_layers(context.path("layers.json"))}
    given |= {"task": recipe.task, "token_class": recipe.profile.tokens}
    file = context.path("profile.safetensors")
    measured = Profile.load(file)
    if "profile" in context.foreign:
        model = context.model()
        own = fingerprint(model, inventory(model))
        made_for(file, measured.fingerprint, own, "run the profile stage again")
    found = choose(measured, method=recipe.method, **given)
    found = replace(found, meta={**found.meta, "profile": digests(file)})
    with fresh(context.path("selection.safetensors")) as part:
        found.save(part)


def read_layers(path: Path) -> dict[str, dict[str, float]]:
    """Read the similarities that the probe wrote: layer -> pair -> R.

    Raises:
        UserError: the file is not there, is damaged, or is not what the probe writes.
    """
    similarity: dict[str, dict[str, float]] = read_json(path, LAYERS)["similarity"]
    return similarity
