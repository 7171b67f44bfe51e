"""OCR engines as Systems: they answer `ocr` examples and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import langcodes
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.errors import UserError, refusing
from neuroglot.pair import Pair, language_name, script_of
from neuroglot.systems.base import spelling

# ---- Reading order --------------------------------------------------------------------------------------------------
# Notable: a text detector gives boxes in no order that can be relied on, several to a line where words are far apart,
# and tilted with the sign. The tilt is taken out first, so that a line of a slanted sign stays a line. A page is then
# cut where it is empty from side to side or from top to bottom, until nothing can be cut. Chinese, Japanese and Korean
# may be written from top to bottom, in columns from right to left: their boxes are tall.

OVERLAP = 0.5
"""A box belongs to a line if they share this much of the lower of their heights."""
TALL = 1.5
"""Height over width of a box that is written from top to bottom."""
FEWEST, LONG = 3, 4.0
"""Columns of horizontal text have this many lines at least, and these are so many times as long as high; what is
shorter is a table, which is read across."""


def reading_order(boxes: ArrayLike, right_to_left: bool = False, vertical: bool = False) -> list[list[int]]:
    """Group boxes into lines.

    Args:
        boxes: corners (N, 4, 2) as (x, y) in pixels, clockwise from the upper left of the text.
        right_to_left: how a horizontal line is read.
        vertical: whether the language may be written from top to bottom, its columns from right to left.

    Returns:
        The indices of the boxes of each line, in reading order; a line may be a column.

    Examples:
        >>> left, right = [[0, 0], [9, 0], [9, 9], [0, 9]], [[20, 1], [30, 1], [30, 9], [20, 9]]
        >>> below = [[0, 12], [9, 12], [9, 20], [0, 20]]
        >>> reading_order([right, below, left])
        [[2, 0], [1]]
        >>> reading_order([[[0, 0], [9, 0], [9, 50], [0, 50]], [[12, 0], [21, 0], [21, 60], [12, 60]]], vertical=True)
        [[1], [0]]
    """
    corners = np.asarray(boxes, dtype=float).reshape(-1, 4, 2)
    if not len(corners):
        return []
    size = np.ptp(corners, axis=1)  # (N, 2), widths and heights
    tall = size[:, 1] > TALL * size[:, 0]
    upright = corners if vertical and tall.any() else corners @ _rotation(-_tilt(corners)).T  # (N, 4, 2)
    page = _Page(upright.min(axis=1), upright.max(axis=1), tall, right_to_left)
    every = list(range(len(corners)))
    return page.blocks(every) if vertical and tall.any() else page.paragraphs(every)


@dataclass(frozen=True)
class _Page:
    """Upright boxes.

    Attributes:
        low: (N, 2) the least x and y of each.
        high: (N, 2) the largest.
        tall: (N,) whether each is written from top to bottom, as far as its shape tells.
        right_to_left: how a horizontal line is read.
    """

    low: NDArray
    high: NDArray
    tall: NDArray
    right_to_left: bool

    def blocks(self, members: list[int]) -> list[list[int]]:
        """Return the lines and columns of a page that has columns."""
        size = (self.high - self.low)[members]
        character = float(np.median(size.min(axis=1)))
        bands = self._cut(members, 1, 0.5 * character)
        if len(bands) > 1:
            return [line for band in bands for line in self.blocks(band)]
        area, tall = size.prod(axis=1), self.tall[members]
        upright = area[tall].sum() > area[~tall].sum()
        if not tall.any():
            return self.lines(members)
        parts = self._cut(members, 0, character)
        if len(parts) > 1:
            return [line for part in (parts[::-1] if upright else parts) for line in self.blocks(part)]
        return self.lines(members, axis=0) if upright else self.lines(members)

    def paragraphs(self, members: list[int]) -> list[list[int]]:
        """Return the lines of horizontal text, which may stand in columns."""
        size = (self.high - self.low)[members]
        height = float(np.median(size[:, 1]))
        parts = self._cut(members, 0, height)

        def is_column(part: list[int]) -> bool:
            width, height = (self.high - self.low)[part].T
            return len(part) >= FEWEST and float(np.median(width / np.maximum(height, 1e-9))) >= LONG

        if len(parts) > 1 and all(map(is_column, parts)):
            return [line for part in (parts[::-1] if self.right_to_left else parts) for line in self.paragraphs(part)]
        bands = self._cut(members, 1, height)
        if len(bands) > 1:
            return [line for band in bands for line in self.paragraphs(band)]
        return self.lines(members)

    def lines(self, members: list[int], axis: int = 1) -> list[list[int]]:
        """Group boxes into lines (axis 1), or into columns from right to left (axis 0)."""
        low, high = self.low[:, axis], self.high[:, axis]
        result: list[list[int]] = []
        for index in sorted(members, key=lambda index: (low[index] + high[index]) / 2):
            line = next((line for line in reversed(result) if _shared(index, line, low, high) >= OVERLAP), None)
            if line is None:
                result.append([index])
            else:
                line.append(index)
        along = (self.low + self.high)[:, 1 - axis] * (-1 if axis == 1 and self.right_to_left else 1)
        ordered = [sorted(line, key=lambda index: float(along[index])) for line in result]
        return ordered if axis == 1 else ordered[::-1]

    def _cut(self, members: list[int], axis: int, gap: float) -> list[list[int]]:
        """Divide boxes where nothing stands between them for at least `gap` pixels along an axis."""
        parts: list[list[int]] = []
        end = -np.inf
        for index in sorted(members, key=lambda index: self.low[index, axis]):
            if not parts or self.low[index, axis] - end >= gap:
                parts.append([])
            parts[-1].append(index)
            end = max(end, self.high[index, axis])
        return parts


def _shared(index: int, line: Sequence[int], low: NDArray, high: NDArray) -> float:
    """Return the overlap of a box with the mean extent of a line, as a share of the smaller of the two."""
    start, end = low[list(line)].mean(), high[list(line)].mean()
    both = min(end, high[index]) - max(start, low[index])
    return float(both / max(1e-9, min(end - start, high[index] - low[index])))


def _tilt(corners: NDArray) -> float:
    """Return the angle of the text in radians: the median over boxes, those that are long counting more."""
    along = corners[:, 1] - corners[:, 0]  # (N, 2), the upper edges
    lengths = np.hypot(along[:, 0], along[:, 1])
    angles = np.arctan2(along[:, 1], along[:, 0])
    order = np.argsort(angles)
    half = np.searchsorted(np.cumsum(lengths[order]), lengths.sum() / 2)
    return float(angles[order[min(half, len(order) - 1)]])


def _rotation(angle: float) -> NDArray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


# ---- What all OCR engines share -------------------------------------------------------------------------------------


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


# ---- RapidOCR -------------------------------------------------------------------------------------------------------

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
            UserError: the model cannot read the script.
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
        result = self._engine(np.asarray(image)[:, :, ::-1])  # it takes BGR
        if result.boxes is None or result.txts is None:
            return ""
        written = script_of(language)
        gap = "" if written in ("Hans", "Hant", "Jpan") else " "
        order = reading_order(result.boxes, written in RIGHT_TO_LEFT, written in VERTICAL)
        lines = (gap.join(result.txts[index] for index in line) for line in order)
        return "\n".join(" ".join(line.split()) for line in lines)


# ---- Tesseract ------------------------------------------------------------------------------------------------------

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
            UserError: they are not installed.
        """
        self._data(pair.source)

    def read(self, image: Image.Image, language: str) -> str:
        """Return the text of an RGB image, blank lines left out.

        Raises:
            UserError: the program fails, or takes longer than two minutes.
        """
        options = {"lang": self._data(language), "config": f"--psm {self.layout}", "timeout": TIMEOUT}
        with refusing(lambda why: f"tesseract failed on an image: {why[:200]}"):
            text = self._library.image_to_string(image, **options)
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())

    def _data(self, language: str) -> str:
        name = CHINESE.get(script_of(language)) if language.partition("_")[0] == "zh" else None
        result = name if name in self.installed else spelling(language, self.installed)
        if result is None:
            wanted = name or langcodes.Language.get(language).to_alpha3()
            raise UserError(
                f"tesseract has no data for {language_name(language)} ({language}); it has "
                f"{', '.join(self.installed)}; install {wanted}, a package such as tesseract-ocr-deu"
            )
        return result
