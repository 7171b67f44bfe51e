"""A random Llava of the real classes, small enough to train in a test, with a selection in all three of its parts."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig

PAIRS = ("en-cs", "en-de", "en-fr")
ALL, DE, FR, DE_CS = frozenset(PAIRS), frozenset({"en-de"}), frozenset({"en-fr"}), frozenset({"en-cs", "en-de"})
GROUPS = (ALL, DE, FR, DE_CS)
IMAGE = 60

VISION = "model.vision_tower.encoder.layers.0"
LANGUAGE = "model.language_model.layers"
MODULES = (
    f"{VISION}.self_attn.q_proj",
    f"{VISION}.mlp.fc1",
    "model.multi_modal_projector.linear_1",
    "model.multi_modal_projector.linear_2",
    f"{LANGUAGE}.0.self_attn.v_proj",
    f"{LANGUAGE}.0.mlp.down_proj",
    f"{LANGUAGE}.1.mlp.gate_proj",
)


def tiny_llava(bias: bool = False, dropout: float = 0.0, seed: int = 0) -> LlavaForConditionalGeneration:
    """Build the model; `bias` puts biases on the language model's Linears (vision and connector have them anyway)."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        attention_dropout=dropout,
    )
    text = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=bias,
        mlp_bias=bias,
        attention_dropout=dropout,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():  # the usual initialisation is so small that outputs would hardly differ
        nn.init.normal_(parameter, std=0.15)
    return model.eval()


def batch(seed: int, size: int = 2) -> dict[str, torch.Tensor]:
    """Return inputs of `size` samples: one image of four tokens, a prompt, five target tokens."""
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 59, (size, 8), generator=g)
    input_ids = torch.cat([torch.full((size, 4), IMAGE), text], dim=1)
    labels = input_ids.clone()
    labels[:, :7] = -100
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "pixel_values": torch.randn(size, 3, 16, 16, generator=g),
    }


def tiny_selection(seed: int = 0, groups: tuple[frozenset[str], ...] = GROUPS, count: int = 3) -> Selection:
    """Choose `count` rows per group in each of `MODULES`."""
    g = torch.Generator().manual_seed(seed)
    rows = {}
    for module in MODULES:
        outputs = 48 if module.endswith(("fc1", "gate_proj")) else 16 if module.endswith("v_proj") else 32
        order = torch.randperm(outputs, generator=g)
        rows[module] = {group: order[i * count : (i + 1) * count].sort().values for i, group in enumerate(groups)}
    return Selection(PAIRS, rows)


def tuned(bias: bool = False, selection: Selection | None = None, fill: float = 0.0, seed: int = 0) -> PeftModel:
    """Return a model with an adapter, its deltas at random when `fill` is their standard deviation."""
    config = NeuroglotConfig.from_selection(selection or tiny_selection())
    model = get_peft_model(tiny_llava(bias, seed=seed), config)
    if fill:
        fill_deltas(model, fill)
    return model


def fill_deltas(model: nn.Module, std: float = 0.3, adapter: str = "default", seed: int = 1) -> None:
    """Set an adapter's deltas at random: zero deltas would pass any test of saving and merging."""
    g = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "neuroglot_" in name and f".{adapter}." in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=g) * std)


def deltas(model: nn.Module, adapter: str = "default") -> dict[str, torch.Tensor]:
    """Return an adapter's parameters by name."""
    return {n: p for n, p in model.named_parameters() if "neuroglot_" in n and f".{adapter}." in n}


def group_of(name: str) -> frozenset[str]:
    """Return the group that a parameter name carries."""
    return frozenset(name.rpartition("pairs:")[2].split(","))


@torch.no_grad()
def logits(model: nn.Module, seed: int = 7) -> torch.Tensor:
    """Return the logits of one fixed batch, in eval mode."""
    was = model.training
    model.eval()
    out = model(**batch(seed)).logits
    model.train(was)
    return out
