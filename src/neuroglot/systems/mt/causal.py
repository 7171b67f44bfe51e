"""A language model as a translator, asked through its own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from neuroglot.data.batch import rendered, special_tokens
from neuroglot.errors import UserError
from neuroglot.pair import Pair, language_name
from neuroglot.systems.lines import unmarked
from neuroglot.systems.mt.loaded import generate, in_batches, load_config, load_tokenizer, load_weights, longest
from neuroglot.systems.mt.translator import Translator

PROMPT = "Translate this text from {source} to {target}. Answer with the translation only.\n\n{text}"


class CausalTranslator(Translator):
    """A decoder-only language model with a chat template.

    Args:
        name: the key of this system in the scores.
        path: a folder, or a name on the hub.
        prompt: with {source} and {target} for the languages' English names, and {text}.
        dtype: of the weights.
        batch_size: texts at a time.
        max_new_tokens: a longer answer is cut.
        beams: 1 is greedy.
        trust_remote_code: let code that comes with the model run.
    """

    def __init__(
        self,
        name: str,
        path: str,
        prompt: str = PROMPT,
        dtype: str = "float32",
        batch_size: int = 8,
        max_new_tokens: int = 128,
        beams: int = 1,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(name)
        self.path, self.prompt, self.dtype, self.trust = path, prompt, dtype, trust_remote_code
        self.batch_size, self.max_new_tokens, self.beams = batch_size, max_new_tokens, beams

    def check(self, pair: Pair) -> None:
        """Load the tokenizer; a language model does not say which languages it knows.

        Raises:
            UserError: the model is an encoder-decoder, or has no chat template.
        """
        _ = self._tokenizer

    def texts(self, texts: Sequence[str], pair: Pair) -> list[str]:
        """Ask for each text by itself, in batches; only what the model says is returned."""
        tokenizer, model = self._tokenizer, self._model
        most = longest(tokenizer, model.config)

        def answer(part: list[str]) -> list[str]:
            prompts = [self._fitting(text, pair, most - self.max_new_tokens) for text in part]
            options = {"return_tensors": "pt", "padding": True, "padding_side": "left", "add_special_tokens": False}
            inputs = tokenizer(prompts, **options)  # transformers adds nothing to a template of a tokenizer's own
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            tokens = generate(model, inputs, self.max_new_tokens, self.beams, pad_token_id=tokenizer.pad_token_id)
            new = tokens[:, inputs["input_ids"].shape[1] :]  # (B, <= max_new_tokens)
            return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

        return in_batches(texts, self.batch_size, answer)

    def _fitting(self, text: str, pair: Pair, most: int) -> str:
        """Return a prompt of at most so many tokens: of a text that is too long, the end is left out."""
        prompt = self._asked(text, pair)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        excess = len(self._tokenizer(prompt, add_special_tokens=False)["input_ids"]) - most
        return prompt if excess <= 0 else self._asked(self._tokenizer.decode(ids[: max(0, len(ids) - excess)]), pair)

    def _asked(self, text: str, pair: Pair) -> str:
        asked = self.prompt.replace("{source}", language_name(pair.source))
        asked = asked.replace("{target}", language_name(pair.target))
        asked = asked.replace("{text}", unmarked(text, special_tokens(self._tokenizer)))
        return rendered(self._tokenizer, [{"role": "user", "content": asked}], add_generation_prompt=True)

    @cached_property
    def _tokenizer(self) -> Any:
        if getattr(load_config(self.path, self.trust), "is_encoder_decoder", False):
            raise UserError(f"{self.path} is an encoder-decoder; use kind: seq2seq for it")
        tokenizer = load_tokenizer(self.path, self.trust)
        if not tokenizer.chat_template:
            raise UserError(
                f"{self.path} has no chat template; use an instruction-tuned model, or set one and save it"
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return load_weights(AutoModelForCausalLM, "a language model", self.path, self.dtype, self.trust)
