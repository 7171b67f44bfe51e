"""The user's own data file as a run sees it: what identifies it, and which of its records are left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroglot.artefact import Format, read_json, remove, write_json, write_text
from neuroglot.data.example import Example
from neuroglot.data.readers import Bad, allow, check_records, read_records
from neuroglot.data.readers.checked import Fits
from neuroglot.errors import UserError

CHECKED = Format("data", 1, "train")
REJECTED = "rejected.jsonl"


class Data:
    """A JSONL file with the images that it names.

    Args:
        path: the file.
        folder: the run's folder, which remembers what was checked.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path
        self._folder = folder
        self._checked: tuple[str, list[Bad]] | None = None

    @cached_property
    def records(self) -> list[tuple[int, Example | UserError]]:
        """Every line that is not blank, and its example or what is wrong with it."""
        return list(read_records(self.path))

    @cached_property
    def identity(self) -> list[Any]:
        """Path, size and time of change of the file, and a hash of the same of every image that it names.

        Raises:
            UserError: the file is missing.
        """
        images = {str(i) for _, e in self.records if isinstance(e, Example) for i in e.images if isinstance(i, Path)}
        digest = hashlib.sha256()
        for image in sorted(images):
            digest.update(json.dumps(_stamp(Path(image))).encode())
        return [*_stamp(self.path), digest.hexdigest()]

    def examples(
        self, fits: Fits, limits: Any, most: int, track: Callable[[str, int], Callable[[int], None]]
    ) -> list[Example]:
        """Return the examples that can be used; a file that this run has checked already is not checked again.

        Args:
            fits: what the model has to say about an example.
            limits: whatever the answers of `fits` depend on.
            most: how many bad records may be left out.
            track: makes a progress bar.

        Raises:
            UserError: more are bad.
        """
        state = hashlib.sha256(json.dumps([self.identity, limits]).encode()).hexdigest()
        known = self._known(state)
        if known is None:
            images = {i for _, e in self.records if isinstance(e, Example) for i in e.images}
            good, bad = check_records(self.records, fits, track("checking", len(images)))
        else:
            bad = known
            lines = {b.line for b in bad}
            good = [e for line, e in self.records if line not in lines and isinstance(e, Example)]
        allow(self.path, good, bad, most)
        self._checked = state, bad
        return good

    def _known(self, state: str) -> list[Bad] | None:
        try:
            record = read_json(self._record, CHECKED)
        except UserError:
            return None
        return [Bad(**b) for b in record["bad"]] if record["state"] == state else None

    @property
    def _record(self) -> Path:
        return self._folder / ".stages" / "data.json"

    def keep(self, say: Callable[[str], None]) -> None:
        """Remember what was checked, and write the records that are left out for the user to see."""
        if self._checked is None or self._known(self._checked[0]) is not None:
            return
        state, bad = self._checked
        rejected = self._folder / REJECTED
        lines = [{"file": str(self.path), "line": b.line, "reason": b.reason} for b in bad]
        if bad:
            write_text(rejected, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            say(f"data: {len(bad)} of {len(self.records)} records left out; see {rejected}")
        else:
            remove(rejected)
        self._record.parent.mkdir(exist_ok=True)
        write_json(self._record, CHECKED, {"state": state, "bad": [vars(b) for b in bad]})


def _stamp(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]
