"""RapidOCR: the PaddleOCR models on onnxruntime, bundled in the package's wheel."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from neuroglot.errors import UserError
from neuroglot.pair import Pair, language_name, script_of
from neuroglot.systems.ocr.boxes import reading_order
from neuroglot.systems.ocr.reader import Reader

SCRIPTS = {"Latn": "Latin", "Hans": "Chinese", "Hant": "Chinese", "Jpan": "Japanese"}
"""What the bundled recognition model has characters for."""

RIGHT_TO_LEFT = ("Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm", "Rohg")
"""Scripts whose lines are read from the right."""

VERTICAL = ("Hans", "Hant", "Hani", "Jpan", "Hira", "Kana", "Bopo", "Kore", "Hang")
"""Scripts that may be written from top to bottom, in columns from right to left."""

WITHOUT = ("vi",)
"""Languages in one of these scripts whose letters it lacks."""


class RapidReader(Reader):
    """RapidOCR with its bundled models; its boxes are put into lines here.

    Args:
        name: the key of this system in the scores.
        side: pixels of the longer side at which text is looked for; a larger image is scaled down to it.
        threads: of onnxruntime; -1 for its own choice.

    Raises:
        UserError: rapidocr or onnxruntime is not installed.
    """

    def __init__(self, name: str = "rapidocr", side: int = 960, threads: int = -1) -> None:
        super().__init__(name)
        try:
            import onnxruntime  # noqa: F401
            from rapidocr import RapidOCR
        except ImportError as error:
            raise UserError(f'reader rapidocr needs {error.name}; pip install "neuroglot[ocr]"') from None
        # Its own default scales small images up, which took eight times as long and read no better.
        params = {"Det.limit_type": "max", "Det.limit_side_len": side, "Global.log_level": "critical",
                  "EngineConfig.onnxruntime.intra_op_num_threads": threads}  # fmt: skip
        self._make = lambda: RapidOCR(params=params)
        self._engine: Any = None

    def check(self, pair: Pair) -> None:
        """Refuse a source language in another script than the model's.

        Raises:
            UserError: so.
        """
        if script_of(pair.source) not in SCRIPTS or pair.source.partition("_")[0] in WITHOUT:
            raise UserError(
                f"reader rapidocr cannot read {language_name(pair.source)} ({pair.source}): its bundled model knows "
                "Latin letters except Vietnamese, Chinese and Japanese; use reader: tesseract, or a model"
            )

    def read(self, image: Image.Image, language: str) -> str:
        """Return the text of an RGB image, line by line; empty where none was found."""
        if self._engine is None:
            self._engine = self._make()
        found = self._engine(np.asarray(image)[:, :, ::-1])  # it takes BGR
        if found.boxes is None or found.txts is None:
            return ""
        written = script_of(language)
        gap = "" if written in ("Hans", "Hant", "Jpan") else " "
        order = reading_order(found.boxes, written in RIGHT_TO_LEFT, written in VERTICAL)
        lines = (gap.join(found.txts[index] for index in line) for line in order)
        return "\n".join(" ".join(line.split()) for line in lines)
