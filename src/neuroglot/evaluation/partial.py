"""An evaluation that was cut off goes on: what a system said already is in a file that only ever grows.

Notable: work is done and written in portions, and a portion is whole or it is done again. A portion is a function of
the examples alone, so that what comes after a cut is computed in the same batches as without one, and is the same bit
for bit. All examples that show one image, or one item, are in one portion: a chain of systems reads an image once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example

BATCHES = 4
"""Batches of a system in a portion."""
PORTION = 64
"""Examples in a portion of a system that says nothing of batches."""


def portions(examples: Sequence[Example], size: int) -> list[list[int]]:
    """Divide examples into portions of at least `size`, the last excepted; return indices into `examples`.

    The longest come first, as in `length_sorted_batches`: running out of memory then shows at once.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(example.images or example.item or index, []).append(index)

    def long(members: list[int]) -> tuple[int, int]:
        texts = [examples[i].target or examples[i].source or "" for i in members]
        return -len(examples[members[0]].images), -max(map(len, texts))

    found: list[list[int]] = [[]]
    for members in sorted(groups.values(), key=long):
        if len(found[-1]) >= size:
            found.append([])
        found[-1] += members
    return [portion for portion in found if portion]


class Partial:
    """What was said so far, a JSON object a line.

    Args:
        path: the file; made when the first portion is there.
        made_from: whatever the answers depend on beside the examples; answers made from anything else do not count.
    """

    def __init__(self, path: Path, made_from: str = "") -> None:
        self.path = path
        self.made_from = made_from
        self.reused = 0
        """How many answers were there already."""
        self.seconds: dict[str, float] = {}
        """System -> how long these had taken."""
        self._rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            try:
                kept = json.loads(line if line.endswith(b"\n") else b"")
                row = kept["row"]
                self._rows[row["system"], row["split"], row["index"]] = kept
            except Exception:  # cut off while it was written
                break
            whole += len(line)
        if path.exists() and path.stat().st_size > whole:
            os.truncate(path, whole)

    def known(
        self, system: str, split: str, examples: Sequence[Example], portion: Sequence[int]
    ) -> list[dict[str, Any]] | None:
        """Return the rows of a portion; None unless all of them are there and were made from the same."""
        found = [self._rows.get((system, split, index)) for index in portion]
        if any(k is None or k["of"] != self._of(examples[i]) for k, i in zip(found, portion, strict=True)):
            return None
        self.reused += len(portion)
        self.seconds[system] = self.seconds.get(system, 0.0) + sum(kept["seconds"] for kept in found if kept)
        return [kept["row"] for kept in found if kept]

    def keep(self, rows: Sequence[Mapping[str, Any]], examples: Sequence[Example], seconds: float) -> None:
        """Append the rows of a portion, and make sure that they are on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        each = round(seconds / max(len(rows), 1), 6)
        lines = ({"of": self._of(examples[row["index"]]), "seconds": each, "row": row} for row in rows)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def _of(self, example: Example) -> str:
        asked = (example.images, example.source, example.target, str(example.pair), example.task, example.alternatives)
        said = repr((self.made_from, *asked, example.item, example.meta.get("instruction")))
        return hashlib.sha256(said.encode("utf-8", "backslashreplace")).hexdigest()[:16]
