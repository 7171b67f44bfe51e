"""The table of families against the real model classes, built without memory on the meta device."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from neuroglot.errors import UserError
from neuroglot.models.families import FAMILIES, Family, family_of, image_token_id
from neuroglot.neurons.inventory import inventory
from neuroglot.neurons.profiling.importance import profile


def on_meta(model_type: str, prune: bool = True):
    config = AutoConfig.for_model(model_type)
    text = config.get_text_config()
    text.num_hidden_layers = 2
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:2]
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_linear_of_every_family_has_its_part(model_type):
    model = on_meta(model_type)
    family = family_of(model)
    assert family is FAMILIES[model_type]
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert all(family.part_of(name) for name in linears)
    assert isinstance(image_token_id(model), int)
    # Every prefix is a real module, so that none is left from an older layout.
    for part in ("vision", "connector", "language"):
        for prefix in family.prefixes(part):
            model.get_submodule(prefix if prefix == "lm_head" else f"model.{prefix}")
    parts = ("vision", "language") if model_type == "gemma3" else ("vision", "connector", "language")
    layers = inventory(model, parts)
    assert {layer.part for layer in layers} == set(parts)
    read = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]  # SigLIP's pooling head
    assert len(read) == (model_type == "gemma3")
    assert set(linears) - {layer.name for layer in layers} == {"lm_head", *(f"{name}.out_proj" for name in read)}
    if model_type == "gemma3":  # its connector is a bare matrix
        with pytest.raises(UserError, match="part connector of this gemma3 model has no layer"):
            inventory(model)


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
    if model_type == "gemma3":
        with pytest.raises(UserError, match="connector part cannot be recognised"):
            family_of(model)
        return
    with caplog.at_level(logging.WARNING):
        guess = family_of(model)
    assert "guessed by name" in caplog.text
    assert [guess.part_of(n) for n in linears] == [FAMILIES[model_type].part_of(n) for n in linears]
    assert image_token_id(model) is not None


def test_a_model_without_parts_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(UserError, match="'Sequential' is not in the table of families.*expected one of llava"):
        family_of(model)
    assert image_token_id(model, Family("x", ("v",), ("c",), image_token=None)) is None


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_packed_vision_is_refused_before_any_work(model_type):
    with pytest.raises(UserError, match="packs the vision tokens.*parts=language"):
        profile(on_meta(model_type), [])
