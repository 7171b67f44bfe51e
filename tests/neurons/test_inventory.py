"""Layers and neurons of a model, by part."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from neuroglot.errors import UserError
from neuroglot.neurons.inventory import fingerprint, inventory


def test_every_linear_of_a_llava_is_in_its_part(llava):
    layers = inventory(llava)
    linears = {n for n, m in llava.named_modules() if isinstance(m, nn.Linear)}
    assert {layer.name for layer in layers} == linears - {"lm_head"}
    assert {part: sum(layer.part == part for layer in layers) for part in ("vision", "connector", "language")} == {
        "vision": 18, "connector": 2, "language": 14,
    }  # fmt: skip
    for layer in layers:
        module = llava.get_submodule(layer.name)
        assert (layer.neurons, layer.inputs) == tuple(module.weight.shape)
        assert layer.bias == (module.bias is not None)
    key = next(layer for layer in layers if layer.name.endswith("language_model.layers.0.self_attn.k_proj"))
    assert (key.neurons, key.inputs, key.bias) == (12, 24, False)


def test_the_head_only_when_named_and_never_when_tied(kit):
    model = kit.make_llava()
    assert inventory(model, include=("lm_head",))[-1].name == "lm_head"
    with pytest.raises(UserError, match="'lm_head' to include lies in part language"):
        inventory(model, ("vision",), include=("lm_head",))
    with pytest.raises(UserError, match="'lm_heads' to include is no nn.Linear of this model; did you mean lm_head"):
        inventory(model, include=("lm_heads",))
    model.lm_head.weight = model.get_input_embeddings().weight
    assert "lm_head" not in {layer.name for layer in inventory(model)}
    with pytest.raises(UserError, match="tied to an embedding"):
        inventory(model, include=("lm_head",))


def test_a_shared_matrix_counts_once(kit):
    model = kit.make_llava()
    whole = inventory(model)
    first, second = (block.self_attn for block in model.model.language_model.layers)
    second.q_proj.weight = first.q_proj.weight
    assert [x for x in whole if x not in inventory(model)] == [
        x for x in whole if x.name.endswith("1.self_attn.q_proj")
    ][-1:]


def test_parts_are_checked(kit, llava):
    assert {layer.part for layer in inventory(llava, ("language", "vision"))} == {"vision", "language"}
    with pytest.raises(UserError, match="part 'visions' is not known; did you mean vision"):
        inventory(llava, ("visions",))
    with pytest.raises(UserError, match="parts is empty"):
        inventory(llava, ())
    model = kit.make_llava()
    model.model.multi_modal_projector = nn.Identity()
    with pytest.raises(UserError, match="part connector .* has no layer.*parts=vision,language"):
        inventory(model)


def test_an_adapter_is_refused(kit):
    adapted = get_peft_model(kit.make_llava(), LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(UserError, match="holds an adapter"):
        inventory(adapted.get_base_model())


def test_the_fingerprint_follows_the_weights(kit, llava):
    layers = inventory(llava)
    assert fingerprint(llava, layers) == fingerprint(kit.make_llava(), layers)
    assert fingerprint(llava, layers) != fingerprint(kit.make_llava(seed=1), layers)
    assert fingerprint(llava, layers) != fingerprint(llava, layers[1:])
    assert fingerprint(kit.make_llava().to(torch.bfloat16), layers) == fingerprint(llava, layers)
