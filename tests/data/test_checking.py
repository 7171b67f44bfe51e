"""Checks before training: each fault planted once in a small corpus is found once, and a clean corpus has none."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example, RenderSpec
from neuroglot.data.image import open_image
from neuroglot.data.store import normalised
from neuroglot.errors import UserError
from neuroglot.validation import KINDS, Plan, Record, check
from neuroglot.validation.duplicates import alike
from neuroglot.validation.images import difference_hash
from neuroglot.validation.texts import crossed, scripts_of

PLAN = Plan("planted", "image_translation")
SPLITS = {"train": 60, "dev": 5, "test": 25}


def png(number: int, side: int = 40) -> bytes:
    """A picture like no other: noise in large cells."""
    cells = np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(cells).resize((side, side), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def clean() -> list[Record]:
    records = []
    for split, count in SPLITS.items():
        for _ in range(count):
            n = len(records)
            example = Example((png(n),), f"Exit {n}, please", f"Ausgang {n}, bitte", "en", "de", "image_translation",
                              item=str(n))  # fmt: skip
            records.append(Record(n + 1, example, split))
    return records


def found(records, plan=PLAN, **options):
    report = check(lambda: iter(records), plan, **options)
    return {f.kind: f for f in report.findings}, report


def put(place, **changes):
    """Change an example in place."""

    def plant(records):
        records[place] = records[place]._replace(content=replace(records[place].content, **changes))

    return plant


def like(place, other, *fields, **changes):
    """Give an example some fields of another one."""

    def plant(records):
        taken = {field: getattr(records[other].content, field) for field in fields}
        put(place, **taken, **changes)(records)

    return plant


def scaled(records):
    image = open_image(records[3].content.images[0]).resize((90, 60), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    put(85, images=(file.getvalue(),))(records)


def broken(records):
    records[7] = records[7]._replace(content=UserError("the line is not JSON: it ends at column 7; one object a line"))


TEST = 70  # an example of the test split
FAULTS = {
    "bad_record": broken,
    "bad_image": put(8, images=(Path("nowhere/gone.png"),)),
    "missing_font": put(9, images=(RenderSpec("\U0010fffd", 1, 1),)),
    "empty_target": put(10, target=" \u00a0\n"),
    "swapped": put(28, source="Ausgang 28, bitte", target="Exit 28, please"),
    "reasoning": put(29, target="<think>It says exit.</think> Ausgang 29"),
    "image_mark": put(32, target="Ausgang <image> 32"),
    "decomposed": put(30, target="Ausga\u0308nge 30"),
    "same_reading": put(31, alternatives=("Weg 31", "Ausgang 31, bitte ")),
    "identical_target": put(11, target="Exit 11, please"),
    "code_fence": put(12, target="```\nAusgang 12\n```"),
    "label": put(13, target="**German translation:** Ausgang 13"),
    "chatter": put(14, target="Sure, here is what it says in German. Ausgang 14"),
    "json_wrapper": put(15, target='{"translation": "Ausgang 15"}'),
    "html": put(16, target="Ausgang &amp; Eingang 16"),
    "quotes": put(17, target="Hier steht „Ausgang 17"),
    "replacement_character": put(18, target="Ausg\ufffdnge 18"),
    "foreign_script": put(19, target="Выход 19"),
    "repeated_example": like(20, 21, "images", "source", "target"),
    "repeated_image": like(22, 23, "images", "target"),
    "repeated_text": like(24, 25, "source", "target"),
    "leaked_input": like(TEST, 26, "images"),
    "leaked_source": put(TEST + 1, source="  EXIT 27 - please!"),
    "leaked_near_image": scaled,
}


def test_a_clean_corpus_has_no_finding():
    findings, report = found(clean())
    assert findings == {}
    assert (report.records, report.examples) == (90, 90)
    counted = {(row["task"], row["pair"], row["split"]): (row["examples"], row["items"]) for row in report.counts}
    assert counted == {("image_translation", "en-de", split): (n, n) for split, n in SPLITS.items()}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_found_once_and_as_nothing_else(kind):
    records = clean()
    FAULTS[kind](records)
    findings, report = found(records)
    assert {k: f.count for k, f in findings.items()} == {kind: 1}
    assert findings[kind].severity == KINDS[kind].severity
    assert len(findings[kind].examples) == 1
    assert "\n" not in findings[kind].message
    json.dumps(report.facts())  # all of it is plain data


def test_all_faults_at_once():
    records = clean()
    for plant in FAULTS.values():
        plant(records)
    findings, _ = found(records)
    assert {k: f.count for k, f in findings.items()} == dict.fromkeys(FAULTS, 1)
    repeat = findings["repeated_example"].examples[0]
    assert (repeat["position"], repeat["like"]["position"]) == (22, 21)  # the later one is the repeat
    leak = findings["leaked_source"].examples[0]
    assert (leak["split"], leak["like"]["split"], leak["like"]["text"]) == ("test", "train", "Exit 27, please")


def test_bad_records_that_are_allowed_are_no_error():
    records = clean()
    FAULTS["bad_record"](records)
    FAULTS["bad_image"](records)
    assert {f.severity for f in found(records)[0].values()} == {"error"}
    assert {f.severity for f in found(records, replace(PLAN, max_bad=1))[0].values()} == {"error"}
    assert {f.severity for f in found(records, replace(PLAN, max_bad=2))[0].values()} == {"warning"}


def test_bad_records_are_counted_by_their_reason():
    records = clean()
    for place in range(12):
        why = (
            f"image /data/{place}.png does not exist; look" if place % 3 else f"unknown field 'field{place}'; known: x"
        )
        records[place] = records[place]._replace(content=UserError(why))
    finding = found(records)[0]["bad_record"]
    assert dict(finding.reasons) == {"image … does not exist": 8, "unknown field …": 4}
    assert [e["position"] for e in finding.examples] == [*range(1, 13)], "all are listed, each with its own reason"
    assert "/data/1.png" in finding.examples[1]["why"]


def test_pictures_beside_words_leak_apart_from_their_input():
    """With a source text beside the picture, neither alone is what the model is given."""
    records = [r._replace(content=replace(r.content, task="multimodal_translation")) for r in clean()]
    like(TEST, 26, "images")(records)
    like(TEST + 1, 27, "source")(records)
    like(TEST + 2, 28, "source", "images")(records)
    findings, _ = found(records, replace(PLAN, task="multimodal_translation"))
    assert {k: (f.count, f.severity) for k, f in findings.items()} == {
        "leaked_input": (1, "error"), "leaked_source": (1, "warning"), "leaked_image": (1, "warning"),
    }  # fmt: skip


def test_a_leak_of_less_than_a_hundredth_is_a_warning():
    records = clean()
    records += [
        Record(r.position + 100 + k, replace(r.content, images=(png(1000 + k),), source=f"Way {k}", target=f"Weg {k}",
                                             item=f"w{k}"), "test")
        for k, r in enumerate([records[0]] * 80)
    ]  # fmt: skip
    like(TEST, 26, "images")(records)
    assert found(records)[0]["leaked_input"].severity == "warning"
    like(TEST + 1, 27, "images")(records)
    assert found(records)[0]["leaked_input"].severity == "error"


@pytest.mark.parametrize(("source", "target", "pair", "is_swapped"), [
    ("出口", "exit", "en-zh", True), ("exit", "出口", "en-zh", False), ("IKEA", "IKEA", "en-zh", False),
    ("выход", "exit", "en-ru", True), ("выход", "вихід", "ru-uk", False), ("12:30", "12:30", "en-ru", False),
])  # fmt: skip
def test_a_corpus_that_is_swapped_as_a_whole_is_found_by_its_scripts(source, target, pair, is_swapped):
    languages = dict(zip(("source_lang", "target_lang"), pair.split("-"), strict=True))
    assert crossed(replace(clean()[0].content, source=source, target=target, **languages)) == is_swapped


def test_pairs_with_few_examples_are_one_finding():
    languages = ["de", "fr", "cs", "lv", "hi", "tr", "es"]
    records = [r._replace(content=replace(r.content, target_lang=languages[r.position % 7])) for r in clean()]
    findings, _ = found(records)
    assert (findings["small_split"].count, findings["small_split"].where) == (
        7, "en-fr 3, en-cs 3, en-lv 4, en-hi 4, en-tr 4 and 2 more, test")  # fmt: skip


def test_splits_that_a_run_needs():
    records = [r for r in clean() if r.split != "test"]
    assert {k: f.where for k, f in found(records)[0].items()} == {"empty_split": "en-de, test"}
    few = [*records, *(r for r in clean() if r.split == "test" and r.position < 80)]
    assert {k: f.where for k, f in found(few)[0].items()} == {"small_split": "en-de 14, test"}
    findings, _ = found(clean(), replace(PLAN, pairs=("en-de", "en-fr")))
    assert {k: (f.where, f.severity) for k, f in findings.items()} == {"no_examples": ("en-fr", "error")}
    findings, report = found(clean(), replace(PLAN, task="multimodal_translation"))
    assert "image_translation" in findings["no_examples"].message
    assert not any(row["used"] for row in report.counts)
    findings, _ = found(clean(), replace(PLAN, train=50))
    assert (findings["unused"].count, findings["unused"].severity) == (10, "note")


# ---- with the model's processor -----------------------------------------------------------------------------------


def test_what_the_processor_refuses_is_said_before_training(processor):
    records = clean()
    put(10, target="Weg " * 60)(records)
    put(11, target="漢字 des Ausgangs")(records)
    put(12, images=(RenderSpec("lang " * 3000, 1, 1),))(records)
    batcher = Batcher(processor, max_length=200)
    findings, report = found(records, batcher=batcher)
    assert (findings["refused"].count, findings["cannot_render"].count) == (2, 1)
    whys = [e["why"] for e in findings["refused"].examples]
    assert any("at most 200 fit" in why for why in whys)
    assert any("no token for '漢'" in why for why in whys)
    assert (report.measured, report.over, report.context) == (89, 1, 200)


def test_token_lengths_are_those_of_what_is_encoded(processor):
    records = clean()[:30]
    batcher = Batcher(processor)
    _, report = found(records, batcher=batcher)
    encoded = [batcher.encode([r.content]) for r in records]
    whole = Counter(e["input_ids"].numel() for e in encoded)
    targets = Counter(int((e["labels"] != -100).sum()) for e in encoded)
    assert (report.lengths["tokens"].counts, report.lengths["target_tokens"].counts) == (whole, targets)
    parts = [report.lengths[n].facts() for n in ("prompt_tokens", "image_tokens", "target_tokens", "tokens")]
    assert sum(p["mean"] for p in parts[:3]) == pytest.approx(parts[3]["mean"], abs=0.02)


def test_a_sample_is_drawn_evenly_and_said(processor):
    texts = [Example((), f"Way {n}", f"Weg {n}", "en", "de", "text_translation", item=str(n)) for n in range(1200)]
    long = [replace(e, target="Weg " * 80) if n % 10 == 0 else e for n, e in enumerate(texts)]
    records = [Record(n, e, "train") for n, e in enumerate(long, start=1)]
    plan, batcher = replace(PLAN, task="text_translation"), Batcher(processor, 200)
    findings, report = found(records, plan, batcher=batcher, sample=300)
    assert report.measured == 300
    assert report.lengths["target_characters"].total == 1200
    assert 15 <= findings["refused"].count <= 48  # 30 on average, with a deviation of 5
    assert "a sample" in findings["refused"].message
    assert findings["refused"].severity == "error"
    assert found(records, replace(plan, max_bad=1000), batcher=batcher, sample=300)[0]["refused"].severity == "warning"


# ---- pieces ---------------------------------------------------------------------------------------------------------


def test_scripts_of_languages():
    assert scripts_of("zh_Hant") == {"Hani", "Bopo"}
    assert scripts_of("sr") == {"Cyrl"}
    assert scripts_of("sr_Latn") == {"Latn"}
    assert scripts_of("hi") == {"Deva"}
    assert "Hang" in scripts_of("ko")


@pytest.mark.parametrize(
    ("language", "target"),
    [
        ("hi", "सोमवार से शुक्रवार तक खुला"),
        ("zh_Hans", "周一至周五开放，Wi-Fi 免费"),
        ("zh_Hans", "Coca-Cola"),
        ("ja", "カメラはNikonです"),
        ("de", "Größe: 5\" und „Ausgang“"),
        ("fr", "« Sortie » : 5 €"),
        ("ru", "Выход «A» к ВДНХ"),
        ("de", "{Platzhalter} bleibt"),
        ("de", "Preis < 5 & mehr"),
        ("de", "Ausgang: rechts"),
        ("en", "Of course you can park here"),
        ("en", "I am sorry for the delay"),
    ],
)  # fmt: skip
def test_texts_that_are_in_order(language, target):
    records = clean()
    put(10, target=target, target_lang=language)(records)
    findings, _ = found([r for r in records if r.position == 11 or r.content.target_lang == "de"])
    assert set(findings) <= {"empty_split", "small_split"}


def test_normalising_keeps_what_makes_another_text():
    assert normalised("Open, daily!") == normalised("open   DAILY")
    assert normalised("12.50") != normalised("1250")
    assert normalised("खुला") != normalised("खल")  # vowel signs are no punctuation
    assert normalised("!?") == "!?"


def test_near_images_are_found_by_comparing_all_of_them():
    """The quick search agrees with a comparison of every pair of hashes."""
    rng = random.Random(0)
    hashes = [rng.getrandbits(64) for _ in range(300)]
    for place in range(0, 100, 5):
        flipped = rng.sample(range(64), place % 6)
        hashes[200 + place] = hashes[place] ^ sum(1 << bit for bit in flipped)
    looks = np.array(hashes, dtype=np.uint64)
    hits, others = alike(looks, np.arange(200, 300), np.arange(200))
    expected = [a for a in range(200, 300) if any((hashes[a] ^ hashes[b]).bit_count() <= 3 for b in range(200))]
    assert hits.tolist() == expected
    assert len(expected) > 8
    assert all((hashes[a] ^ hashes[b]).bit_count() <= 3 for a, b in zip(hits, others, strict=True))


def test_a_plain_surface_looks_like_nothing():
    assert difference_hash(Image.new("RGB", (50, 50), "red")) == 0
    assert difference_hash(open_image(png(1))) != 0


# ---- real data, and many ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_multi30k_shares_a_caption_between_train_and_validation():
    folder = Path(os.environ.get("NEUROGLOT_TEST_DATA", "")) / "multi30k"
    if not folder.is_dir() or not os.environ.get("NEUROGLOT_TEST_DATA"):
        pytest.skip("NEUROGLOT_TEST_DATA names no folder with multi30k")

    def lines(split, language):
        with gzip.open(folder / f"{split}.{language}.gz", "rt", encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file]

    names = {"train": "train", "dev": "val", "test": "test_2016_flickr"}
    texts = {split: (lines(name, "en"), lines(name, "de")) for split, name in names.items()}

    def read():
        for split, (sources, targets) in texts.items():
            for n, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
                yield Record(n, Example((), source, target, "en", "de", "text_translation", item=f"{split}{n}"), split)

    report = check(read, Plan("multi30k", "text_translation"))
    plain = {split: [" ".join("".join(c if c.isalnum() else " " for c in t.lower()).split()) for t in sources]
             for split, (sources, _) in texts.items()}  # fmt: skip
    for earlier, later in (("train", "dev"), ("train", "test"), ("dev", "test")):
        known = set(plain[earlier])
        said = [f for f in report.findings if f.kind == "leaked_input" and f.where.endswith(f"{earlier} and {later}")]
        assert sum(f.count for f in said) == sum(text in known for text in plain[later])
    assert any(f.kind == "leaked_input" for f in report.findings)
    assert not report.of("error")


MILLION = """
import sys
from pathlib import Path
from neuroglot.cli import main
try:
    main(["data", "check", *sys.argv[1:], "--json"])
except SystemExit as ended:
    # Not ru_maxrss: it begins with that of the process that forked this one.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    print(ended.code, peak, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.turns
def test_a_million_records_stream_through_within_a_gigabyte(tmp_path):
    rng = random.Random(0)
    words = [a + b for a in ("ka", "lo", "mi", "ne", "ru", "sta", "ver", "tin") for b in ("an", "er", "os", "ik")]
    file = tmp_path / "many.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for n in range(1_000_000):
            said = rng.choices(words, k=12)
            record = {"source": f"{' '.join(said)} {n}", "target": f"{' '.join(said[::-1])} {n}", "source_lang": "en",
                      "target_lang": ("de", "fr")[n % 2], "task": "text_translation", "item": str(n),
                      "split": "test" if n % 100 < 2 else "train"}  # fmt: skip
            if n in (5, 700_001):  # the last one repeats the first
                record |= {"source": "the same", "target": "dasselbe", "target_lang": "de", "split": "train"}
            out.write(json.dumps(record) + "\n")
    recipe = tmp_path / "many.yaml"
    recipe.write_text("name: many\ndata: {source: many.jsonl}\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", MILLION, str(recipe)], capture_output=True, text=True, check=True)
    code, peak = done.stderr.split()[-2:]
    report = json.loads(done.stdout)
    assert report["records"] == report["examples"] == 1_000_000
    assert (report["measured"], code) == (10_000, "1")  # the recipe's task has no example here
    assert {f["kind"]: f["count"] for f in report["findings"]} == {"no_examples": 1, "repeated_example": 1}
    assert int(peak) < 1024
