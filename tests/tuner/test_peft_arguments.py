"""Every argument of PEFT's functions does what PEFT says, or is refused by name; none is taken and ignored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_base_model_state_dict,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.helpers import disable_input_dtype_casting, rescale_adapter_scale
from peft.utils.hotswap import hotswap_adapter
from tiny_llava import FR, LANGUAGE, PAIRS, batch, deltas, fill_deltas, logits, tiny_llava, tiny_selection, tuned
from torch import nn

from neuroglot.errors import UserError
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig, NeuroglotLinear, PromptConfig, VectorsConfig, active_pair


def config(**options: Any) -> NeuroglotConfig:
    return NeuroglotConfig.from_selection(tiny_selection(), **options)


@pytest.fixture(scope="module")
def two() -> PeftModel:
    """A model with two adapters, of which `other` has layers and ranks of its own."""
    model = tuned(fill=0.3)
    rows = {f"{LANGUAGE}.1.mlp.up_proj": {FR: torch.tensor([3, 9])}, **tiny_selection(seed=5).rows}
    model.add_adapter("other", NeuroglotConfig.from_selection(Selection(PAIRS, rows), rank=2))
    fill_deltas(model, adapter="other", seed=9)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapter")
    tuned(fill=0.3).save_pretrained(place)
    return place


# --- adapter_names


def one_by_one(model: PeftModel, names: list[str], inputs: dict[str, torch.Tensor], run: Callable) -> list[Any]:
    """Run each sample with its own adapter alone."""
    found = []
    for i, name in enumerate(names):
        own = {key: value[i : i + 1] for key, value in inputs.items()}
        if name == "__base__":
            with model.disable_adapter():
                found.append(run(model, **own))
        else:
            model.set_adapter(name, inference_mode=True)
            found.append(run(model, **own))
    model.set_adapter("default")
    return found


NAMES = ["other", "__base__", "default", "other"]


@pytest.mark.parametrize("mode", ["auto", "additive"])
def test_each_sample_has_its_own_adapter(two: PeftModel, mode: str) -> None:
    inputs = batch(3, len(NAMES))
    del inputs["labels"]
    with torch.no_grad():
        found = two(**inputs, adapter_names=NAMES).logits
        expected = torch.cat(one_by_one(two, NAMES, inputs, lambda model, **own: model(**own).logits))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        alone = two(**inputs).logits
    assert not torch.allclose(alone[0], found[0], atol=1e-2)
    assert two.base_model.router.adapters is None


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"task_type": "CAUSAL_LM"}])
def test_generation_with_an_adapter_for_each_sample(two: PeftModel, options: dict[str, Any]) -> None:
    inputs = batch(4, len(NAMES))
    del inputs["labels"]
    run = partial(PeftModel.generate, max_new_tokens=4, do_sample=False, num_beams=options.get("num_beams", 1))
    model = two
    if "task_type" in options:
        model = get_peft_model(tiny_llava(), config(task_type="CAUSAL_LM")).eval()
        model.add_adapter("other", config())
        for seed, name in enumerate(("default", "other")):
            fill_deltas(model, adapter=name, seed=seed)
        run = partial(type(model).generate, max_new_tokens=4, do_sample=False)
    with torch.no_grad():
        found = run(model, **inputs, adapter_names=NAMES)
        expected = one_by_one(model, NAMES, inputs, run)
    assert [row.tolist() for row in found] == [row[0].tolist() for row in expected]


def fewer_images(inputs: dict[str, torch.Tensor]) -> None:
    inputs["input_ids"][0, :4] = 5
    inputs["pixel_values"] = inputs["pixel_values"][1:]


@pytest.mark.parametrize(
    ("names", "change", "message"),
    [
        (["default", "nope"], None, "'nope' is no adapter of this model"),
        (["default"], None, "names 1 adapters for 2 samples"),
        ("default", None, "must be a list with one name for each sample, got 'default'"),
        (["default", "__base__"], fewer_images, "expected as many images of one size for each sample"),
    ],
)
def test_adapter_names_that_do_not_fit(two: PeftModel, names: Any, change: Any, message: str) -> None:
    inputs = batch(3, 2)
    if change:
        change(inputs)
    with torch.no_grad(), pytest.raises(UserError, match=message):
        two(**inputs, adapter_names=names)


def test_adapter_names_are_for_inference_with_unmerged_adapters_in_pefts_wrapper() -> None:
    model, names, inputs = tuned(fill=0.3).train(), ["default", "__base__"], batch(1, 2)
    with active_pair(model, "en-de"), pytest.raises(UserError, match="training mode"):
        model(**inputs, adapter_names=names)
    model.eval().merge_adapter()
    with pytest.raises(UserError, match="adapter 'default' is merged; call model.unmerge_adapter"):
        model(**inputs, adapter_names=names)
    bare = inject_adapter_in_model(config(), tiny_llava())
    with pytest.raises(UserError, match="adapter_names needs PEFT's wrapper"):
        bare(**inputs, adapter_names=names)
    for other in (
        VectorsConfig(layout={"model.multi_modal_projector.linear_1": ["bias"]}),
        PromptConfig(tokens=2),
    ):
        wrapped = get_peft_model(tiny_llava(), other).eval()
        with pytest.raises(UserError, match="adapter_names is not known to this kind of adapter"):
            wrapped(**inputs, adapter_names=names)
    with pytest.raises(UserError, match="alora_offsets"):
        tuned().eval()(**inputs, alora_offsets=[1, 1])


# --- the other arguments


@pytest.mark.parametrize("mode", ["sliced", "additive"])
def test_without_autocast_deltas_take_the_dtype_of_the_base(mode: str) -> None:
    base = tiny_llava().bfloat16()
    model = get_peft_model(base, config(mode=mode), autocast_adapter_dtype=False).train()
    assert {p.dtype for p in deltas(model).values()} == {torch.bfloat16}
    fill_deltas(model, 0.1)
    inputs = batch(2)
    with active_pair(model, "en-de"):
        model(**inputs | {"pixel_values": inputs["pixel_values"].bfloat16()}).loss.backward()
    found = {p.grad.dtype for p in deltas(model).values() if p.grad is not None}
    assert found == {torch.bfloat16}
    assert {p.dtype for p in deltas(get_peft_model(tiny_llava().bfloat16(), config())).values()} == {torch.float32}


def weighted(model: PeftModel) -> None:
    model.add_weighted_adapter(["default"], [1.0], "new")


REFUSED: dict[str, tuple[Callable[[PeftModel, Path], Any], type[Exception], str]] = {
    "mixed": (lambda m, f: get_peft_model(tiny_llava(), config(), mixed=True), ValueError, "not compatible with"),
    "add_weighted_adapter": (lambda m, f: weighted(m), UserError, "exists for LoRA only"),
    "merge": (lambda m, f: m.merge_adapter(["nope"]), UserError, "adapter 'nope' is not in the model"),
    "merge one": (lambda m, f: m.merge_adapter("default"), UserError, r"got 'default'; use \['default'\]"),
    "merge_and_unload": (lambda m, f: m.merge_and_unload(adapter_names=["nope"]), UserError, "'nope' is not in"),
    "adapter name": (lambda m, f: m.add_adapter("a.b", config()), UserError, "adapter name 'a.b' is empty or holds"),
    "low_cpu_mem_usage": (
        lambda m, f: logits(get_peft_model(tiny_llava(), config(), low_cpu_mem_usage=True)),
        UserError,
        r"holds no values \(low_cpu_mem_usage=True\)",
    ),
    "scale": (lambda m, f: rescale_adapter_scale(m, 0.5).__enter__(), ValueError, "only supported for"),
    "convert": (lambda m, f: __import__("peft").convert_to_lora(m, rank=2), TypeError, "do not support LoRA conv"),
    "hotswap": (lambda m, f: hotswap_adapter(m, f, "default"), ValueError, "NEUROGLOT"),
    "initial": (
        lambda m, f: m.save_pretrained(f / "x", path_initial_model_for_weight_conversion=str(f)),
        ValueError,
        "not supported",
    ),
    "ephemeral_gpu_offload": (
        lambda m, f: m.load_adapter(f, "new", ephemeral_gpu_offload=True),
        UserError,
        "ephemeral_gpu_offload cannot be given",
    ),
    "field": (
        lambda m, f: PeftModel.from_pretrained(tiny_llava(), f, mode="additive"),
        UserError,
        "mode cannot be given while loading",
    ),
    "key_mapping": (
        lambda m, f: PeftModel.from_pretrained(tiny_llava(), f, key_mapping={"language_model": "other"}),
        UserError,
        "is missing; load it on the base model",
    ),
    "transformers' hotswap": (
        lambda m, f: tiny_llava().load_adapter(f, hotswap=True),
        ValueError,
        "there must already be an existing adapter",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(two: PeftModel, folder: Path, case: str) -> None:
    call, kind, message = REFUSED[case]
    names = set(two.peft_config)
    with pytest.raises(kind, match=message):
        call(two, folder)
    assert set(two.peft_config) == names


def flags(model: nn.Module, adapter: str = "default") -> set[bool]:
    return {p.requires_grad for p in deltas(model, adapter).values()}


def test_what_works(two: PeftModel, folder: Path, tmp_path: Path) -> None:
    expected = logits(tuned(fill=0.3))

    def loaded(**options: Any) -> PeftModel:
        model = PeftModel.from_pretrained(tiny_llava(), folder, **options)
        assert torch.equal(logits(model), expected)
        return model

    assert flags(loaded(is_trainable=True)) == {True}
    assert flags(loaded(torch_device="cpu", ignore_mismatched_sizes=True)) == {False}
    assert loaded(config=PeftConfig.from_pretrained(folder)).active_adapter == "default"
    assert get_peft_model(tiny_llava(), config(), revision="v2").peft_config["default"].revision == "v2"
    assert flags(get_peft_model(tiny_llava(), config(inference_mode=True))) == {False}
    two.set_requires_grad("other")
    assert flags(two, "other") == {True}
    two.set_requires_grad("other", False)
    two.set_adapter("other", inference_mode=True)
    assert flags(two, "other") == {False}
    two.set_adapter("default")
    assert {"default", "other"} == set(two.get_model_status().available_adapters)
    assert all("neuroglot" in one.name or one.module_type == "NeuroglotLinear" for one in two.get_layer_status())
    two.save_pretrained(tmp_path / "some", selected_adapters=["other"])
    assert sorted(p.name for p in (tmp_path / "some").iterdir()) == ["README.md", "other"]
    two.save_pretrained(tmp_path / "whole", selected_adapters=["default"], save_embedding_layers=True)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llava(), tmp_path / "whole")), expected)
    two.save_pretrained(tmp_path / "pickle", selected_adapters=["default"], safe_serialization=False)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llava(), tmp_path / "pickle")), expected)
    with disable_input_dtype_casting(two):
        assert torch.equal(logits(two), expected)
    plain = tiny_llava().state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in get_base_model_state_dict(two).items())
    first = inject_adapter_in_model(config(), tiny_llava())
    fill_deltas(first, 0.3)
    state = get_peft_model_state_dict(first)
    again = inject_adapter_in_model(PeftConfig.from_pretrained(folder), tiny_llava(), state_dict=state)
    set_peft_model_state_dict(again, state)
    assert torch.equal(logits(again), logits(first))
    base = tiny_llava()
    base.enable_peft_hotswap(target_rank=8)
    base.load_adapter(folder, is_trainable=True)
    assert flags(base) == {True}
    assert torch.equal(logits(base), expected)
    assert any(isinstance(module, NeuroglotLinear) for module in base.modules())
