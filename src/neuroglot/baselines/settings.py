"""What a baseline is made of and how it is trained; and its tokenizer: one byte-level BPE for source and targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from neuroglot.config.sections import ClassicSection, Seed
from neuroglot.data.example import Example
from neuroglot.errors import UserError, nearest
from neuroglot.file_format import Format

# ---- Settings -------------------------------------------------------------------------------------------------------

KINDS = ("text-transformer", "gated-fusion", "gated-fusion-wu", "concatenation", "lvp-m3")
"""The systems of LLaVA-NeuMT's Tables 1 and 2 that are trained from scratch, and the gate of Wu et al. (2021)."""

CLASSIC = Format("classic", 3, "train")


class ClassicSettings(ClassicSection):
    """The size and the training of a classic system: a recipe's section, and what it takes from `train`."""

    lr: float = Field(1e-3, gt=0, description="the highest learning rate; it falls linearly to a tenth")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="clips the gradient")
    seed: Seed = Field(0, description="of initial weights, dropout and the order of the examples")


def known_kind(kind: str) -> str:
    """Return a kind as it is.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"classic system {kind!r} is not known; {nearest(kind, KINDS)}")
    return kind


# ---- The tokenizer: one byte-level BPE for source and targets -------------------------------------------------------
# The language token is that of Johnson et al. (2017), which LVP-M3 and M2M-100 use too. Bytes are pieces themselves,
# so that no text is unknown.

PAD, START, END = 0, 1, 2
_SPECIAL = ("<pad>", "<s>", "</s>")


class Vocabulary:
    """A trained tokenizer.

    Args:
        tokenizer: with the special tokens and a token for each language.
        languages: target languages, in the order of their tokens.
    """

    def __init__(self, tokenizer: Tokenizer, languages: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.languages = tuple(languages)

    @classmethod
    def learn(cls, examples: Iterable[Example], pieces: int) -> Vocabulary:
        """Learn the pieces of the sources and targets of some examples; `pieces` is the most there may be."""
        texts: list[str] = []
        languages: dict[str, None] = {}
        for example in examples:
            texts += [example.source or "", example.target]
            languages[example.target_lang] = None
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC()  # what exact match compares
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=pieces,
            min_frequency=2,
            special_tokens=[*_SPECIAL, *(_mark(language) for language in sorted(languages))],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer, sorted(languages))

    @classmethod
    def read(cls, text: str, languages: Sequence[str]) -> Vocabulary:
        """Return the vocabulary that `text`, the JSON form of a tokenizer, holds."""
        return cls(Tokenizer.from_str(text), languages)

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def source(self, example: Example) -> list[int]:
        """Return the language token, the source text's tokens and the end.

        Raises:
            UserError: the target language was not among the training examples.
        """
        if example.target_lang not in self.languages:
            raise UserError(
                f"target language {example.target_lang!r} is not known to this system; it was trained on "
                f"{', '.join(self.languages)}"
            )
        language = int(self.tokenizer.token_to_id(_mark(example.target_lang)) or 0)
        return [language, *self._ids(example.source or ""), END]

    def target(self, text: str) -> list[int]:
        """Return a target's tokens and the end."""
        return [*self._ids(text), END]

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return what rows of tokens say, special tokens left out."""
        return [text.strip() for text in self.tokenizer.decode_batch([list(row) for row in rows])]

    def _ids(self, text: str) -> list[int]:
        encoded = self.tokenizer.encode(text, add_special_tokens=False).ids
        least = len(_SPECIAL) + len(self.languages)
        if any(token < least for token in encoded):
            raise UserError(f"the text {text[:60]!r} holds a mark of the vocabulary such as </s>; remove it")
        return list(encoded)


def _mark(language: str) -> str:
    return f"<2{language}>"
