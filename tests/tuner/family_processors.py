"""Real processors for the tiny models of `families`, built offline: tokenizer, image processor and chat template.

Tokenizers are trained here on a few sentences: of bytes, as Qwen's and Llama-3's, or of pieces with a mark for a space
before a word, as Llama's and Gemma's. Templates say what the families' own say, in few words. What needs torchvision
is only the side for videos, which no test uses: where it is missing, an object without abilities stands there.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import families
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers.utils import is_torchvision_available

SENTENCES = [
    "Translate the text in the image to German. What does the sign say in French? Write the text of the image.",
    "Read the text in the image. Name what the image shows. What is in the picture? Closed on Friday, 9:00 to 17:30.",
    "Ausgang, Eingang, geschlossen, am Freitag. Sortie, entrée, fermé le vendredi. Café Überfahrt, 7,00 €.",
]
VIDEO = "<|video|>"


def tokenizer_of(kind: str, special: Sequence[str], named: dict[str, str], **marks: str) -> Any:
    """Train a tokenizer of `bytes` or `pieces` whose `named` tokens are attributes, as processors ask for them."""
    special = list(dict.fromkeys([*marks.values(), *special, *named.values()]))
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        first = pre_tokenizers.ByteLevel.alphabet()
    else:
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token=marks.get("unk_token")))
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        first = []
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 420, special_tokens=special, initial_alphabet=first, show_progress=False
    )
    made.train_from_iterator(SENTENCES, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=named, padding_side="left", **marks)


def template(image: str, user: str, answer: str, first: str = "", before_text: str = "") -> str:
    """Return a chat template: each image's mark and each text in a user's turn, then what opens the answer."""
    return (
        f"{first}{{% for message in messages %}}{user}{{% for part in message['content'] %}}"
        f"{{% if part['type'] == 'image' %}}{image}{{% else %}}{before_text}{{{{ part['text'] }}}}{{% endif %}}"
        f"{{% endfor %}}{{% endfor %}}{{% if add_generation_prompt %}}{answer}{{% endif %}}"
    )


CHATML = {"user": "<|im_start|>user\n", "answer": "<|im_end|>\n<|im_start|>assistant\n"}
CHATML_MARKS = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
LLAMA_MARKS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GEMMA_MARKS = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}


def _without_videos(processor: type, video: str, **arguments: Any) -> Any:
    if is_torchvision_available():
        return processor(video_processor=getattr(hf, video)(), **arguments)

    class ImagesOnly(processor):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return (
                None
                if argument_name == "video_processor"
                else super().check_argument_for_proper_class(argument_name, argument)
            )

    return ImagesOnly(video_processor=types.SimpleNamespace(num_frames=0, fps=0), **arguments)


def _size(side: int) -> dict[str, Any]:
    return {"size": {"height": side, "width": side}}


def _crop(side: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def _llava() -> Any:
    text = tokenizer_of("pieces", [], {"image_token": "<image>"}, **LLAMA_MARKS)
    chat = template("<image>", "USER: ", " ASSISTANT:", "{{ bos_token }}")
    return hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(**_crop(16)), text, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat,
    )  # fmt: skip


def _llava_next() -> Any:
    text = tokenizer_of("pieces", [], {"image_token": "<image>"}, **LLAMA_MARKS)
    images = hf.LlavaNextImageProcessorPil(**_crop(16), image_grid_pinpoints=[[16, 32], [32, 32], [32, 16]])
    chat = template("<image>\n", "[INST] ", " [/INST]", "{{ bos_token }}")
    return hf.LlavaNextProcessor(
        images, text, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=chat,
    )  # fmt: skip


def _llava_onevision() -> Any:
    text = tokenizer_of("bytes", ["<|im_start|>"], {"image_token": "<image>", "video_token": VIDEO}, **CHATML_MARKS)
    images = hf.LlavaOnevisionImageProcessorPil(**_size(16), image_grid_pinpoints=[[16, 32], [32, 32], [32, 16]])
    return _without_videos(
        hf.LlavaOnevisionProcessor, "LlavaOnevisionVideoProcessor", image_processor=images, tokenizer=text,
        num_image_tokens=16, vision_feature_select_strategy="full", chat_template=template("<image>", **CHATML),
        video_token=VIDEO,
    )  # fmt: skip


def _qwen(processor: type, video: str) -> Any:
    marks = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    text = tokenizer_of("bytes", marks, {}, **CHATML_MARKS)
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 32 * 48}
    )
    chat = template("<|vision_start|><|image_pad|><|vision_end|>", **CHATML)
    return _without_videos(processor, video, image_processor=images, tokenizer=text, chat_template=chat)


def _internvl() -> Any:
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": VIDEO,
    }  # fmt: skip
    text = tokenizer_of("bytes", ["<|im_start|>"], named, **CHATML_MARKS)
    images = hf.GotOcr2ImageProcessorPil(**_size(16), crop_to_patches=True, min_patches=1, max_patches=3)
    return _without_videos(
        hf.InternVLProcessor, "InternVLVideoProcessor", image_processor=images, tokenizer=text, image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>\n", **CHATML),
    )  # fmt: skip


def _idefics(images: type) -> dict[str, Any]:
    grid = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    marks = ["<|im_start|>", "<fake_token_around_image>", "<image>", "<global-img>", *grid]
    ends = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|endoftext|>"}
    text = tokenizer_of("bytes", marks, {}, **ends)
    made = images(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True)
    chat = template("<image>", "<|im_start|>User:", "<end_of_utterance>\nAssistant:", before_text=" ")
    return {"image_processor": made, "tokenizer": text, "image_seq_len": 4, "chat_template": chat}


def _paligemma() -> Any:
    text = tokenizer_of("pieces", [], {"image_token": "<image>"}, **GEMMA_MARKS)
    images = hf.SiglipImageProcessorPil(**_size(16))
    images.image_seq_length = 16
    return hf.PaliGemmaProcessor(images, text, chat_template=template("<image>", "", ""))


def _gemma3() -> Any:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    text = tokenizer_of("pieces", ["<start_of_turn>", "<end_of_turn>"], named, **GEMMA_MARKS)
    images = hf.Gemma3ImageProcessorPil(**_size(16))
    turn = "<start_of_turn>user\n"
    chat = template("<start_of_image>", turn, "<end_of_turn>\n<start_of_turn>model\n", "{{ bos_token }}")
    made = hf.Gemma3Processor(images, text, chat_template=chat, image_seq_length=4)
    made.images_kwargs = {**made.images_kwargs, "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8}
    return made


_BUILDERS: dict[str, Callable[[], Any]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": lambda: _qwen(hf.Qwen2VLProcessor, "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": lambda: _qwen(hf.Qwen2_5_VLProcessor, "Qwen2VLVideoProcessor"),
    "qwen3_vl": lambda: _qwen(hf.Qwen3VLProcessor, "Qwen3VLVideoProcessor"),
    "internvl": _internvl,
    "smolvlm": lambda: _without_videos(
        hf.SmolVLMProcessor, "SmolVLMVideoProcessor", **_idefics(hf.SmolVLMImageProcessorPil)
    ),
    "idefics3": lambda: hf.Idefics3Processor(**_idefics(hf.Idefics3ImageProcessorPil)),
    "paligemma": _paligemma,
    "gemma3": _gemma3,
}
PROCESSED = tuple(_BUILDERS)

_IMAGE_TOKENS = {"internvl": "<IMG_CONTEXT>", "gemma3": "<image_soft_token>"}


@functools.cache
def processor(family: str) -> Any:
    """Return a family's processor."""
    return _BUILDERS[family]()


def model(family: str) -> nn.Module:
    """Return a family's tiny model with the vocabulary and the special tokens of its processor, in eval mode."""
    return copy.deepcopy(_model(family))


@functools.cache
def _model(family: str) -> nn.Module:
    made, _ = families.build(family)
    tokenizer = processor(family).tokenizer
    made.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.manual_seed(1)
    for table in (made.get_input_embeddings(), made.get_output_embeddings()):
        table.weight.data.normal_(0, 0.15)
    image = _IMAGE_TOKENS.get(family) or ("<|image_pad|>" if family.startswith("qwen") else "<image>")
    ids = {"image_token_id": image, "image_token_index": image}
    if family.startswith("qwen"):
        ids |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
        ids |= {"video_token_id": "<|video_pad|>"}
    if family == "gemma3":
        ids |= {"boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>"}
    for key, token in ids.items():
        if hasattr(made.config, key):
            setattr(made.config, key, tokenizer.convert_tokens_to_ids(token))
    made.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return made
