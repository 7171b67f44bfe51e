"""What all OCR engines share: an engine reads one image in one language, a Reader makes a System of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from PIL import Image

from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.errors import UserError
from neuroglot.pair import Pair


class Reader(ABC):
    """An OCR engine as a System for the task `ocr`; it has no likelihood.

    Args:
        name: the key of this system in the scores.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def read(self, image: Image.Image, language: str) -> str:
        """Return the text of an RGB image, its lines separated by line breaks."""

    @abstractmethod
    def check(self, pair: Pair) -> None:
        """Refuse a language that the engine cannot read, the source of `pair`.

        Raises:
            UserError: which ones it can read.
        """

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Return what each example's images say; several images are read one after the other.

        Raises:
            UserError: an example is no transcription, or of a language that the engine cannot read.
        """
        answers = []
        for example in examples:
            if example.task != "ocr" or not example.images:
                raise UserError(
                    f"{self.name} reads text in images, got a {example.task} example with {len(example.images)} "
                    "images; expected the task ocr"
                )
            self.check(example.pair)
            read = (self.read(open_image(image), example.source_lang) for image in example.images)
            answers.append("\n".join(filter(None, read)))
        return answers

    def nll(self, examples: Sequence[Example]) -> None:
        """An OCR engine has no likelihood of a given text."""
        return
