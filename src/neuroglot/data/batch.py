"""Examples to model inputs: prompts through the processor's own chat template, targets appended, labels masked.

B batch, L tokens. A prompt and its target are put together from tokens, never by tokenising their joint text again, so
that the label mask is exact for every tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from neuroglot.data.budget import Budget
from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.data.instructions import filled, instruction, shows_source
from neuroglot.errors import UserError
from neuroglot.pair import Condition


class Batch(NamedTuple):
    """Model inputs of one condition.

    Attributes:
        inputs: tensors for the model's forward, with `labels` [B, L] (-100: not a target).
        condition: what all samples are instances of.
        items: one name a sample; the same item in several pairs has the same name. Empty where unknown.
    """

    inputs: dict[str, Any]
    condition: Condition
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batcher:
    """Turns examples into batches for one processor.

    Attributes:
        processor: any transformers processor with a tokenizer and a chat template.
        max_length: the most tokens a sample may take; 0 for no limit.
        paraphrase: which of the task's instructions to use.
        prompt: what to ask instead, with {source} and {target} for the languages' English names.
        max_pixels: to which an image is scaled down; 0 for no limit.
        max_image_tokens: the most that the images of an example may take, which are scaled down to it; 0 for no limit.
        as_shown: how another batcher scales images, instead of the two; so that two models are shown the same.
    """

    processor: Any
    max_length: int = 0
    paraphrase: int = 0
    prompt: str | None = None
    max_pixels: int = 0
    max_image_tokens: int = 0
    as_shown: Budget | None = None

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return getattr(self.processor, "tokenizer", self.processor)

    @cached_property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """The texts of the special tokens and of the image's place, which some tokenizers do not call special."""
        special = [str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        image = getattr(self.processor, "image_token", None)
        return (*special, *([str(image)] if image else []))

    @cached_property
    def _segments(self) -> bool:
        """Whether token types tell the prompt, which sees all of itself, from the target, which does not (PaliGemma).

        Such a processor makes labels out of them, and so has them among its outputs; Gemma3's token types mark images.
        """
        return "labels" in getattr(self.processor, "model_input_names", ())

    def _prompt_text(self, example: Example, paraphrase: int) -> str:
        asked = instruction(example, paraphrase) if self.prompt is None else filled(self.prompt, example)
        if shows_source(example.task):
            if example.source is None:
                raise UserError(
                    f"a {example.task} example needs a source text, got none (target {example.target[:40]!r})"
                )
            asked = f"{example.source}\n{asked}"
        elif example.images:
            asked = f"\n{asked}"
        content: list[dict[str, str]] = [{"type": "image"} for _ in example.images]
        content.append({"type": "text", "text": asked})
        chat = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))

    def _prompt_inputs(self, examples: Sequence[Example], paraphrases: Sequence[int]) -> dict[str, Any]:
        """Left-padded prompts of examples that all have images or all have none."""
        if len({bool(example.images) for example in examples}) > 1:
            raise UserError("a batch holds examples with images and examples without; make batches of either kind")
        for example in examples:
            self._check_text(example)
        texts = [self._prompt_text(e, p) for e, p in zip(examples, paraphrases, strict=True)]
        images = [[self.budget.scaled(open_image(i), len(e.images)) for i in e.images] for e in examples]
        # The chat template has written the special tokens already.
        options = {"return_tensors": "pt", "padding": True, "padding_side": "left", "add_special_tokens": False}
        if any(images):
            inputs = dict(self.processor(text=texts, images=images, **options))
        elif self._segments:  # PaliGemma's processor takes nothing without an image
            begun = [f"{self.tokenizer.bos_token}{text}\n" for text in texts]
            inputs = dict(self.tokenizer(begun, return_token_type_ids=True, **options))
        else:
            inputs = dict(self.processor(text=texts, **options))
        inputs.pop("labels", None)
        real = inputs["attention_mask"].bool()
        for example, turn, ids, mask in zip(examples, paraphrases, inputs["input_ids"], real, strict=True):
            self._check(example, ids[mask].tolist(), f"{example.source or ''} {instruction(example, turn)}")
        return inputs

    def _check_text(self, example: Example) -> None:
        """Refuse a text that would be read as the model's own marks, such as the place of an image."""
        shown = example.source if shows_source(example.task) else None
        for text in (shown or "", example.target):
            for mark in self.marks:
                if mark in text:
                    raise UserError(
                        f"the text {text[:60]!r} holds {mark!r}, which is a special token of the model's tokenizer; "
                        "remove it from the example"
                    )

    def _check(self, example: Example, ids: Sequence[int], text: str, further: int = 0) -> None:
        """Refuse what the model could not read or would cut; `further` tokens come on top of `ids`."""
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            for piece in (*text, *text.split()):
                if unknown in self.tokenizer(piece, add_special_tokens=False)["input_ids"]:
                    code = f" (U+{ord(piece):04X})" if len(piece) == 1 else ""
                    raise UserError(
                        f"the model's tokenizer has no token for {piece!r}{code} in {text.strip()[:60]!r}; "
                        "leave the example out or use a model whose tokenizer covers it"
                    )
        if self.max_length and len(ids) + further > self.max_length:
            length = len(ids) + further
            raise UserError(
                f"an example takes {length} tokens, at most {self.max_length} fit: {example.target[:40]!r}; "
                "raise data.max_length or leave the example out"
            )

    def check(self, example: Example, sizes: Sequence[tuple[int, int]] = (), paraphrases: int = 1) -> None:
        """Refuse now what `encode` would refuse, without opening an image.

        Args:
            example: what would be encoded.
            sizes: width and height of each of its images.
            paraphrases: how many of the task's instructions it may come with.
        """
        self._check_text(example)
        texts = [example.target, *(self._prompt_text(example, turn) for turn in range(paraphrases))]
        target, *prompts = self.tokenizer(texts, add_special_tokens=False)["input_ids"]  # in one call
        self._check(example, target, example.target)
        shown = 0
        if self.max_length or self.max_image_tokens:
            count = len(example.images) or len(sizes)
            shown = sum(self._image_tokens(self.budget.fit(size, count)) for size in sizes)
        for turn, prompt in enumerate(prompts):
            asked = f"{example.source or ''} {instruction(example, turn)}"
            self._check(example, prompt, asked, shown + len(target) + 1)

    def lengths(self, example: Example, sizes: Sequence[tuple[int, int]] = ()) -> tuple[int, int, int]:
        """Return how many tokens `encode` makes of the prompt's text, of images of some sizes, and of the target."""
        texts = (self._prompt_text(example, self.paraphrase), example.target)
        prompt, target = (len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        fitted = [self.budget.fit(size, len(sizes)) for size in sizes]
        shown = sum(self._image_tokens(size) + 1 for size in fitted)  # one stands for the image in the prompt
        return prompt - len(sizes), shown, target + 1

    def _image_tokens(self, size: tuple[int, int]) -> int:
        """Return how many tokens an image of a size takes beyond the one that stands for it in the prompt."""
        if size not in self._measured:
            text = self._prompt_text(Example((Path("blank"),), None, "", "en", "en", "describe"), 0)
            image = Image.new("RGB", size)
            options = {"return_tensors": "pt", "add_special_tokens": False}
            try:
                whole = self.processor(text=[text], images=[[image]], **options)["input_ids"].shape[1]
            except ValueError as error:
                raise UserError(
                    f"the model's processor refuses an image of {size[0]} x {size[1]} pixels: {error}; cut it"
                ) from None
            self._measured[size] = whole - len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._measured[size]

    @cached_property
    def budget(self) -> Budget:
        """How images are scaled."""
        return self.as_shown or Budget(
            self.max_pixels, self.max_image_tokens, lambda size: self._image_tokens(size) + 1
        )

    def check_budget(self) -> None:
        """Refuse a budget of tokens that no image fits into.

        Raises:
            UserError: the processor makes more of the smallest image.
        """
        self.budget.check()

    @cached_property
    def _measured(self) -> dict[tuple[int, int], int]:
        return {}

    def prompts(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return left-padded inputs to generate from."""
        return self._prompt_inputs(examples, [self.paraphrase] * len(examples))

    def encode(self, examples: Sequence[Example], paraphrases: Sequence[int] | None = None) -> dict[str, Any]:
        """Return inputs with targets, padded on the right.

        Args:
            examples: all with images or all without.
            paraphrases: which instruction each example gets; `self.paraphrase` for all by default.

        Returns:
            The processor's tensors with `input_ids`, `attention_mask` and `labels` [B, L]; labels are -100 except on
            the target's tokens and its end-of-sequence token.
        """
        inputs = self._prompt_inputs(examples, paraphrases or [self.paraphrase] * len(examples))
        mask = inputs["attention_mask"].bool()
        rows, starts = [], []
        for example, ids, real in zip(examples, inputs["input_ids"], mask, strict=True):
            target = self.tokenizer(example.target, add_special_tokens=False)["input_ids"]
            row = torch.cat([ids[real], torch.tensor([*target, self.tokenizer.eos_token_id])])
            self._check(example, row.tolist(), example.target)
            rows.append(row)
            starts.append(int(real.sum()))
        length = max(map(len, rows))
        input_ids = torch.full((len(rows), length), self._pad)
        labels = torch.full((len(rows), length), -100)
        attention = torch.zeros((len(rows), length), dtype=torch.long)
        for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
            input_ids[b, : len(row)] = row
            labels[b, start : len(row)] = row[start:]
            attention[b, : len(row)] = 1
        for key in [k for k in inputs if k.endswith("token_type_ids")]:
            types = torch.full((len(rows), length), int(self._segments))
            for b, (kinds, real) in enumerate(zip(inputs[key], mask, strict=True)):
                types[b, : int(real.sum())] = kinds[real]
            inputs[key] = types
        return {**inputs, "input_ids": input_ids, "attention_mask": attention, "labels": labels}

    def batches(self, examples: Sequence[Example], size: int, paraphrases: int = 1) -> Iterator[Batch]:
        """Yield profiling batches: one condition each, an item's pairs one after the other, instructions in turn.

        The paraphrase follows from the item's place, so that it is the same in all pairs. Examples that share item,
        task and pair are taken for different items.
        """
        copies: Counter[tuple[str, str, str]] = Counter()
        groups: dict[tuple[str, str], dict[str, Example]] = {}  # task and item -> pair -> example
        for number, example in enumerate(examples):
            item, pair = example.item or str(number), str(example.pair)
            copy = copies[example.task, item, pair]
            copies[example.task, item, pair] += 1
            groups.setdefault((example.task, f"{item} ({copy + 1})" if copy else item), {})[pair] = example
        # A block is items of one task that exist in the same pairs.
        alike: dict[tuple[Any, ...], list[tuple[int, str, dict[str, Example]]]] = {}
        for place, ((task, item), group) in enumerate(groups.items()):
            shown = tuple(len(group[pair].images) > 0 for pair in sorted(group))
            alike.setdefault((task, tuple(sorted(group)), shown), []).append((place, item, group))
        for (_, pairs, _), members in alike.items():
            for start in range(0, len(members), size):
                places, items, block = zip(*members[start : start + size], strict=True)
                for pair in pairs:
                    inputs = self.encode([group[pair] for group in block], [place % paraphrases for place in places])
                    yield Batch(inputs, block[0][pair].condition, items)
