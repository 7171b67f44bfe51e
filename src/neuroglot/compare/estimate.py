"""How long the cells of a grid that are left will take: as long as those that were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def finished(folder: Path) -> list[Path]:
    """Return the folders of cells that have a loss on dev."""
    return [place.parent.parent for place in (folder / "cells").glob("*/.stages/develop.json")]


def recorded(folder: Path) -> list[float]:
    """Return how many seconds the stages of each finished cell took, as they recorded it."""
    own = ("select", "align", "train", "develop", "examine")
    cells = [[cell / ".stages" / f"{name}.json" for name in own] for cell in finished(folder)]
    return [sum(json.loads(record.read_text())["seconds"] for record in cell if record.exists()) for cell in cells]


class Estimate:
    """What cells have taken so far, and so how long the others will take.

    Args:
        before: seconds of cells that an earlier process did; they count until one is measured here.
        jobs: cells at a time.
    """

    def __init__(self, before: Sequence[float], jobs: int) -> None:
        self._spent, self._cells, self._jobs = sum(before), len(before), jobs
        self._measured = False

    def add(self, seconds: float, whole: bool) -> None:
        """Count what a process took; `whole` if it did a new cell, and not more of one that was counted before."""
        if not self._measured:
            self._spent, self._cells, self._measured = 0.0, 0, True
        self._spent += seconds
        self._cells += whole

    def left(self, cells: int) -> str:
        """Say how long a number of cells will take."""
        if not self._cells:
            return "how long they take is said when the first is done"
        each = self._spent / self._cells
        minutes = cells * each / 60 / self._jobs
        time = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{60 * minutes:.0f} seconds"
        return f"about {time} left ({each:.0f} s a cell, {self._jobs} at a time)"
