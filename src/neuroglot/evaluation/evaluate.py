"""Ask a System, score what it says, keep every word of it; an evaluation that was interrupted resumes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.evaluation import metrics
from neuroglot.evaluation.tokenize import Tokenise, chosen
from neuroglot.file_format import SCORES, read_json, write_json, write_text

if TYPE_CHECKING:
    from neuroglot.systems.base import System

# ---- Partial results: an interrupted evaluation resumes -------------------------------------------------------------
# Notable: work is done and written in portions, and a portion is whole or it is done again. A portion is a function of
# the examples alone, so that what comes after a cut is computed in the same batches as without one, and is the same
# bit for bit. All examples that show one image, or one item, are in one portion: a chain of systems reads an image
# once.

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

    result: list[list[int]] = [[]]
    for members in sorted(groups.values(), key=long):
        if len(result[-1]) >= size:
            result.append([])
        result[-1] += members
    return [portion for portion in result if portion]


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
        result = [self._rows.get((system, split, index)) for index in portion]
        if any(k is None or k["of"] != self._of(examples[i]) for k, i in zip(result, portion, strict=True)):
            return None
        self.reused += len(portion)
        self.seconds[system] = self.seconds.get(system, 0.0) + sum(kept["seconds"] for kept in result if kept)
        return [kept["row"] for kept in result if kept]

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


# ---- Evaluation -----------------------------------------------------------------------------------------------------
# Notable: a hypothesis is written with its reference and its nats, so that any other figure can be computed later
# without the model; files appear whole or not at all.

Scores = dict[str, dict[str, dict[str, Any]]]
"""split -> pair (and "average") -> figure of `metrics.METRICS`, or "n" -> value"""

SplitProgress = Callable[[str, int, int], None]
"""Called with the split just finished, the number of finished splits and the number of splits."""


def evaluate(
    system: System,
    splits: Mapping[str, Sequence[Example]],
    progress: SplitProgress | None = None,
    partial: Partial | None = None,
    moses: bool = False,
    tokenise: Tokenise = None,
) -> tuple[Scores, list[dict[str, Any]]]:
    """Translate and score every split.

    Args:
        system: what translates; its `nll` is used where it has one, and its `tokens` where it counts them.
        splits: name -> examples; every example needs a reference.
        progress: called after each split.
        partial: keeps what was said as it comes, and gives it back after an interruption.
        moses: whether lower-cased, Moses-tokenised BLEU is wanted too.
        tokenise: BLEU's tokenisers where they are not to follow the script.

    Returns:
        Scores by split and pair (percent; nll in nats per reference character; None where the system has none or a
        figure would mean nothing, and then `reasons` says why), with the mean over pairs as `average`; and one row
        per example: system, split, task, pair, item, index, source, reference, hypothesis, `transcription` (what a
        cascade read), nll (nats of the whole target; None where it overflowed, which leaves the pair and the average
        without an nll too), and, of examples that have them, `domain` and `alternative_nll` (nats of each wrong
        alternative; no list where the system has no likelihood) with `tokens` and `alternative_tokens`, the numbers
        of tokens that these nats are of.

    Raises:
        UserError: no splits, an empty split, or an example without a reference.
    """
    _check(splits)
    size = BATCHES * getattr(system, "batch_size", 0) or PORTION
    scores: Scores = {}
    rows: list[dict[str, Any]] = []
    for done, (split, examples) in enumerate(splits.items(), start=1):
        examples = list(examples)  # of a store, each is read once
        result: dict[int, dict[str, Any]] = {}
        for portion in portions(examples, size):
            own = partial.known(system.name, split, examples, portion) if partial is not None else None
            if own is None:
                began = time.perf_counter()
                own = _asked(system, split, examples, portion)
                if partial is not None:
                    partial.keep(own, examples, time.perf_counter() - began)
            result |= {row["index"]: row for row in own}
        split_rows = [result[index] for index in range(len(examples))]
        scores[split] = score_rows(split_rows, moses, tokenise)
        rows += split_rows
        if progress is not None:
            progress(split, done, len(splits))
    return scores, rows


def _asked(system: System, split: str, every: Sequence[Example], portion: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of a portion of a split."""
    examples = [every[index] for index in portion]
    hypotheses = system.translate(examples)
    seen = getattr(system, "transcriptions", None)
    read = seen(examples) if seen is not None else [None] * len(examples)
    nats = system.nll(examples)
    wrong = _alternatives(system, examples) if nats is not None else {}
    return [
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
            **({"transcription": read[position]} if read[position] is not None else {}),
            "nll": _finite(nats[position]) if nats is not None else None,
            **wrong.get(position, {}),
            **({"domain": example.meta["domain"]} if "domain" in example.meta else {}),
        }
        for position, (index, example, hypothesis) in enumerate(zip(portion, examples, hypotheses, strict=True))
    ]


def _alternatives(system: System, examples: Sequence[Example]) -> dict[int, dict[str, Any]]:
    """Return the nats and tokens of each wrong alternative by the place of the example, where it has some."""
    places = [index for index, example in enumerate(examples) for _ in example.alternatives]
    wrong = [replace(example, target=text) for example in examples for text in example.alternatives]
    nats = system.nll(wrong) if wrong else None
    if nats is None:
        return {}
    result: dict[int, dict[str, Any]] = {}
    for index, value in zip(places, nats, strict=True):
        result.setdefault(index, {"alternative_nll": []})["alternative_nll"].append(_finite(value))
    count = getattr(system, "tokens", None)
    counted = count([*(examples[index] for index in result), *wrong]) if count is not None else None
    if counted is not None:
        for index, own in zip(result, counted, strict=False):
            result[index] |= {"tokens": own, "alternative_tokens": []}
        for index, other in zip(places, counted[len(result) :], strict=True):
            result[index]["alternative_tokens"].append(other)
    return result


def score_rows(
    rows: Iterable[Mapping[str, Any]], moses: bool = False, tokenise: Tokenise = None
) -> dict[str, dict[str, Any]]:
    """Score hypothesis rows of one system and split: pair -> figures, and `average`, the mean over pairs.

    Examples:
        >>> row = {"pair": "en-de", "reference": "eins zwei drei", "hypothesis": "eins zwei drei", "nll": None}
        >>> score_rows([row])["average"]["exact"]
        100.0
    """
    by_pair: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_pair.setdefault(row["pair"], []).append(row)
    scores = {}
    for pair, members in sorted(by_pair.items()):
        nats: list[Any] = [row.get("nll") for row in members]
        known = [result for result in map(metrics.costs, members) if result is not None]
        ranked = len(known) == len(members)
        scores[pair] = metrics.score(
            [row["hypothesis"] for row in members],
            [row["reference"] for row in members],
            pair.split("-")[1],
            None if None in nats else nats,
            [others for _, others in known] if ranked else None,
            [own for own, _ in known] if ranked else None,
            moses,
            chosen(tokenise, pair),
        )
    return {**scores, "average": metrics.average(scores.values())}


def score_domains(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Score hypothesis rows of one system and split by domain: domain -> the mean of its figures over pairs."""
    by_domain: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if "domain" in row:
            by_domain.setdefault(row["domain"], []).append(row)
    return {domain: score_rows(members)["average"] for domain, members in sorted(by_domain.items())}


def average_nll(examples: Sequence[Example], nats: Sequence[float]) -> float | None:
    """Return the mean over pairs of nats per reference character; None where some target's nats overflowed."""
    if not examples or not all(map(math.isfinite, nats)):
        return None
    pairs: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        pairs.setdefault(str(example.pair), []).append(index)
    losses = [
        metrics.nll_per_character([nats[i] for i in members], [examples[i].target for i in members])
        for members in pairs.values()
    ]
    return sum(losses) / len(losses)


def write_scores(
    path: Path | str,
    systems: Mapping[str, Scores],
    seconds: Mapping[str, float] | None = None,
    made_from: Mapping[str, Any] | None = None,
    ceilings: Mapping[str, Mapping[str, float]] | None = None,
    rows: Iterable[Mapping[str, Any]] = (),
    tokenise: Tokenise = None,
    decoding: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write scores.json atomically and return what was written.

    The signatures of every pair that occurs are added; `seconds` says how long each system took, `made_from`
    identifies what was scored, `ceilings` the exact match (percent) that no system can exceed on a split if it is
    shown only a part of each example: split -> what is shown -> percent. `rows`, those that were scored, say how
    readings were ranked and in which script the references are; `tokenise` is what `evaluate` was given, `decoding` by
    which settings each system generated.
    """
    rows = list(rows)
    references: dict[str, list[str]] = {}
    for row in rows:
        references.setdefault(row["pair"], []).append(row["reference"])
    pairs = {pair for splits in systems.values() for scores in splits.values() for pair in scores if pair != "average"}
    moses = any(metrics.MOSES in figures for splits in systems.values() for s in splits.values() for figures in
                s.values())  # fmt: skip
    content = {
        "made_from": dict(made_from or {}),
        "systems": {name: dict(splits) for name, splits in systems.items()},
        "signatures": {**metrics.signatures(pairs, moses, tokenise, references), **_ranking(rows)},
        "seconds": {name: round(value, 3) for name, value in (seconds or {}).items()},
        "decoding": {name: dict(settings) for name, settings in (decoding or {}).items() if settings},
        "ceilings": {split: dict(values) for split, values in (ceilings or {}).items()},
    }
    return write_json(Path(path), SCORES, content)


def _ranking(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return how readings were ranked, by pair; empty where none were."""
    by_pair: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("alternative_nll"):
            by_pair.setdefault(row["pair"], []).append(row)
    result = {pair: metrics.contrastive_signature(members) for pair, members in sorted(by_pair.items())}
    return {"contrastive": result} if result else {}


def read_scores(path: Path | str) -> dict[str, Any]:
    """Read scores.json.

    Raises:
        UserError: the file is missing, damaged, or of another format version.
    """
    return read_json(Path(path), SCORES)


def write_hypotheses(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write hypotheses.jsonl atomically: one object a line, every script readable as it is."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(Path(path), "".join(f"{line}\n" for line in lines))


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
