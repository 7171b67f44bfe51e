"""Tesseract, where its binary and the language's data are installed; called through pytesseract."""

from __future__ import annotations

from functools import cached_property

import langcodes
from PIL import Image

from neuroglot.errors import UserError
from neuroglot.pair import Pair, language_name, script_of
from neuroglot.systems.languages import spelling
from neuroglot.systems.ocr.reader import Reader

CHINESE = {"Hans": "chi_sim", "Hant": "chi_tra"}
"""Its names for Chinese by script; all other languages go by codes of three letters."""

TIMEOUT = 120
"""Seconds for one image."""


class TesseractReader(Reader):
    """Tesseract.

    Args:
        name: the key of this system in the scores.
        layout: its page segmentation mode; 3 finds the layout itself, 6 is one block of text, 11 is scattered text.

    Raises:
        UserError: pytesseract or the binary is not installed.
    """

    def __init__(self, name: str = "tesseract", layout: int = 3) -> None:
        super().__init__(name)
        self.layout = layout
        try:
            import pytesseract
        except ImportError:
            raise UserError('reader tesseract needs pytesseract; pip install "neuroglot[ocr]"') from None
        self._library = pytesseract
        try:
            pytesseract.get_tesseract_version()
        except pytesseract.TesseractNotFoundError:
            raise UserError(
                "reader tesseract needs the program tesseract, which is not on the PATH; install it, such as with "
                "apt-get install tesseract-ocr"
            ) from None

    @cached_property
    def installed(self) -> tuple[str, ...]:
        """The languages whose data are installed, by its own names."""
        return tuple(sorted(name for name in self._library.get_languages() if name != "osd"))

    def check(self, pair: Pair) -> None:
        """Refuse a source language whose data are not installed.

        Raises:
            UserError: so.
        """
        self._data(pair.source)

    def read(self, image: Image.Image, language: str) -> str:
        """Return the text of an RGB image, blank lines left out.

        Raises:
            UserError: the program fails, or takes longer than two minutes.
        """
        options = {"lang": self._data(language), "config": f"--psm {self.layout}", "timeout": TIMEOUT}
        try:
            text = self._library.image_to_string(image, **options)
        except (self._library.TesseractError, RuntimeError) as error:
            raise UserError(f"tesseract failed on an image: {' '.join(str(error).split())[:200]}") from None
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())

    def _data(self, language: str) -> str:
        name = CHINESE.get(script_of(language)) if language.partition("_")[0] == "zh" else None
        found = name if name in self.installed else spelling(language, self.installed)
        if found is None:
            wanted = name or langcodes.Language.get(language).to_alpha3()
            raise UserError(
                f"tesseract has no data for {language_name(language)} ({language}); it has "
                f"{', '.join(self.installed)}; install {wanted}, a package such as tesseract-ocr-deu"
            )
        return found
