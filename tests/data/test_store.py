"""A store: every record comes back as it was, from memory and from the cache, and a stale cache is not used."""

from __future__ import annotations

import json
import random
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neuroglot.data.corpus import Sizes, first_items, items_in_turn, items_of, load_corpus, shortfall
from neuroglot.data.example import Example, RenderSpec
from neuroglot.data.readers import Bad, check_records, read_records
from neuroglot.data.readers.checked import BLOCK
from neuroglot.data.store import INDEX, View, in_memory, open_store, viewed
from neuroglot.errors import UserError
from neuroglot.pipeline.context import Data

TASK = "image_translation"

RECORDS = [
    (1, Example((Path("a b/ü.png"), Path("c.png")), "Exit", "Ausgang", "en", "de", TASK, ("Abgang",), "x",
                {"split": "train"})),
    (2, UserError("the line is not JSON; one object a line")),
    (4, Example((b"\x89PNG\n\x00raw\nbytes", Path("d.png"), b""), None, "出口", "en", "zh_Hans", TASK, item="y")),
    (4, Example((), "line\none", "Zeile\teins", "en", "de", "text_translation", (), "\udc80", {"split": "test"})),
    (9, Example((RenderSpec("Exit", 3, 7, "picture", (("font", "DejaVu Serif"), ("width", "96"))),), None, "exit",
                "en", "en", "ocr", item="y")),
]  # fmt: skip


def same(found: list, expected: list) -> bool:
    plain = [[(n, str(r) if isinstance(r, UserError) else r) for n, r in records] for records in (found, expected)]
    return plain[0] == plain[1]


def test_records_come_back_as_they_were():
    store = in_memory(RECORDS)
    assert same(list(store), RECORDS)
    order = list(range(len(RECORDS)))
    random.Random(0).shuffle(order)
    assert same([store[k] for k in order], [RECORDS[k] for k in order])
    assert store.good.tolist() == [0, 2, 3, 4]
    view = View(store)
    assert list(view) == [r for _, r in RECORDS if isinstance(r, Example)]
    assert view.pairs == ["en-de", "en-zh_Hans", "en-de", "en-en"]
    assert (view[-1], view[1:3]) == (RECORDS[4][1], [RECORDS[2][1], RECORDS[3][1]])
    assert view[1:3] != [RECORDS[2][1], RECORDS[4][1]]
    assert view.column("item")[1] == view.column("item")[3] != view.column("item")[0]
    assert (view.column("image") > 0).tolist() == [True, True, False, True]
    assert (view.column("text") > 0).tolist() == [True, False, True, True], "a reading says what it reads"
    rows, keys = view.images()
    assert rows.tolist() == [0, 1, 3, 0, 1, 1], "first images, and what comes after them"
    assert len(set(keys.tolist())) == 6
    turned = View(store, view.places[::-1][:3])
    assert [keys.tolist() for _, keys in [turned.images()]] == [keys[[2, 1, 4, 5]].tolist()]
    assert view.column("files").tolist() == [2, 1, 0, 0]


def write(path: Path, count: int) -> Path:
    lines = (json.dumps({"images": ["a.png", f"{k}.png"], "source": f"text {k}",
                         "target": f"Text {k} " + "ü" * 40, "source_lang": "en",
                         "target_lang": "de"}) for k in range(count))  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of large stores, which everything now is."""
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("neuroglot.data.store.IN_MEMORY", 1000)
    return tmp_path / "cache" / "records"


def test_what_is_large_is_kept_and_read_once(tmp_path, cache):
    path = write(tmp_path / "data.jsonl", 100)
    reads = []

    def read():
        reads.append(1)
        return read_records(path)

    first = open_store("a", [1], read)
    again = open_store("a", [1], read)
    assert len(reads) == 1
    assert len(list(cache.iterdir())) == 1, "one file, and nothing beside it"
    expected = list(read_records(path))
    for store in (first, again):
        assert list(store) == expected
        assert (store.index == first.index).all()
        assert (store.further == first.further).all()
        assert len(store.further) == 100
    changed = open_store("a", [2], read)
    assert (len(reads), len(list(cache.iterdir()))) == (2, 1), "the older one is replaced"
    assert list(changed) == list(first), "and whoever still has it open reads on"
    assert len(open_store("b", [1], read)) == 100
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("place", [-3, -40, 0.995], ids=["mark", "foot", "index"])
def test_a_damaged_store_is_made_again(tmp_path, cache, place):
    path = write(tmp_path / "data.jsonl", 100)
    expected = list(open_store("a", [1], lambda: read_records(path)))
    (file,) = cache.iterdir()
    raw = bytearray(file.read_bytes())
    at = place if isinstance(place, int) else raw.rindex(b'{"format"') - 5
    raw[at] ^= 0xFF
    file.write_bytes(raw)
    reads = []
    found = open_store("a", [1], lambda: reads.append(1) or read_records(path))
    assert reads, "it was not believed"
    assert list(found) == expected
    file.write_bytes(file.read_bytes()[: len(raw) // 2])
    assert list(open_store("a", [1], lambda: read_records(path))) == expected


def test_a_record_that_is_damaged_is_said(tmp_path, cache):
    path = write(tmp_path / "data.jsonl", 100)
    open_store("a", [1], lambda: read_records(path))
    (file,) = cache.iterdir()
    raw = bytearray(file.read_bytes())
    raw[20:21] = b"X"
    file.write_bytes(raw)
    store = open_store("a", [1], lambda: read_records(path))
    with pytest.raises(UserError, match="a store of records in .*records is damaged; delete it and run again"):
        store[0]
    assert store[1][0] == 2


def test_nothing_half_written_stays(tmp_path, cache, monkeypatch):
    def read():
        yield from read_records(write(tmp_path / "data.jsonl", 100))
        raise UserError("misaligned")

    with pytest.raises(UserError, match="misaligned"):
        open_store("a", [1], read)
    assert list(cache.iterdir()) == []
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    monkeypatch.setenv("NEUROGLOT_CACHE", str(blocked))
    with pytest.raises(UserError, match="cannot be kept in .*blocked.*: .*; make room there, or name another"):
        open_store("a", [1], lambda: read_records(tmp_path / "data.jsonl"))


def test_a_source_is_read_anew_when_it_changes(tmp_path, cache):
    path = write(tmp_path / "data.jsonl", 100)
    before = Data(path, tmp_path)
    assert (len(before.records), len(Data(path, tmp_path).records)) == (100, 100)
    write(path, 101)
    after = Data(path, tmp_path)
    assert len(after.records) == 101
    assert after.identity != before.identity


def test_images_are_part_of_what_identifies_a_source(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"1")
    record = {"image": "a.png", "target": "x", "source_lang": "en", "target_lang": "de"}
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([json.dumps(record)] * 3))
    before = Data(path, tmp_path).identity
    assert Data(path, tmp_path).identity == before
    image.write_bytes(b"22")
    assert Data(path, tmp_path).identity != before


def old_first_items(examples: list[Example], count: int) -> list[Example]:
    """The same choice, written as what it means."""
    order: dict[str, list] = {}
    for example in examples:
        order.setdefault(example.item, []).append(str(example.pair))
    kept = set()
    for pair in {str(e.pair) for e in examples}:
        kept |= {(item, pair) for item in [i for i, pairs in order.items() if pair in pairs][:count]}
    return [e for e in examples if (e.item, str(e.pair)) in kept]


@pytest.mark.parametrize("seed", range(5))
def test_items_are_chosen_as_one_by_one(tmp_path, seed):
    """Items in several pairs, twice in one, in any order; with splits and without."""
    rng = random.Random(seed)
    examples = []
    for k in range(300):
        item, lang = f"i{rng.randrange(120)}", rng.choice(["de", "fr", "cs"])
        split = {"split": ["train", "dev", "test"][int(item[1:]) % 3]} if rng.random() < 0.5 else {}
        examples.append(Example((Path(f"{k}.png"),), None, f"t{k}", "en", lang, TASK, item=item, meta=split))
    sizes = Sizes(train=9, dev=4, test=6, heldout=0, retention=0)
    corpus = load_corpus("f.jsonl", TASK, [], sizes, seed, False, examples)
    everything = load_corpus("f.jsonl", TASK, [], Sizes(999, 999, 999, 0, 0), seed, False, examples)
    for count, some, whole in (
        (9, corpus.train, everything.train),
        (4, corpus.dev, everything.dev),
        (6, corpus.splits[TASK], everything.splits[TASK]),
    ):
        assert list(some) == old_first_items(list(whole), count)
        assert len(some) < len(whole)
    parts = [list(everything.train), list(everything.dev), list(everything.splits[TASK])]
    assert sorted(e.target for part in parts for e in part) == sorted(e.target for e in examples)
    for name, part in zip(("train", "dev", "test"), parts, strict=True):
        assert {e.meta.get("split", name) for e in part} == {name}
    free = [{e.item for e in part if not e.meta} for part in parts]
    assert sum(map(len, free)) == len(set.union(*free)), "an item's languages stay together"


PAIRS = ("de", "fr", "cs", "lv", "hi", "tr", "it", "es", "pt", "nl")
LAYOUTS = {
    "one pair after the other": [(f"{pair}{k}", pair) for pair in ("de", "fr") for k in range(60)],
    "the same items": [(f"i{k}", pair) for pair in ("de", "fr") for k in range(60)],
    "a rare pair": [(f"i{k % 37}", "fr" if k % 29 == 7 else "de") for k in range(200)],
    "ten pairs": [(f"{pair}{k}", f"{pair}") for pair in PAIRS for k in range(9)],
    "nothing": [],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_items_of_every_pair_are_taken_of_a_list_as_of_a_file(layout):
    """One contract for both: `items` of each pair, or what there is of it, and then that is said."""
    examples = [Example((), f"{item}", "t", "en", lang, TASK, item=item) for item, lang in LAYOUTS[layout]]
    pairs = list(dict.fromkeys(str(e.pair) for e in examples))
    for every in (examples, viewed(examples)):
        taken = first_items(every, 5)
        assert isinstance(taken, type(every)), "of a file no record is read"
        assert list(taken) == old_first_items(examples, 5)
        assert items_of(taken) == {pair: min(5, items_of(every)[pair]) for pair in pairs}
        short = {pair: n for pair, n in items_of(every).items() if n < 48}
        assert shortfall(every, [*pairs, "en-xx"], 48) == ", ".join(
            f"{p} {n}" for p, n in {**short, "en-xx": 0}.items()
        )

        turns = items_in_turn(every, 4)
        assert list(turns) == old_items_in_turn(examples, 4)
        assert isinstance(turns, type(every))


def old_items_in_turn(examples: list[Example], count: int) -> list[Example]:
    by_item: dict[str, list[Example]] = {}
    for example in examples:
        by_item.setdefault(example.item, []).append(example)
    kinds: dict[frozenset, list[str]] = {}
    for item, group in by_item.items():
        kinds.setdefault(frozenset(str(example.pair) for example in group), []).append(item)
    turns = [item for turn in zip_longest(*kinds.values()) for item in turn if item is not None]
    return [example for item in turns[:count] for example in by_item[item]]


def test_records_are_checked_as_they_come(tmp_path):
    """In order, each image opened once a block, and no more than a block of records at a time."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    good, broken = (Example((tmp_path / name,), None, "x", "en", "de", TASK) for name in ("a.png", "b.png"))
    made = BytesIO()
    Image.new("RGB", (7, 5)).save(made, "PNG")
    held = Example((made.getvalue(),), None, "x", "en", "de", TASK)
    block = [good, broken, UserError("line"), held, Example((b"?",), None, "x", "en", "de", TASK)]
    taken: list[int] = []
    sizes: list = []

    def records():
        for number in range(BLOCK):
            taken.append(number)
            yield from ((5 * number + k, record) for k, record in enumerate(block))

    progress: list[int] = []
    found = check_records(records(), lambda example, seen: sizes.append(list(seen)), progress.append)
    first = [next(found) for _ in range(5)]
    assert len(taken) <= BLOCK / 5 + 1, "the rest of the source is not read yet"
    assert [line for line, _ in first] == [0, 1, 2, 3, 4]
    assert (first[0][1], first[3][1]) == (good, held)
    assert [bad.line for _, bad in first if isinstance(bad, Bad)] == [1, 2, 4]
    assert "no known image format" in first[1][1].reason
    assert "of 1 bytes cannot be read" in first[4][1].reason
    assert sum(isinstance(record, Bad) for _, record in found) == 3 * (BLOCK - 1)
    assert sizes == [[(30, 20)], [(7, 5)]] * BLOCK
    assert progress == [BLOCK * k for k in range(1, 6)]


def test_an_index_takes_few_bytes():
    assert INDEX.itemsize <= 48
    assert np.dtype(INDEX).names[0] == "end"
