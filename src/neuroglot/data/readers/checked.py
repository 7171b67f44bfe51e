"""A data file as a whole: ids unique, images opened, texts laid out, before anything is trained on any of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.example import Example, ImageSource, RenderSpec
from neuroglot.data.image import image_size
from neuroglot.data.paths import stamp
from neuroglot.errors import UserError

# ---- Checking a file as a whole -------------------------------------------------------------------------------------

T = TypeVar("T")

BLOCK = 512
"""Most records whose images are opened together."""

HELD = 32 * 2**20
"""Bytes of images from which on no further record is taken along; the block before may still be held."""

Size = tuple[int, int]
"""Width and height in pixels."""

Fits = Callable[[Example, Sequence[Size]], None]
"""Raises a UserError if the model cannot take an example whose images have these sizes."""


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used.

    Attributes:
        line: its line in the file, from 1.
        reason: what is wrong with it and what to do.
    """

    line: int
    reason: str


def check_records(
    records: Iterable[tuple[int, Example | UserError]], fits: Fits, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[int, Example | Bad]]:
    """Yield the line and the example of every record that can be used, and what is wrong with the others.

    Images are opened some hundred records at a time, several at once, so that memory grows neither with the source nor
    with the images that it holds. Those that neuroglot draws are laid out, which says whether they can be drawn.

    Args:
        records: line and example, or what is wrong with the line.
        fits: what the model has to say about an example.
        progress: called with the number of records checked so far.
    """
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding leaves Python alone
        for block in blocks(records, lambda record: record[1]):
            images = dict.fromkeys(i for _, e in block if isinstance(e, Example) for i in e.images)
            given = [image for image in images if not isinstance(image, RenderSpec)]
            sizes = dict[ImageSource, Size | UserError](zip(given, pool.map(_measure, given), strict=True))
            sizes |= {image: _measure(image) for image in images if isinstance(image, RenderSpec)}
            for line, record in block:
                yield line, _checked(line, record, sizes, fits)
            done += len(block)
            if progress is not None:
                progress(done)


def _checked(
    line: int, record: Example | UserError, sizes: Mapping[ImageSource, Size | UserError], fits: Fits
) -> Example | Bad:
    try:
        if isinstance(record, UserError):
            raise record
        result = [sizes[image] for image in record.images]
        for size in result:
            if isinstance(size, UserError):
                raise size
        fits(record, [size for size in result if not isinstance(size, UserError)])
    except UserError as error:
        return Bad(line, str(error))
    return record


def blocks(records: Iterable[T], content: Callable[[T], Example | UserError]) -> Iterator[tuple[T, ...]]:
    """Yield `BLOCK` records at a time, or fewer where their images come with them and are large.

    Args:
        records: in order.
        content: takes the example out of a record.
    """
    block: list[T] = []
    held = 0
    for record in records:
        block.append(record)
        example = content(record)
        if isinstance(example, Example):
            held += sum(len(image) for image in example.images if isinstance(image, bytes))
        if len(block) == BLOCK or held >= HELD:
            yield tuple(block)
            block, held = [], 0
    if block:
        yield tuple(block)


def allow(path: Path, good: int, bad: Sequence[Bad], most: int, count: int | None = None) -> None:
    """Refuse a file with too many bad records, or without a good one.

    Args:
        path: the file.
        good: how many records can be used.
        bad: those that cannot, or the first of them.
        most: how many may be left out.
        count: how many cannot be used; as many as `bad` holds by default.

    Raises:
        UserError: the first bad record, and how many there are.
    """
    counts = counted(path)
    result = len(bad) if count is None else count
    if result > most:
        all_ = f"; {result} of {good + result} records are bad and data.max_bad allows {most}"
        more = "" if (result, most) == (1, 0) else f"{all_}; this is the first"
        raise UserError(f"{path} {counts} {bad[0].line}: {bad[0].reason}{more}")
    if not good:
        first = f"; {counts} {bad[0].line}: {bad[0].reason}" if bad else ""
        what = f"data file {path} holds no examples; expected one JSON object a line"
        raise UserError(f"{what if counts == 'line' else f'data source {path} holds no examples'}{first}")


def counted(path: Path) -> str:
    """Return what the positions in a source count: `line` or `record`."""
    lines = path.suffix.lower() in (".jsonl", ".ndjson", ".csv", ".tsv", "") and not path.is_dir()
    return "line" if lines else "record"


def _measure(image: ImageSource) -> Size | UserError:
    if not isinstance(image, Path):
        try:
            return image_size(image)
        except UserError as error:
            return error
    identity = stamp(image) or (0, 0)  # it is not there, which is said when it is opened
    try:
        return _measured(image, *identity)
    except UserError as error:
        return error


@lru_cache(maxsize=100_000)
def _measured(image: Path, size: int, changed: int) -> Size:
    """Several runs of one process look at an image once."""
    return image_size(image)


# ---- Repeated ids ---------------------------------------------------------------------------------------------------

IDS_BLOCK = 65_536
"""Ids that are kept in a dictionary before they go into the sorted arrays."""


class Ids:
    """The ids of a source with their positions, by 64 bits of a hash.

    Two different ids of a million are taken for one with a chance of 3 in 10^8.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._hashes: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._positions: NDArray[np.int64] = np.empty(0, np.int64)

    def earlier(self, name: str, position: int) -> int | None:
        """Return the position of the record that has this id already; None, and remember it, if there is none."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "little")
        if key in self._recent:
            return self._recent[key]
        at = int(np.searchsorted(self._hashes, np.uint64(key)))
        if at < len(self._hashes) and int(self._hashes[at]) == key:
            return int(self._positions[at])
        self._recent[key] = position
        if len(self._recent) >= IDS_BLOCK:
            self._merge()
        return None

    def _merge(self) -> None:
        hashes = np.fromiter(self._recent, np.uint64, len(self._recent))
        positions = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        order = np.argsort(hashes)
        places = np.searchsorted(self._hashes, hashes[order])
        self._hashes = np.insert(self._hashes, places, hashes[order])
        self._positions = np.insert(self._positions, places, positions[order])
        self._recent.clear()
