"""The user's own data as a run sees them: what identifies them, and which of their records are left out."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from neuroglot.artefact import Format, read_json, remove, write_json, write_text
from neuroglot.data.example import Example
from neuroglot.data.paths import stamp
from neuroglot.data.readers import Bad, Layout, allow, check_records, read_source
from neuroglot.data.readers.checked import Fits
from neuroglot.data.store import Store, View, cache_folder, open_store
from neuroglot.errors import UserError

CHECKED = Format("checked", 1, "run")
REJECTED = "rejected.jsonl"
LISTED = 20
"""Most bad records that are listed where they are refused."""
READS = 3
"""Counts up when a reader makes other examples of the same source: stores in the cache are then made anew."""


class Data:
    """A source with the images that it names.

    Args:
        path: the file or folder.
        folder: the run's folder, where the user finds what is left out.
        layout: how the source is read.

    Attributes:
        found_bad: the first records that cannot be used, once `examples` has looked, whether or not it refused them.
        bad_count: how many there are.
    """

    def __init__(self, path: Path, folder: Path, layout: Layout | None = None) -> None:
        self.path = path
        self._folder = folder
        self._layout = layout or Layout()
        self._bad: list[Bad] | None = None
        self.found_bad: Sequence[Bad] = ()
        self.bad_count = 0

    @cached_property
    def records(self) -> Store:
        """Every record, and its example or what is wrong with it.

        Raises:
            UserError: the source is missing, or wrong as a whole.
        """
        name = f"{os.path.abspath(self.path)} {self._layout}"
        return open_store(name, [READS, self._stamps], lambda: read_source(self.path, self._layout))

    @cached_property
    def _stamps(self) -> list[Any]:
        """Path, size and time of change of the file; of a folder a hash of those of all that it holds."""
        if not self.path.is_dir():
            return _stamp(self.path)
        digest = hashlib.sha256()
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            for name in sorted(names):
                digest.update(json.dumps(_stamp(Path(folder, name))).encode())
        return [str(self.path), digest.hexdigest()]

    @cached_property
    def identity(self) -> list[Any]:
        """What identifies the source, and a hash of path, size and time of change of every image that it names.

        Raises:
            UserError: the source is missing.
        """
        digest = hashlib.sha256()
        before = None
        for place in np.flatnonzero(self.records.index["files"]):
            _, example = self.records[int(place)]
            images = [i for i in example.images if isinstance(i, Path)] if isinstance(example, Example) else []
            for image in images if images != before else ():  # what several languages share, looked at once
                digest.update(json.dumps(_stamp(image)).encode())
            before = images
        return [*self._stamps, digest.hexdigest()]

    def examples(self, fits: Fits, limits: Any, most: int, track: Callable[[str, int], Callable[[int], None]]) -> View:
        """Return the examples that can be used.

        A source that some run has checked against the same limits, such as another cell of a grid, is not again.

        Args:
            fits: what the model has to say about an example.
            limits: whatever the answers of `fits` depend on.
            most: how many bad records may be left out.
            track: makes a progress bar.

        Raises:
            UserError: more are bad.
        """
        asked = json.dumps([os.path.abspath(self.path), repr(self._layout), limits, most])
        known = cache_folder() / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.checked"
        found = self._known(known)
        if found is None:
            found = self._look(fits, most, track)
            self._keep(known, *found)
        places, bad = found
        self.found_bad, self.bad_count = bad, len(places)
        good = np.ones(len(self.records), bool)
        good[places] = False
        allow(self.path, int(good.sum()), bad, most, len(places))
        self._bad = bad
        return View(self.records, np.flatnonzero(good))

    def _look(
        self, fits: Fits, most: int, track: Callable[[str, int], Callable[[int], None]]
    ) -> tuple[list[int], list[Bad]]:
        """Return the places of all records that cannot be used, and what is wrong with those that are told."""
        places, bad = array("q"), list[Bad]()
        bar = track("checking", len(self.records))
        for place, (_, found) in enumerate(check_records(self.records, fits, bar)):
            if isinstance(found, Bad):
                places.append(place)
                if len(bad) < max(most + 1, LISTED):  # of a million nobody reads all
                    bad.append(found)
        return places.tolist(), bad

    def _known(self, file: Path) -> tuple[list[int], list[Bad]] | None:
        try:
            record = read_json(file, CHECKED)
        except UserError:
            return None
        if record["state"] != self._state:
            return None
        return record["places"], [Bad(**b) for b in record["bad"]]

    @property
    def _state(self) -> str:
        return hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()

    def _keep(self, file: Path, places: list[int], bad: list[Bad]) -> None:
        with suppress(OSError):  # where nothing can be kept, every run checks
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, CHECKED, {"state": self._state, "places": places, "bad": [vars(b) for b in bad]})

    def tell(self, say: Callable[[str], None]) -> None:
        """Write the records that are left out for the user to see."""
        if self._bad is None:
            return
        rejected = self._folder / REJECTED
        lines = [{"file": str(self.path), "line": b.line, "reason": b.reason} for b in self._bad]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        if text and not (rejected.is_file() and rejected.read_text(encoding="utf-8") == text):
            write_text(rejected, text)
            say(f"data: {len(lines)} of {len(self.records)} records left out; see {rejected}")
        if not text:
            remove(rejected)


def _stamp(path: Path) -> list[Any]:
    return [str(path), *(stamp(path) or ())]
