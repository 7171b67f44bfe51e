"""`neuroglot inspect`: what a model is made of, from a folder that holds its configuration and no weights."""

from __future__ import annotations

import json
import logging
import resource

import families
import pytest
import transformers as hf
from torch import nn

from neuroglot.models.summary import inspect

TINY = ("llava", "qwen3_vl", "smolvlm", "gemma3", "mistral3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of configurations: tiny models of several families, two of 7 billion, and a family without a row."""
    root = tmp_path_factory.mktemp("configs")
    for family in families.FAMILIES:
        if family in TINY:
            families.build(family)[0].config.save_pretrained(root / family)
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    seen = hf.CLIPVisionConfig(**tower, image_size=336, patch_size=14)
    hf.LlavaConfig(vision_config=seen, text_config=hf.LlamaConfig(vocab_size=32064)).save_pretrained(root / "llava-7b")
    qwen = hf.models.qwen2_5_vl.configuration_qwen2_5_vl
    vision = qwen.Qwen2_5_VLVisionConfig(
        depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584
    )
    text = qwen.Qwen2_5_VLTextConfig(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4,
    )  # fmt: skip
    qwen.Qwen2_5_VLConfig(vision_config=vision, text_config=text).save_pretrained(root / "qwen-7b")
    small = {**families.TOWER, "image_size": 16, "patch_size": 8}
    hf.VipLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**small), text_config=hf.LlamaConfig(**families.TEXT),
        vision_feature_layers=[-1, -2],
    ).save_pretrained(root / "vipllava")  # fmt: skip
    return root


@pytest.mark.parametrize("family", [name for name in TINY if name in families.FAMILIES])
def test_every_parameter_is_in_a_neuron_or_left_out_for_a_reason(folders, family):
    model, _ = families.build(family)
    found = inspect(str(folders / family))
    assert found["model_type"] == family
    assert not found["guessed"]
    total = sum(p.numel() for p in model.parameters())
    assert found["parameters"] == total
    in_neurons = sum(part["neuron_parameters"] for part in found["parts"].values())
    assert in_neurons + sum(entry["parameters"] for entry in found["left_out"]) == total
    nowhere = sum(entry["parameters"] for entry in found["left_out"] if entry["part"] == "")
    assert sum(part["parameters"] for part in found["parts"].values()) + nowhere == total
    for part, about in found["parts"].items():
        own = [entry for entry in found["layers"] if entry["part"] == part]
        assert about["layers"] == sum(entry["count"] for entry in own) > 0
        assert about["neurons"] == sum(entry["count"] * entry["neurons"] for entry in own)
    assert any(entry["bare"] for entry in found["layers"]) == (family == "gemma3")
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    held = sum(p.numel() for m in convolutions for p in m.parameters())
    assert held == sum(e["parameters"] for e in found["left_out"] if "convolution" in e["reason"])


def test_models_of_seven_billion_need_no_memory(folders):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    llava, qwen = inspect(str(folders / "llava-7b")), inspect(str(folders / "qwen-7b"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: a hundredth of the two models
    assert 7.0e9 < llava["parameters"] < 7.2e9
    assert 8.2e9 < qwen["parameters"] < 8.4e9
    assert {part: x["layers"] for part, x in llava["parts"].items()} == {
        "vision": 24 * 6, "connector": 2, "language": 32 * 7,
    }  # fmt: skip
    assert llava["parts"]["language"]["neurons"] == 32 * (5 * 4096 + 2 * 11008)
    assert llava["parts"]["language"]["ffn_units"] == 32 * 11008
    assert qwen["parts"]["connector"]["ffn_units"] == 5120
    assert {e["reason"] for e in qwen["left_out"] if e["part"] == "language"} >= {"LM head", "embeddings"}
    assert "lie on one axis" in qwen["vision_rows"]


def test_the_verb_shows_tables_or_json(folders, cli):
    code, out, err = cli("inspect", folders / "gemma3")
    assert (code, err) == (0, "")
    for words in ("Parts", "connector", "multi_modal_projector.mm_input_projection_weight (bare matrix)", "LM head"):
        assert words in out
    code, out, err = cli("inspect", folders / "gemma3", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == inspect(str(folders / "gemma3"))
    code, out, _ = cli("inspect", "embedded")
    assert code == 0
    assert "LM head, tied to the token embeddings" in out


def test_a_guess_is_said_and_can_be_corrected(folders, cli, monkeypatch):
    from neuroglot.models import families

    families._tell.cache_clear()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's: without them, warnings go to stderr
    code, out, err = cli("inspect", folders / "vipllava")
    assert code == 0
    assert "guessed from module names" in out
    assert err.count("\n") == 1
    assert "guessed by name: vision vision_tower, connector multi_modal_projector, language" in err
    assert "--vision" in err
    said = ["--vision", "vision_tower", "--connector", "model.multi_modal_projector.linear_1"]
    said += ["--language", "language_model", "--language", "multi_modal_projector.linear_2"]
    code, out, err = cli("inspect", folders / "vipllava", "--json", *said)
    assert (code, err) == (0, "")
    parts = json.loads(out)["parts"]
    assert parts["connector"]["layers"] == 1
    assert parts["language"]["prefixes"] == ["language_model", "multi_modal_projector.linear_2"]


def test_wrong_prefixes_are_refused_with_the_nearest_names(folders, cli):
    code, _, err = cli("inspect", folders / "llava", "--vision", "vision_towr")
    assert code == 2
    assert err.count("\n") == 1
    assert "vision names 'vision_towr', where this model has no layer; did you mean vision_tower" in err
    code, _, err = cli("inspect", folders / "llava", "--vision", "vision_tower", "--language", "vision_tower")
    assert code == 2
    assert "'vision_tower' is given to vision and to language" in err
    code, _, err = cli("inspect", folders / "none")
    assert code == 2
    assert "does not exist" in err
