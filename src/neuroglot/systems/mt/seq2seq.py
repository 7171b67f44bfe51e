"""Any Hugging Face encoder-decoder as a translator: NLLB, M2M100, mBART, Marian, T5.

Notable: how a direction is told follows from the tokenizer. One with `src_lang` has a token for every language, which
the decoder is made to begin with; Marian's either knows one direction or takes a mark such as `>>deu<<` before the
text; any other gets a prefix in words. A path may hold {source} and {target}, for a model a direction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroglot.data.batch import special_tokens
from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair, language_code, language_name
from neuroglot.systems.languages import spelling
from neuroglot.systems.lines import unmarked
from neuroglot.systems.mt.loaded import generate, in_batches, load_config, load_tokenizer, load_weights, longest
from neuroglot.systems.mt.translator import Translator

LANGUAGE_TOKEN = re.compile(r"_{0,2}([a-z]{2,3}(?:_[A-Z][A-Za-z]{1,3})?)_{0,2}")
"""`deu_Latn`, `de_DE`, `__de__`."""


@dataclass(frozen=True)
class Direction:
    """How a model is told what to do.

    Attributes:
        source: what the tokenizer's `src_lang` is set to; None to leave it alone.
        begins: the token that the decoder begins with; None for the model's own.
        starts: whether that token takes the place of the decoder's start, instead of following it.
        prefix: written before the text.
    """

    source: str | None = None
    begins: str | None = None
    starts: bool = False
    prefix: str = ""


class Seq2SeqTranslator(Translator):
    """A pretrained encoder-decoder.

    Args:
        name: the key of this system in the scores.
        path: a folder, or a name on the hub; {source} and {target} in it stand for the languages' codes.
        codes: language code -> the model's own, where it is not found by itself.
        prefix: written before the text, with {source} and {target} for the languages' English names.
        dtype: of the weights.
        batch_size: texts at a time.
        max_new_tokens: a longer answer is cut.
        beams: 1 is greedy.
        trust_remote_code: let code that comes with the model run.

    Raises:
        UserError: nothing is there, where the path is a folder's.
    """

    def __init__(
        self,
        name: str,
        path: str,
        codes: Mapping[str, str] | None = None,
        prefix: str = "",
        dtype: str = "float32",
        batch_size: int = 32,
        max_new_tokens: int = 128,
        beams: int = 1,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(name)
        self.path, self.prefix, self.dtype = path, prefix, dtype
        self.codes = {language_code(ours): theirs for ours, theirs in (codes or {}).items()}
        self.batch_size, self.max_new_tokens, self.beams, self.trust = (
            batch_size,
            max_new_tokens,
            beams,
            trust_remote_code,
        )
        self._tokenizers: dict[str, Any] = {}
        self._models: dict[str, Any] = {}

    def check(self, pair: Pair) -> None:
        """Load the tokenizer, and refuse a direction that it has no code for.

        Raises:
            UserError: so, or the model is of another kind or cannot be loaded.
        """
        self._direction(pair)

    def texts(self, texts: Sequence[str], pair: Pair) -> list[str]:
        """Translate; what exceeds the encoder's positions is cut off."""
        direction, path = self._direction(pair), self._path(pair)
        tokenizer, model = self._tokenizer(path), self._model(path)
        if direction.source is not None:
            tokenizer.src_lang = direction.source
        options: dict[str, Any] = {}
        if direction.begins is not None:
            token = int(tokenizer.convert_tokens_to_ids(direction.begins))
            options["decoder_start_token_id" if direction.starts else "forced_bos_token_id"] = token
        most = longest(tokenizer, model.config)

        def answer(part: list[str]) -> list[str]:
            marks = special_tokens(tokenizer)
            given = [direction.prefix + " ".join(unmarked(text, marks).split()) for text in part]
            inputs = tokenizer(given, return_tensors="pt", padding=True, truncation=True, max_length=most)
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            tokens = generate(model, inputs, min(self.max_new_tokens, most - 2), self.beams, **options)
            return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]

        return in_batches(texts, self.batch_size, answer)

    def _path(self, pair: Pair) -> str:
        return self.path.replace("{source}", pair.source).replace("{target}", pair.target)

    def _tokenizer(self, path: str) -> Any:
        if path not in self._tokenizers:
            if not getattr(load_config(path, self.trust), "is_encoder_decoder", False):
                raise UserError(f"{path} is no encoder-decoder; use kind: causal for a language model")
            self._tokenizers[path] = load_tokenizer(path, self.trust)
        return self._tokenizers[path]

    def _model(self, path: str) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        if path not in self._models:
            what = "a translation model"
            self._models[path] = load_weights(AutoModelForSeq2SeqLM, what, path, self.dtype, self.trust)
        return self._models[path]

    def _direction(self, pair: Pair) -> Direction:
        tokenizer = self._tokenizer(self._path(pair))
        names = {"source": language_name(pair.source), "target": language_name(pair.target)}
        prefix = self.prefix.replace("{source}", names["source"]).replace("{target}", names["target"])
        if hasattr(tokenizer, "supported_language_codes"):
            marks = {mark.strip("<>"): mark for mark in tokenizer.supported_language_codes}
            if not marks:
                self._one_direction(tokenizer, pair)
                return Direction(prefix=prefix)
            return Direction(prefix=f"{marks[self._code(pair.target, marks)]} {prefix}")
        if hasattr(tokenizer, "src_lang"):
            tokens = language_tokens(tokenizer)
            source, target = self._code(pair.source, tokens), self._code(pair.target, tokens)
            # mBART of 25 languages has no start token of its own
            return Direction(source, tokens[target], type(tokenizer).__name__.startswith("MBartTokenizer"), prefix)
        if not self.prefix:
            raise UserError(
                f"the tokenizer of {self._path(pair)} has no codes of languages; give the translator a prefix, such "
                "as 'translate {source} to {target}: '"
            )
        return Direction(prefix=prefix)

    def _code(self, language: str, known: Mapping[str, str]) -> str:
        """Return the model's own code of a language."""
        given = self.codes.get(language)
        found = given if given in known else None if given else spelling(language, known)
        if found is None:
            raise UserError(
                f"{self.path} has no code for {language_name(language)} ({given or language}); "
                f"{nearest(given or language, known)}; it can be given with codes: {{{language}: ...}}"
            )
        return found

    def _one_direction(self, tokenizer: Any, pair: Pair) -> None:
        """Refuse a direction that is plainly not the model's one; many do not say theirs, or name a family."""
        for side, own in ((pair.source, tokenizer.source_lang), (pair.target, tokenizer.target_lang)):
            code = self.codes.get(side) or (spelling(side, [own]) if own else None)
            if own and code != own and _is_language(own):
                raise UserError(
                    f"{self._path(pair)} translates {tokenizer.source_lang} to {tokenizer.target_lang}, got {pair}; "
                    "for a model a direction, write {source} and {target} in its path"
                )


def language_tokens(tokenizer: Any) -> dict[str, str]:
    """Return code -> token of the languages among a tokenizer's special tokens."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    special |= set(getattr(tokenizer, "lang_token_to_id", ()))  # M2M100 does not call these special
    found = {token: LANGUAGE_TOKEN.fullmatch(token) for token in sorted(special)}
    return {match[1]: token for token, match in found.items() if match}


def _is_language(code: str) -> bool:
    """Whether a code of Marian's names one language, not a family such as `gem` or `ROMANCE`."""
    try:
        return len(language_code(code).partition("_")[0]) == 2
    except UserError:
        return False
