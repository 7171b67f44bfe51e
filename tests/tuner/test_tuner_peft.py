"""The adapter as PEFT sees it: merge, disable, save, load, several adapters, and what does not fit."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from tiny_llava import (
    ALL,
    DE,
    FR,
    MODULES,
    PAIRS,
    batch,
    deltas,
    fill_deltas,
    group_of,
    logits,
    tiny_llava,
    tiny_selection,
    tuned,
)
from torch import nn

from neuroglot.errors import UserError
from neuroglot.neurons import inventory
from neuroglot.selection import Selection
from neuroglot.training.verification import audit, changed, snapshot
from neuroglot.tuner import NEUROGLOT, NeuroglotConfig, NeuroglotLinear, active_pair, selection_of

FIRST = MODULES[0]


def far(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().max().item() > 1e-3


def equal_selections(a: Selection, b: Selection) -> bool:
    return a.pairs == b.pairs and {(m, g): i.tolist() for m, g, i in a} == {(m, g): i.tolist() for m, g, i in b}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_llava().save_pretrained(folder)
    return folder


def from_folder(folder: Path) -> nn.Module:
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(folder)


# --- configuration


def test_the_json_holds_shapes_and_pairs_but_no_indices(tmp_path: Path) -> None:
    config = NeuroglotConfig.from_selection(tiny_selection())
    config.save_pretrained(str(tmp_path))
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["peft_type"] == "NEUROGLOT"
    assert saved["pairs"] == list(PAIRS)
    assert saved["layout"][FIRST] == {"en-cs,en-de": 3, "en-cs,en-de,en-fr": 3, "en-de": 3, "en-fr": 3}
    assert "rows" not in saved
    again = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(again, NeuroglotConfig)
    assert (again.pairs, again.layout, again.peft_type) == (config.pairs, config.layout, NEUROGLOT)


def test_the_type_looks_like_a_member_of_pefts_enum() -> None:
    assert (NEUROGLOT, NEUROGLOT.value, NEUROGLOT.name) == ("NEUROGLOT",) * 3
    assert f"{NEUROGLOT}" == str(NEUROGLOT) == "PeftType.NEUROGLOT"
    assert json.dumps(NEUROGLOT) == '"NEUROGLOT"'


def test_empty_groups_are_dropped_and_empty_selections_refused() -> None:
    nothing = torch.empty(0, dtype=torch.long)
    selection = Selection(PAIRS, {"a": {ALL: torch.tensor([2, 0]), DE: nothing}, "b": {FR: nothing}})
    config = NeuroglotConfig.from_selection(selection)
    assert config.layout == {"a": {"en-cs,en-de,en-fr": 2}}
    assert config.units["a"].tolist() == [0, 2]
    with pytest.raises(UserError, match="no row"):
        NeuroglotConfig.from_selection(Selection(PAIRS, {"b": {FR: nothing}}))


@pytest.mark.parametrize(
    ("layout", "message"),
    [({"a": {"en-xx": 1}}, "'en-xx'"), ({"a": {"en-de": 0}}, "got 0"), ({"a": {"en-de": 1.5}}, "got 1.5")],
)
def test_a_bad_layout_is_refused(layout: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        NeuroglotConfig(pairs=list(PAIRS), layout=layout)


# --- injection


@pytest.mark.parametrize(
    ("module", "row", "message"),
    [
        (
            "model.language_model.layers.0.self_attn.qproj",
            0,
            "did you mean model.language_model.layers.0.self_attn.q_",
        ),
        ("q_proj", 0, "no module 'q_proj'"),
        ("model.language_model.layers.0.mlp", 0, "is a LlamaMLP, expected a Linear"),
        (FIRST, 32, "row 32 is out of range; expected 0 to 31"),
        (FIRST, -1, "row -1 is out of range"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_it_is_changed(module: str, row: int, message: str) -> None:
    model = tiny_llava()
    before = set(model.state_dict())
    with pytest.raises(UserError, match=message):
        get_peft_model(model, NeuroglotConfig.from_selection(Selection(PAIRS, {module: {ALL: torch.tensor([row])}})))
    assert set(model.state_dict()) == before
    assert not any(isinstance(m, NeuroglotLinear) for m in model.modules())


def test_a_layout_without_modules_or_with_too_many_rows_is_refused() -> None:
    with pytest.raises(UserError, match="no layout"):
        get_peft_model(tiny_llava(), NeuroglotConfig())
    with pytest.raises(UserError, match="has 32 rows, but the adapter trains 40"):
        get_peft_model(tiny_llava(), NeuroglotConfig(pairs=["en-de"], layout={FIRST: {"en-de": 40}}))


def test_tied_weights_are_refused() -> None:
    model = tiny_llava()
    model.lm_head.weight = model.get_input_embeddings().weight
    with pytest.raises(UserError, match="shares its weight with model.language_model.embed_tokens"):
        get_peft_model(model, NeuroglotConfig.from_selection(Selection(PAIRS, {"lm_head": {ALL: torch.tensor([0])}})))


def test_a_configuration_without_indices_cannot_be_used_before_loading() -> None:
    config = NeuroglotConfig(pairs=["en-de"], layout={FIRST: {"en-de": 4}})
    with pytest.raises(UserError, match="has no row indices"):
        logits(get_peft_model(tiny_llava(), config))


def test_only_the_exact_modules_are_wrapped_and_a_fresh_adapter_changes_nothing() -> None:
    base, model = tiny_llava(), tuned()
    wrapped = {m.module_name for m in model.modules() if isinstance(m, NeuroglotLinear)}
    assert wrapped == set(MODULES)
    assert torch.equal(logits(base), logits(model))
    assert equal_selections(selection_of(model), tiny_selection())
    assert model.get_nb_trainable_parameters()[0] == sum(p.numel() for p in deltas(model).values())


# --- merging


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_merge_gives_the_adapters_output_and_touches_only_selected_rows(bias: bool, safe: bool) -> None:
    model = tuned(bias, fill=0.3)
    before, base_out, out = snapshot(model), logits(tiny_llava(bias)), logits(model)
    assert far(base_out, out)
    model.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(logits(model), out, rtol=1e-5, atol=1e-5)
    report = audit(before, model, tiny_selection())
    assert report.outside == {}
    assert report.trained == report.selected
    model.unmerge_adapter()
    assert changed(before, model) == {}
    assert torch.equal(logits(model), out)
    merged = model.merge_and_unload(safe_merge=safe)
    assert type(merged).__name__ == "LlavaForConditionalGeneration"
    assert set(merged.state_dict()) == set(before)
    torch.testing.assert_close(logits(merged), out, rtol=1e-5, atol=1e-5)
    assert audit(before, merged, tiny_selection()).outside == {}


def test_audit_reports_what_should_not_have_moved() -> None:
    model = tuned(fill=0.3)
    before = snapshot(model)
    model = model.merge_and_unload()
    with torch.no_grad():
        model.get_parameter("lm_head.weight")[5, 0] += 1
        row = next(i for i in range(32) if all(i not in g for g in tiny_selection().rows[FIRST].values()))
        model.get_parameter(f"{FIRST}.weight")[row] *= 2
    report = audit(before, model, tiny_selection())
    assert {name: rows.tolist() for name, rows in report.outside.items()} == {
        "lm_head.weight": [5],
        f"{FIRST}.weight": [row],
    }
    assert "2 other rows changed" in str(report)


def test_safe_merge_refuses_nan() -> None:
    model = tuned(fill=0.1)
    before = snapshot(model)
    with torch.no_grad():
        next(iter(deltas(model).values()))[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        model.merge_adapter(safe_merge=True)
    assert changed(before, model) == {}


def test_merging_into_bfloat16_adds_in_float32() -> None:
    model = get_peft_model(tiny_llava().to(torch.bfloat16), NeuroglotConfig.from_selection(tiny_selection()))
    fill_deltas(model)
    layer = model.get_base_model().get_submodule(FIRST)
    rows = layer.neuroglot_rows["default"].long()
    delta = torch.cat(list(layer.neuroglot_delta["default"].values()))
    expected = (layer.base_layer.weight[rows].float() + delta).to(torch.bfloat16)
    before = snapshot(model)
    model.merge_adapter()
    assert torch.equal(layer.base_layer.weight[rows], expected)
    model.unmerge_adapter()
    assert changed(before, model) == {}


def test_disabling_restores_the_base_bit_for_bit_even_when_merged() -> None:
    base_out, model = logits(tiny_llava()), tuned(fill=0.3)
    out = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), base_out)
    assert torch.equal(logits(model), out)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), base_out)
    assert torch.equal(logits(model), out)
    assert torch.equal(logits(model.unload()), base_out)


def test_a_quantised_weight_is_not_merged_into() -> None:
    model = tuned(fill=0.1)
    layer = model.get_base_model().get_submodule(FIRST)
    layer.base_layer.weight = nn.Parameter(torch.zeros(32, 32, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UserError, match="quantisation"):
        layer.merge()


# --- several adapters


def test_adapters_switch_combine_and_go() -> None:
    model = tuned(fill=0.3)
    first = logits(model)
    overlapping = NeuroglotConfig.from_selection(tiny_selection(seed=5, groups=(ALL, FR), count=5))
    model.add_adapter("en-de", overlapping)  # an adapter's name may be that of a pair
    fill_deltas(model, adapter="en-de", seed=9)
    assert torch.equal(logits(model), first)
    model.set_adapter("en-de")
    second = logits(model)
    assert far(first, second)
    assert {p.requires_grad for p in deltas(model).values()} == {False}
    assert {p.requires_grad for p in deltas(model, "en-de").values()} == {True}
    model.base_model.set_adapter(["default", "en-de"])
    both, before = logits(model), snapshot(model)
    assert far(both, first)
    assert far(both, second)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), both, rtol=1e-5, atol=1e-5)
    model.unmerge_adapter()
    assert changed(before, model) == {}
    assert set(get_peft_model_state_dict(model)) == set(get_peft_model_state_dict(tuned()))
    model.set_adapter("default")
    model.delete_adapter("en-de")
    assert deltas(model, "en-de") == {}
    assert torch.equal(logits(model), first)
    with pytest.raises(UserError, match="no neuroglot adapter 'en-de'"):
        selection_of(model, "en-de")


def test_deleting_the_last_adapter_leaves_the_base() -> None:
    model = tuned(fill=0.3)
    model.delete_adapter("default")
    assert torch.equal(logits(model.base_model.model), logits(tiny_llava()))


def test_injection_without_a_wrapper() -> None:
    model = inject_adapter_in_model(NeuroglotConfig.from_selection(tiny_selection()), tiny_llava())
    set_peft_model_state_dict(model, get_peft_model_state_dict(tuned(fill=0.3)))
    assert torch.equal(logits(model), logits(tuned(fill=0.3)))
    model.train()
    with active_pair(model, "en-fr"):
        model(**batch(1)).loss.backward()
    assert {group_of(n) for n, p in deltas(model).items() if p.grad is not None} == {ALL, FR}


# --- saving


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saving_and_loading_is_bit_exact(tmp_path: Path, bias: bool, low_cpu_mem_usage: bool) -> None:
    model = tuned(bias, fill=0.3)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved[f"base_model.model.{FIRST}.neuroglot_rows"].dtype == torch.int32
    assert f"base_model.model.{FIRST}.neuroglot_delta.pairs:en-de" in saved
    assert (f"base_model.model.{MODULES[-1]}.neuroglot_bias.pairs:en-de" in saved) is bias
    again = PeftModel.from_pretrained(tiny_llava(bias), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    for name, value in deltas(model).items():
        assert torch.equal(deltas(again)[name], value)
    assert equal_selections(selection_of(again), tiny_selection())
    assert torch.equal(logits(again), logits(model))
    assert far(logits(again), logits(tiny_llava(bias)))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_deltas_loaded_onto_a_bfloat16_base_keep_their_bits(tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    model = tuned(fill=0.3)
    model.save_pretrained(tmp_path)
    base = tiny_llava().to(torch.bfloat16)
    again = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    for name, value in deltas(model).items():
        assert torch.equal(deltas(again)[name], value)


def test_load_adapter_under_another_name_and_saving_both(tmp_path: Path) -> None:
    model = tuned(fill=0.3)
    model.save_pretrained(tmp_path / "a")
    model.load_adapter(tmp_path / "a", "copy")
    model.set_adapter("copy")
    assert torch.equal(logits(model), logits(tuned(fill=0.3)))
    model.save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "copy" / "adapter_model.safetensors").exists()
    assert "import neuroglot" in (tmp_path / "b" / "copy" / "README.md").read_text()


def test_the_state_dict_functions(tmp_path: Path) -> None:
    model, other = tuned(fill=0.3), tuned()
    state = get_peft_model_state_dict(model)
    assert all("neuroglot_" in key and "default" not in key for key in state)
    logits(other)  # rows looked up before loading must not outlive it
    set_peft_model_state_dict(other, state)
    assert torch.equal(logits(other), logits(model))
    moved = tuned(selection=tiny_selection(seed=3))
    logits(moved)
    set_peft_model_state_dict(moved, state)
    assert torch.equal(logits(moved), logits(model)), "the rows are the saved ones"


def test_what_does_not_fit_is_refused_when_loading(tmp_path: Path) -> None:
    tuned(bias=True, fill=0.1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="unexpected tensor .*neuroglot_bias"):
        PeftModel.from_pretrained(tiny_llava(bias=False), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    saved = load_file(file)
    rows, delta = f"base_model.model.{FIRST}.neuroglot_rows", f"base_model.model.{FIRST}.neuroglot_delta.pairs:en-de"
    for change, message in (
        ({rows: torch.full_like(saved[rows], 99)}, "row 99 is out of range"),
        ({delta: torch.zeros(3, 8)}, r"shape \(3, 8\), expected \(3, 32\)"),
        ({delta: None}, "is missing"),
    ):
        save_file({k: v for k, v in {**saved, **change}.items() if v is not None}, file)
        with pytest.raises(UserError, match=message):
            PeftModel.from_pretrained(tiny_llava(bias=True), tmp_path)


def test_the_model_card_says_what_is_known_once_and_keeps_what_was_written(tmp_path: Path) -> None:
    meta = {"method": "mnaft", "options": {"budget": 0.25}, "neurons": {"language": 336}}
    model = tuned(selection=dataclasses.replace(tiny_selection(), meta=meta))
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(card + "\n## Uses\n\n### Direct Use\n\nStreet signs.\n\nNot menus.\n")
    for _ in range(2):
        model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.count("import neuroglot ") == 1
    assert "More Information Needed" not in card
    assert "<!--" not in card
    assert card.endswith("## Uses\n\n### Direct Use\n\nStreet signs.\n\nNot menus.\n")
    for fact in (
        "en-cs, en-de, en-fr",
        "| chosen: budget | 0.25 |",
        "84 of 336 neurons of language",
        torch.__version__,
    ):
        assert fact in card
    assert card.startswith("---\n")
    assert "84 rows in 7 layers" in card
    assert "library_name: peft" in card


FIRST_OURS = "import neuroglot, sys\nassert 'torch' not in sys.modules\n"
LOADING = """
import importlib.util
importlib.util.find_spec("peft")  # looking for it must not use up the registration
import peft
"""
CHECK = """
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
assert {"NEUROGLOT", "NEUROGLOT_PROMPT", "NEUROGLOT_VECTORS"} <= {*PEFT_TYPE_TO_TUNER_MAPPING}
"""
ALL_WAYS = """
import torch
sys.path.insert(0, sys.argv[2])
from peft import AutoPeftModel, PeftModel
from tiny_llava import logits
from transformers import AutoModelForImageTextToText
expected = torch.load(sys.argv[1] + "/out.pt")
base = AutoModelForImageTextToText.from_pretrained(sys.argv[3])
torch.testing.assert_close(logits(PeftModel.from_pretrained(base, sys.argv[1])), expected)
torch.testing.assert_close(logits(AutoPeftModel.from_pretrained(sys.argv[1])), expected)
torch.testing.assert_close(logits(AutoModelForImageTextToText.from_pretrained(sys.argv[1])), expected)
base = AutoModelForImageTextToText.from_pretrained(sys.argv[3])
base.load_adapter(sys.argv[1])
torch.testing.assert_close(logits(base), expected)
"""


def fresh(script: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_importing_the_package_is_enough_for_peft_and_loads_no_torch() -> None:
    fresh(FIRST_OURS + LOADING + CHECK)


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [FIRST_OURS + LOADING, LOADING + FIRST_OURS.partition("\n")[0]], ids=["ours", "peft"]
)
def test_an_adapter_loads_in_a_fresh_process_in_either_order(base_folder: Path, tmp_path: Path, order: str) -> None:
    model = get_peft_model(from_folder(base_folder), NeuroglotConfig.from_selection(tiny_selection()))
    fill_deltas(model)
    model.save_pretrained(tmp_path)
    torch.save(logits(model), tmp_path / "out.pt")
    fresh(order + CHECK + ALL_WAYS, tmp_path, Path(__file__).parent, base_folder)


def test_a_layer_that_is_read_and_not_called_is_refused_and_not_listed() -> None:
    """SigLIP's pooling head holds a torch MultiheadAttention."""
    model = tiny_llava()
    model.model.vision_tower.head = nn.MultiheadAttention(32, 2)
    name = "model.vision_tower.head.out_proj"
    assert name not in {layer.name for layer in inventory(model)}
    with pytest.raises(UserError, match="out_proj lies in a torch MultiheadAttention"):
        get_peft_model(model, NeuroglotConfig.from_selection(Selection(PAIRS, {name: {ALL: torch.tensor([0])}})))


def test_groups_in_any_order_save_and_load_the_same_rows(tmp_path: Path) -> None:
    """PEFT sorts the keys of the JSON; the rows follow the order of the groups."""
    layout = {FIRST: {"en-fr": 2, "en-de": 1}}
    config = NeuroglotConfig(pairs=["en-de", "en-fr"], layout=layout, rows={FIRST: [7, 3, 5]}, init_weights=False)
    assert config.layout == {FIRST: {"en-de": 1, "en-fr": 2}}
    assert config.units[FIRST].tolist() == [5, 7, 3]
    model = get_peft_model(tiny_llava(), config)
    assert selection_of(model).rows[FIRST][FR].tolist() == [7, 3]
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llava(), str(tmp_path))), logits(model))
    with pytest.raises(UserError, match="expected its pairs sorted"):
        NeuroglotConfig(pairs=["en-de", "en-fr"], layout={FIRST: {"en-fr,en-de": 1}})
