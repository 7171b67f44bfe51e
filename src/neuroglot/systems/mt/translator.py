"""What all translators of text share: a translator takes texts of one direction, and is made a System here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.pair import Pair

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
