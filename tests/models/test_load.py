"""Loading models and processors, and saying in one line why one cannot be loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from neuroglot.config import check
from neuroglot.errors import UserError
from neuroglot.models.load import EMBEDDED, embedded_folder, load_model, load_processor, resolve
from neuroglot.pipeline.context import Context

FILES = {
    "weights": "model.safetensors",
    "config": "config.json",
    "tokenizer": "tokenizer.json",
    "processor": "processor_config.json",
    "template": "chat_template.jinja",
    "generation": "generation_config.json",
}


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model's folder; `folder(name=bytes)` replaces a file, None removes it."""

    def make(**changes: bytes | None) -> str:
        target = tmp_path / "model"
        target.mkdir()
        for file in embedded_folder().iterdir():
            (target / file.name).symlink_to(file)
        for name, content in changes.items():
            file = target / FILES[name]
            file.unlink()
            if content is not None:
                file.write_bytes(content)
        return str(target)

    return make


def one_line(load, model: str, message: str, **options) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(model, **options)
    assert "\n" not in str(caught.value)
    assert model in str(caught.value)


def test_the_embedded_model():
    model, processor = load_model(EMBEDDED), load_processor(EMBEDDED)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.config.model_type == "llava"
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)
    assert processor.chat_template
    size = sum(file.stat().st_size for file in embedded_folder().iterdir())
    assert size < 10_000_000, "it travels inside the wheel"
    assert {p.dtype for p in load_model(EMBEDDED, dtype="bfloat16").parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(EMBEDDED, dtype="auto").parameters()} == {torch.bfloat16}, "as it is stored"


@pytest.mark.slow
def test_transformers_alone_loads_and_runs_it(tmp_path):
    """Plain AutoModel and AutoProcessor in a process that never imports neuroglot."""
    program = """
import sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = sys.argv[1]
processor = AutoProcessor.from_pretrained(folder)
model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\\nRead the text in the image."}]}]
text = processor.apply_chat_template(chat, add_generation_prompt=True)
image = Image.new("RGB", (300, 200), "white")
inputs = processor(text=[text], images=[image], return_tensors="pt", add_special_tokens=False)
said = model.generate(**inputs, max_new_tokens=3, do_sample=False)
assert said.shape[0] == 1 and inputs["input_ids"].shape[1] < said.shape[1] <= inputs["input_ids"].shape[1] + 3
assert not [m for m in sys.modules if m.startswith("neuroglot")]
print("fine")
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, str(embedded_folder())]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["fine"], done.stderr


def test_a_folder_is_loaded_like_the_embedded_model(folder, tmp_path):
    place = folder()
    state = load_model(place).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in load_model(EMBEDDED).state_dict().items())
    assert load_processor(place).tokenizer.get_vocab() == load_processor(EMBEDDED).tokenizer.get_vocab()


def test_what_names_a_model(tmp_path):
    assert resolve(EMBEDDED) == str(embedded_folder())
    assert resolve("llava-hf/llava-1.5-7b-hf") == "llava-hf/llava-1.5-7b-hf"
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == str(tmp_path)


def test_the_attention_that_is_asked_for(tmp_path):
    for way in ("eager", "sdpa"):
        recipe = check({"model": {"attn_implementation": way}, "data": {"pairs": ["en-de"]}}, "test")
        model = Context(recipe, tmp_path, lambda label, total: lambda done: None, print).model()
        assert {part.config._attn_implementation for part in (model, model.model.language_model)} == {way}
    assert load_model(EMBEDDED).config._attn_implementation == "sdpa"  # what transformers takes by itself
    one_line(load_model, EMBEDDED, "telepathy.* is not supported", attn_implementation="telepathy")


@pytest.mark.parametrize("name", ["./gone", "/gone/away", "~/gone-for-good", "one/two/three"])
def test_a_folder_that_is_not_there(name):
    for load in (load_model, load_processor):
        one_line(load, name, "does not exist; give a folder, a hub name such as owner/model, or embedded")


def test_a_hub_name_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    one_line(load_model, "not a name!", "cannot be loaded as an image-text-to-text model: ")
    one_line(load_processor, "not a name!", "cannot be loaded as a processor: ")


def test_a_folder_without_a_config(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for load in (load_model, load_processor):
        one_line(load, str(tmp_path), "has no config.json; expected what save_pretrained writes")


def test_a_wrong_dtype():
    for dtype in ("float64", "int8", "fp16", ""):
        with pytest.raises(UserError, match=f"model.dtype must be float32, bfloat16, float16 or auto, got '{dtype}'"):
            load_model(EMBEDDED, dtype=dtype)


SMALL_LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 9,
}
BROKEN_MODELS = {
    "cut weights": {"weights": (embedded_folder() / "model.safetensors").read_bytes()[:100_000]},
    "empty weights": {"weights": b""},
    "no weights": {"weights": None},
    "broken config": {"config": b'{"model_type": "llava"'},
    "unknown kind": {"config": b'{"model_type": "telepathy"}'},
    "no kind": {"config": b"{}"},
    "text model": {"config": json.dumps(SMALL_LLAMA).encode()},
    "other shapes": {"config": (embedded_folder() / "config.json").read_bytes().replace(b": 192", b": 96")},
}


@pytest.mark.parametrize("case", BROKEN_MODELS)
def test_a_broken_model_folder(case, folder):
    one_line(load_model, folder(**BROKEN_MODELS[case]), "cannot be loaded as an image-text-to-text model: ")


@pytest.mark.parametrize(
    "changes", [{"processor": b"{"}, {"tokenizer": b"{}"}, {"processor": None}, {"config": b"[]"}]
)
def test_a_broken_processor_folder(changes, folder):
    one_line(load_processor, folder(**changes), "cannot be loaded as a processor: ")


def test_a_processor_without_a_chat_template(folder):
    one_line(load_processor, folder(template=None), "has no chat template; use an instruction-tuned model, or set one")


def test_a_moved_folder_still_loads(folder, tmp_path):
    shutil.copytree(folder(), tmp_path / "elsewhere" / "my model")
    assert load_processor(str(tmp_path / "elsewhere" / "my model")).chat_template


def test_a_base_with_settings_of_no_effect_can_be_saved_again(folder, tmp_path):
    """As many published ones: a temperature, and no sampling."""
    given = json.loads((embedded_folder() / "generation_config.json").read_text()) | {"_from_model_config": False}
    settings = {"temperature": 0.9, "top_p": 0.6, "repetition_penalty": 1.3}
    model = load_model(folder(generation=json.dumps({**given, **settings}).encode()))
    model.generation_config.pad_token_id = 2  # as a Trainer does
    model.save_pretrained(tmp_path / "saved")
    kept = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert (kept["repetition_penalty"], kept.get("temperature")) == (1.3, None)
