"""The stages profile, probe and select: from the model and the data to the neurons to train."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.config import TrainSection
from neuroglot.data.corpus import TrainingSet, as_task
from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.file_format import (
    LAYERS,
    MOVEMENT,
    digests,
    fresh,
    load_tensors,
    read_json,
    remove,
    save_tensors,
    write_json,
)
from neuroglot.pipeline.context import Context, examples_digest, made_for, quiet
from neuroglot.printing import short

if TYPE_CHECKING:
    from neuroglot.selection import Selection
    from neuroglot.training.callbacks import LookFunction

# ---- profile and probe ----------------------------------------------------------------------------------------------

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
    from neuroglot.neurons.profiling.merge import Checkpoint

    quiet()
    settings = context.recipe.profile
    examples = profile_examples(context, settings.items)
    batches = context.batcher.batches(examples, settings.batch_size, settings.instructions)
    if settings.importance_at == "during":
        with fresh(context.path("profile.safetensors")) as part:
            replace(_during(context, examples, batches), data=examples_digest(examples)).save(part)
        return
    unfinished = context.path(".profile")  # which a run removes where it was of another recipe
    unfinished.mkdir(exist_ok=True)
    data = examples_digest(examples)
    result = measure(
        context.model(),
        _counted(batches, context.track("profiling", len(examples))),
        scores=settings.scores,
        classes=(settings.tokens,),
        neurons=settings.neurons,
        checkpoint=Checkpoint(unfinished / "sums.safetensors", settings.save_batches, data),
    )
    with fresh(context.path("profile.safetensors")) as part:
        replace(result, data=data).save(part)
    remove(unfinished)


def _during(context: Context, examples: Sequence[Example], batches: Iterable[Any]) -> Any:
    """Return the importance along a full fine-tuning (LLaVA-NeuMT, section 3.3: "during fine-tuning").

    The items are measured block by block (an item in all its pairs), evenly spread over the steps of the fine-tuning,
    each on the model as the step left it. Fine-tuning sees the training data in its own order.
    """
    from neuroglot.neurons import inventory
    from neuroglot.neurons import profile as measure
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.neurons.profiling.merge import merge_all
    from neuroglot.neurons.profiling.scores import neuron_norms, weight_of
    from neuroglot.training import prepare

    settings, steps = context.recipe.profile, context.recipe.probe.steps
    blocks = groupby(batches, key=lambda batch: (batch.condition.task, batch.items))
    parts: list[Any] = []
    step = done = 0

    def due(model: Any) -> dict[str, Any]:
        nonlocal step, done
        step += 1
        while done * steps < step * len(examples):
            block = list(next(blocks)[1])
            parts.append(measure(model, block, settings.scores, (settings.tokens,), neurons=settings.neurons))
            done += sum(len(batch.items) for batch in block)
        return {}

    work = context.path(".profile")
    _fit(context, prepare(context.model(), "full"), context.recipe.data.seed, work, due)
    remove(work)
    base, layers = context.model(), parts[0].layers  # what identifies a model is of the base
    print_, norms = fingerprint(base, inventory(base)), neuron_norms(weight_of(base), layers)
    return merge_all([replace(part, fingerprint=print_, static={"weight": norms}) for part in parts])


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
    result = probed(context, model, context.recipe.data.seed, context.recipe.needs_movement)
    settings = context.recipe.probe
    write_json(
        context.path("layers.json"),
        LAYERS,
        {
            "method": "similarity",
            "estimator": settings.estimator,
            "made_from": made_from,
            "similarity": result.similarity,
            "cost": {"steps": settings.steps, "seconds": result.seconds},
        },
    )
    if context.recipe.needs_movement:
        with fresh(context.path(MOVED)) as part:
            save_tensors(part, MOVEMENT, result.movement, {"made_from": made_from})


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
    __repr__ = short


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
    from neuroglot.neurons import activation_similarity, inventory
    from neuroglot.neurons.profiling.scores import adapter_movement, movement, weight_of

    settings = context.recipe.probe
    began = time.perf_counter()
    layers = inventory(model)
    tuned = tuned_briefly(context, model, seed)
    model, before, after = states_of(settings.estimator, model, tuned)
    similarity = activation_similarity(model, compared_batches(context), before, after, layers)
    movements: dict[str, Any] = {}
    if moved:
        if settings.estimator == "full":
            movements = movement(weight_of(model), weight_of(tuned), layers)
        else:
            movements = adapter_movement(tuned, layers)
    remove(context.path(".probe"))
    return Probed(similarity, round(time.perf_counter() - began, 2), movements)


def compared_batches(context: Context) -> Iterator[Any]:
    """Return the batches that activations are compared on."""
    settings = context.recipe.probe
    compared = context.first_items("probe.items", context.corpus.profile, settings.items)
    return context.batcher.batches(compared, settings.batch_size)


def tuned_briefly(context: Context, model: Any, seed: int) -> Any:
    """Tune as the recipe's probe says, in the folder `.probe`; return what was tuned, see `probed`."""
    from neuroglot.neurons import Profile, inventory
    from neuroglot.neurons import select as choose
    from neuroglot.training import prepare

    settings = context.recipe.probe
    layers = inventory(model)
    tuned: Any
    if settings.estimator == "lora":
        tuned = prepare(model, "lora", r=PROBE_RANK, modules=[x.name for x in layers if not x.axis], seed=seed)
    elif settings.estimator == "neurons":
        measured = Profile.load(context.path("profile.safetensors"))
        shape = {"layers": 1.0, "budget": PROBE_BUDGET, "specific": 0.0, "contrast": "none"}
        how = {"task": context.recipe.task, "token_class": context.recipe.profile.tokens}
        tuned = prepare(model, "neurons", choose(measured, "mnaft", **shape, **how), seed=seed)
    else:
        tuned = prepare(context.model(), "full")
    _fit(context, tuned, seed, context.path(".probe"))
    return tuned


def _fit(context: Context, tuned: Any, seed: int, work: Path, look: LookFunction | None = None) -> None:
    """Train with the steps, batches and rate of the recipe's probe; `look` is called after every step."""
    from neuroglot.training import Mix, train

    settings, machine = context.recipe.probe, context.recipe.train
    options = TrainSection(
        steps=settings.steps, batch_size=settings.batch_size, lr=settings.lr, seed=seed, optimizer=machine.optimizer,
        bf16=machine.bf16, gradient_checkpointing=machine.gradient_checkpointing, non_finite=machine.non_finite,
        max_skipped=machine.max_skipped, save_steps=0,
    )  # fmt: skip
    bar = context.track("probing", settings.steps)
    examples = TrainingSet(replace(context.corpus, replay={}))
    train(tuned, examples, context.collate, options, work, pairs=examples.pairs, mix=Mix(examples.kinds),
          progress=lambda step, steps, loss: bar(step), look=(1, look) if look else None)  # fmt: skip


State = Callable[[], AbstractContextManager[None]]


def states_of(estimator: str, model: Any, tuned: Any) -> tuple[Any, State, State]:
    """Return a model, and contexts in which it is as before and as after the probe."""
    if estimator == "full":
        return (model, *_states(model, tuned))
    return tuned.get_base_model(), tuned.disable_adapter, nullcontext


def _states(model: Any, tuned: Any) -> tuple[State, State]:
    """Return contexts that give `model` its own weights, or those of `tuned`: full tuning keeps both in memory."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = tuned.state_dict()

    @contextmanager
    def holding(state: dict[str, Any]) -> Iterator[None]:
        model.load_state_dict(state)
        yield

    return lambda: holding(own), lambda: holding(other)


# ---- select ---------------------------------------------------------------------------------------------------------


def select(context: Context) -> None:
    """Choose the neurons."""
    from neuroglot.neurons import Profile, inventory
    from neuroglot.neurons import select as choose
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.neurons.profiling.scores import with_static

    if context.recipe.select.file is not None:
        result = _given(context, Path(context.recipe.select.file))
        with fresh(context.path("selection.safetensors")) as part:
            result.save(part)
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
    result = choose(measured, method=context.recipe.method, **select_options(context))
    result = replace(result, meta={**result.meta, "profile": digests(file)})
    with fresh(context.path("selection.safetensors")) as part:
        result.save(part)


def _given(context: Context, file: Path) -> Selection:
    """Return the selection of a file, after comparing it with the model and the recipe's pairs.

    Raises:
        UserError: it is of another model, or lacks a pair.
    """
    from neuroglot.neurons import inventory
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.selection import Selection

    result = Selection.load(file)
    if result.meta.get("fingerprint") is not None:
        model = context.model()
        own = fingerprint(model, inventory(model))
        made_for(f"selection {file}", result.meta["fingerprint"], own, "choose for this model, or name another file")
    lacking = [pair for pair in context.recipe.data.pairs if pair not in result.pairs]
    if lacking:
        raise UserError(
            f"selection {file} is for the pairs {', '.join(result.pairs)}, and the recipe has {lacking[0]} too; "
            "leave it out of data.pairs, or put it into the file's pairs and groups"
        )
    return result


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
