"""The stages evaluate and report, and the model as training left it."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.config import Recipe
from neuroglot.data.corpus import items_in_turn
from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.file_format import (
    ADAPTER,
    MANIFEST,
    MODEL,
    TRAINING,
    digests,
    read_json,
    read_manifest,
    write_json,
    write_text,
)
from neuroglot.models.load import on_device
from neuroglot.pipeline.context import Context, asked_model, examples_digest, made_for, quiet
from neuroglot.pipeline.folder import watch
from neuroglot.pipeline.training import trained_folder

if TYPE_CHECKING:
    from neuroglot.config import ModelSection
    from neuroglot.data.example import ImageSource

# ---- Classic baselines ----------------------------------------------------------------------------------------------

HOME = "classic"
"""The folder of a trained one."""


def train_classic(context: Context, kind: str, cache: Path) -> None:
    """Train a system on the run's examples and write it, with training.json beside it.

    Args:
        context: the run.
        kind: which system.
        cache: folder of image features, which several cells share.

    Raises:
        UserError: whatever the user can mend.
    """
    from neuroglot.baselines import ClassicSettings, train
    from neuroglot.baselines.settings import CLASSIC

    quiet()
    peak = watch()
    recipe = context.recipe
    settings = ClassicSettings(**recipe.classic.model_dump(), lr=recipe.train.lr or 1e-3, seed=recipe.train.seed)
    corpus = context.corpus
    bar = context.track("training", settings.steps)
    train(
        kind,
        as_text(corpus.train, context.recipe),
        as_text(corpus.dev, context.recipe),
        _features(context, cache),
        settings,
        context.path(HOME),
        context.path(".train"),
        lambda step, steps, loss: bar(step),
    )
    made = read_json(context.path(HOME) / MANIFEST, CLASSIC)
    facts = {
        "method": kind,
        "made_from": {"data": examples_digest(corpus.train)},
        "seconds": made["seconds"],
        "steps": made["steps"],
        "peak_memory_bytes": peak(),
        "trainable_parameters": made["parameters"],
        "total_parameters": made["parameters"],
        "saved_bytes": sum(p.stat().st_size for p in context.path(HOME).glob("*.safetensors")),
    }
    write_json(context.path("training.json"), TRAINING, facts)


def load_classic(context: Context, cache: Path) -> Any:
    """Return a trained system, as the run's task is put to it."""
    from neuroglot.baselines import load
    from neuroglot.systems import Control

    settings = context.recipe.evaluate
    system = load(
        context.path(HOME),
        _features(context, cache),
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.beams,
        length_penalty=settings.length_penalty,
    )
    if context.recipe.task == "multimodal_translation":
        return system
    told = Control(system, "", lambda example: as_text([example], context.recipe)[0])
    told.name = system.name
    return told


def as_text(examples: Sequence[Example], recipe: Recipe) -> Sequence[Example]:
    """Return the examples as a classic system is shown them: of image translation, the text that the image holds.

    Raises:
        UserError: that text is not known.
    """
    if recipe.task != "image_translation":
        return examples
    for example in examples:
        if not example.source:
            raise UserError(
                f"text-transformer translates what the images say, and {example.item or example.target[:40]!r} does "
                "not tell it; add the source texts to the data, or leave text-transformer out"
            )
    return [replace(example, task="text_translation", images=()) for example in examples]


def _features(context: Context, cache: Path) -> Any:
    from neuroglot.baselines import TowerFeatures

    model, section = context.recipe.model, context.recipe.classic
    return TowerFeatures(
        model.path,
        section.tower,
        section.image_tokens,
        cache,
        parts=model.parts,
        trust_remote_code=context.trust_remote_code,
    )


# ---- evaluate and report --------------------------------------------------------------------------------------------

GALLERY_PIXELS = 448
"""The longest side of an image on the page."""


def load_trained(settings: ModelSection, folder: Path, trust_remote_code: bool = False) -> Any:
    """Return a run's trained model: its full checkpoint, or its base with the adapter merged.

    Raises:
        UserError: the folder holds neither, or what it holds is damaged.
    """
    if (folder / "model").is_dir():
        read_manifest(folder / "model", MODEL)
        return on_device(asked_model(settings, trust_remote_code, str(folder / "model")))
    return with_adapter(on_device(asked_model(settings, trust_remote_code)), folder / "adapter")


def with_adapter(model: Any, adapter: Path, safe_merge: bool = False, base: str = "this model") -> Any:
    """Return a model with an adapter loaded and merged; a learned prompt, which cannot be merged, stays beside it.

    An adapter that `save_pretrained` wrote outside of a run has no manifest; PEFT's own checks have to do there.

    Args:
        model: the adapter's base.
        adapter: its folder.
        safe_merge: look at every value first, and refuse those that are not finite.
        base: what the user calls the model.

    Raises:
        UserError: there is no adapter, it is damaged, it was made for another model, or a value is not finite.
    """
    from peft import PeftModel

    from neuroglot.neurons import inventory
    from neuroglot.neurons.inventory import fingerprint
    from neuroglot.tuner import PROMPT  # and registers our adapter types

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise UserError(f"{adapter} holds no adapter ({name} is missing); expected what the train stage writes")
    if (adapter / MANIFEST).is_file():
        manifest = read_manifest(adapter, ADAPTER)
        with ADAPTER.reading(adapter / MANIFEST):
            base_then, made_from = manifest["base"], manifest["made_from"]["model"]
        instead = f"load it on {base_then}, or train one for this model"
        made_for(f"adapter {adapter}", made_from, fingerprint(model, inventory(model)), instead)
    try:
        tuned = PeftModel.from_pretrained(model, str(adapter)).eval()
        if tuned.peft_config["default"].peft_type == PROMPT:
            return tuned
        return tuned.merge_and_unload(safe_merge=safe_merge).eval()
    except Exception as error:  # of peft
        why = " ".join(str(error).split())[:300].strip()
        raise UserError(f"adapter {adapter} cannot be merged into {base}: {why}") from None


def evaluate(context: Context) -> None:
    """Score the base and the trained model on every split, the cascade and the recipe's systems on those of the task.

    Where a picture should decide, controls that are shown less are scored too.
    """
    from neuroglot.evaluation import Partial, write_hypotheses, write_scores
    from neuroglot.evaluation import evaluate as score
    from neuroglot.synthetic.scenes import image_only_ceiling, text_only_ceiling
    from neuroglot.systems import Cascade, close, shuffled_image, without_image, without_text

    quiet()
    recipe, corpus = context.recipe, context.corpus
    splits = {**corpus.splits, **context.kept}
    base = context.system(context.model(), "base")
    trained = load_trained(recipe.model, context.folder, context.trust_remote_code)
    systems: list[tuple[Any, Mapping[str, Any]]] = [(base, splits)]
    if recipe.evaluate.cascade and recipe.task == "image_translation":
        systems.append((Cascade(base, base), corpus.splits))
    builder = context.builder(base)
    systems += [(builder.build(name, settings), corpus.splits) for name, settings in recipe.systems.items()]
    method = context.system(trained, recipe.method)
    systems.append((method, splits))
    ceilings = {}
    if recipe.task == "multimodal_translation":
        ceilings = {
            name: {"text alone": text_only_ceiling(part), "image alone": image_only_ceiling(part)}
            for name, part in corpus.splits.items()
        }
        tested = corpus.splits[recipe.task]
        systems += [(control(method), {recipe.task: tested}) for control in (without_image, without_text)]
        if len({example.images for example in tested}) > 1:
            systems.append((shuffled_image(method, tested), {recipe.task: tested}))
    bar = context.track("evaluating", sum(len(part) for _, part in systems))
    manifest = digests(context.path(trained_folder(recipe)) / MANIFEST)
    settings = recipe.model_dump(mode="json", include={"evaluate", "systems"})
    made_from = json.dumps([manifest, settings["evaluate"], settings["systems"]], sort_keys=True)
    partial = Partial(context.path(".evaluate") / "said.jsonl", made_from)  # a run forgets it when the stage is done
    options = recipe.evaluate
    scores, rows, seconds, done = {}, [], {}, 0
    decoding: dict[str, Any] = {}
    for system, part in systems:
        began = time.perf_counter()

        def advance(split: str, finished: int, of: int, done: int = done) -> None:
            bar(done + finished)

        scores[system.name], own = score(system, part, advance, partial, options.moses, options.tokenise)
        rows += own
        done += len(part)
        seconds[system.name] = time.perf_counter() - began + partial.seconds.get(system.name, 0.0)
        decoding[system.name] = getattr(system, "decoding", {})
        close(system)
    if partial.reused:
        context.say(f"evaluate: {partial.reused:,} of {len(rows):,} answers were there already")
    write_hypotheses(context.path("hypotheses.jsonl"), rows)
    write_text(context.path("gallery.jsonl"), "".join(_gallery(context, rows)))
    write_scores(context.path("scores.json"), scores, seconds, {"trained": manifest}, ceilings, rows, options.tokenise,
                 decoding)  # fmt: skip


def _gallery(context: Context, rows: list[dict[str, Any]]) -> list[str]:
    """Return lines with test images and what was said of them before and after, the pairs in turn."""
    task = context.recipe.task
    said = {(r["system"], r["item"], r["pair"]): r["hypothesis"] for r in rows if r["split"] == task}
    items: dict[str, dict[str, Any]] = {}
    for example in items_in_turn(context.corpus.splits[task], context.recipe.report.gallery):
        items.setdefault(example.item, {})[str(example.pair)] = example
    lines = []
    sources: dict[str | None, int] = {}  # the readings of one source are shown in the same language
    for item, by_pair in items.items():
        turn = sources.setdefault(next(iter(by_pair.values())).source, len(sources))
        pair = list(by_pair)[turn % len(by_pair)]
        example = by_pair[pair]
        line = {
            "png_base64": _thumbnail(example.images[0]) if example.images else None,
            "source": example.source,
            "pair": pair,
            "reference": example.target,
            "alternatives": list(example.alternatives),
            "before": said["base", item, pair],
            "after": said[context.recipe.method, item, pair],
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def _thumbnail(source: ImageSource) -> str:
    """Return an image for the page: PNG in base64."""
    from neuroglot.data.image import open_image

    image = open_image(source)
    image.thumbnail((GALLERY_PIXELS, GALLERY_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def report(context: Context) -> None:
    """Make the page."""
    from neuroglot.report import report as make

    make(context.folder)
