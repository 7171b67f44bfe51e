"""The shipped recipes for models of 7 billion, run whole on tiny random models of the same classes."""

from __future__ import annotations

import io
import json

import family_processors
import numpy as np
import pytest
from PIL import Image
from transformers.utils import is_torchvision_available

from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError
from neuroglot.models import load
from neuroglot.neurons import inventory
from neuroglot.pipeline.context import Context
from neuroglot.pipeline.run import execute

RECIPES = {"llava-7b": "llava", "qwen2.5-vl-7b": "qwen2_5_vl"}
SIGNS = ("Exit", "Closed", "Friday", "Platform 7", "Do not enter", "Open", "Ticket", "Bus", "Water", "Stairs")


def quiet(label, total):
    return lambda done: None


@pytest.fixture
def data(tmp_path):
    """A JSONL file of ten images with two targets each."""
    lines = []
    for number, text in enumerate(SIGNS):
        size = (20 + 4 * (number % 3), 24 - 4 * (number % 2))
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (tmp_path / f"{number}.png").write_bytes(file.getvalue())
        for lang, target in (("de", text[::-1]), ("fr", text.upper())):
            record = {"image": f"{number}.png", "source": text, "target": target, "source_lang": "en"}
            lines.append(json.dumps({**record, "target_lang": lang}))
    (tmp_path / "my.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "my.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_runs_on_a_tiny_model_of_its_class(name, data, tmp_path, monkeypatch):
    family = RECIPES[name]
    processor, model = family_processors.processor(family), family_processors.model(family)
    model.save_pretrained(tmp_path / "model")
    if family == "llava" or is_torchvision_available():
        processor.save_pretrained(tmp_path / "model")
    else:  # transformers loads no processor that has a side for videos without torchvision
        monkeypatch.setattr(load, "load_processor", lambda *_, **__: processor)
    recipe = load_recipe(name, [f"model.path={tmp_path / 'model'}", f"data.source={data}"], "smoke")
    assert recipe.model.dtype == "bfloat16"
    assert recipe.train.gradient_checkpointing
    folder = execute(recipe, tmp_path / "runs", quiet, lambda line: None)
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert {part for part, about in facts["parts"].items() if about} == {"vision", "connector", "language"}
    assert facts["steps"] == 4
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_missing_data_are_named_before_the_model_is_looked_for(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    assert recipe.data.source == str(tmp_path / "data.jsonl")
    with pytest.raises(UserError, match=f"data file {tmp_path / 'data.jsonl'} does not exist; give a JSONL file"):
        execute(recipe, tmp_path / "runs", quiet, lambda line: None)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is there")
def test_a_processor_that_needs_torchvision_says_so(tmp_path):
    processor = family_processors.processor("qwen2_5_vl")
    for part in (family_processors.model("qwen2_5_vl").config, processor.tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Qwen2_5_VLProcessor"}')
    with pytest.raises(UserError, match="as a processor: it needs the package torchvision; pip install torchvision"):
        load.load_processor(str(tmp_path))


def test_a_recipe_may_say_where_the_parts_are(tmp_path):
    said = "model.parts={connector: [multi_modal_projector.linear_1], language: [language_model]}"
    context = Context(load_recipe("quickstart", [said]), tmp_path, quiet, print)
    connector = [layer.name for layer in inventory(context.skeleton) if layer.part == "connector"]
    assert connector == ["model.multi_modal_projector.linear_1"]
    assert [layer.name for layer in inventory(context.model()) if layer.part == "connector"] == connector
    with pytest.raises(UserError, match="did you mean vision_tower"):
        _ = Context(
            load_recipe("quickstart", ["model.parts={vision: [vision_towr]}"]), tmp_path, quiet, print
        ).skeleton
    with pytest.raises(UserError, match="model.parts"):
        load_recipe("quickstart", ["model.parts={eyes: [vision_tower]}"])
