"""What translators of Hugging Face share: their files, batches in order of length, generation without sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from neuroglot.models.load import from_pretrained, resolve
from neuroglot.systems.decoding import PROTOCOL, SEQ2SEQ, own_settings


def load_tokenizer(path: str, trust_remote_code: bool) -> Any:
    """Return a tokenizer.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    return from_pretrained(AutoTokenizer, "a tokenizer", path, trust_remote_code=trust_remote_code)


def load_config(path: str, trust_remote_code: bool) -> Any:
    """Return a model's configuration.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, "a model", path, trust_remote_code=trust_remote_code)


def load_weights(kind: Any, what: str, path: str, dtype: str, trust_remote_code: bool) -> Any:
    """Return a model in eval mode, on the accelerator where there is one.

    Raises:
        UserError: it cannot be loaded.
    """
    resolve(path)
    options = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype), "trust_remote_code": trust_remote_code}
    model = from_pretrained(kind, what, path, use_safetensors=True, **options).eval()
    return model.to(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else model


def in_batches(texts: Sequence[str], size: int, answer: Callable[[list[str]], list[str]]) -> list[str]:
    """Answer texts a batch at a time, the longest first, and return the answers in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    answers = [""] * len(texts)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        for index, text in zip(part, answer([texts[index] for index in part]), strict=True):
            answers[index] = text
    return answers


def generate(model: Any, inputs: Any, max_new_tokens: int, beams: int, **options: Any) -> torch.Tensor:
    """Return generated tokens [B, L], greedy or by beams; the checkpoint's own ways of decoding play no part."""
    keep = SEQ2SEQ if model.config.is_encoder_decoder else PROTOCOL
    with torch.inference_mode(), own_settings(model, keep):
        tokens: torch.Tensor = model.generate(
            **{name: value.to(model.device) for name, value in inputs.items()},
            max_new_tokens=max_new_tokens,
            num_beams=beams,
            do_sample=False,
            **options,
        )
    return tokens


def longest(tokenizer: Any, config: Any, unknown: int = 1024) -> int:
    """Return the most tokens that a text may take: what the tokenizer says, or the model's positions."""
    limits = (getattr(tokenizer, "model_max_length", 0), getattr(config, "max_position_embeddings", 0))
    return min((int(limit) for limit in limits if limit and limit < 10**9), default=unknown)
