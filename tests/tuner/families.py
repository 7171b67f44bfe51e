"""Tiny random models of the real classes of every family, with a batch each that goes straight into forward.

Two layers a tower, width 32, no processor and no hub. What makes a family differ for an adapter is kept: tiles of
different number (LLaVA-NeXT), packed patches (Qwen), pixel shuffles (InternVL, Idefics3), a prefix that sees itself
(PaliGemma), sliding windows and a connector that is a bare matrix (Gemma3). Heads are untied, and what the vision
tower ends in is its last layer, so that every matrix of the inventory gets a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as hf
from tiny_llava import IMAGE, batch, tiny_llava
from torch import Tensor, nn

from neuroglot.neurons import inventory
from neuroglot.selection import Selection

Inputs = dict[str, Tensor]

BARE = "model.multi_modal_projector.mm_input_projection_weight"
START, END, VIDEO, VOCAB = 61, 62, 63, 64
WIDTH, INNER, LAYERS = 32, 48, 2
TOWER = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
SQUARE = {"image_size": 16, "patch_size": 4}  # 16 patches
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def build(family: str) -> tuple[nn.Module, Inputs]:
    """Return a family's model (float32, seeded, eval mode) and a batch of two samples with an image each."""
    torch.manual_seed(0)
    model, inputs = _BUILDERS[family]()
    return model.eval(), inputs


def _roughen(model: nn.Module) -> nn.Module:
    """Draw weights large enough for outputs to differ; norms stay near what their class starts them at."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(noise * 0.15)
            else:
                parameter.add_(noise * 0.1)
    return model


def _text(images: Sequence[int], wrap: bool = False) -> Inputs:
    """Return ids, mask and labels of samples with that many image tokens, padded on the right; the last five count."""
    g = torch.Generator().manual_seed(3)
    rows = []
    for count in images:
        image = torch.full((count,), IMAGE)
        image = torch.cat([torch.tensor([START]), image, torch.tensor([END])]) if wrap else image
        rows.append(torch.cat([torch.tensor([1]), image, torch.randint(3, 59, (9,), generator=g)]))
    ids, mask, labels = (torch.full((len(rows), max(map(len, rows))), fill) for fill in (0, 0, -100))
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
        labels[i, len(row) - 5 : len(row)] = row[-5:]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _pixels(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def _llava() -> tuple[nn.Module, Inputs]:
    model = tiny_llava(bias=True)
    model.config.vision_feature_layer = -1  # read in forward; with -2 the last layer of the tower has no gradient
    return model, batch(seed=7)


def _llava_next() -> tuple[nn.Module, Inputs]:
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER, image_size=16, patch_size=8),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        image_grid_pinpoints=[[16, 32], [32, 32]],
        tie_word_embeddings=False,
    )
    # (1 + 2) and (1 + 4) tiles of 2 x 2 tokens; the picture put together again has a newline token after each row
    inputs = _text([4 + 2 * 4 + 2, 4 + 4 * 4 + 4])
    sizes = torch.tensor([[16, 32], [32, 32]])
    pixels = _pixels(2, 5, 3, 16, 16)
    return _roughen(hf.LlavaNextForConditionalGeneration(config)), {
        **inputs,
        "pixel_values": pixels,
        "image_sizes": sizes,
    }


def _llava_onevision() -> tuple[nn.Module, Inputs]:
    config = hf.LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=hf.Qwen2Config(**TEXT),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_feature_layer=-1,
        image_grid_pinpoints=[[16, 32], [32, 32], [32, 16]],
        tie_word_embeddings=False,
    )
    # (1 + 2) and (1 + 4) tiles of 4 x 4 tokens; the picture put together again has a newline token after each row
    inputs = _text([16 + 2 * 16 + 4, 16 + 4 * 16 + 8])
    sizes = torch.tensor([[16, 32], [32, 32]])
    model = _roughen(hf.LlavaOnevisionForConditionalGeneration(config))
    return model, {**inputs, "pixel_values": _pixels(2, 5, 3, 16, 16), "image_sizes": sizes}


def _mistral3() -> tuple[nn.Module, Inputs]:
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**TOWER, image_size=32, patch_size=4, head_dim=16),
        text_config=hf.MistralConfig(**TEXT, head_dim=8),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    # images of 16 x 16 and 16 x 32 pixels in one frame; four patches to a token
    inputs = {
        **_text([4, 8]),
        "pixel_values": _pixels(2, 3, 16, 32),
        "image_sizes": torch.tensor([[16, 16], [16, 32]]),
    }
    return _roughen(hf.Mistral3ForConditionalGeneration(config)), inputs


def _packed(patches: int) -> Inputs:
    """Return Qwen's inputs: images of 4 x 4 and 4 x 8 patches on one axis, four patches to a token."""
    inputs = _text([4, 8], wrap=True)
    return {
        **inputs,
        "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
        "pixel_values": _pixels(16 + 32, patches),
        "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 8]]),
    }


def _qwen(config: type, vision: Any, text: Any) -> Any:
    return config(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
    )


_QWEN_VISION = {
    "depth": LAYERS,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": WIDTH,
}


def _qwen2_5_vl() -> tuple[nn.Module, Inputs]:
    # a window of 2 x 2 tokens in the first block, so that the second image has two windows; all of it in the second
    vision = hf.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(
        **_QWEN_VISION, window_size=16, fullatt_block_indexes=[1]
    )
    text = hf.Qwen2_5_VLTextConfig(**TEXT, rope_parameters=dict(MROPE))
    model = hf.Qwen2_5_VLForConditionalGeneration(_qwen(hf.Qwen2_5_VLConfig, vision, text))
    return _roughen(model), _packed(3 * 2 * 4 * 4)


def _qwen2_vl() -> tuple[nn.Module, Inputs]:
    vision = hf.models.qwen2_vl.configuration_qwen2_vl.Qwen2VLVisionConfig(
        depth=LAYERS, embed_dim=WIDTH, hidden_size=WIDTH, num_heads=2, mlp_ratio=2, patch_size=4
    )
    text = hf.Qwen2VLTextConfig(**TEXT, rope_parameters=dict(MROPE))
    model = hf.Qwen2VLForConditionalGeneration(_qwen(hf.Qwen2VLConfig, vision, text))
    return _roughen(model), _packed(3 * 2 * 4 * 4)


def _qwen3_vl() -> tuple[nn.Module, Inputs]:
    vision = hf.Qwen3VLVisionConfig(**_QWEN_VISION, num_position_embeddings=16, deepstack_visual_indexes=[0])
    text = hf.Qwen3VLTextConfig(**TEXT, head_dim=8, rope_parameters={**MROPE, "mrope_interleaved": True})
    model = hf.Qwen3VLForConditionalGeneration(_qwen(hf.Qwen3VLConfig, vision, text))
    return _roughen(model), _packed(3 * 2 * 4 * 4)


def _internvl() -> tuple[nn.Module, Inputs]:
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(
            **TOWER, image_size=[16, 16], patch_size=[4, 4], attention_bias=True, use_qk_norm=True
        ),
        text_config=hf.Qwen2Config(**TEXT),
        image_token_id=IMAGE,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return _roughen(hf.InternVLForConditionalGeneration(config)), {
        **_text([4, 4]),
        "pixel_values": _pixels(2, 3, 16, 16),
    }


def _idefics(config: type, vision: type, model: type) -> tuple[nn.Module, Inputs]:
    made = model(
        config(
            vision_config=vision(**TOWER, **SQUARE),
            text_config=hf.LlamaConfig(**TEXT),
            image_token_id=IMAGE,
            scale_factor=2,
            tie_word_embeddings=False,
        )
    )
    seen = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    seen[1, :, :, 12:] = False  # the second image is narrower and padded
    inputs = {**_text([4, 4]), "pixel_values": _pixels(2, 1, 3, 16, 16), "pixel_attention_mask": seen}
    return _roughen(made), inputs


def _idefics3() -> tuple[nn.Module, Inputs]:
    return _idefics(hf.Idefics3Config, hf.Idefics3VisionConfig, hf.Idefics3ForConditionalGeneration)


def _smolvlm() -> tuple[nn.Module, Inputs]:
    return _idefics(hf.SmolVLMConfig, hf.SmolVLMVisionConfig, hf.SmolVLMForConditionalGeneration)


def _siglip() -> Any:
    # without the pooling head, as the published checkpoints: what it pools is not used, and never has a gradient
    return hf.SiglipVisionConfig(**TOWER, **SQUARE, vision_use_head=False)


def _paligemma() -> tuple[nn.Module, Inputs]:
    config = hf.PaliGemmaConfig(
        vision_config=_siglip(),
        text_config=hf.GemmaConfig(**TEXT, head_dim=8),
        image_token_index=IMAGE,
        vocab_size=VOCAB,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        tie_word_embeddings=False,
    )
    inputs = _text([16, 16])
    suffix = (inputs["labels"] != -100).long()
    model = _roughen(hf.PaliGemmaForConditionalGeneration(config))
    return model, {**inputs, "token_type_ids": suffix, "pixel_values": _pixels(2, 3, 16, 16)}


def _gemma3() -> tuple[nn.Module, Inputs]:
    config = hf.Gemma3Config(
        vision_config=_siglip(),
        text_config=hf.Gemma3TextConfig(
            **TEXT,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        ),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        tie_word_embeddings=False,
    )
    inputs = _text([4, 4], wrap=True)
    image = (inputs["input_ids"] == IMAGE).long()
    model = _roughen(hf.Gemma3ForConditionalGeneration(config))
    return model, {**inputs, "token_type_ids": image, "pixel_values": _pixels(2, 3, 16, 16)}


_BUILDERS: dict[str, Callable[[], tuple[nn.Module, Inputs]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "mistral3": _mistral3,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
}
FAMILIES = tuple(_BUILDERS)
SIBLINGS = ("llava_onevision", "qwen2_vl", "mistral3")
"""Those that differ from another one in nothing that an adapter sees; what is tried of them is slow or left out."""
MAIN = tuple(family for family in FAMILIES if family not in SIBLINGS)


def selection(
    model: nn.Module,
    pairs: Sequence[str] = ("en-de", "en-fr"),
    share: float = 0.3,
    seed: int = 0,
    bare: bool = False,
) -> Selection:
    """Choose random neurons in every layer of the inventory: an agnostic group and a specific one per pair.

    Args:
        model: the base model.
        pairs: the pairs of the selection.
        share: of a layer's neurons, over all groups; at least one neuron a group where the layer has that many.
        seed: of the draw.
        bare: also take Gemma3's projection, a parameter [in, out] that no Linear holds and LoRA cannot express.
    """
    g = torch.Generator().manual_seed(seed)
    groups = [frozenset(pairs), *(frozenset({pair}) for pair in pairs)]

    def draw(units: int) -> dict[frozenset[str], Tensor]:
        count = max(1, int(share * units / len(groups)))
        order = torch.randperm(units, generator=g)
        parts = {group: order[i * count : (i + 1) * count].sort().values for i, group in enumerate(groups)}
        return {group: index for group, index in parts.items() if len(index)}

    layers = [layer for layer in inventory(model) if bare or not layer.axis]
    rows = {layer.name: draw(layer.neurons) for layer in layers}
    return Selection(tuple(pairs), rows, axes={layer.name: 1 for layer in layers if layer.axis})
