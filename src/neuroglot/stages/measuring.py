"""What is known of neurons before any is chosen: the stages profile and probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from neuroglot.artefact import (
    LAYERS,
    MOVEMENT,
    fresh,
    remove,
    save_tensors,
    write_json,
)
from neuroglot.data.corpus import TrainingSet, as_task
from neuroglot.data.example import Example
from neuroglot.stages.context import Context, examples_digest, quiet

ANSWER_TOKENS = 48
"""At most, of what the base answers where a contrast task has no reference."""
MOVED = "movement.safetensors"
"""How far the probe moved each neuron; only where rows are chosen by it."""
PROBE_RANK = 8
"""Of the probe's LoRA: enough to tell layers apart by how far they move."""
PROBE_BUDGET = 0.1
"""Share of every layer's neurons that the probe tunes where its estimator is `neurons`."""


def profile(context: Context) -> None:
    """Measure what every neuron does for every pair, on the training items."""
    from neuroglot.neurons import profile as measure
    from neuroglot.neurons.profiling.pieces import Checkpoint

    quiet()
    settings = context.recipe.profile
    examples = profile_examples(context, settings.items)
    batches = context.batcher.batches(examples, settings.batch_size, settings.instructions)
    unfinished = context.path(".profile")  # which a run removes where it was of another recipe
    unfinished.mkdir(exist_ok=True)
    data = examples_digest(examples)
    found = measure(
        context.model(),
        _counted(batches, context.track("profiling", len(examples))),
        scores=settings.scores,
        classes=(settings.tokens,),
        neurons=settings.neurons,
        checkpoint=Checkpoint(unfinished / "sums.safetensors", settings.save_batches, data),
    )
    with fresh(context.path("profile.safetensors")) as part:
        replace(found, data=data).save(part)
    remove(unfinished)


def profile_examples(context: Context, items: int) -> list[Example]:
    """Return the first training items in every pair, and the contrast tasks on their images."""
    return with_contrast(context, context.first_items("profile.items", context.corpus.profile, items))


def with_contrast(context: Context, translated: list[Example]) -> list[Example]:
    """Return examples, and the recipe's contrast tasks on their images.

    A contrast task's reference is the source text where that is known; otherwise it is what the base itself answers:
    the question is which neurons work when the task is done, not whether it is done well.
    """
    recipe = context.recipe
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


def _counted(batches: Iterable[Any], bar: Callable[[int], None]) -> Iterator[Any]:
    """Pass batches on and tell a progress bar how many examples are done."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.items)
        bar(done)


def probe(context: Context) -> None:
    """Tune briefly and compare every layer's activations before and after (LLaVA-NeuMT, Eq. 3)."""
    from neuroglot.neurons import inventory
    from neuroglot.neurons.inventory import fingerprint

    quiet()
    model = context.model()
    made_from = {"model": fingerprint(model, inventory(model)), "data": examples_digest(context.corpus.train)}
    found = probed(context, model, context.recipe.data.seed, context.recipe.needs_movement)
    settings = context.recipe.probe
    write_json(
        context.path("layers.json"),
        LAYERS,
        {
            "method": "similarity",
            "estimator": settings.estimator,
            "made_from": made_from,
            "similarity": found.similarity,
            "cost": {"steps": settings.steps, "seconds": found.seconds},
        },
    )
    if context.recipe.needs_movement:
        with fresh(context.path(MOVED)) as part:
            save_tensors(part, MOVEMENT, found.movement, {"made_from": made_from})


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Attributes:
        similarity: layer -> pair -> R.
        seconds: that it took.
        movement: layer -> [N], how far each neuron's weights moved; empty where it was not asked for.
    """

    similarity: dict[str, dict[str, float]]
    seconds: float
    movement: dict[str, Any]


def probed(context: Context, model: Any, seed: int, moved: bool = False) -> Probed:
    """Tune briefly as the recipe's probe says, and look at what that did.

    The estimator `neurons` tunes a tenth of every layer's neurons, those with the highest importance in the profile:
    every layer gives the same share, so that no layer is held to have adapted because more of it was trained.

    Args:
        context: the run; its profile is needed for `neurons`.
        model: the base model, which is changed.
        seed: of the order of the data and of low-rank factors.
        moved: measure also how far each neuron moved.
    """
    from neuroglot.neurons import Profile, activation_similarity, inventory
    from neuroglot.neurons import select as choose
    from neuroglot.neurons.profiling.scores import adapter_movement, movement, weight_of
    from neuroglot.training import Mix, TrainOptions, prepare, train

    settings = context.recipe.probe
    began = time.perf_counter()
    layers = inventory(model)
    tuned: Any
    before: Any
    after: Any
    if settings.estimator == "lora":
        tuned = prepare(model, "lora", r=PROBE_RANK, modules=[x.name for x in layers if not x.axis], seed=seed)
    elif settings.estimator == "neurons":
        measured = Profile.load(context.path("profile.safetensors"))
        shape = {"layers": 1.0, "budget": PROBE_BUDGET, "specific": 0.0, "contrast": "none"}
        how = {"task": context.recipe.task, "token_class": context.recipe.profile.tokens}
        tuned = prepare(model, "neurons", choose(measured, "mnaft", **shape, **how), seed=seed)
    else:
        tuned = prepare(context.model(), "full")
    machine = context.recipe.train
    options = TrainOptions(
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=seed,
        optimizer=machine.optimizer,
        bf16=machine.bf16,
        gradient_checkpointing=machine.gradient_checkpointing,
    )
    bar = context.track("probing", settings.steps)
    work = context.path(".probe")
    examples = TrainingSet(replace(context.corpus, replay={}))
    train(tuned, examples, context.collate, options, work, pairs=examples.pairs, mix=Mix(examples.kinds),
          progress=lambda step, steps, loss: bar(step))  # fmt: skip
    compared = context.first_items("probe.items", context.corpus.profile, settings.items)
    batches = context.batcher.batches(compared, settings.batch_size)
    if settings.estimator != "full":
        before, after = tuned.disable_adapter, nullcontext
        model = tuned.get_base_model()
    else:
        before, after = _states(model, tuned)
    similarity = activation_similarity(model, batches, before, after, layers)
    movements: dict[str, Any] = {}
    if moved:
        if settings.estimator == "full":
            movements = movement(weight_of(model), weight_of(tuned), layers)
        else:
            movements = adapter_movement(tuned, layers)
    remove(work)
    return Probed(similarity, round(time.perf_counter() - began, 2), movements)


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
