"""Files of outputs and references with anything in them are scored, or refused in one line."""

from __future__ import annotations

import json
import random
from pathlib import Path

from fuzzing import fuzz

from neuroglot.evaluation.bootstrap import FIGURES
from neuroglot.evaluation.outputs import FIELDS, LISTS
from neuroglot.evaluation.scoring import Options, score_outputs

TEXTS = (
    *("", " ", "das Haus ist groß", "Haus\u00ad\u200b", "出口は左です", "ห้องน้ำอยู่", "བོད་སྐད", "e\u0301\u0301"),
    *("a\u2028b\x85c", "\ufeffx", "a b c d e", "\ud800", "x" * 300, "12:30 – 14:15", "\x00\x1b[2J"),
    *("😀\u200d👧", ". . . .", "\u202eabc", "مرحبا بكم هنا", "<s> </s>"),
)
PAIRS = ("en-de", "en-th", "en-ja", "en-zh_Hant", "und-und", "en-km", "en-ko", "en-bo", "EN_US-DE")
NO_PAIRS = ("en", "xx-yy", "", "-", "en-de-fr")
VALUES = (None, True, 0, -1, 7, 1.5, 1e308, 10**400, [], {}, [None], ["a"], "x", [1.0, 2.0], {"a": {"b": []}})
LITERALS = (b"NaN", b"-Infinity", b"1e999", b"[" * 3000, b'"\\ud800"', b"9" * 5000)


def value(draw: random.Random) -> object:
    return draw.choice(TEXTS) if draw.random() < 0.6 else draw.choice(VALUES)


def pair(draw: random.Random) -> str:
    return draw.choice(PAIRS if draw.random() < 0.95 else NO_PAIRS)


def row(draw: random.Random) -> dict[str, object]:
    made: dict[str, object] = {"hypothesis": draw.choice(TEXTS), "reference": draw.choice(TEXTS)}
    if draw.random() < 0.5:
        made["pair"] = pair(draw)
    if draw.random() < 0.2:
        made["references"] = [draw.choice(TEXTS) for _ in range(draw.randrange(1, 3))]
    if draw.random() < 0.2:
        made |= {"nll": draw.choice((1.0, None, 1e308)), "alternative_nll": [1.0]}
    if draw.random() < 0.05:
        made[draw.choice((*FIELDS, *LISTS))] = value(draw)
    return made


def content(draw: random.Random, suffix: str, count: int) -> bytes:
    """Return a file: rows or lines, then perhaps damaged."""
    if suffix == ".jsonl":
        lines = [json.dumps(row(draw)).encode() for _ in range(count)]
    else:
        lines = [draw.choice(TEXTS).encode("utf-8", "replace") for _ in range(count)]
    raw = draw.choice((*[b"\n"] * 5, b"\r\n", b"\r")).join(lines) + draw.choice((b"", b"\n"))
    kind = draw.random()
    if kind < 0.05:
        raw = raw.decode("utf-8", "replace").encode(draw.choice(("utf-16", "utf-8-sig", "utf-32")))
    elif kind < 0.15 and raw:
        place = draw.randrange(len(raw))
        raw = raw[:place] + draw.choice((bytes([draw.randrange(256)]), b"", *LITERALS)) + raw[place + 1 :]
    elif kind < 0.2:
        raw = raw.replace(b'"hypothesis": ', b'"hypothesis": 1, "hypothesis": ', 1)
    return raw


def make(draw: random.Random) -> tuple[bytes, bytes, str, dict[str, object]]:
    suffix, count = draw.choice((".jsonl", ".jsonl", ".txt")), draw.choice((0, 1, 2, 2, 2, 3, 5))
    options: dict[str, object] = {"resamples": draw.choice((1, 3)), "seed": draw.randrange(4)}
    if draw.random() < 0.2:
        options["pair"] = pair(draw)
    if draw.random() < 0.4:
        options["figures"] = [draw.choice((*FIGURES[:4], "ter") if draw.random() < 0.8 else (*FIGURES, "x"))]
    if draw.random() < 0.1:
        options["tokenise"] = draw.choice(("char", "intl", "zh", "de=char", "=", "x", "spBLEU-1K"))
    has_references = suffix == ".txt" or draw.random() < 0.3
    other = count + (draw.random() < 0.05)
    return content(draw, suffix, count), content(draw, suffix, other) if has_references else b"", suffix, options


def test_any_files_are_scored_or_refused_in_one_line(tmp_path: Path) -> None:
    def run(given: tuple[bytes, bytes, str, dict[str, object]]) -> None:
        first, second, suffix, options = given
        hypotheses, references = tmp_path / f"said{suffix}", tmp_path / f"wanted{suffix}"
        hypotheses.write_bytes(first)
        references.write_bytes(second)
        against = {"against": str(hypotheses)} if options["seed"] == 2 else {}
        found = score_outputs(hypotheses, references if second else None, Options(**options, **against))
        json.dumps(found, allow_nan=False)

    fuzz("score", make, run)
