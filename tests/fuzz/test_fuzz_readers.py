"""Data files that somebody damaged: whatever stands in them is an example, a bad record, or one line for people."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import fuzz

from neuroglot.data.readers import Layout, guess_format, read_source
from neuroglot.errors import UserError

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"

RECORDS = {
    "jsonl": [{"image": "a.png", "target": "Haus", "source": "house", "source_lang": "en", "target_lang": "de"},
              {"images": ["a.png"], "source_lang": "en", "targets": {"de": "Haus", "fr": "maison"},
               "alternatives": {"de": ["Heim"]}, "split": "test", "item": 3, "id": "x"},
              {"instruction": "Why?", "source": "It rains.", "target": "So.", "task": "instruct"}],
    "trl": [{"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Translate."}]},
                          {"role": "assistant", "content": "Haus"}], "images": ["a.png"]},
            {"prompt": [{"role": "user", "content": "<image>Translate."}], "image": "a.png",
             "completion": [{"role": "assistant", "content": "Haus"}]}],
    "sharegpt": [{"conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Haus"}],
                  "images": ["a.png"]}, {"conversation": [{"human": "What?", "assistant": "Haus"}]}],
    "alpaca": [{"instruction": "Translate.", "input": "house", "output": "Haus", "images": ["a.png"], "history": []}],
    "swift": [{"query": "<image>Translate.", "response": "Haus", "images": "a.png", "history": [["a", "b"]]}],
    "mit10m": [{"id": "1_EN-DE", "img": "a.jpg", "src_lang": "EN", "tgt_lang": "DE", "src_text": "house",
                "tgt_text": "```\nHaus\n```", "split": "test", "difficulty": 1, "cate_name": "shop"}],
}  # fmt: skip
FOLDERS = ("m3-multi30k", "m3-ambigcaps", "iwslt-2017", "commute", "ocrmt30k", "imagefolder", "mit-10m")
TASKS = ("image_translation", "multimodal_translation", "text_translation", "ocr", "describe")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**40, "", " ", "\n", "\0", "\ud83d", "\u202e", "a" * 5000,
    "<image>", "```", "```x", "data:image/png;base64,!", "http://x/y", "../../x", "/", [], {}, [[]], [None], {"": 1},
    {"bytes": None, "path": None}, {"de": None}, "xx", "en-de", "id", "train", "=de", "\x1b]0;x\x07",
)  # fmt: skip
TEXTS = (
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b'""', b",", b"\t", b"[", b"{", b"}", b"]", b"\\",
    b"1" * 5000, b"[" * 5000, b'{"a":' * 2000, b"NaN", b"</seg>", b'<seg id="1">', b"e9999", b"#", b"<doc",
    b"<seg>&#" + b"1" * 5000 + b";</seg>", "\u2028".encode(), "é".encode("latin-1"),
)  # fmt: skip


def value(rng: random.Random) -> Any:
    if rng.random() < 0.05:
        deep: Any = "x"
        for _ in range(rng.choice((3, 200, 900))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    return rng.choice(VALUES)


def changed(given: Any, rng: random.Random) -> Any:
    """Return a structure with one place replaced, removed or named otherwise."""
    if isinstance(given, dict) and given and rng.random() < 0.85:
        found, key = dict(given), rng.choice(list(given))
        action = rng.random()
        if action < 0.15:
            del found[key]
        elif action < 0.25:
            found[str(rng.choice(VALUES))] = found.pop(key)
        else:
            found[key] = changed(found[key], rng)
        return found
    if isinstance(given, list) and given and rng.random() < 0.85:
        place = rng.randrange(len(given))
        return given[:place] + [changed(given[place], rng)] * rng.randrange(3) + given[place + 1 :]
    return value(rng)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return bytes with some cut out, put in or turned over."""
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at = rng.randrange(len(raw) + 1)
        action = rng.random()
        if action < 0.4:
            raw = raw[:at] + rng.choice(TEXTS) + raw[at:]
        elif action < 0.6:
            raw = raw[:at] + raw[at + rng.randrange(1, 40) :]
        elif action < 0.8 and at < len(raw):
            raw = raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]
        elif action < 0.9:
            raw = raw[:at]
    return raw


def records(rng: random.Random) -> tuple[str, bytes]:
    """Return the name and content of a file of records."""
    rows = [dict(row) for row in RECORDS[rng.choice(list(RECORDS))]] * 2
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(rows))
        one = changed(rows[place], rng)
        rows[place] = one if isinstance(one, dict) or rng.random() < 0.2 else rows[place]
    ending = rng.choice((".jsonl", ".jsonl", ".json", ".csv", ".tsv", ".parquet"))
    if ending == ".parquet":
        return f"x{ending}", table([row for row in rows if isinstance(row, dict)], rng)
    if ending in (".csv", ".tsv"):
        flat = [row for row in rows if isinstance(row, dict)]
        names = list(dict.fromkeys(name for row in flat for name in row)) or ["a"]
        file = io.StringIO()
        writer = csv.writer(file, delimiter="," if ending == ".csv" else "\t")
        writer.writerows([names, *([str(row.get(name, "")) for name in names] for row in flat)])
        text = file.getvalue()
    else:
        made = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
        text = "\n".join(made) if ending == ".jsonl" else f"[{','.join(made)}]"
    return f"x{ending}", damaged(text.encode("utf-8", "surrogatepass"), rng)


def table(rows: list[dict[str, Any]], rng: random.Random) -> bytes:
    """Return a parquet file of what can be put in one, or of texts; with its bytes damaged."""
    try:
        made = pa.Table.from_pylist(rows)
    except Exception:
        made = pa.Table.from_pylist([{k: repr(v)[:50].encode("utf-8", "ignore").decode() for k, v in row.items()
                                      if k.isascii()} for row in rows])  # fmt: skip
    file = io.BytesIO()
    try:
        pq.write_table(made, file, compression="none")
    except Exception:
        return b"PAR1"
    raw = bytearray(file.getvalue())
    name = rng.choice((*made.column_names, "Haus")).encode("utf-8", "ignore")
    if rng.random() < 0.3 and name in raw:  # a name or a text that is not UTF-8
        at = raw.rindex(name)
        raw[at : at + 1] = b"\xff"
        return bytes(raw)
    return damaged(bytes(raw), rng) if rng.random() < 0.7 else bytes(raw)


def make(rng: random.Random) -> tuple[str, bytes, Layout, str]:
    """Return a file's name and content, how it is read, and the corpus in which it replaces a file, if it does."""
    pairs = rng.choice(((), ("en-de",), ("en-de",), ("en-de", "en-fr"), ("zh-en",)))
    columns: dict[str, str] = {}
    splits = rng.choice(({}, {}, {"test": "test"}, {"test": "tst2015"}, {"train": "test", "test": "test"}))
    if rng.random() < 0.6:
        if rng.random() < 0.3:
            columns = {rng.choice(("image", "target", "targets", "source", "item", "split", "task")):
                       rng.choice(("images", "output", "targets.de", "=x", "messages", "id", "a.b"))}  # fmt: skip
        name, content = records(rng)
        return name, content, Layout(columns=columns, pairs=pairs, task=rng.choice(TASKS)), ""
    corpus = rng.choice(FOLDERS)
    files = FILES[corpus]
    name = rng.choice(files)
    raw = CONTENTS[corpus, name]
    if name.endswith(".gz") and rng.random() < 0.7:
        content = gzip.compress(damaged(gzip.decompress(raw), rng), 1)
    elif name.endswith(".jsonl") and rng.random() < 0.7:
        rows = [json.loads(line) for line in raw.splitlines()]
        content = "\n".join(json.dumps(changed(row, rng)) for row in rows).encode()
    else:
        content = damaged(raw, rng)
    return name, content, Layout(pairs=pairs, splits=splits, task=rng.choice(TASKS)), corpus


FILES = {
    corpus: [str(file.relative_to(FIXTURES / corpus)) for file in sorted((FIXTURES / corpus).rglob("*"))
             if file.is_file() and file.suffix.lower() not in (".png", ".jpg", ".jpeg")]
    for corpus in FOLDERS
}  # fmt: skip
CONTENTS = {
    (corpus, name): (FIXTURES / corpus / name).read_bytes() for corpus, names in FILES.items() for name in names
}


@pytest.fixture
def run(tmp_path, caplog) -> Callable[[tuple[str, bytes, Layout, str]], object]:
    caplog.set_level("ERROR")  # that a split is left out is said of thousands of sources here
    for corpus in FOLDERS:
        shutil.copytree(FIXTURES / corpus, tmp_path / corpus)

    def run(given: tuple[str, bytes, Layout, str]) -> object:
        name, content, layout, corpus = given
        place = tmp_path / corpus / name
        place.write_bytes(content)
        try:
            source = tmp_path / corpus if corpus else place
            guess_format(source)
            found = list(read_source(source, layout))
            for _, record in found:
                if isinstance(record, UserError):
                    assert not {unicodedata.category(c) for c in str(record)} & {"Cc", "Zl", "Zp"}, record
            return found
        finally:
            if corpus:
                place.write_bytes(CONTENTS[corpus, name])

    return run


def test_damaged_data_files(run):
    fuzz("readers", make, run)
