"""Real processors for the tiny models of `families`, built offline: tokenizer, image processor and chat template.

Tokenizers are trained here on a few sentences: of bytes, as Qwen's and Llama-3's, or of pieces with a mark for a space
before a word, as Llama's (which puts one before every text) and Gemma's (which does not). They add the beginning of a
sequence where the family's own do. Templates write what the published ones write, token for token: only some a
beginning of the sequence; an end of turn that is the end of the sequence, a token of its own, none, or a slip of the
pen; what follows it; and system prompts. One tokenizer has no padding token. What needs torchvision is only the side
for videos, which no test uses: where it is missing, an object without abilities stands there.
"""

from __future__ import annotations

import copy
import functools
import json
import types
from collections.abc import Callable, Sequence
from typing import Any

import families
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers.utils import is_torchvision_available

SENTENCES = [
    "Translate the text in the image to German. What does the sign say in French? Write the text of the image.",
    "Read the text in the image. Name what the image shows. What is in the picture? Closed on Friday, 9:00 to 17:30.",
    "Ausgang, Eingang, geschlossen, am Freitag. Sortie, entrée, fermé le vendredi. Café Überfahrt, 7,00 €.",
]
VIDEO = "<|video|>"


def tokenizer_of(kind: str, special: Sequence[str], named: dict[str, str], adds: bool = False, **marks: str) -> Any:
    """Train a tokenizer whose `named` tokens are attributes, as processors ask for them.

    Args:
        kind: `bytes`, `pieces` with a space before every text, or `words`: pieces without one.
        special: texts of special tokens.
        named: attribute -> text.
        adds: whether it puts `bos_token` before what it encodes.
        marks: as `PreTrainedTokenizerFast` takes them.
    """
    special = list(dict.fromkeys([*marks.values(), *special, *named.values()]))
    pieces = [] if kind == "bytes" else [f"<0x{byte:02X}>" for byte in range(256)]
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        first = pre_tokenizers.ByteLevel.alphabet()
    else:
        made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token=marks.get("unk_token")))
        made.normalizer = normalizers.Replace(" ", "▁")
        made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no piece spans two words
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        first = []
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(pieces) + 420, special_tokens=[*special, *pieces], initial_alphabet=first,
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(SENTENCES, trainer)
    if pieces:  # bytes are pieces like others, and no special tokens
        kept = json.loads(made.to_str())
        kept["added_tokens"] = [token for token in kept["added_tokens"] if token["content"] in special]
        made = Tokenizer.from_str(json.dumps(kept))
        made.pre_tokenizer = None
    if kind == "pieces":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    if adds:
        bos = marks["bos_token"]
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=named, padding_side="left", **marks)


def template(
    user: str, image: str, text: str, close: str, answer: str, end: str, opens: str | None = None, first: str = "",
    begins: str = "",
) -> str:  # fmt: skip
    """Return a chat template.

    Args:
        user: before a user's turn.
        image: for each image; all stand before the text.
        text: an expression for a text, in which `text` is the text.
        close: after a user's turn.
        answer: before an assistant's turn.
        end: after it.
        opens: what opens an answer that is to be generated; as `answer` by default.
        first: before all.
        begins: before a turn without an image, in place of nothing.
    """
    turns = f"{{% if m['role'] == 'user' %}}{user}{{% else %}}{answer}{{% endif %}}"
    parts = (
        f"{{% for p in m['content'] %}}{{% if p['type'] == 'image' %}}{image}{{% else %}}{{% set text = p['text'] %}}"
        f"{{{{ {text} }}}}{{% endif %}}{{% endfor %}}"
    )
    bare = f"{{% if m['content'][0]['type'] != 'image' %}}{begins}{{% endif %}}" if begins else ""
    ends = f"{{% if m['role'] == 'user' %}}{close}{{% else %}}{end}{{% endif %}}"
    opening = f"{{% if add_generation_prompt %}}{answer if opens is None else opens}{{% endif %}}"
    return f"{first}{{% for m in messages %}}{turns}{bare}{parts}{ends}{{% endfor %}}{opening}"


def chatml(image: str, first: str = "") -> str:
    """Return the template of Qwen and InternVL, which writes a line break after the end of a turn."""
    turn = "<|im_start|>{}\n"
    end = "<|im_end|>\n"
    return template(turn.format("user"), image, "text", end, turn.format("assistant"), end, first=first)


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
    text = tokenizer_of("pieces", [], {"image_token": "<image>"}, adds=True, **LLAMA_MARKS)
    chat = template("USER: ", "<image>\n", "text + ' '", "", "ASSISTANT: ", "", opens="ASSISTANT:")
    return hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(**_crop(16)), text, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat,
    )  # fmt: skip


def _llava_next() -> Any:
    marks = {name: mark for name, mark in LLAMA_MARKS.items() if name != "pad_token"}
    text = tokenizer_of("pieces", [], {"image_token": "<image>"}, adds=True, **marks)
    images = hf.LlavaNextImageProcessorPil(**_crop(16), image_grid_pinpoints=[[16, 32], [32, 32], [32, 16]])
    chat = template("[INST] ", "<image>\n", "text", " [/INST]", " ", "<\\s> ", opens="")  # sic
    return hf.LlavaNextProcessor(
        images, text, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=chat,
    )  # fmt: skip


def _llava_onevision() -> Any:
    text = tokenizer_of("bytes", ["<|im_start|>"], {"image_token": "<image>", "video_token": VIDEO}, **CHATML_MARKS)
    images = hf.LlavaOnevisionImageProcessorPil(**_size(16), image_grid_pinpoints=[[16, 32], [32, 32], [32, 16]])
    return _without_videos(
        hf.LlavaOnevisionProcessor, "LlavaOnevisionVideoProcessor", image_processor=images, tokenizer=text,
        num_image_tokens=16, vision_feature_select_strategy="full", video_token=VIDEO,
        chat_template=template(
            "<|im_start|>user ", "<image>\n", "'\\n' + text", "<|im_end|>", "<|im_start|>assistant ", "<|im_end|>",
            opens="<|im_start|>assistant\n",
        ),
    )  # fmt: skip


def _qwen(processor: type, video: str, first: str = "") -> Any:
    marks = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    text = tokenizer_of("bytes", marks, {}, **CHATML_MARKS)
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 32 * 48}
    )
    chat = chatml("<|vision_start|><|image_pad|><|vision_end|>", first)
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
        chat_template=chatml("<IMG_CONTEXT>\n"),
    )  # fmt: skip


def _idefics(images: type, first: str, marks: dict[str, str], adds: bool = False) -> dict[str, Any]:
    grid = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    special = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *grid]
    text = tokenizer_of("bytes", special, {}, adds=adds, **marks)
    made = images(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True)
    end = "<end_of_utterance>\n"
    chat = template("User:", "<image>", "text", end, "Assistant:", end, first=first, begins=" ")
    return {"image_processor": made, "tokenizer": text, "image_seq_len": 4, "chat_template": chat}


def _idefics3() -> Any:
    marks = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|finetune_pad|>"}
    return hf.Idefics3Processor(**_idefics(hf.Idefics3ImageProcessorPil, "<|begin_of_text|>", marks, adds=True))


def _smolvlm() -> Any:
    marks = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"}
    made = _idefics(hf.SmolVLMImageProcessorPil, "<|im_start|>", marks)
    return _without_videos(hf.SmolVLMProcessor, "SmolVLMVideoProcessor", **made)


def _paligemma() -> Any:
    text = tokenizer_of("words", [], {"image_token": "<image>"}, **GEMMA_MARKS)
    images = hf.SiglipImageProcessorPil(**_size(16))
    images.image_seq_length = 16
    chat = template("", "<image>", "text", "", "", "{{ eos_token }}")
    return hf.PaliGemmaProcessor(images, text, chat_template=chat)


def _gemma3() -> Any:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    text = tokenizer_of("words", ["<start_of_turn>", "<end_of_turn>"], named, adds=True, **GEMMA_MARKS)
    images = hf.Gemma3ImageProcessorPil(**_size(16))
    turn, end = "<start_of_turn>{}\n", "<end_of_turn>\n"
    chat = template(
        turn.format("user"), "<start_of_image>", "text | trim", end, turn.format("model"), end, first="{{ bos_token }}"
    )
    made = hf.Gemma3Processor(images, text, chat_template=chat, image_seq_length=4)
    made.images_kwargs = {**made.images_kwargs, "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8}
    return made


_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"

_BUILDERS: dict[str, Callable[[], Any]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": lambda: _qwen(hf.Qwen2VLProcessor, "Qwen2VLVideoProcessor", _SYSTEM),
    "qwen2_5_vl": lambda: _qwen(hf.Qwen2_5_VLProcessor, "Qwen2VLVideoProcessor", _SYSTEM),
    "qwen3_vl": lambda: _qwen(hf.Qwen3VLProcessor, "Qwen3VLVideoProcessor"),
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
}
PROCESSED = tuple(_BUILDERS)

ENDS = dict.fromkeys(PROCESSED, "<|im_end|>") | {
    "llava": "</s>", "llava_next": "</s>", "smolvlm": "<end_of_utterance>", "idefics3": "<end_of_utterance>",
    "paligemma": "<eos>", "gemma3": "<end_of_turn>",
}  # fmt: skip
"""What ends an answer of each family."""

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
