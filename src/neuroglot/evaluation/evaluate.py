"""Ask a System, score what it says, keep every word of it.

Notable: a hypothesis is written with its reference and its nats, so that any other figure can be computed later
without the model; files appear whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.evaluation import metrics

if TYPE_CHECKING:  # only the interface is needed: scoring files must not wait for torch to load
    from neuroglot.systems.base import System

FORMAT = "neuroglot-scores-1"

Scores = dict[str, dict[str, dict[str, Any]]]
"""split -> pair (and "average") -> {"bleu", "chrf", "exact", "nll", "n"}"""

SplitProgress = Callable[[str, int, int], None]
"""Called with the split just finished, the number of finished splits and the number of splits."""


def evaluate(
    system: System, splits: Mapping[str, Sequence[Example]], progress: SplitProgress | None = None
) -> tuple[Scores, list[dict[str, Any]]]:
    """Translate and score every split.

    Args:
        system: what translates; its `nll` is used where it has one.
        splits: name -> examples; every example needs a reference.
        progress: called after each split.

    Returns:
        Scores by split and pair (percent; nll in nats per reference character, None where the system has none),
        with the mean over pairs as `average`; and one row per example: system, split, task, pair, item, index,
        source, reference, hypothesis, nll (nats of the whole target; None where it overflowed, which leaves the
        pair and the average without an nll too).

    Raises:
        UserError: no splits, an empty split, or an example without a reference.
    """
    _check(splits)
    scores: Scores = {}
    rows: list[dict[str, Any]] = []
    for done, (split, examples) in enumerate(splits.items(), start=1):
        hypotheses = system.translate(examples)
        nats = system.nll(examples)
        split_rows = [
            {
                "system": system.name,
                "split": split,
                "task": example.task,
                "pair": str(example.pair),
                "item": example.item,
                "index": index,
                "source": example.source,
                "reference": example.target,
                "hypothesis": hypothesis,
                "nll": _finite(nats[index]) if nats is not None else None,
            }
            for index, (example, hypothesis) in enumerate(zip(examples, hypotheses, strict=True))
        ]
        scores[split] = score_rows(split_rows)
        rows += split_rows
        if progress is not None:
            progress(split, done, len(splits))
    return scores, rows


def score_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Score hypothesis rows of one system and split: pair -> figures, and `average`, the mean over pairs.

    >>> row = {"pair": "en-de", "reference": "eins zwei drei vier", "hypothesis": "eins zwei drei vier", "nll": None}
    >>> score_rows([row])["average"]["exact"]
    100.0
    """
    by_pair: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_pair.setdefault(row["pair"], []).append(row)
    scores = {}
    for pair, members in sorted(by_pair.items()):
        nats = [row["nll"] for row in members]
        scores[pair] = metrics.score(
            [row["hypothesis"] for row in members],
            [row["reference"] for row in members],
            pair.split("-")[1],
            None if None in nats else nats,
        )
    return {**scores, "average": metrics.average(scores.values())}


def write_scores(
    path: Path | str, systems: Mapping[str, Scores], seconds: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Write scores.json atomically and return what was written.

    The signatures of every pair that occurs are added; `seconds` says how long each system took.
    """
    pairs = {pair for splits in systems.values() for scores in splits.values() for pair in scores if pair != "average"}
    content = {
        "format": FORMAT,
        "systems": {name: dict(splits) for name, splits in systems.items()},
        "signatures": metrics.signatures(pairs),
        "seconds": {name: round(value, 3) for name, value in (seconds or {}).items()},
    }
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return content


def read_scores(path: Path | str) -> dict[str, Any]:
    """Read scores.json.

    Raises:
        UserError: the file is missing, is no JSON, or is of another format version.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the evaluate stage first") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run the evaluate stage again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: format {got!r}, expected {FORMAT!r}; run the evaluate stage again")
    return content


def write_hypotheses(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write hypotheses.jsonl atomically: one object a line, every script readable as it is."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def write_atomically(path: Path | str, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # the same folder: a rename, never a copy
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check(splits: Mapping[str, Sequence[Example]]) -> None:
    if not splits:
        raise UserError("there is nothing to evaluate: no splits; give at least one, such as image_translation")
    for split, examples in splits.items():
        if not examples:
            raise UserError(f"split {split!r} is empty; give it examples or leave it out")
        for index, example in enumerate(examples):
            if not example.target:
                raise UserError(
                    f"split {split!r}: example {index} ({example.item or 'unnamed'}) has no reference; "
                    "expected a target text to score against"
                )
