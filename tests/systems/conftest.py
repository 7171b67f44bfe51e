"""A tiny random LLaVA, a character tokenizer and the smallest batcher that serves them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from neuroglot.data.example import Example, RenderSpec

ALPHABET = "abcdefghijklmnopqrstuvwxyz :"
PATCHES = 4


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, plus pad, end and image."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<image>", *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", additional_special_tokens=["<image>"]
    )


class CharacterBatcher:
    """Prompt = image tokens + task and language + source; images are noise that follows from their spec."""

    marks, max_length, ends = ("<pad>", "</s>", "<image>"), 0, (1,)

    def __init__(self) -> None:
        self.tokenizer = character_tokenizer()
        self.prompt_batches: list[list[Example]] = []

    def prompts(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        self.prompt_batches.append(list(examples))
        return self._pad([self._prompt(example) for example in examples], examples, left=True)

    def encode(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        prompts = [self._prompt(example) for example in examples]
        targets = [[*self._ids(example.target), self.tokenizer.eos_token_id] for example in examples]
        inputs = self._pad([[*p, *t] for p, t in zip(prompts, targets, strict=True)], examples, left=False)
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            labels[row, len(prompt) : len(prompt) + len(target)] = torch.tensor(target)
        return {**inputs, "labels": labels}

    def target_tokens(self, examples: Sequence[Example]) -> list[int]:
        return [len(self._ids(example.target)) + 1 for example in examples]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _prompt(self, example: Example) -> list[int]:
        words = f"{example.task.replace('_', ' ')} {example.target_lang}: {example.source or ''}:"
        return [self.tokenizer.convert_tokens_to_ids("<image>")] * (PATCHES * len(example.images)) + self._ids(words)

    def _pad(self, rows: list[list[int]], examples: Sequence[Example], left: bool) -> dict[str, torch.Tensor]:
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            span = slice(width - len(row), width) if left else slice(0, len(row))
            ids[place, span] = torch.tensor(row)
            mask[place, span] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        pixels = [noise(image.seed) for example in examples for image in example.images]
        return {**inputs, "pixel_values": torch.stack(pixels)} if pixels else inputs


def noise(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 16, 16))).float()


@pytest.fixture(scope="module")
def batcher() -> CharacterBatcher:
    return CharacterBatcher()


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary = len(ALPHABET) + 3
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size, image_size=16, patch_size=8),
        text_config=LlamaConfig(**size, vocab_size=vocabulary, num_key_value_heads=2, max_position_embeddings=256),
        image_token_id=2,
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).float().eval()
    with torch.no_grad():  # sharper than the initial near-uniform output, so that answers differ and some end early
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0 if "lm_head" in name else 3.0)
    return model


def example(index: int, target: str = "", images: int = 1, **changes: str) -> Example:
    fields = {"source_lang": "en", "target_lang": "de", "task": "image_translation", "source": None, **changes}
    shown = tuple(RenderSpec("text", seed=index * 10 + place, index=index) for place in range(images))
    return Example(shown, target=target, item=f"item{index}", **fields)


@pytest.fixture(scope="module")
def mixed() -> list[Example]:
    """Twelve examples: text-only, one image, two images; targets of many lengths."""
    targets = ["a", "eins zwei drei", "ab", "cdefgh", "hallo du", "b", "welt", "xyz", "morgen frueh", "q", "zz", "tag"]
    made = []
    for index, target in enumerate(targets):
        if index % 3 == 0:
            made.append(example(index, target, 0, task="text_translation", source=target[::-1]))
        else:
            made.append(example(index, target, 2 if index % 5 == 0 else 1))
    return made
