"""Leaving: a merged folder is a plain model with the adapter's weights, an export a LoRA; mistakes none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import neuroglot.tuner
from neuroglot.data.batch import Batcher
from neuroglot.data.corpus import Sizes, load_corpus
from neuroglot.models.load import embedded_folder, load_model, load_processor
from neuroglot.tuner.weight import WeightLayer


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    """A batch of the embedded corpus."""
    corpus = load_corpus("signs", "image_translation", ["en-de", "en-fr"], Sizes(4, 1, 1, 1, 1), 0, True)
    encoded = Batcher(load_processor("embedded")).encode(corpus.train[:4])
    return {name: value for name, value in encoded.items() if torch.is_tensor(value)}


@pytest.fixture
def filled(own_run) -> Path:
    """A finished run whose adapter's deltas are large enough to be seen in every output."""
    weights = own_run / "adapter" / "adapter_model.safetensors"
    g = torch.Generator().manual_seed(0)
    tensors = {
        name: value if name.endswith("neuroglot_rows") else torch.randn(value.shape, generator=g) * 0.02
        for name, value in load_file(weights).items()
    }
    save_file(tensors, weights, {"format": "pt"})
    manifest = own_run / "adapter" / "neuroglot.json"
    facts = {k: v for k, v in json.loads(manifest.read_text()).items() if k not in ("format", "checksum", "files")}
    manifest.unlink()
    neuroglot.file_format.write_manifest(own_run / "adapter", neuroglot.file_format.ADAPTER, facts)
    return own_run


@torch.no_grad()
def answers(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**inputs).logits


def live(adapter: Path, **config: str) -> PeftModel:
    """The adapter on its base, as it is in use."""
    return PeftModel.from_pretrained(load_model("embedded"), str(adapter)).eval()


def done(result: tuple[int, str, str], out: Path) -> None:
    code, printed, err = result
    assert (code, printed, err) == (0, f"{out}\n", "")


# ---- merge --------------------------------------------------------------------------------------------------------


def test_a_merged_folder_has_the_weights_of_the_live_adapter(cli, filled, tmp_path, inputs):
    done(cli("merge", filled, tmp_path / "merged"), tmp_path / "merged")
    model = live(filled / "adapter")
    expected = answers(model, inputs)
    held = {  # while an adapter is at work, the weights hold its units; state_dict() would show the base's
        f"{layer.module_name}.weight": layer.base_layer.weight.clone()
        for layer in model.modules()
        if isinstance(layer, WeightLayer)
    }
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    found, base = merged.state_dict(), load_model("embedded").state_dict()
    assert merged.dtype == torch.float32
    assert all(torch.equal(found[name], value) for name, value in held.items())
    assert any(not torch.equal(found[name], base[name]) for name in held)
    assert set(found) == set(base)
    biases = {name.removesuffix("weight") + "bias" for name in held}
    assert all(torch.equal(found[name], base[name]) for name in set(base) - set(held) - biases)
    assert torch.equal(answers(merged, inputs), expected)
    assert (expected - answers(load_model("embedded"), inputs)).abs().max() > 1e-3


PLAIN = """
import sys

sys.modules["neuroglot"] = sys.modules["peft"] = None  # importing them raises ImportError
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, inputs, out = sys.argv[1:]
assert AutoProcessor.from_pretrained(folder).chat_template
model = AutoModelForImageTextToText.from_pretrained(folder).eval()
with torch.no_grad():
    logits = model(**load_file(inputs)).logits
save_file({"logits": logits}, out)
"""


@pytest.mark.slow
def test_transformers_alone_loads_it(cli, filled, tmp_path, inputs):
    done(cli("merge", filled / "adapter", tmp_path / "merged"), tmp_path / "merged")
    save_file(inputs, tmp_path / "inputs")
    places = [str(tmp_path / name) for name in ("merged", "inputs", "out")]
    ended = subprocess.run([sys.executable, "-I", "-c", PLAIN, *places], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    mine = answers(live(filled / "adapter"), inputs)  # with another number of threads, perhaps
    torch.testing.assert_close(load_file(tmp_path / "out")["logits"], mine, rtol=1e-4, atol=1e-4)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert card.startswith("---\nbase_model: embedded\n")
    assert re.search(r"had trained [\d,]+ rows \(or columns\) in \d+ layers for the pairs en-de, en-fr", card)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
def test_the_dtype_can_be_chosen(cli, filled, tmp_path, dtype):
    done(cli("merge", filled, tmp_path / "merged", "--dtype", dtype), tmp_path / "merged")
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="auto")
    base = AutoModelForImageTextToText.from_pretrained(embedded_folder(), dtype="auto").dtype
    assert found.dtype == (base if dtype == "auto" else getattr(torch, dtype))
    expected = PeftModel.from_pretrained(load_model("embedded", dtype), str(filled / "adapter")).merge_and_unload()
    mine = expected.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in found.state_dict().items())


def test_a_lora_run_is_merged_too(cli, tmp_path, inputs):
    base = load_model("embedded")
    name = next(name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear))
    model = get_peft_model(base, LoraConfig(target_modules=[name], init_lora_weights=False))
    model.save_pretrained(tmp_path / "a")
    done(
        cli("merge", tmp_path / "a", tmp_path / "merged", "--base", "embedded", "--dtype", "float32"),
        tmp_path / "merged",
    )
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="float32")
    assert torch.allclose(answers(merged, inputs), answers(model, inputs), atol=1e-3)


# ---- export -------------------------------------------------------------------------------------------------------


def test_an_exported_run_answers_as_the_adapter_does(cli, filled, tmp_path, inputs):
    arguments = ("--format", "lora", "--biases", "everywhere")  # of this model only vision and connector have biases
    done(cli("export", filled, tmp_path / "lora", *arguments), tmp_path / "lora")
    lora = PeftModel.from_pretrained(load_model("embedded"), str(tmp_path / "lora"))
    assert lora.peft_config["default"].peft_type == "LORA"
    additive = shutil.copytree(filled / "adapter", tmp_path / "additive")
    config = json.loads((additive / "adapter_config.json").read_text())
    (additive / "adapter_config.json").write_text(json.dumps({**config, "mode": "additive"}))
    expected = answers(live(additive), inputs)
    torch.testing.assert_close(answers(lora, inputs), expected, rtol=1e-4, atol=1e-4)  # products of other shapes
    assert (expected - answers(load_model("embedded"), inputs)).abs().max() > 1e-3


# ---- what the saved adapter says ----------------------------------------------------------------------------------


def test_the_card_says_what_was_trained_and_on_what(smoke_run):
    config = json.loads((smoke_run / "adapter" / "adapter_config.json").read_text())
    facts = config["trained_on"]
    assert facts["task"] == "image_translation"
    assert facts["data"] == "signs"
    assert facts["dtype"] == "float32"
    assert facts["steps"] == json.loads((smoke_run / "training.json").read_text())["steps"]
    card = (smoke_run / "adapter" / "README.md").read_text()
    assert all(f"| {name} | {value} |" in card for name, value in facts.items())
    rows = sum(sum(groups.values()) for groups in config["layout"].values())
    assert f"It trains {rows:,} rows in {len(config['layout'])} layers for the pairs en-de, en-fr" in card
    assert "| delta | dense |" in card
    assert card.count("import neuroglot ") == 1


# ---- mistakes -----------------------------------------------------------------------------------------------------

MISTAKES = {
    "no folder": ("merge none out", "none is not a folder; expected an adapter's or a run's"),
    "no adapter": ("merge {empty} out", "empty holds no adapter (adapter_config.json is missing)"),
    "no folder to export": ("export none out --format lora", "none is not a folder"),
    "no adapter to export": ("export {empty} out", "empty holds no adapter"),
    "full fine-tuning": ("merge {full} out", "full trained the whole model; ... model is a plain model already"),
    "unknown format": ("export {run} out --format gguf", "--format 'gguf' is not known; known: lora"),
    "unknown dtype": ("merge {run} out --dtype float23", "--dtype 'float23' is not known; did you mean float32"),
    "a taken folder": ("merge {run} {taken}", "taken exists and is not empty; expected a new one"),
    "a taken folder to export": ("export {run} {taken}", "taken exists and is not empty"),
    "a file in the way": ("merge {run} {taken}/file", "file is a file; expected the name of a new folder"),
    "a file above": ("export {run} {taken}/file/out", "taken/file is a file; expected the name of a new folder"),
    "no base": ("merge {run} out --base ./none", "model folder ./none does not exist"),
    "another base": ("merge {run} out --base {other}", "was made for another model: ... load it on embedded"),
    "another base, no seal": (
        "merge {unsealed} out --base {other}",
        "cannot be merged into ... rows, but the adapter trains",
    ),
    "biases beside none": (
        "export {run} out",
        "trained biases (model. ... has none ... merge the adapter into its base",
    ),
    "unknown biases": ("export {run} out --biases all", "biases 'all' is not known; known: everywhere, strict"),
    "another base to export": ("export {unsealed} out --base {other}", "give the base model that the adapter was"),
    "a base without a name": ("merge {nameless} out", "does not name its base model; give it with --base"),
    "not finite": ("merge {broken} out --base embedded", "cannot be merged into embedded: ... NaN or infinity"),
    "damaged": ("merge {damaged} out", "adapter_model.safetensors is damaged or was changed since"),
    "damaged to export": ("export {damaged} out", "adapter_model.safetensors is damaged or was changed since"),
    "another kind": ("export {lora} out --base embedded", "is of type LORA, expected NEUROGLOT"),
    "stored quantised": ("merge {run} out --base {quantised}", "is stored quantised; ... --base"),
}


def _unsealed(run: Path, folder: Path) -> Path:
    shutil.copytree(run / "adapter", folder)
    (folder / "neuroglot.json").unlink()
    return folder


@pytest.fixture
def places(smoke_run, tmp_path) -> dict[str, Path]:
    """Everything that a mistake is made with."""
    found = {name: tmp_path / name for name in ("empty", "full", "taken", "lora", "quantised")}
    for name in ("empty", "full", "taken"):
        found[name].mkdir()
    (found["taken"] / "file").write_text("mine")
    (found["full"] / "model").mkdir()
    (found["full"] / "recipe.yaml").touch()

    found["other"] = tmp_path / "other"
    shutil.copytree(embedded_folder(), found["other"])
    config = json.loads((found["other"] / "config.json").read_text())
    config["text_config"]["intermediate_size"] //= 2
    (found["other"] / "config.json").write_text(json.dumps(config))
    model = AutoModelForImageTextToText.from_config(load_config(found["other"]))
    model.save_pretrained(found["other"])

    shutil.copytree(embedded_folder(), found["quantised"])
    config = json.loads((embedded_folder() / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (found["quantised"] / "config.json").write_text(json.dumps(config))

    found["run"] = smoke_run
    for name in ("unsealed", "nameless", "broken"):
        found[name] = _unsealed(smoke_run, tmp_path / name)
    config = json.loads((found["nameless"] / "adapter_config.json").read_text())
    (found["nameless"] / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    weights = found["broken"] / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "neuroglot_delta" in name)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, weights, {"format": "pt"})
    found["damaged"] = tmp_path / "damaged"
    shutil.copytree(smoke_run / "adapter", found["damaged"])
    (found["damaged"] / "adapter_model.safetensors").write_bytes(b"half")
    found["lora"].mkdir()
    (found["lora"] / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    shutil.copy(weights, found["lora"])
    return found


def load_config(folder: Path):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(cli, places, tmp_path, mistake):
    line, said = MISTAKES[mistake]
    before = tree(tmp_path)
    code, out, err = cli(*line.format(**places).split())
    assert re.fullmatch(r"neuroglot: [^\n]*\n", err), err
    assert re.search(".*".join(map(re.escape, said.split(" ... "))), err), err
    assert (code, out) == (2, "")
    assert tree(tmp_path) == before


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_nothing_is_left_when_the_disk_is_full(cli, filled, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    code, _, err = cli("merge", filled, tmp_path / "new" / "merged")
    assert code == 2
    assert "No space left on device" in err
    assert list((tmp_path / "new").iterdir()) == []
