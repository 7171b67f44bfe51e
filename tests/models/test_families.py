"""The table of families against the real model classes, built without memory on the meta device."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from neuroglot.errors import UserError
from neuroglot.models.families import FAMILIES, PARTS, Family, _tell, family_of, image_token_id, set_parts
from neuroglot.neurons.inventory import inventory, matrix, module_of


def on_meta(model_type: str):
    config = AutoConfig.for_model(model_type)
    text = config.get_text_config()
    text.num_hidden_layers = 2
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:2]
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_linear_of_every_family_lies_in_one_part(model_type):
    model = on_meta(model_type)
    family = family_of(model)
    assert family is FAMILIES[model_type]
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert all(family.part_of(name) for name in linears)
    assert isinstance(image_token_id(model), int)
    # Every prefix is a real module and is given to one part, so that none is left from an older layout.
    prefixes = [prefix for part in PARTS for prefix in family.prefixes(part)]
    assert len(prefixes) == len(set(prefixes))
    for prefix in prefixes:
        model.get_submodule(prefix if prefix == "lm_head" else f"model.{prefix}")
        assert any((family.part_of(name) and f"{name}.".startswith(f"model.{prefix}.")) or name == prefix
                   for name in [*linears, *(f"model.{name}" for name, _ in family.bare)])  # fmt: skip
    layers = inventory(model)
    assert {layer.part for layer in layers} == set(PARTS)
    read = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]  # SigLIP's pooling head
    assert len(read) == (model_type == "gemma3")
    bare = {layer.name for layer in layers if layer.axis}
    assert bare == {f"model.{name}" for name, _ in family.bare}
    assert set(linears) - {layer.name for layer in layers} == {"lm_head", *(f"{name}.out_proj" for name in read)}
    for layer in layers:
        stored = tuple(matrix(model, layer).shape)
        assert stored == ((layer.inputs, layer.neurons) if layer.axis else (layer.neurons, layer.inputs))
        assert module_of(model, layer) is not None


def test_the_longest_prefix_wins_and_names_are_whole_components():
    family = FAMILIES["qwen3_vl"]
    assert family.part_of("model.visual.blocks.0.attn.qkv") == "vision"
    assert family.part_of("model.visual.merger.linear_fc1") == "connector"
    assert family.part_of("model.visual.merger_norm.linear") == "vision"
    assert family.part_of("visual.deepstack_merger_list.2.linear_fc2") == "connector"
    assert family.part_of("lm_head") == "language"
    assert family.part_of("model.visuals.x") is None


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_guess_agrees_with_the_table(model_type, caplog):
    model = on_meta(model_type)
    model.config.model_type = "unheard_of"
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if model_type == "gemma3":  # a bare matrix has no module to guess by
        with pytest.raises(UserError, match="connector part cannot be recognised.*model.parts={connector: .PREFIX"):
            family_of(model)
        with pytest.raises(UserError, match="connector names 'multi_modal_projector', where this model has no layer"):
            set_parts(model, {"connector": ["multi_modal_projector"]})
        return
    _tell.cache_clear()
    with caplog.at_level(logging.WARNING):
        guess = family_of(model)
    assert "guessed by name" in caplog.text
    assert guess.guessed
    assert family_of(model) == guess
    assert caplog.text.count("guessed by name") == 1  # said once
    assert [guess.part_of(n) for n in linears] == [FAMILIES[model_type].part_of(n) for n in linears]
    assert (guess.vision_rows == "packed") == ("qwen" in model_type)
    assert image_token_id(model) is not None


def test_a_model_without_parts_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(UserError, match="'Sequential' is not in the table of families.*expected one of llava"):
        family_of(model)
    assert image_token_id(model, Family("x", ("v",), ("c",), image_token=None)) is None


def test_parts_that_are_said_replace_what_the_table_or_the_guess_holds():
    model = on_meta("llava")
    said = set_parts(model, {"connector": ["model.multi_modal_projector.linear_1"], "language": ["language_model"]})
    assert family_of(model) is said
    assert said.vision == FAMILIES["llava"].vision
    assert said.image_token == "image_token_id"
    layers = inventory(model)
    assert [layer.name for layer in layers if layer.part == "connector"] == ["model.multi_modal_projector.linear_1"]
    assert "model.multi_modal_projector.linear_2" not in {layer.name for layer in layers}
    # what another part takes is taken away from the one that the table gives it to
    moved = set_parts(on_meta("llava"), {"vision": ["multi_modal_projector", "vision_tower"]})
    assert moved.connector == ()
    assert moved.vision == ("multi_modal_projector", "vision_tower")


def test_parts_that_cannot_be_are_refused():
    model = on_meta("llava")
    for parts, message in [
        ({"vison": ["vision_tower"]}, "names part 'vison'; did you mean vision"),
        ({"vision": ["vision_tower.encoder.layer"]}, "no layer; did you mean vision_tower.encoder.layers"),
        ({"vision": ["vision_tower.embeddings"]}, "where this model has no layer"),
        ({"vision": ["vision_tower"], "language": ["vision_tower"]}, "is given to vision and to language"),
    ]:
        with pytest.raises(UserError, match=message):
            set_parts(model, parts)
    assert family_of(model) is FAMILIES["llava"]
    model = nn.ModuleDict({"eye": nn.Linear(2, 2), "nerve": nn.Linear(2, 2), "brain": nn.Linear(2, 2)})
    with pytest.raises(UserError, match="its connector part cannot be recognised among brain, eye, nerve"):
        set_parts(model, {"vision": ["eye"]})
    set_parts(model, {"vision": ["eye"], "connector": ["nerve"], "language": ["brain"]})
    assert [layer.part for layer in inventory(model)] == ["vision", "connector", "language"]
