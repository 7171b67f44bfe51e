"""The yardstick: read the image first, translate what was read second.

Notable: an image is read once, however many languages it is then translated into.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import replace

from neuroglot.data.example import Example, ImageSource
from neuroglot.systems.base import System


class Cascade:
    """Two systems in a row: a reader that transcribes images and a translator of text.

    Only image translation is a chain. An example without images goes to the translator as it is, any other
    (transcribing, describing) to the reader, so that a cascade can be scored on every split.

    Args:
        reader: answers `ocr` examples.
        translator: answers `text_translation` examples; may be the same system.
        name: the key of this system in the scores.
    """

    def __init__(self, reader: System, translator: System, name: str = "cascade") -> None:
        self.reader = reader
        self.translator = translator
        self.name = name
        self._read: dict[Hashable, str] = {}

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Transcribe each distinct image, then translate the transcriptions; the input order is kept."""
        chained = [index for index, example in enumerate(examples) if _is_chained(example)]
        read = dict(zip(chained, self.transcribe([examples[index] for index in chained]), strict=True))
        texts = [index for index, example in enumerate(examples) if not example.images or read.get(index)]
        others = [index for index, example in enumerate(examples) if example.images and index not in read]

        answers = [""] * len(examples)  # where nothing was read there is nothing to translate
        as_text = [_as_text(examples[index], read[index]) if index in read else examples[index] for index in texts]
        for index, answer in zip(texts, self.translator.translate(as_text) if texts else [], strict=True):
            answers[index] = answer
        rest = self.reader.translate([examples[index] for index in others]) if others else []
        for index, answer in zip(others, rest, strict=True):
            answers[index] = answer
        return answers

    def transcribe(self, examples: Sequence[Example]) -> list[str]:
        """Return what the reader sees in each example's images; an image seen before is not read again."""
        keys = [_key(example) for example in examples]
        fresh = {key: _as_ocr(example) for key, example in zip(keys, examples, strict=True) if key not in self._read}
        if fresh:
            self._read.update(zip(fresh, self.reader.translate(list(fresh.values())), strict=True))
        return [self._read[key] for key in keys]

    def nll(self, examples: Sequence[Example]) -> None:
        """A chain through a hard transcription has no likelihood of its own."""
        return


def _is_chained(example: Example) -> bool:
    return bool(example.images) and example.task == "image_translation"


def _as_ocr(example: Example) -> Example:
    # The source text is the reference of the transcription, never part of what the reader is shown.
    return replace(
        example,
        task="ocr",
        target_lang=example.source_lang,
        source=None,
        target=example.source or "",
        alternatives=(),
    )


def _as_text(example: Example, transcription: str) -> Example:
    return replace(example, task="text_translation", images=(), source=transcription, alternatives=())


def _key(example: Example) -> Hashable:
    return (example.source_lang, *(_image_key(image) for image in example.images))


def _image_key(image: ImageSource) -> Hashable:
    return hashlib.sha256(image).digest() if isinstance(image, bytes) else image
