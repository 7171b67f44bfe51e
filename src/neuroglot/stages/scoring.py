"""What came of it: the stages evaluate and report, and the model as training left it."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroglot.errors import UserError
from neuroglot.stages.context import Context, placed, quiet
from neuroglot.stages.files import write_text

GALLERY_PIXELS = 448
"""The longest side of an image on the page."""


def load_trained(base: str, dtype: str, folder: Path) -> Any:
    """Return a run's trained model: its full checkpoint, or its base with the adapter merged.

    Raises:
        UserError: the folder holds neither.
    """
    from neuroglot.models.load import load_model

    if (folder / "model").is_dir():
        return placed(load_model(str(folder / "model"), dtype))
    return with_adapter(placed(load_model(base, dtype)), folder / "adapter")


def with_adapter(model: Any, adapter: Path) -> Any:
    """Return a model with an adapter loaded and merged.

    Raises:
        UserError: there is no adapter, it cannot be read, or it was made for another model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    import neuroglot.tuner  # noqa: F401  (registers the adapter type)

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise UserError(f"{adapter} holds no adapter ({name} is missing); expected what the train stage writes")
    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval()
    except UserError as error:
        raise UserError(f"adapter {adapter} does not fit this model: {error}") from None
    except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        why = " ".join((str(error).splitlines() or [""])[0].split())
        raise UserError(f"adapter {adapter} cannot be loaded on this model: {why}") from None


def evaluate(context: Context) -> None:
    """Score the base, the cascade and the trained model on every split."""
    from neuroglot.evaluation import evaluate as score
    from neuroglot.evaluation import write_hypotheses, write_scores
    from neuroglot.systems import Cascade

    quiet()
    recipe, corpus = context.recipe, context.corpus
    splits = {**corpus.splits, **corpus.retention}
    base = context.system(context.model(), "base")
    trained = load_trained(recipe.model.path, recipe.model.dtype, context.folder)
    systems: list[tuple[Any, Mapping[str, Any]]] = [(base, splits)]
    if recipe.evaluate.cascade and recipe.task == "image_translation":
        systems.append((Cascade(base, base), corpus.splits))
    systems.append((context.system(trained, recipe.method), splits))
    bar = context.track("evaluating", sum(len(part) for _, part in systems))
    scores, rows, seconds, done = {}, [], {}, 0
    for system, part in systems:
        began = time.perf_counter()

        def advance(split: str, finished: int, of: int, done: int = done) -> None:
            bar(done + finished)

        scores[system.name], own = score(system, part, advance)
        rows += own
        done += len(part)
        seconds[system.name] = time.perf_counter() - began
    write_hypotheses(context.path("hypotheses.jsonl"), rows)
    write_text(context.path("gallery.jsonl"), "".join(_gallery(context, rows)))
    write_scores(context.path("scores.json"), scores, seconds)


def _gallery(context: Context, rows: list[dict[str, Any]]) -> list[str]:
    """Return lines with test images and what was said of them before and after, the pairs in turn."""
    from neuroglot.data.image import open_image

    task = context.recipe.task
    said = {(r["system"], r["item"], r["pair"]): r["hypothesis"] for r in rows if r["split"] == task}
    items: dict[str, dict[str, Any]] = {}
    for example in context.corpus.splits[task]:
        items.setdefault(example.item, {})[str(example.pair)] = example
    lines = []
    for number, (item, by_pair) in enumerate(list(items.items())[: context.recipe.report.gallery]):
        pair = list(by_pair)[number % len(by_pair)]
        example = by_pair[pair]
        image = open_image(example.images[0])
        image.thumbnail((GALLERY_PIXELS, GALLERY_PIXELS))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        line = {
            "png_base64": base64.b64encode(buffer.getvalue()).decode(),
            "source": example.source,
            "pair": pair,
            "reference": example.target,
            "before": said["base", item, pair],
            "after": said[context.recipe.method, item, pair],
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def report(context: Context) -> None:
    """Make the page."""
    from neuroglot.report import report as make

    make(context.folder)
