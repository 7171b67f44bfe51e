"""One pass over a corpus: it collects counts, histograms and a few hashes per example; findings follow from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neuroglot.data.example import Example, ImageSource, RenderSpec
from neuroglot.data.readers.checked import blocks
from neuroglot.data.store import hash_text
from neuroglot.errors import UserError
from neuroglot.synthetic.fonts import MissingGlyphError
from neuroglot.validation.duplicates import Columns
from neuroglot.validation.findings import (
    KINDS,
    LEFT_OUT,
    LISTED,
    SEVERITIES,
    Cell,
    Finding,
    Plan,
    Tally,
    counts,
    leaks,
    repeats,
    replayed,
    splits,
)
from neuroglot.validation.images import Look, Looks
from neuroglot.validation.texts import Histogram, Lengths, Swaps, faults, judged

if TYPE_CHECKING:
    from neuroglot.data.batch import Batcher
    from neuroglot.data.readers.checked import Fits


class Record(NamedTuple):
    """Position of a record (line or number, from 1), its example or error, and its split."""

    position: int
    content: Example | UserError
    split: str = ""


Read = Callable[[], Iterable[Record]]
"""Reads the source from the start; it is read again to show the texts of findings made from hashes."""

Progress = Callable[[str, int], None]
"""Called with the step (`read`, `measured`) and the number done."""


@dataclass(frozen=True)
class Report:
    """Result of a check.

    Attributes:
        source: what was checked.
        records: number of records; one may have an example for each of several pairs.
        examples: number of examples that can be read, with their images.
        counts: a row for every task, pair and split; see `conclusions.counts`.
        findings: the most serious first.
        lengths: name -> histogram, of characters (all examples) and tokens (those measured).
        measured: number of examples measured with the model's tokenizer.
        context: most tokens of a sample; 0 for no limit.
        over: number of measured examples with more tokens.
    """

    source: str
    records: int
    examples: int
    counts: Sequence[Mapping[str, Any]]
    findings: tuple[Finding, ...]
    lengths: Mapping[str, Histogram]
    measured: int
    context: int
    over: int

    def of(self, severity: str) -> list[Finding]:
        """Return the findings of one severity."""
        return [f for f in self.findings if f.severity == severity]

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return headings and rows of the counts: pair, task, and examples in each split that has any."""
        rows: dict[tuple[str, str], dict[str, int]] = {}
        for row in self.counts:
            task = row["task"].replace("_", " ") + ("" if row["used"] else " (not the recipe's)")
            rows.setdefault((row["pair"], task), {})[row["split"]] = row["examples"]
        splits = [split for split in SPLITS if any(split in by_split for by_split in rows.values())]
        return ["pair", "task", *splits], [[*names, *map(by_split.get, splits)] for names, by_split in rows.items()]

    def facts(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "source": self.source,
            "records": self.records,
            "examples": self.examples,
            **{f"{severity}s": len(self.of(severity)) for severity in SEVERITIES},
            "findings": [asdict(f) for f in self.findings],
            "counts": list(self.counts),
            "lengths": {name: histogram.facts() for name, histogram in self.lengths.items()},
            "measured": self.measured,
            "context": self.context,
            "over_context": self.over,
        }


def check(
    read: Read,
    plan: Plan,
    batcher: Batcher | None = None,
    fits: Fits | None = None,
    sample: int = 10_000,
    progress: Progress = lambda what, done: None,
) -> Report:
    """Check a corpus.

    Memory does not grow with the texts: an example takes 64 bytes, a different image about 150.

    Args:
        read: returns the records; called again to show findings with their texts.
        plan: what the recipe asks of the data.
        batcher: the model's, for tokens; None to leave out checks that need a model.
        fits: refuses an example that the model cannot take; by default one that cannot be encoded.
        sample: number of examples measured with the model's tokenizer, a uniform random sample; 0 for all.
        progress: called with the progress.

    Raises:
        UserError: the whole source cannot be read.
    """
    run = _Pass(Lengths(batcher, fits, sample))
    for block in blocks(read(), lambda record: record.content):
        run.take(block)
        progress("read", run.entries)
    _find_swaps(run, read)
    run.lengths.finish(progress)
    table = counts(run.cells, run.columns, plan)

    findings = [*splits(table, plan), *_unusable(run, plan.max_bad)]
    findings += [t.finding(kind, len(run.columns)) for kind, t in run.tallies.items() if kind not in UNUSABLE]
    drawn = [*repeats(run.columns), *leaks(run.cells, run.columns), *replayed(run.cells, run.columns, plan)]
    findings += _with_texts(drawn, read)
    kinds = list(KINDS)
    return Report(
        source=plan.source,
        records=run.records,
        examples=len(run.columns),
        counts=sorted(table, key=lambda row: (not row["used"], row["task"], row["pair"], SPLITS.index(row["split"]))),
        findings=tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.kind)))),
        lengths=run.lengths.histograms,
        measured=run.lengths.measured,
        context=batcher.max_length if batcher else 0,
        over=run.lengths.over,
    )


SPLITS = ("train", "dev", "test", "heldout")
UNUSABLE = tuple(kind for kind in LEFT_OUT if kind != "refused")
"""Kinds that need no model."""


def _unusable(run: _Pass, most: int) -> Iterator[Finding]:
    """Yield findings of what a run leaves out: errors if it is more than the recipe allows."""
    refused = run.lengths.refused
    share = refused.count / max(1, run.lengths.measured)
    tallies = {**{kind: run.tallies[kind] for kind in UNUSABLE}, "refused": refused}
    out = sum(run.tallies[kind].count for kind in UNUSABLE)
    out += round(share * run.lengths.offered)
    severity = "error" if out > most else "warning"
    for kind, tally in tallies.items():
        if tally.count:
            sampled = kind == "refused" and run.lengths.measured < run.lengths.offered
            remark = f"a sample of {run.lengths.offered:,}" if sampled else f"data.max_bad is {most}"
            total = run.lengths.measured if kind == "refused" else run.entries
            yield tally.finding(kind, total, severity=severity, remark=remark,
                                subject="records" if kind == "bad_record" else "examples")  # fmt: skip


def _find_swaps(run: _Pass, read: Read) -> None:
    """Read the counted examples again, and add the swapped ones to the tally."""
    if not run.swaps.examples:
        return
    every = ((r.position, r.content) for r in read() if isinstance(r.content, Example))
    for position, example in islice(((p, e) for p, e in every if judged(e)), run.swaps.examples):
        if run.swaps.swapped(example):
            run.tallies["swapped"].add(position, f"{example.source} · {example.target}")


class _Pass:
    """Data collected from the records that were read."""

    def __init__(self, lengths: Lengths) -> None:
        self.lengths = lengths
        self.columns = Columns()
        self.swaps = Swaps()
        self.tallies: dict[str, Tally] = defaultdict(Tally) | {kind: Tally(LISTED) for kind in UNUSABLE}
        self.entries = 0
        self.records = 0
        self._position = 0
        self._looks = Looks()
        self._numbers: dict[Cell, int] = {}
        self._known: dict[tuple[str, str, str, str], int] = {}

    @property
    def cells(self) -> list[Cell]:
        """Task, pair and split, by number."""
        return list(self._numbers)

    def take(self, block: Sequence[Record]) -> None:
        """Add a block of records."""
        images = [i for r in block if isinstance(r.content, Example) for i in r.content.images]
        looks = self._looks.at(images) if images else {}
        for record in block:
            ordinal, self.entries = self.entries, self.entries + 1
            self.records += record.position != self._position  # a record may be an example of several pairs
            self._position = record.position
            if isinstance(record.content, UserError):
                self.tallies["bad_record"].add(record.position, "", str(record.content))
            else:
                self._take(ordinal, record, record.content, looks)

    def _take(
        self, ordinal: int, record: Record, example: Example, looks: Mapping[ImageSource, Look | UserError]
    ) -> None:
        shown: list[Look] = []
        for image in example.images:
            look = looks[image]
            if isinstance(look, UserError):
                self.tallies[_fault(image, look)].add(record.position, _name(image), str(look))
                return
            shown.append(look)
        empty = False
        for kind, why in faults(example):
            empty |= kind == "empty_target"
            self.tallies[kind].add(record.position, example.target, why)
        content = shown[0].content if len(shown) == 1 else hash_text(repr([f.content for f in shown])) if shown else 0
        look_hash = shown[0].look if len(shown) == 1 else 0
        self.columns.add(ordinal, self._cell(example, record.split), example, content, look_hash)
        self.swaps.add(example)
        if not empty:
            self.lengths.offer(record.position, example, [(f.width, f.height) for f in shown])

    def _cell(self, example: Example, split: str) -> int:
        key = (example.task, example.source_lang, example.target_lang, split)
        if key not in self._known:
            cell = Cell(example.task, str(example.pair), split)
            self._known[key] = self._numbers.setdefault(cell, len(self._numbers))
        return self._known[key]


def _with_texts(findings: Sequence[Finding], read: Read) -> list[Finding]:
    """Return findings with positions and texts of their examples, read again as far as needed."""
    wanted = {position for f in findings for example in f.examples for position in example.values()}
    by_ordinal: dict[int, dict[str, Any]] = {}
    for ordinal, record in enumerate(islice(read(), max(wanted) + 1) if wanted else ()):
        if ordinal in wanted and isinstance(record.content, Example):
            e = record.content
            by_ordinal[ordinal] = {"position": record.position, "split": record.split, "pair": str(e.pair)}
            by_ordinal[ordinal] |= {"text": (e.source or "")[:200], "target": e.target[:200]}
            by_ordinal[ordinal] |= {"image": _name(e.images[0])} if e.images else {}
    return [
        replace(f, examples=tuple({**by_ordinal[e["ordinal"]], "like": by_ordinal[e["earlier"]]} for e in f.examples))
        for f in findings
    ]


def _fault(image: ImageSource, error: UserError) -> str:
    """Return the kind of finding for an image that cannot be used."""
    if not isinstance(image, RenderSpec):
        return "bad_image"
    return "missing_font" if isinstance(error, MissingGlyphError) else "cannot_render"


def _name(image: ImageSource) -> str:
    if isinstance(image, Path):
        return str(image)
    return f"{len(image):,} bytes" if isinstance(image, bytes) else f"{image.kind} {image.text[:80]!r}"
