"""Findings: their kinds and severities, and those from the counts and hashes of a whole corpus."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroglot.data.corpus import RETAINED
from neuroglot.errors import nearest
from neuroglot.validation.duplicates import Columns, alike, mixed, repeated, rows_of, shared

# ---- Findings -------------------------------------------------------------------------------------------------------

SEVERITIES = ("error", "warning", "note")
"""`error`: training would refuse or be wrong. `warning`: should be inspected. `note`: for information."""

SHOWN = 5
"""Most examples listed in a finding."""

LEFT_OUT = ("bad_record", "bad_image", "missing_font", "cannot_render", "refused")
"""Kinds of records that a run leaves out or refuses."""

LISTED = 1000
"""Most records listed, each with its reason, that a run leaves out."""

REASONS = 200
"""Most different reasons that are counted separately; further ones are counted together."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding: its default severity, what it says about `count` examples, and what to do."""

    severity: str
    says: str
    advice: str


KINDS: dict[str, Kind] = {
    "bad_record": Kind("error", "cannot be read as an example", "repair them, or allow them with data.max_bad"),
    "bad_image": Kind("error", "name an image that is missing or cannot be opened",
                      "repair them, or allow them with data.max_bad"),
    "missing_font": Kind("error", "hold a character that no installed font can draw",
                         "install a font (Debian: apt-get install fonts-noto-core fonts-noto-cjk), or allow them with "
                         "data.max_bad"),
    "cannot_render": Kind("error", "hold a text that cannot be drawn",
                          "shorten them, render them larger, or allow them with data.max_bad"),
    "refused": Kind("error", "would be refused by the model's processor",
                    "leave them out, raise data.max_length, or allow them with data.max_bad"),
    "no_examples": Kind("error", "the recipe's task and pairs have no example", "change task or data.pairs"),
    "empty_split": Kind("error", "have no example in a split that a run needs", "add some, or mark some with a split"),
    "small_split": Kind("warning", "with too few examples in a split to say much", "add some, or leave the pair out"),
    "empty_target": Kind("error", "have a target that is empty or blank", "remove them"),
    "swapped": Kind("warning", "seem to have source and target the wrong way round",
                    "swap the two texts, or source_lang and target_lang"),
    "identical_target": Kind("warning", "have a target that is the source text, in another language",
                             "see whether they were left untranslated"),
    "code_fence": Kind("warning", "have a code fence in the target", "strip what the generator added"),
    "label": Kind("warning", "have a target that begins with a label such as `Translation:`",
                  "strip what the generator added"),
    "chatter": Kind("warning", "have a target that talks about the translation", "strip what the generator added"),
    "reasoning": Kind("warning", "have a target with a model's reasoning (<think>)", "strip what the generator added"),
    "image_mark": Kind("warning", "have the mark of an image (<image>) in the target", "remove it: targets are texts"),
    "json_wrapper": Kind("warning", "have a target wrapped in JSON", "take the text out of it"),
    "html": Kind("warning", "have HTML entities or tags in the target", "unescape them"),
    "quotes": Kind("warning", "have a target with an unbalanced quotation mark", "see whether the text was cut"),
    "replacement_character": Kind("warning", "hold U+FFFD, where a byte was lost", "decode the source file again"),
    "decomposed": Kind("warning", "have a text that is not in Unicode's composed form (NFC)",
                       "normalise them: two spellings of one text are two texts to a model"),
    "same_reading": Kind("warning", "have a wrong reading that is the target, or twice the same one",
                         "remove it: nothing can be told apart by it"),
    "foreign_script": Kind("warning", "have a target in a script that its language is not written in",
                           "see whether the language code is right"),
    "repeated_example": Kind("warning", "repeat an earlier example of their split: same input, same target",
                             "remove them, or they count twice"),
    "repeated_image": Kind("note", "repeat an image with its target beside another source text",
                           "see that it is meant"),
    "repeated_text": Kind("note", "repeat a source text with its target beside another image", "see that it is meant"),
    "leaked_input": Kind("error", "show the model what an earlier split showed it", "remove them from one of the two"),
    "leaked_source": Kind("warning", "have a source text that an earlier split has too",
                          "remove them from one of the two"),
    "leaked_image": Kind("warning", "show an image that an earlier split shows too, beside another source text",
                         "report such images apart"),
    "leaked_near_image": Kind("warning", "show an image that looks like one of an earlier split",
                              "look at some of them, and remove what is the same picture"),
    "leaked_replay": Kind("warning", "of another task share an item, an image or a source text with what is tested",
                          "remove them: data.replay leaves out what it can tell by names and texts"),
    "cleaned": Kind("note", "have a text that was cleaned when it was read", "see that nothing of it is missing"),
    "other_split": Kind("warning", "name another split than the file that they are in",
                        "see that nothing is both trained and tested"),
    "unused": Kind("note", "are more than the recipe takes", "raise data.train to use them"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        kind: a name in `KINDS`.
        severity: one of `SEVERITIES`.
        count: number of examples, records or pairs that it is about.
        total: number out of which; 0 if it has no meaning.
        where: the task, pair or splits that it is about; empty if it is about all.
        message: one line for the user.
        examples: the first few, or the first thousand of those that a run leaves out; each with its position (line or
            record) if it has one.
        reasons: reasons with their counts, the most frequent first.
    """

    kind: str
    severity: str
    count: int
    total: int = 0
    where: str = ""
    message: str = ""
    examples: tuple[Mapping[str, Any], ...] = ()
    reasons: tuple[tuple[str, int], ...] = ()


def finding(
    kind: str,
    count: int,
    total: int = 0,
    where: str = "",
    severity: str = "",
    subject: str = "examples",
    remark: str = "",
    **more: Any,
) -> Finding:
    """Return a finding with its message: count and total, what is wrong, and what to do."""
    known = KINDS[kind]
    share = f" of {total:,} ({_percent(count, total)})" if total else ""
    subject_text = f"{count:,}{share} {subject}" if count != 1 or share else f"1 {subject.removesuffix('s')}"
    statement = known.says if kind == "no_examples" else f"{subject_text} {known.says}"
    message = f"{statement}{f' ({where})' if where else ''}{f'; {remark}' if remark else ''}; {known.advice}"
    return Finding(kind, severity or known.severity, count, total, where, message, **more)


def _percent(count: int, total: int) -> str:
    share = 100 * count / total
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


@dataclass
class Tally:
    """Count, first examples and reasons of one kind; its size is bounded."""

    most: int = SHOWN
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, position: int, text: str, why: str = "") -> None:
        """Count one example, and list it if it is among the first."""
        self.count += 1
        again = bool(self.examples) and self.examples[-1]["position"] == position  # the same record in another pair
        if len(self.examples) < self.most and not again:
            self.examples.append({"position": position, "text": text[:200]} | ({"why": why} if why else {}))
        if why:
            reason = _reason(why)
            self.reasons[reason if reason in self.reasons or len(self.reasons) < REASONS else "other reasons"] += 1

    def finding(self, kind: str, total: int, **more: Any) -> Finding:
        """Return the tally as a finding."""
        reasons = tuple(self.reasons.most_common(20))
        return finding(kind, self.count, total, examples=tuple(self.examples), reasons=reasons, **more)


_QUOTED = re.compile(r"(?<![^\s(\[])(?:'[^']{4,}'|\"[^\"]{4,}\")(?!\w)")
_PLACE = re.compile(r"(?<!\w)(?:[A-Za-z]:)?[\w.~-]*[/\\][^\s;:]*")
_NUMBER = re.compile(r"(?<![\w+])\d[\d,.]*")


def _reason(why: str) -> str:
    """Return a reason without the values of its record, so that similar ones count as one."""
    return _NUMBER.sub("N", _PLACE.sub("…", _QUOTED.sub("…", why))).partition("; ")[0][:160]


# ---- Findings about a whole corpus ----------------------------------------------------------------------------------

Rows = NDArray[np.intp]
ORDER = (("train", "dev"), ("train", "test"), ("train", "heldout"), ("dev", "test"))
"""Earlier and later split: the later one should share nothing with the earlier one."""

SOME = 0.01
"""Share of a test split above which inputs seen in training make its score wrong."""

FEW_TRAIN, FEW_TEST = 50, 20
"""Fewest examples of a pair for training, and for a useful interval of a score."""


@dataclass(frozen=True)
class Plan:
    """What a recipe asks of its data.

    Attributes:
        source: name of the data.
        task: the task that is trained.
        pairs: in text form; empty for all.
        train: number of source items that are used.
        max_bad: number of records that may be left out.
        made: whether the examples are generated, so that none of them can be missing.
        replays: whether other tasks are also trained.
    """

    source: str
    task: str
    pairs: tuple[str, ...] = ()
    train: int = 10**9
    max_bad: int = 0
    made: bool = False
    replays: bool = False


class Cell(NamedTuple):
    """Examples that are counted together."""

    task: str
    pair: str
    split: str


def counts(cells: Sequence[Cell], columns: Columns, plan: Plan) -> list[dict[str, Any]]:
    """Return a row for each cell: task, pair, split, examples, different items, and whether the recipe uses it."""
    cell = columns["cell"].astype(np.int64)
    examples = np.bincount(cell, minlength=len(cells))
    _, first = np.unique(mixed(columns["cell"], columns["item"]), return_index=True)
    items = np.bincount(cell[first], minlength=len(cells))
    return [
        {**c._asdict(), "examples": int(n), "items": int(m),
         "used": c.task == plan.task and (not plan.pairs or c.pair in plan.pairs)}
        for c, n, m in zip(cells, examples, items, strict=True)
    ]  # fmt: skip


def repeats(columns: Columns) -> Iterator[Finding]:
    """Yield findings of examples that repeat an earlier one of their task, pair and split; by record ordinals."""
    cell, image, source, target = (columns[name] for name in ("cell", "image", "source", "target"))
    every = np.arange(len(columns))
    total = len(columns)
    known = every[columns["shown"] != 0]
    repeated_rows, first = repeated(mixed(cell, columns["shown"], source, target), known)
    yield from _found("repeated_example", repeated_rows, first, total, columns)
    rest = np.setdiff1d(every, repeated_rows, assume_unique=True)
    later, first = repeated(mixed(cell, image, target), rest[image[rest] != 0])
    yield from _found("repeated_image", later, first, total, columns)
    later, first = repeated(mixed(cell, source, target), rest[(source[rest] != 0) & (image[rest] != 0)])
    yield from _found("repeated_text", later, first, total, columns)


def leaks(cells: Sequence[Cell], columns: Columns) -> Iterator[Finding]:
    """Yield findings of what a later split shares with an earlier one, for each task.

    An example counts once: for its whole input, else for its source text, else for its image, else for a similar
    image.
    """

    def rows(task: str, split: str) -> Rows:
        return rows_of(columns["cell"], [n for n, c in enumerate(cells) if (c.task, c.split) == (task, split)])

    for task in dict.fromkeys(c.task for c in cells):
        for earlier, later in ORDER:
            before, after = rows(task, earlier), rows(task, later)
            rest, where = after, f"{task}, {earlier} and {later}"
            for kind, (name, what) in _LEAKS.items():
                key = columns[name]
                hits, first = shared(key, rest[key[rest] != 0], before)
                rest = np.setdiff1d(rest, hits, assume_unique=True)
                severity = ""
                if kind == "leaked_input" and not (earlier == "train" and later != "dev" and _many(hits, after)):
                    severity = "warning"
                distinct = len(np.unique(key[hits]))
                remark = f"{distinct:,} different {what}{'s' * (distinct > 1)}" if distinct < len(hits) else ""
                options = {"where": where, "severity": severity, "remark": remark}
                yield from _found(kind, hits, first, len(after), columns, **options)
            hits, first = alike(columns["look"], rest, before)
            yield from _found("leaked_near_image", hits, first, len(after), columns, where=where)


def replayed(cells: Sequence[Cell], columns: Columns, plan: Plan) -> Iterator[Finding]:
    """Yield findings of what replayed tasks share with the tested examples of other tasks."""
    if not plan.replays:
        return
    for task in dict.fromkeys(c.task for c in cells if c.task in RETAINED and c.task != plan.task):
        numbers = [number for number, c in enumerate(cells) if (c.task, c.split) == (task, "train")]
        others = [number for number, c in enumerate(cells) if c.task != task and c.split not in ("train", "")]
        trained, tested = rows_of(columns["cell"], numbers), rows_of(columns["cell"], others)
        earlier_row: dict[int, int] = {}
        for name in ("item", "source", "image"):
            key = columns[name]
            hits, first = shared(key, trained[key[trained] != 0], tested)
            for hit, other in zip(hits.tolist(), first.tolist(), strict=True):
                earlier_row.setdefault(hit, other)
        later = np.array(sorted(earlier_row), dtype=np.intp)
        first = np.array([earlier_row[row] for row in later.tolist()], dtype=np.intp)
        yield from _found("leaked_replay", later, first, len(trained), columns, where=f"{task}, replayed")


_LEAKS = {
    "leaked_input": ("shown", "input"),
    "leaked_source": ("source", "source text"),
    "leaked_image": ("image", "image"),
}
"""Kind -> what is compared, and its name."""


def _many(hits: Rows, rows: Rows) -> bool:
    return len(hits) > SOME * len(rows)


def _found(kind: str, later: Rows, first: Rows, total: int, columns: Columns, **options: Any) -> Iterator[Finding]:
    if not len(later):
        return
    ordinal = columns["ordinal"]
    _, fresh = np.unique(columns["item"][later], return_index=True)  # an item of several pairs is listed once
    fresh = np.sort(fresh)[:SHOWN]
    shown = zip(later[fresh], first[fresh], strict=True)
    examples = tuple({"ordinal": int(ordinal[a]), "earlier": int(ordinal[b])} for a, b in shown)
    yield finding(kind, len(later), total, examples=examples, **options)


def splits(table: Sequence[Mapping[str, Any]], plan: Plan) -> Iterator[Finding]:
    """Yield findings of missing examples, which a run would refuse, and of too few or unused ones."""
    by_pair: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in table:
        if row["task"] == plan.task:
            by_pair.setdefault(row["pair"], {})[row["split"]] = row
    if not by_pair:
        tasks = ", ".join(sorted({row["task"] for row in table})) or "nothing"
        yield finding("no_examples", 1, subject="tasks", where=plan.task, remark=f"the data have {tasks}")
        return
    for pair in plan.pairs:
        if pair not in by_pair:
            yield finding("no_examples", 1, subject="pairs", where=pair, remark=nearest(pair, by_pair))
    for split, few in (("train", FEW_TRAIN), ("test", FEW_TEST)):
        rows = {pair: by_pair[pair].get(split) for pair in plan.pairs or by_pair if pair in by_pair}
        counted = {pair: row["examples"] if row else 0 for pair, row in rows.items()}
        lacking = {pair: n for pair, n in counted.items() if n < few and not (plan.made and n)}
        empty, small = [p for p, n in lacking.items() if not n], [f"{p} {n}" for p, n in lacking.items() if n]
        if empty:
            yield finding("empty_split", len(empty), subject="pairs", where=f"{_some(empty)}, {split}")
        if small:
            remark = f"{few} would say something"
            yield finding("small_split", len(small), subject="pairs", where=f"{_some(small)}, {split}", remark=remark)
    most = max((by_split["train"]["items"] for by_split in by_pair.values() if "train" in by_split), default=0)
    if most > plan.train:
        remark = f"data.train is {plan.train:,}"
        yield finding("unused", most - plan.train, most, subject="training items of a pair", remark=remark)


def _some(names: Sequence[str]) -> str:
    """Return the first names as a list, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
