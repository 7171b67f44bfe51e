"""A data file as a whole: every image opened, every text measured, before anything is trained on any of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.errors import UserError

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
) -> tuple[list[Example], list[Bad]]:
    """Divide what `read_records` found into examples that can be used and records that cannot.

    Args:
        records: line and example, or what is wrong with the line.
        fits: what the model has to say about an example.
        progress: called with the number of images opened so far.
    """
    records = list(records)
    images = list(
        dict.fromkeys(i for _, e in records if isinstance(e, Example) for i in e.images if isinstance(i, Path))
    )
    sizes: dict[Path, Size | UserError] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding leaves Python alone
        for done, (image, size) in enumerate(zip(images, pool.map(_measure, images)), start=1):
            sizes[image] = size
            if progress is not None:
                progress(done)
    good, bad = [], []
    for line, record in records:
        try:
            if isinstance(record, UserError):
                raise record
            found = [sizes[image] for image in record.images if isinstance(image, Path)]
            for size in found:
                if isinstance(size, UserError):
                    raise size
            fits(record, [size for size in found if not isinstance(size, UserError)])
            good.append(record)
        except UserError as error:
            bad.append(Bad(line, str(error)))
    return good, bad


def allow(path: Path, good: Sequence[Example], bad: Sequence[Bad], most: int) -> None:
    """Refuse a file with too many bad records, or without a good one.

    Raises:
        UserError: the first bad record, and how many there are.
    """
    if len(bad) > most:
        count = f"; {len(bad)} of {len(good) + len(bad)} records are bad and data.max_bad allows {most}"
        more = "" if (len(bad), most) == (1, 0) else f"{count}; this is the first"
        raise UserError(f"{path} line {bad[0].line}: {bad[0].reason}{more}")
    if not good:
        first = f"; line {bad[0].line}: {bad[0].reason}" if bad else ""
        raise UserError(f"data file {path} holds no examples; expected one JSON object a line{first}")


def _measure(image: Path) -> Size | UserError:
    try:
        status = image.stat()
        identity = (status.st_size, status.st_mtime_ns)
    except (OSError, ValueError):
        identity = (0, 0)  # it is not there, which is said when it is opened
    try:
        return _measured(image, *identity)
    except UserError as error:
        return error


@lru_cache(maxsize=1_000_000)
def _measured(image: Path, size: int, changed: int) -> Size:
    """Several runs of one process look at an image once."""
    return open_image(image).size
