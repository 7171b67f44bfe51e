"""A user's own idea of what should not be forgotten: sources of any task and layout, or questions with answers.

CoMMuTE is one of them: beside what was trained, how often is the right reading of an ambiguous sentence likelier?
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example
from neuroglot.data.paths import stamp
from neuroglot.data.readers import Layout, guess_format, published, read_source
from neuroglot.errors import UserError
from neuroglot.evaluation.significance import OWN


def read_retention(
    paths: Sequence[str],
    items: int = 0,
    fits: Callable[[Example], None] = lambda example: None,
    pairs: Sequence[str] = (),
    root: Path | None = None,
) -> dict[str, Sequence[Example]]:
    """Return the examples of each source, as splits named after it, and after the task where it has several.

    Args:
        paths: the sources, in any layout; of those that say so, what is there for testing.
        items: the first so many of each split; 0 for all.
        fits: raises a `UserError` about an example that the model cannot take.
        pairs: of a corpus, a folder, only these; a file is taken as it is.
        root: the folder that all images must lie in; None for no bound.

    Raises:
        UserError: a source is missing or empty, two have one name, or a record that would be used cannot be: with its
            file and line.
    """
    result: dict[str, Sequence[Example]] = {}
    for path in map(Path, paths):
        by_task: dict[str, list[tuple[str, Example]]] = {}
        for position, example in _records(path, pairs, root):
            if isinstance(example, UserError):
                raise UserError(f"evaluate.retention: {position}: {example}")
            tested = example.meta.get("split") in (None, "test")
            if tested and (path.is_file() or not pairs or str(example.pair) in pairs):
                by_task.setdefault(example.task, []).append((position, example))
        if not by_task:
            raise UserError(
                f"evaluate.retention: {path} holds no examples to test; expected one JSON object a line, or a corpus "
                "with a test split" + (f" in {', '.join(pairs)}" if pairs else "")
            )
        for task, examples in by_task.items():
            name = f"{OWN}{path.stem}" + (f" {task}" if len(by_task) > 1 else "")
            if name in result:
                raise UserError(f"evaluate.retention has two sources called {path.stem}; rename one of them")
            chosen = set(list(dict.fromkeys(e.item for _, e in examples))[: items or None])
            used = [(position, e) for position, e in examples if e.item in chosen]
            for position, example in used:
                try:
                    fits(example)
                except UserError as error:
                    raise UserError(f"evaluate.retention: {position}: {error}") from None
            result[name] = [e for _, e in used]
    return result


def identity(paths: Sequence[str]) -> Any:
    """Return what identifies the sources: of a file its content, and size and time of change of the images that it
    names; of a folder size and time of change of all that it holds.

    Raises:
        UserError: one is missing.
    """
    parts = []
    for path in map(Path, paths):
        if path.is_dir():
            named, content = {file for file in path.rglob("*") if file.is_file()}, b""
        else:
            examples = (example for _, example in _records(path) if isinstance(example, Example))
            named = {image for example in examples for image in example.images if isinstance(image, Path)}
            content = path.read_bytes()
        digest = hashlib.sha256()
        for file in sorted(named):
            digest.update(repr((str(file), stamp(file))).encode())
        parts.append([str(path), hashlib.sha256(content).hexdigest(), digest.hexdigest()])
    return parts


def _records(
    path: Path, pairs: Sequence[str] = (), root: Path | None = None
) -> Iterator[tuple[str, Example | UserError]]:
    """Yield the records of a source, each with its file and line; of CoMMuTE only those that are used."""
    if not path.exists():
        raise UserError(f"evaluate.retention: {path} does not exist; expected a JSONL file, or a corpus")
    if guess_format(path) == "commute":
        for folder, (pair, split) in published.directions(path).items():
            if split == "test" and (not pairs or str(pair) in pairs):
                for line, record in read_source(folder, Layout(root=root)):
                    yield f"{folder / published.ORDER} line {line}", record
        return
    for number, record in read_source(path, Layout(root=root)):
        item = f" (item {record.item})" if isinstance(record, Example) and record.item else ""
        yield f"{path} line {number}" if path.is_file() else f"{path} record {number}{item}", record
