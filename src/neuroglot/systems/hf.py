"""Any Hugging Face image-text-to-text model, with or without a PEFT adapter, as a System.

Notable: batches are length-sorted and the answers restored to the input order; generation is greedy unless beams are
asked for, whatever the checkpoint's own generation_config says; and the likelihood asks the model for logits at the
columns that hold targets and nowhere else, so memory grows with the batch size and the length of the targets, not with
the images' hundreds of tokens times the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.finite import DivergedError, origin
from neuroglot.models.targets import keeps_some_logits, target_columns
from neuroglot.systems.base import Progress, length_sorted_batches, own_settings
from neuroglot.systems.cascade import Writer, readable


class Batching(Writer, Protocol):
    """What is needed of a batcher; `neuroglot.data.batch.Batcher` has it."""

    @property
    def ends(self) -> Sequence[int]:
        """The tokens that end an answer."""

    def target_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Return how many labels `encode` makes of each example."""

    def prompts(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return left-padded inputs for generation."""

    def encode(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return right-padded inputs with `labels` (B, L), -100 where there is no target token."""


class HFSystem:
    """A model that reads images and text and answers in text.

    Args:
        model: a decoder-only image-text-to-text model of transformers, or a PEFT model around one.
        batcher: makes the model's inputs.
        name: the key of this system in the scores.
        batch_size: examples a forward; the peak memory is proportional to it.
        max_new_tokens: a longer answer is cut.
        num_beams: 1 is greedy.
        length_penalty: of beams, the exponent of the length that their log-likelihood is divided by; above 0 favours
            long answers, below 0 short ones.
        progress: called with the number of examples finished since the last call.

    Raises:
        UserError: the model is an encoder-decoder, or a number is not positive.
    """

    def __init__(
        self,
        model: Any,
        batcher: Batching,
        name: str,
        batch_size: int = 32,
        max_new_tokens: int = 64,
        num_beams: int = 1,
        progress: Progress | None = None,
        length_penalty: float = 1.0,
    ) -> None:
        for field, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens), ("num_beams", num_beams)):
            if value < 1:
                raise UserError(f"{field} must be at least 1, got {value!r}")
        if getattr(model.config, "is_encoder_decoder", False):
            raise UserError(
                f"{type(model).__name__} is an encoder-decoder; expected a decoder-only image-text-to-text model "
                "such as LLaVA, Qwen-VL, InternVL or SmolVLM"
            )
        self.model = model
        self.batcher = batcher
        self.name = name
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.num_beams = num_beams
        self.progress = progress
        self.length_penalty = length_penalty

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Generate an answer per example, in the order of the examples, special tokens removed and stripped."""
        answers = [""] * len(examples)
        with self._evaluating():
            for batch in length_sorted_batches(examples, self.batch_size):
                texts = self._generate([examples[index] for index in batch])
                for index, text in zip(batch, texts, strict=True):
                    answers[index] = text
                self._advance(len(batch))
        return answers

    def nll(self, examples: Sequence[Example]) -> list[float]:
        """Return per example the sum over its target tokens, the one that ends it included, of -log p, in nats.

        Raises:
            DivergedError: the model's logits are not finite.
        """
        totals = [0.0] * len(examples)
        with self._evaluating():
            for batch in length_sorted_batches(examples, self.batch_size):
                losses = self._nll([examples[index] for index in batch])
                for index, loss in zip(batch, losses, strict=True):
                    totals[index] = loss
                self._advance(len(batch))
        return totals

    def tokens(self, examples: Sequence[Example]) -> list[int]:
        """Return per example how many tokens its nats are of: the target's, and the one that ends it."""
        return self.batcher.target_tokens(examples)

    def readable(self, example: Example) -> Example:
        """Return a text example whose source a machine wrote as the model can be shown it."""
        return readable(example, self.batcher, self.max_new_tokens)

    def _generate(self, examples: Sequence[Example]) -> list[str]:
        inputs = self._to_model(self.batcher.prompts(examples))
        settings = self.decoding
        with own_settings(self.model):
            tokens = self.model.generate(**inputs, **settings)
        new = tokens[:, inputs["input_ids"].shape[1] :].tolist()  # (B, <= max_new_tokens)
        # What follows an end is padding, which need not be a special token, no more than the end itself.
        said = [
            row[: next((at for at, token in enumerate(row) if token in settings["eos_token_id"]), len(row))]
            for row in new
        ]
        texts: list[str] = self.batcher.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @property
    def decoding(self) -> dict[str, Any]:
        """All that decides what is generated: the checkpoint's own generation_config does not."""
        ends, pad = self._eos(), self.batcher.tokenizer.pad_token_id
        return {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "do_sample": False,
            # Greedy decoding does not use it; transformers would warn.
            **({"length_penalty": self.length_penalty} if self.num_beams > 1 else {}),
            "eos_token_id": ends,
            "pad_token_id": ends[0] if pad is None else int(pad),
        }

    def _nll(self, examples: Sequence[Example]) -> list[float]:
        inputs = self._to_model(self.batcher.encode(examples))
        labels: Tensor = inputs.pop("labels")  # (B, L)
        columns = target_columns(labels)  # (T,)
        if keeps_some_logits(self.model):
            logits = self.model(**inputs, logits_to_keep=columns, use_cache=False).logits  # (B, T, V)
        else:
            logits = self.model(**inputs, use_cache=False).logits[:, columns]
        wanted = labels[:, columns + 1]  # (B, T)
        # Sample by sample: the float32 copy of the logits is one sample's, at its own target positions.
        result = [
            cross_entropy(row[own != -100].float(), own[own != -100], reduction="sum").item()
            for row, own in zip(logits, wanted, strict=True)
        ]
        # A likelihood may overflow; a model whose logits are not finite gets no score.
        if not all(map(math.isfinite, result)) and not bool(logits.isfinite().all()):
            where = origin(self.model, inputs, lambda: self.model(**inputs, use_cache=False))
            first = next(example for example, nats in zip(examples, result, strict=True) if not math.isfinite(nats))
            raise DivergedError(
                f"{self.name} cannot be scored: its logits are not finite for {first.item or first.target[:40]!r} "
                f"({first.condition}); {where}; train it with a lower rate, or look at the model"
            )
        return result

    def _eos(self) -> list[int]:
        """Every token that ends an answer: those of the batcher and of the checkpoint."""
        known = getattr(self.model.generation_config, "eos_token_id", None)
        known = known if isinstance(known, (list, tuple)) else [known]
        return sorted({int(token) for token in (*known, *self.batcher.ends) if token is not None})

    def _to_model(self, inputs: dict[str, Any]) -> dict[str, Any]:
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else None) if torch.is_tensor(value) else value
            for name, value in inputs.items()
        }

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode without autograd; every module's mode is restored, whatever happens."""
        training = self.model.training
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(training)  # adapters listen to the switch ...
            for module, mode in modes:  # ... which also moves what the user keeps in another mode
                module.training = mode

    def _advance(self, count: int) -> None:
        if self.progress is not None:
            self.progress(count)
