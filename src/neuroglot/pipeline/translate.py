"""Images in, translations out: what a trained run is for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neuroglot.config import Recipe, check
from neuroglot.config.load import load_recipe
from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.data.paths import located
from neuroglot.data.pixels import IMAGE_SUFFIXES
from neuroglot.errors import UserError
from neuroglot.pair import Pair, language_code

BATCH = 16
"""Images that go through the model together."""


def image_files(places: Sequence[Path], say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Return the images named, and those inside the folders named, in order.

    Args:
        places: files and folders.
        say: called with a line about the hidden files of a folder, which are left out: a Mac's `._` files, caches.

    Raises:
        UserError: nothing there, or a folder without images.
    """
    files: list[Path] = []
    for position in places:
        if not position.is_dir():
            files.append(located(position))
            continue
        inside = sorted(p for p in position.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        hidden = [p for p in inside if any(part.startswith(".") for part in p.relative_to(position).parts)]
        inside = sorted(set(inside) - set(hidden))
        if hidden:
            say(f"left out: {len(hidden)} hidden file{'s' * (len(hidden) > 1)} of {position}, such as {hidden[0]}")
        if not inside:
            raise UserError(f"folder {position} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        files += inside
    return files


def readable_files(places: Sequence[Path], say: Callable[[str], None]) -> list[Path]:
    """Return the images of `image_files` that can be read; of a folder, those that cannot are said and left out.

    Raises:
        UserError: as `image_files`, or an image that was named, or all of those in folders, cannot be read.
    """
    files, bad = [], []
    named = {located(position) for position in places if not position.is_dir()}
    for file in image_files(places, say):
        try:
            open_image(file)
        except UserError as error:
            if file in named:
                raise
            bad.append(error)
            say(f"left out: {error}")
        else:
            files.append(file)
    if bad and not files:
        raise UserError(f"no image can be read; the first: {bad[0]}")
    return files


def translate_images(
    images: Sequence[Path],
    source: str,
    target: str,
    run: Path | None,
    model: str | None,
    adapter: Path | None,
    trust_remote_code: bool = False,
    text: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[dict[str, Any]]:
    """Yield `{"image", "from", "to", "translation"}` for each image.

    Args:
        images: files and folders.
        source: language of the text in the images.
        target: language to translate into.
        run: a run's folder; its model, its training.
        model: a model instead, with or without `adapter`.
        adapter: an adapter folder for `model`.
        trust_remote_code: let the model's own code run.
        text: what to translate, if the images only show what it means (multimodal translation).
        say: called with a line about each image of a folder that is skipped because it cannot be read.

    Raises:
        UserError: both or neither of `run` and `model`, an adapter without a model, an image that cannot be read, a
            direction that the run or the adapter was not trained for, or a text with a run of the other task.
    """
    pair = Pair(language_code(source), language_code(target))
    if (run is None) == (model is None) or (run is not None and adapter is not None):
        raise UserError("give either --run RUN, or --model MODEL with or without --adapter ADAPTER")
    from neuroglot.pipeline.context import quiet

    quiet()
    files = readable_files(images, say)  # an unreadable one is named before the model is loaded
    trust = trust_remote_code
    task = "image_translation" if text is None else "multimodal_translation"
    loaded, recipe = _trained(run, pair, task, trust) if run is not None else _bare(str(model), adapter, pair, trust)

    from neuroglot.data.batch import Batcher
    from neuroglot.models.load import load_processor, stop_tokens
    from neuroglot.systems import HFSystem

    path, settings = recipe.model.path, recipe.evaluate
    batcher = Batcher(load_processor(path, trust), stops=stop_tokens(path, trust))
    system = HFSystem(loaded, batcher, "model", BATCH, settings.max_new_tokens, num_beams=settings.beams)
    for start in range(0, len(files), BATCH):
        part = files[start : start + BATCH]
        examples = [Example((file,), text, "", pair.source, pair.target, task) for file in part]
        for file, answer in zip(part, system.translate(examples), strict=True):
            yield {"image": str(file), "from": pair.source, "to": pair.target, "translation": answer}


def _trained(run: Path, pair: Pair, task: str, trust: bool) -> tuple[Any, Recipe]:
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run} is not a run folder (it has no recipe.yaml); expected one such as runs/demo")
    recipe = load_recipe(run / "recipe.yaml")
    if recipe.task != task:
        give = "give the text with --text" if recipe.task == "multimodal_translation" else "leave --text out"
        raise UserError(f"run {run} was trained for {recipe.task}, got {task}; {give}")
    _check_pair(pair, recipe.data.pairs or _pairs(run / "adapter"), f"run {run}")

    from neuroglot.pipeline.evaluation import load_trained

    return load_trained(recipe.model, run, trust), recipe


def _bare(model: str, adapter: Path | None, pair: Pair, trust: bool) -> tuple[Any, Recipe]:
    recipe = check({"method": "full", "model": {"path": model}, "data": {"source": "none"}}, "translate")
    if adapter is not None:
        _check_pair(pair, _pairs(adapter), f"adapter {adapter}")

    from neuroglot.models.load import load_model, on_device
    from neuroglot.pipeline.evaluation import with_adapter

    loaded = on_device(load_model(model, trust_remote_code=trust))
    return (loaded if adapter is None else with_adapter(loaded, adapter)), recipe


def _pairs(adapter: Path) -> tuple[str, ...]:
    """Return the pairs that an adapter was trained for; none where it does not say."""
    try:
        return tuple(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("pairs") or ())
    except Exception:  # what is wrong with it is said when it is loaded
        return ()


def _check_pair(pair: Pair, known: Sequence[str], who: str) -> None:
    if known and str(pair) not in known:
        raise UserError(f"{who} was not trained for {pair}; it has {', '.join(known)}")
