"""Checks of a whole data file before training: ids are unique, images can be opened, texts can be laid out."""

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
"""Most records whose images are opened at once."""

HELD = 32 * 2**20
"""Bytes of images at which a block ends; the previous block may still be in memory."""

Size = tuple[int, int]
"""Width and height in pixels."""

Fits = Callable[[Example, Sequence[Size]], None]
"""Raises a UserError if the model cannot take an example whose images have these sizes."""


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used.

    Attributes:
        line: its line in the file, from 1.
        reason: what is wrong with it and how to correct it.
    """

    line: int
    reason: str


def check_records(
    records: Iterable[tuple[int, Example | UserError]], fits: Fits, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[int, Example | Bad]]:
    """Yield the line of every record, and its example or why it cannot be used.

    Images are opened in parallel for some hundred records at a time, so that memory does not grow with the source or
    its images. Images that neuroglot draws are only laid out, which shows whether they can be drawn.

    Args:
        records: line, and example or error.
        fits: raises a UserError if the model cannot take an example.
        progress: called with the number of records checked so far.
    """
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases Python's lock
        for block in blocks(records, lambda record: record[1]):
            images = dict.fromkeys(i for _, e in block if isinstance(e, Example) for i in e.images)
            files = [image for image in images if not isinstance(image, RenderSpec)]
            sizes = dict[ImageSource, Size | UserError](zip(files, pool.map(_measure, files), strict=True))
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
        measured = [sizes[image] for image in record.images]
        for size in measured:
            if isinstance(size, UserError):
                raise size
        fits(record, [size for size in measured if not isinstance(size, UserError)])
    except UserError as error:
        return Bad(line, str(error))
    return record


def blocks(records: Iterable[T], content: Callable[[T], Example | UserError]) -> Iterator[tuple[T, ...]]:
    """Yield `BLOCK` records at a time, or fewer if they contain large images as bytes.

    Args:
        records: in order.
        content: returns the example of a record.
    """
    block: list[T] = []
    held_bytes = 0
    for record in records:
        block.append(record)
        example = content(record)
        if isinstance(example, Example):
            held_bytes += sum(len(image) for image in example.images if isinstance(image, bytes))
        if len(block) == BLOCK or held_bytes >= HELD:
            yield tuple(block)
            block, held_bytes = [], 0
    if block:
        yield tuple(block)


def allow(path: Path, good: int, bad: Sequence[Bad], most: int, count: int | None = None) -> None:
    """Refuse a file with too many bad records, or without any good one.

    Args:
        path: the file.
        good: number of records that can be used.
        bad: records that cannot be used, or the first of them.
        most: number that may be left out.
        count: number of records that cannot be used; by default the length of `bad`.

    Raises:
        UserError: the first bad record, and how many there are.
    """
    counts = counted(path)
    bad_count = len(bad) if count is None else count
    if bad_count > most:
        all_ = f"; {bad_count} of {good + bad_count} records are bad and data.max_bad allows {most}"
        more = "" if (bad_count, most) == (1, 0) else f"{all_}; this is the first"
        raise UserError(f"{path} {counts} {bad[0].line}: {bad[0].reason}{more}")
    if not good:
        first = f"; {counts} {bad[0].line}: {bad[0].reason}" if bad else ""
        what = f"data file {path} holds no examples; expected one JSON object a line"
        raise UserError(f"{what if counts == 'line' else f'data source {path} holds no examples'}{first}")


def counted(path: Path) -> str:
    """Return the unit of the positions in a source: `line` or `record`."""
    lines = path.suffix.lower() in (".jsonl", ".ndjson", ".csv", ".tsv", "") and not path.is_dir()
    return "line" if lines else "record"


def _measure(image: ImageSource) -> Size | UserError:
    if not isinstance(image, Path):
        try:
            return image_size(image)
        except UserError as error:
            return error
    identity = stamp(image) or (0, 0)  # a missing file is reported when it is opened
    try:
        return _measured(image, *identity)
    except UserError as error:
        return error


@lru_cache(maxsize=100_000)
def _measured(image: Path, size: int, changed: int) -> Size:
    """Return the size of an image; several runs of one process open it once."""
    return image_size(image)


# ---- Repeated ids ---------------------------------------------------------------------------------------------------

IDS_BLOCK = 65_536
"""Most ids in the dictionary before they are moved to the sorted arrays."""


class Ids:
    """The ids of a source with their positions, by 64 bits of a hash.

    The probability that two of a million different ids are taken for one is 3 in 10^8.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._hashes: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._positions: NDArray[np.int64] = np.empty(0, np.int64)

    def earlier(self, name: str, position: int) -> int | None:
        """Return the position of an earlier record with this id; if there is none, add this one and return None."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "little")
        if key in self._recent:
            return self._recent[key]
        index = int(np.searchsorted(self._hashes, np.uint64(key)))
        if index < len(self._hashes) and int(self._hashes[index]) == key:
            return int(self._positions[index])
        self._recent[key] = position
        if len(self._recent) >= IDS_BLOCK:
            self._merge()
        return None

    def _merge(self) -> None:
        hashes = np.fromiter(self._recent, np.uint64, len(self._recent))
        positions = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        order = np.argsort(hashes)
        indices = np.searchsorted(self._hashes, hashes[order])
        self._hashes = np.insert(self._hashes, indices, hashes[order])
        self._positions = np.insert(self._positions, indices, positions[order])
        self._recent.clear()
