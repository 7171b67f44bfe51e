"""The embedded model's architecture and its character tokenizer; `pretrain.py` trains its weights.

B batch, P patches, C classes. One 12-pixel patch contains about one character of a sign, so that proportional fonts
are readable at this size: with more characters per patch, the same tower did not learn them (docs/log.md).
"""

from __future__ import annotations

import string
from functools import cache

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from neuroglot.data.example import TEMPLATES
from neuroglot.pair import language_name
from neuroglot.synthetic.signs import LANGUAGES, signs
from neuroglot.synthetic.style import SIZE

PATCH = 12
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<|assistant|>")
EXTRA_CHARACTERS = "ÀÂÆÈÊËÎÏÔŒÙÛŸàâæîôœùÿĎŇÓŤĚÝŮňťóÕõŌōŖŗĢĒ«»“”„‘’!?\"'&@*#=|[]°·•…✓→"
UNTAUGHT = (
    "Translate the text to {target}, using the image.",
    "What is this in {target}, given the image?",
    "Write this text in {target}, as the image shows it.",
)
"""Instructions whose pieces are in the vocabulary although no task uses them; pretraining did not use them."""
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@cache
def characters() -> str:
    """Return every character that the model can read or write, sorted: those of the corpus, ASCII, and a few more."""
    seen = set(string.ascii_letters + string.digits + string.punctuation + " \n" + EXTRA_CHARACTERS)
    for sign in signs("pretrain", 12_000):
        for language in ("en", *LANGUAGES):
            seen.update(sign.text(language))
    return "".join(sorted(seen))


def phrases() -> list[str]:
    """Return the pieces of the instructions that are one token each, so that a prompt takes two or three tokens."""
    pieces: dict[str, None] = {}
    for templates in {**TEMPLATES, "multimodal_translation": UNTAUGHT}.values():
        for template in templates:
            head, placeholder, tail = template.partition("{target}")
            if not placeholder:
                pieces[head] = None
                continue
            words = head.split(" ")  # the preposition is in the piece of the language: " in German?"
            pieces[" ".join(words[:-2])] = None
            for language in LANGUAGES:
                pieces[f" {words[-2]} {language_name(language)}{tail}"] = None
    return list(pieces)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token per character, special tokens and the pieces of the instructions."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *characters()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in phrases()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>", "assistant_token": "<|assistant|>"},
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    """Return the processor: images of any size are letterboxed to a square, then scaled."""
    images = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": SIZE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Return the model with fresh weights."""
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=5,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=160,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=tokenizer.get_vocab()["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIZE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    config.pad_token_id = tokenizer.pad_token_id
    model = LlavaForConditionalGeneration(config)
    _see_strokes_and_places(model)
    return model


@torch.no_grad()
def _see_strokes_and_places(model: LlavaForConditionalGeneration) -> None:
    """Initialise the tower with filters that ignore a patch's mean colour, and with positions from the grid.

    CLIP's initial positions are a fifteenth of the content's size and have no geometry, and the background's colour
    is much stronger than the strokes.
    """
    embeddings = model.model.vision_tower.embeddings
    filters = embeddings.patch_embedding.weight  # (D, 3, p, p)
    filters -= filters.mean(dim=(2, 3), keepdim=True)
    width, side = filters.size(0), SIZE // PATCH
    waves = torch.pi / side * torch.arange(1, width // 4 + 1) / 4  # slow to fast, a quarter of the width each
    grid = torch.arange(side) + 0.5
    angle = grid[:, None] * waves  # (side, D/4)
    code = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, D/2)
    rows = code[:, None].expand(side, side, -1)
    columns = code[None].expand(side, side, -1)
    embeddings.position_embedding.weight[1:] = 0.2 * torch.cat([rows, columns], dim=2).flatten(0, 1)
