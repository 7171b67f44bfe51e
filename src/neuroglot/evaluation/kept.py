"""A user's own idea of what should not be forgotten: JSONL files of any task, or of questions with answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example
from neuroglot.data.readers import read_source
from neuroglot.errors import UserError
from neuroglot.evaluation.compare import OWN


def read_kept(
    paths: Sequence[str], items: int = 0, fits: Callable[[Example], None] = lambda example: None
) -> dict[str, Sequence[Example]]:
    """Return the examples of each file, as splits named after it, and after the task where it has several.

    Args:
        paths: the files.
        items: the first so many of each split; 0 for all.
        fits: raises a `UserError` about an example that the model cannot take.

    Raises:
        UserError: a file is missing or empty, two have one name, or a record cannot be used: with its line.
    """
    found: dict[str, Sequence[Example]] = {}
    for path in map(Path, paths):
        by_task: dict[str, list[Example]] = {}
        for line, example in _records(path):
            try:
                if isinstance(example, UserError):
                    raise example
                fits(example)
            except UserError as error:
                raise UserError(f"evaluate.retention: {path} line {line}: {error}") from None
            by_task.setdefault(example.task, []).append(example)
        if not by_task:
            raise UserError(f"evaluate.retention: {path} holds no examples; expected one JSON object a line")
        for task, examples in by_task.items():
            name = f"{OWN}{path.stem}" + (f" {task}" if len(by_task) > 1 else "")
            if name in found:
                raise UserError(f"evaluate.retention has two files called {path.stem}; rename one of them")
            chosen = set(list(dict.fromkeys(e.item for e in examples))[: items or None])
            found[name] = [e for e in examples if e.item in chosen]
    return found


def identity(paths: Sequence[str]) -> Any:
    """Return what identifies the files: their content, and size and time of change of the images that they name.

    Raises:
        UserError: one is missing.
    """
    parts = []
    for path in map(Path, paths):
        digest = hashlib.sha256()
        images = {i for _, e in _records(path) if isinstance(e, Example) for i in e.images if isinstance(i, Path)}
        for image in sorted(images):
            status = image.stat() if image.is_file() else None
            digest.update(repr((str(image), status and (status.st_size, status.st_mtime_ns))).encode())
        parts.append([str(path), hashlib.sha256(path.read_bytes()).hexdigest(), digest.hexdigest()])
    return parts


def _records(path: Path) -> Iterator[tuple[int, Example | UserError]]:
    if not path.is_file():
        raise UserError(f"evaluate.retention: {path} does not exist; expected a JSONL file")
    return read_source(path)
