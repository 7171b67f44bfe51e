"""An exported LoRA is the adapter: the same deltas and answers, for PEFT that knows no neuroglot.

Dense deltas are the same bits: the export writes them beside a one-hot matrix, and a product with one-hot rounds
nothing. Deltas of low rank, and all answers, are matrix products of other shapes than the adapter's, which each
processor rounds in its own way: these are equal within `ROUNDING`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import BARE, build, selection
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from tiny_llava import (
    ALL,
    DE,
    FR,
    LANGUAGE,
    MODULES,
    PAIRS,
    VISION,
    batch,
    fill_deltas,
    logits,
    tiny_llava,
    tiny_selection,
)
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from neuroglot.errors import UserError
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig
from neuroglot.tuner.adapter import Adapter, shapes_of
from neuroglot.tuner.export import export_lora, to_lora

DOWN = f"{LANGUAGE}.0.mlp.down_proj"
COLUMNS = tuple(module for module in MODULES if not module.endswith(("fc1", "gate_proj", "v_proj")))


def columns(chosen: Selection, modules: tuple[str, ...] = (DOWN,)) -> Selection:
    """The same units, taken as input columns in some modules."""
    return Selection(chosen.pairs, chosen.rows, axes=dict.fromkeys(modules, 1))


def uneven() -> Selection:
    """One to nine units a module, in one to four groups of one to three."""
    rows = {
        module: {group: index[: 1 + (i + j) % 3] for j, (group, index) in enumerate(groups.items()) if (i + j) % 4}
        for i, (module, groups) in enumerate(tiny_selection().rows.items())
    }
    return Selection(PAIRS, rows)


def ffn() -> Selection:
    """A gated MLP's neurons, each a row of gate and of up and a column of down, and rows of the vision part."""
    units = {ALL: torch.tensor([1, 8, 40]), DE: torch.tensor([3, 22]), FR: torch.tensor([4, 47])}
    rows = {f"{LANGUAGE}.0.mlp.{name}_proj": units for name in ("gate", "up", "down")}
    return Selection(PAIRS, {**rows, f"{VISION}.mlp.fc1": units}, axes={DOWN: 1})


CASES = {  # selection, rank of its deltas, rank of the export
    "one group": (tiny_selection(groups=(ALL,)), None, 3),
    "four groups": (tiny_selection(), None, 12),
    "low rank, one group": (tiny_selection(groups=(ALL,), count=8), 2, 2),
    "low rank, four groups": (tiny_selection(), 2, 8),
    "rank one": (tiny_selection(), 1, 4),
    "dense and low rank mixed": (uneven(), 2, 5),
    "columns": (columns(tiny_selection()), None, 12),
    "columns of low rank": (columns(tiny_selection(), COLUMNS), 2, 8),
    "most are columns": (columns(tiny_selection(), COLUMNS), None, 12),
    "columns, mixed": (columns(uneven(), COLUMNS), 1, 3),
    "uneven, padded": (uneven(), None, 7),
    "ffn neurons": (ffn(), None, 7),
    "ffn neurons of low rank": (ffn(), 1, 3),
}


def adapted(chosen: Selection, rank: int | None = None, bias: bool = True, biases: bool = False) -> PeftModel:
    """A live additive adapter with random deltas; of biases only if wanted."""
    model = get_peft_model(tiny_llava(bias), NeuroglotConfig.from_selection(chosen, mode="additive", rank=rank))
    fill_deltas(model)
    for name, parameter in model.named_parameters():
        if "neuroglot_bias" in name and not biases:
            parameter.data.zero_()
    return model.eval()


def layer(model: PeftModel, name: str) -> nn.Module:
    """A wrapped layer."""
    return model.base_model.model.get_submodule(name)


ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
"""float32, of values up to a few units: some ten times what was seen on two processors (1.2e-7)."""


def assert_same_deltas(mine: torch.Tensor, theirs: torch.Tensor, rank: int | None) -> None:
    torch.testing.assert_close(mine, theirs, **({"rtol": 0, "atol": 0} if rank is None else ROUNDING))


def assert_same_answers(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def wrapped(model: nn.Module) -> set[str]:
    """The names of the layers that LoRA has wrapped."""
    return {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@pytest.mark.parametrize("biases", [False, True], ids=["", "biases"])
@pytest.mark.parametrize("case", CASES)
def test_deltas_and_answers_are_those_of_the_adapter(tmp_path: Path, case: str, biases: bool) -> None:
    chosen, rank, exported = CASES[case]
    live = adapted(chosen, rank, biases=biases)
    live.save_pretrained(tmp_path / "a")
    export_lora(tmp_path / "a", tmp_path / "lora", tiny_llava(bias=True))
    lora = PeftModel.from_pretrained(tiny_llava(bias=True), str(tmp_path / "lora")).eval()
    config = lora.peft_config["default"]
    assert type(config) is LoraConfig
    assert (config.r, config.lora_alpha, config.lora_bias) == (exported, exported, biases)
    assert config.rank_pattern == config.alpha_pattern == {}
    assert wrapped(lora.base_model.model) == set(chosen.rows)
    for name in chosen.rows:
        mine, theirs = (layer(model, name).get_delta_weight("default") for model in (live, lora))
        assert_same_deltas(mine, theirs, rank)
        assert int(mine.any(dim=chosen.axes.get(name, 0) ^ 1).sum()) == sum(map(len, chosen.rows[name].values()))
    answers = logits(live)
    assert_same_answers(logits(lora), answers)
    assert (answers - logits(tiny_llava(bias=True))).abs().max() > 1e-3


@pytest.mark.parametrize("rank", [None, 2], ids=["dense", "rank-2"])
def test_a_merged_export_has_the_weights_of_a_merged_adapter(tmp_path: Path, rank: int | None) -> None:
    live = adapted(columns(tiny_selection()), rank, biases=True)
    live.save_pretrained(tmp_path / "a")
    export_lora(tmp_path / "a", tmp_path / "lora", tiny_llava(bias=True))
    theirs = PeftModel.from_pretrained(tiny_llava(bias=True), str(tmp_path / "lora")).merge_and_unload(safe_merge=True)
    mine, found = live.merge_and_unload(safe_merge=True).state_dict(), theirs.state_dict()
    assert set(mine) == set(found)
    for name, value in mine.items():
        assert_same_deltas(found[name], value, rank)


STOCK = """
import sys

sys.modules["neuroglot"] = None  # importing it raises ImportError
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

base, adapter, inputs, out = sys.argv[1:]
try:
    import neuroglot.tuner
except ImportError:
    pass
else:
    raise SystemExit("neuroglot is there after all")
model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), adapter).eval()
with torch.no_grad():
    logits = model(**load_file(inputs)).logits
save_file({"logits": logits}, out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["four groups", "dense and low rank mixed", "ffn neurons"])
@pytest.mark.turns
def test_stock_peft_loads_it_without_neuroglot(tmp_path: Path, case: str) -> None:
    chosen, rank, _ = CASES[case]
    tiny_llava(bias=True).save_pretrained(tmp_path / "base")
    live = adapted(chosen, rank, biases=True)
    live.save_pretrained(tmp_path / "a")
    export_lora(tmp_path / "a", tmp_path / "lora", tiny_llava(bias=True))
    save_file(batch(7), tmp_path / "inputs")
    places = [str(tmp_path / name) for name in ("base", "lora", "inputs", "out")]
    done = subprocess.run([sys.executable, "-I", "-c", STOCK, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_answers(load_file(tmp_path / "out")["logits"], logits(live))


def test_the_modules_are_matched_by_their_whole_names(tmp_path: Path) -> None:
    """`proj` is the end of `v_proj`, and a dot in a pattern is any character."""

    class Tricky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            names = ("a", "ba", "a_b", "layer")
            self.parts = nn.ModuleDict({name: nn.Linear(8, 8) for name in names})
            self.partsxa, self.a = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.parts["a"](x) + self.a(x) + self.partsxa(x) + self.parts["ba"](x)

    chosen = Selection(("en-de",), {"parts.a": {DE: torch.tensor([1, 5])}})
    model = get_peft_model(Tricky(), NeuroglotConfig.from_selection(chosen, init_weights=False))
    model.save_pretrained(tmp_path / "a")
    export_lora(tmp_path / "a", tmp_path / "lora", Tricky())
    found = PeftModel.from_pretrained(Tricky(), str(tmp_path / "lora"))
    assert wrapped(found.base_model.model) == {"parts.a"}


def test_transformers_own_adapters_take_it(tmp_path: Path) -> None:
    live = adapted(tiny_selection())
    live.save_pretrained(tmp_path / "a")
    export_lora(tmp_path / "a", tmp_path / "lora", tiny_llava(bias=True))
    model = tiny_llava(bias=True)
    model.load_adapter(str(tmp_path / "lora"))
    assert wrapped(model) == set(MODULES)
    assert_same_answers(logits(model), logits(live))


@pytest.mark.parametrize("rank", [None, 2], ids=["dense", "rank-2"])
@pytest.mark.parametrize("axis", [0, 1], ids=["inputs", "outputs"])
def test_conv1d(tmp_path: Path, axis: int, rank: int | None) -> None:
    """GPT-2 stores its weights as [in, out]: axis 1 holds the outputs."""

    def gpt2() -> GPT2LMHeadModel:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.15)
        return model.eval()

    names = ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj")
    units = {DE: torch.tensor([3, 7, 9, 21]), FR: torch.tensor([1, 2, 30])}
    chosen = Selection(PAIRS, dict.fromkeys(names, units), axes=dict.fromkeys(names, axis))
    config = NeuroglotConfig.from_selection(chosen, mode="additive", rank=rank, init_weights=False)
    live = get_peft_model(gpt2(), config).eval()
    live.save_pretrained(tmp_path / "a")
    export_lora(tmp_path / "a", tmp_path / "lora", gpt2())
    lora = PeftModel.from_pretrained(gpt2(), str(tmp_path / "lora")).eval()
    assert lora.peft_config["default"].fan_in_fan_out
    assert lora.peft_config["default"].lora_bias == (axis == 1)
    for name in names:
        mine, theirs = (layer(model, name).get_delta_weight("default") for model in (live, lora))
        assert_same_deltas(mine, theirs, rank)
    tokens = torch.arange(24).view(2, 12)
    with torch.no_grad():
        mine, theirs, base = (model(input_ids=tokens).logits for model in (live, lora, gpt2()))
    assert_same_answers(mine, theirs)
    assert (mine - base).abs().max() > 1e-3


# ---- what is carried over, and what is refused --------------------------------------------------------------------


def test_what_the_export_says(tmp_path: Path) -> None:
    live = adapted(tiny_selection())
    live.peft_config["default"].base_model_name_or_path = "owner/model"
    live.save_pretrained(tmp_path / "a")
    export_lora(tmp_path / "a", tmp_path / "lora", tiny_llava(bias=True))
    assert LoraConfig.from_pretrained(str(tmp_path / "lora")).base_model_name_or_path == "owner/model"
    card = (tmp_path / "lora" / "README.md").read_text()
    assert card.startswith("---\nbase_model: owner/model\nlibrary_name: peft\n")
    assert "84 rows (or columns) in 7 layers for the pairs en-cs, en-de, en-fr" in " ".join(card.split())
    assert 'PeftModel.from_pretrained(model, "path/to/this/folder")' in card
    assert sorted(p.name for p in (tmp_path / "lora").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip


def test_trained_biases_beside_layers_without_one_are_refused(tmp_path: Path) -> None:
    """Of this model vision and connector have biases, and the language part has none."""
    adapted(tiny_selection(), bias=False, biases=True).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match=rf"trained biases .*, but {LANGUAGE}.0.* has none.*merge the adapter"):
        export_lora(tmp_path / "a", tmp_path / "lora", tiny_llava())
    assert not (tmp_path / "lora").exists()
    with pytest.raises(UserError, match="biases 'all' is not known"):
        export_lora(tmp_path / "a", tmp_path / "lora", tiny_llava(), "all")
    adapted(tiny_selection(), bias=False).save_pretrained(tmp_path / "b")  # untrained biases are no obstacle
    export_lora(tmp_path / "b", tmp_path / "lora", tiny_llava())
    assert not LoraConfig.from_pretrained(str(tmp_path / "lora")).lora_bias


def test_trained_biases_everywhere_can_be_run_if_not_merged(tmp_path: Path) -> None:
    live = adapted(tiny_selection(), bias=False, biases=True)
    live.save_pretrained(tmp_path / "a")
    export_lora(tmp_path / "a", tmp_path / "lora", tiny_llava(), biases="everywhere")
    with pytest.warns(UserWarning, match="merging LoRA weights won't be possible"):
        lora = PeftModel.from_pretrained(tiny_llava(), str(tmp_path / "lora"))
    assert_same_answers(logits(lora), logits(live))
    with pytest.raises(RuntimeError, match="Impossible to merge"):
        lora.merge_and_unload()


def test_a_bare_matrix_is_refused(tmp_path: Path) -> None:
    base, _ = build("gemma3")
    chosen = selection(base, bare=True)
    get_peft_model(base, NeuroglotConfig.from_selection(chosen)).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match=f"{BARE} is a bare matrix.*merge the adapter"):
        export_lora(tmp_path / "a", tmp_path / "lora", build("gemma3")[0])
    found = Adapter.load(tmp_path / "a")
    found.save(tmp_path / "b")  # though such an adapter can be read and written
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert before.keys() == after.keys()


def test_another_base_is_refused(tmp_path: Path) -> None:
    adapted(tiny_selection()).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="has no module"):
        export_lora(tmp_path / "a", tmp_path / "lora", build("smolvlm")[0])
    adapter = Adapter.load(tmp_path / "a")
    shapes = shapes_of(tiny_llava(bias=True), adapter.units)
    narrow = {name: type(shape)(shape.outputs, 16, shape.bias, shape.kind) for name, shape in shapes.items()}
    with pytest.raises(UserError, match="expected 16 entries .* give the base model"):
        to_lora(adapter, narrow)
    few = {name: type(shape)(4, shape.inputs, shape.bias, shape.kind) for name, shape in shapes.items()}
    with pytest.raises(UserError, match="units below 4"):
        to_lora(adapter, few)


def test_the_folder_must_be_free(tmp_path: Path) -> None:
    adapted(tiny_selection()).save_pretrained(tmp_path / "a")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for name in ("taken", "taken/file"):
        with pytest.raises(UserError, match="exists and is not empty|is a file"):
            export_lora(tmp_path / "a", tmp_path / name, tiny_llava(bias=True))
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["file"]
