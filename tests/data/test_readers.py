"""Every layout that has a reader: what exactly is read of a few records, laid out as the corpus is published."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroglot.data.example import Example, RenderSpec
from neuroglot.data.image import open_image
from neuroglot.data.readers import READERS, Layout, guess_format, read_source
from neuroglot.errors import UserError
from neuroglot.validation.texts import faults

FIXTURES = Path(__file__).parent / "fixtures"
SIGNS = {"image": "picture", "source": "translation.en", "targets": "translation", "source_lang": "=en"}


def read(path, **layout) -> list[tuple[int, Example]]:
    """Everything that a source holds, of which nothing may be wrong."""
    records = list(read_source(path if isinstance(path, Path) else FIXTURES / path, Layout(**layout)))
    assert [str(r) for _, r in records if isinstance(r, UserError)] == []
    return records


def examples(path, **layout) -> list[Example]:
    return [example for _, example in read(path, **layout)]


def said(found: list[Example]) -> list[tuple]:
    """Of examples what is short."""
    return [(e.source, e.target, str(e.pair), e.meta.get("split")) for e in found]


FORMATS = {
    "jsonl/pictograms.jsonl": "jsonl",
    "parquet": "parquet",
    "parquet/train-00000-of-00001.parquet": "parquet",
    "imagefolder": "imagefolder",
    "trl/prompt-completion.jsonl": "trl",
    "trl/messages.jsonl": "trl",
    "sharegpt/signs.json": "sharegpt",
    "alpaca/signs.json": "alpaca",
    "swift/signs.jsonl": "swift",
    "mit-10m-sample": "mit10m",
    "mit-10m-sample/test.jsonl": "mit10m",
    "m3-multi30k": "multi30k",
    "m3-ambigcaps": "ambigcaps",
    "mit-10m": "mit10m",
    "ocrmt30k": "ocrmt30k",
    "ocrmt30k/after_proprecess/before_tok_bpe": "ocrmt30k",
    "iwslt-2017": "parallel",
    "commute": "commute",
    "commute/en-de": "commute",
}


@pytest.mark.parametrize("path", FORMATS)
def test_the_format_is_told_from_the_path(path):
    assert guess_format(FIXTURES / path) == FORMATS[path]


def test_a_format_that_cannot_be_told_is_asked_for(tmp_path):
    """So is one that is not known; a hub name and a missing file are clear."""
    assert {*FORMATS.values(), "hf"} == set(READERS)
    assert guess_format("hf:owner/name") == "hf"
    with pytest.raises(UserError, match=r"cannot tell how .* is laid out; set data\.format to one of jsonl, parquet"):
        list(read_source(tmp_path))
    with pytest.raises(UserError, match=r"data\.format 'multi30' is not known; did you mean multi30k"):
        list(read_source(tmp_path, Layout(format="multi30")))
    with pytest.raises(UserError, match="does not exist; give a JSONL file"):
        list(read_source(tmp_path / "gone"))


# ---- records --------------------------------------------------------------------------------------------------------


def test_pictograms_are_jsonl_with_a_column_map():
    columns = {"source_lang": "=en", "task": "=multimodal_translation"}
    found = examples("jsonl/pictograms.jsonl", columns=columns, pairs=("en-de", "en-zh"))
    assert said(found) == [
        ("bat", "Fledermaus", "en-de", "train"),
        ("bat", "蝙蝠", "en-zh", "train"),
        ("bat", "Schläger", "en-de", "train"),
        ("bat", "球棒", "en-zh", "train"),
        ("seal", "Robbe", "en-de", "test"),
        ("seal", "海豹", "en-zh", "test"),
    ]
    assert {e.task for e in found} == {"multimodal_translation"}
    assert found[0].item == found[1].item != found[2].item  # the same word, another picture
    assert found[0].images == (FIXTURES / "jsonl/png/0.png",)
    every = read("jsonl/pictograms.jsonl", columns=columns)
    assert [position for position, _ in every] == [1, 1, 1, 2, 2, 2, 3, 3, 3]  # a line, all of its languages


def test_the_real_pictograms():
    folder = os.environ.get("NEUROGLOT_TEST_DATA")
    if not folder:
        pytest.skip("NEUROGLOT_TEST_DATA names no folder of real data")
    columns = {"source_lang": "=en", "task": "=multimodal_translation"}
    found = examples(Path(folder) / "pictograms/examples.jsonl", columns=columns, pairs=("en-ko",))
    assert len(found) == 3026
    assert len({e.images for e in found}) == 1191
    assert len({e.source for e in found}) == 1121
    assert open_image(found[0].images[0]).size == (64, 64)


def test_parquet_with_images_inside():
    found = examples("parquet", columns=SIGNS, pairs=("en-de",))
    assert said(found) == [
        ("EXIT", "AUSGANG", "en-de", "train"),
        ("Open\n9 am - 6 pm", "Geöffnet\n9 - 18 Uhr", "en-de", "train"),
        ("No smoking", "Rauchen verboten", "en-de", "train"),
        ("Fresh bread", "Frisches Brot", "en-de", "dev"),
        ("SALE\nToday only", "AUSVERKAUF\nNur heute", "en-de", "test"),
        ("Mind the step", "Vorsicht Stufe", "en-de", "test"),
    ]
    assert open_image(found[0].images[0]).size == (72, 36)
    assert len({e.item for e in found}) == 6
    one = read("parquet/test-00000-of-00001.parquet", columns=SIGNS, pairs=("en-fr",))
    assert [(position, e.target, e.meta) for position, e in one] == [
        (1, "SOLDES\nAujourd'hui", {}),
        (2, "Attention à la marche", {}),
    ]


@pytest.fixture
def saved(tmp_path):
    """The same records as `save_to_disk` writes them, the images a `datasets.Image`."""
    splits = {}
    for name, split in (("train", "train"), ("validation", "dev"), ("test", "test")):
        table = pq.read_table(FIXTURES / f"parquet/{name}-00000-of-00001.parquet")
        split = datasets.Dataset(table).cast_column("picture", datasets.Image())
        splits[name] = split
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "all"))
    splits["train"].save_to_disk(str(tmp_path / "train"))
    return tmp_path


def test_a_folder_that_save_to_disk_wrote(saved):
    assert guess_format(saved / "all") == guess_format(saved / "train") == "hf"
    assert examples(saved / "all", columns=SIGNS) == examples("parquet", columns=SIGNS)
    alone = examples(saved / "train", columns=SIGNS, pairs=("en-de",))
    assert [(e.target, e.meta) for e in alone] == [
        ("AUSGANG", {}),
        ("Geöffnet\n9 - 18 Uhr", {}),
        ("Rauchen verboten", {}),
    ]


def test_a_dataset_by_its_name_is_streamed():
    """A folder stands for a repository of the hub: `datasets` loads both by the same call."""
    name = Path(f"hf:{FIXTURES / 'parquet'}")
    streamed = examples(name, columns=SIGNS)
    assert streamed == examples("parquet", columns=SIGNS)


def test_other_names_of_splits(tmp_path):
    for name, own in (("train", "practice"), ("test", "exam-00000-of-00001")):
        shutil.copy(FIXTURES / f"parquet/{name}-00000-of-00001.parquet", tmp_path / f"{own}.parquet")
    found = examples(tmp_path, columns=SIGNS, pairs=("en-de",), splits={"train": "practice", "test": "exam"})
    assert [e.meta["split"] for e in found] == ["train"] * 3 + ["test"] * 2
    assert [e.meta for e in examples(tmp_path, columns=SIGNS, pairs=("en-de",))] == [{}] * 5


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_a_column_with_a_dot_in_its_name_comes_before_a_field_of_a_field(name, tmp_path):
    row = {"a.b": "Haus", "source": "house", "source_lang": "en", "target_lang": "de"}
    nested = {} if name == "x.csv" else {"a": {"b": "not this"}}
    for fields in (row, row | nested):
        if name == "x.parquet":
            pq.write_table(pa.Table.from_pylist([fields]), tmp_path / name)
        elif name == "x.csv":
            (tmp_path / name).write_text(f"{','.join(fields)}\n{','.join(fields.values())}\n", encoding="utf-8")
        else:
            (tmp_path / name).write_text(json.dumps(fields) + "\n", encoding="utf-8")
        columns = {"target": "a.b", "task": "=text_translation"}
        (example,) = examples(tmp_path / name, columns=columns, pairs=("en-de",))
        assert example.target == "Haus"


def test_tasks_of_records_that_do_not_say_theirs():
    columns = {**SIGNS, "target": "translation.de", "target_lang": "=de"}
    del columns["targets"]
    found = examples("parquet/validation-00000-of-00001.parquet", columns=columns,
                     tasks=("image_translation", "ocr", "text_translation"))  # fmt: skip
    assert [(e.task, e.source, e.target, str(e.pair), len(e.images)) for e in found] == [
        ("image_translation", "Fresh bread", "Frisches Brot", "en-de", 1),
        ("ocr", None, "Fresh bread", "en-en", 1),
        ("text_translation", "Fresh bread", "Frisches Brot", "en-de", 0),
    ]


def test_text_of_a_table_rendered(tmp_path):
    pq.write_table(pa.table({"en": ["Exit"], "de": ["Ausgang"]}), tmp_path / "x.parquet")
    columns = {"source": "en", "target": "de", "task": "=image_translation"}
    style = (("height", "96"), ("width", "160"))
    (example,) = examples(tmp_path / "x.parquet", columns=columns, pairs=("en-de",), render=style, seed=3)
    assert example.images == (RenderSpec("Exit", 31, 1, style=style),)
    assert open_image(example.images[0]).size == (160, 96)


def test_imagefolder(tmp_path):
    found = examples("imagefolder")
    assert said(found) == [
        ("No smoking", "Rauchen verboten", "en-de", "test"),
        ("EXIT", "AUSGANG", "en-de", "train"),
        ("Open\n9 am - 6 pm", "Geöffnet\n9 - 18 Uhr", "en-de", "train"),
    ]
    assert found[1].images == (FIXTURES / "imagefolder/train/0000.png",)
    assert len({e.item for e in found}) == 3  # test/0000.png is not train/0000.png
    # The same as CSV above the folders of the splits, with a column of another name and one that means nothing.
    shutil.copytree(FIXTURES / "imagefolder", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.jsonl"))
    with (tmp_path / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "target", "licence"])
        writer.writerows([f"{e.meta['split']}/{e.images[0].name}", e.source, e.target, "ours"] for e in found)
    again = examples(tmp_path, columns={"source": "text"}, pairs=("en-de",))
    assert said(again) == said(found)
    assert again[1].images == (tmp_path / "train/0000.png",)


def test_trl():
    one, two = examples("trl/prompt-completion.jsonl")
    assert one == Example((FIXTURES / "trl/images/0.png",), None, "AUSGANG", "en", "de", "image_translation",
                          item="images/0.png|", meta={"split": "train"})  # fmt: skip
    assert (two.images, two.target, str(two.pair)) == ((FIXTURES / "trl/images/3.png",), "Pain frais", "en-fr")
    pictured, text = examples("trl/messages.jsonl", pairs=("en-de",))
    assert (pictured.images, pictured.source, pictured.target) == (one.images, None, "AUSGANG")
    assert (text.task, text.source, text.target) == ("text_translation", "Fresh bread", "Frisches Brot")


def test_a_conversation_is_kept_where_it_holds_what_is_translated():
    """The user's words are the source of multimodal translation, and an instruction otherwise."""
    pictured, _ = read("trl/messages.jsonl", pairs=("en-de",))
    (_, example), *_ = read_source(FIXTURES / "trl/messages.jsonl",
                                   Layout(pairs=("en-de",), task="multimodal_translation"))  # fmt: skip
    assert (example.task, example.source) == ("multimodal_translation", "What does it say?")
    assert pictured[1].source is None


def test_trl_as_parquet(tmp_path):
    rows = [json.loads(line) for line in (FIXTURES / "trl/prompt-completion.jsonl").read_text().splitlines()[:1]]
    for row in rows:
        row["images"] = [{"bytes": (FIXTURES / "trl" / name).read_bytes(), "path": None} for name in row["images"]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chat.parquet")
    assert guess_format(tmp_path / "chat.parquet") == "trl"
    (example,) = examples(tmp_path / "chat.parquet")
    assert (example.target, example.meta) == ("AUSGANG", {"split": "train"})
    assert open_image(example.images[0]).size == (72, 36)


def test_sharegpt(tmp_path):
    found = examples("sharegpt/signs.json", pairs=("en-de",))
    assert [(e.images[0], e.source, e.target, e.task) for e in found] == [
        (FIXTURES / "sharegpt/0.png", None, "AUSGANG", "image_translation"),
        (FIXTURES / "sharegpt/3.png", None, "Frisches Brot", "image_translation"),
    ]
    rows = json.loads((FIXTURES / "sharegpt/signs.json").read_text(encoding="utf-8"))
    (tmp_path / "signs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elsewhere = examples(tmp_path / "signs.jsonl", pairs=("en-de",), images=FIXTURES / "sharegpt")
    assert elsewhere == found


@pytest.mark.parametrize(
    ("path", "source"), [("alpaca/signs.json", "Fresh bread"), ("swift/signs.jsonl", "Fresh bread")]
)
def test_questions_and_answers(path, source, tmp_path):
    """As LLaMA-Factory and ms-swift have them: what is asked is dropped, or holds what is to be translated."""
    found = examples(path, pairs=("en-de",))
    assert [(e.images[0].name, e.source, e.target, e.task) for e in found] == [
        ("0.png", None, "AUSGANG", "image_translation"),
        ("3.png", None, "Frisches Brot", "image_translation"),
    ]
    shown = examples(path, pairs=("en-de",), task="multimodal_translation")
    assert [(e.source, e.task, len(e.images)) for e in shown[1:]] == [(source, "multimodal_translation", 1)]
    # With a column map it is a table, and what is asked makes no question of it.
    answer = "output" if "alpaca" in path else "response"
    columns = {"image": "images", "target": answer, "source_lang": "=en", "target_lang": "=de"}
    mapped = examples(path, columns=columns)
    assert [(e.task, e.target) for e in mapped] == [(e.task, e.target) for e in found]
    rows = [json.loads(line) for line in (FIXTURES / "swift/signs.jsonl").read_text().splitlines()]
    rows[0]["history"] = [["And this?", "Eingang"]]
    rows[1]["response"] = 7
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wrong = [str(record) for _, record in read_source(tmp_path / "x.jsonl", Layout(pairs=("en-de",)))]
    assert wrong == [
        "expected one user turn and one assistant turn, got 2 and 2",
        "field 'response' must be a text, got 7",
    ]


def test_a_turn_of_two_sides(tmp_path):
    rows = [{"conversation": [{"human": "<image>What is it?", "assistant": "Ausgang"}], "images": ["a.png"]}]
    (tmp_path / "x.jsonl").write_text(json.dumps(rows[0]))
    (example,) = examples(tmp_path / "x.jsonl", pairs=("en-de",))
    assert (example.target, example.images) == ("Ausgang", (tmp_path / "a.png",))


def test_a_mark_of_an_image_in_an_answer_is_text(tmp_path):
    said = [
        {"role": "user", "content": "<image>Name\n<image> it"},
        {"role": "assistant", "content": "Das <image>-Zeichen"},
    ]
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": said, "images": ["a.png", "b.png"]}))
    (example,) = examples(tmp_path / "x.jsonl", pairs=("en-de",), task="multimodal_translation")
    assert (example.target, example.source) == ("Das <image>-Zeichen", "Name\n it")
    assert example.meta["notes"] == [["cleaned", r"source 'Name\n<image> it' became 'Name\n it'"]]


# ---- corpora --------------------------------------------------------------------------------------------------------


def test_m3_multi30k_rendered():
    found = examples("m3-multi30k")
    assert len(found) == 10 * 6
    assert [str(e.pair) for e in found[:6]] == ["en-cs", "en-de", "en-fr", "en-hi", "en-lv", "en-tr"]
    assert {e.task for e in found} == {"image_translation"}
    last = found[-1]
    assert (last.source, last.target, last.meta) == ("Three birds on a roof.", "Çatıda üç kuş.", {"split": "test"})
    assert last.images == (RenderSpec("Three birds on a roof.", 3, 10),)
    assert last.images == found[-2].images  # all languages of a caption are translated from one image
    assert {(e.item, e.meta["split"]) for e in found[36:48]} == {("val-1", "dev"), ("val-2", "dev")}


def test_m3_multi30k_with_photographs():
    found = examples("m3-multi30k", pairs=("en-lv", "de-en"), task="multimodal_translation")
    assert len(found) == 20
    assert (found[0].images, found[0].source, found[0].target) == (
        (FIXTURES / "m3-multi30k/images/2000000.jpg",),
        "A dog runs on the beach.",
        "Suns skrien pa pludmali.",
    )
    assert (found[1].source, found[1].target) == ("Ein Hund läuft am Strand.", "A dog runs on the beach.")
    assert found[-1].images == (FIXTURES / "m3-multi30k/images/2000333.jpg",)
    described = examples("m3-multi30k", pairs=("de-en",), tasks=("describe",))
    assert (described[0].target, str(described[0].pair)) == ("Ein Hund läuft am Strand.", "de-de")
    assert all(open_image(e.images[0]).size == (48, 36) for e in found)


def test_multi30k_as_its_repository_has_it(tmp_path):
    """data/task1/{raw,image_splits}, several test sets of which one is chosen, tokenised files left alone."""
    task = tmp_path / "data/task1"
    shutil.copytree(FIXTURES / "m3-multi30k/raw", task / "raw")
    shutil.copytree(FIXTURES / "m3-multi30k/image_splits", task / "image_splits")
    for language in ("en", "de"):
        with gzip.open(task / f"raw/test_2017_flickr.{language}.gz", "wt", encoding="utf-8") as file:
            file.write({"en": "A tree.", "de": "Ein Baum."}[language] + "\n")
    with pytest.raises(UserError, match=r"could be test: test_2016_flickr, test_2017_flickr; choose"):
        examples(tmp_path)
    found = examples(tmp_path, pairs=("en-de",), splits={"test": "test_2017_flickr"})
    assert said(found)[-1] == ("A tree.", "Ein Baum.", "en-de", "test")
    assert [e.meta["split"] for e in found] == ["train"] * 6 + ["dev"] * 2 + ["test"]
    with pytest.raises(UserError, match=r"test_2017_flickr has no fr, which pair en-fr needs"):
        examples(tmp_path, pairs=("en-fr",), splits={"test": "test_2017_flickr"})


def test_the_real_multi30k(tmp_path):
    """Its smaller splits: the training set has the same layout and takes longer to read."""
    folder = os.environ.get("NEUROGLOT_TEST_DATA")
    if not folder:
        pytest.skip("NEUROGLOT_TEST_DATA names no folder of real data")
    assert guess_format(Path(folder) / "multi30k") == "multi30k"
    for file in Path(folder, "multi30k").glob("[vt]*"):
        if not file.name.startswith("train"):
            (tmp_path / file.name).symlink_to(file)
    found = examples(tmp_path, pairs=("en-de",), tasks=("text_translation",), format="multi30k")
    splits = [e.meta["split"] for e in found]
    assert {split: splits.count(split) for split in splits} == {"dev": 1014, "test": 1000}
    assert said(found)[0] == (
        "A group of men are loading cotton onto a truck",
        "Eine Gruppe von Männern lädt Baumwolle auf einen Lastwagen",
        "en-de",
        "dev",
    )


def test_m3_ambigcaps():
    found = examples("m3-ambigcaps", pairs=("en-tr",), task="multimodal_translation")
    assert [(e.images[0].relative_to(FIXTURES / "m3-ambigcaps").as_posix(), e.target) for e in found[4:]] == [
        ("train/000000004.jpg", "Vinç bir kirişi kaldırıyor."),
        ("val/000000005.jpg", "Su kenarında bir turna."),
        ("test/000000006.jpg", "Masada bir fare."),
        ("test/000000007.jpg", "Buzda bir fok."),
    ]
    assert [e.meta["split"] for e in found] == ["train"] * 5 + ["dev"] + ["test"] * 2
    assert len(examples("m3-ambigcaps")) == 8 * 6


def test_mit10m():
    found = examples("mit-10m")
    assert found[0] == Example(
        (FIXTURES / "mit-10m/images/de/01/02/de_20110007.jpg",), "Bäckerei", "Bakery", "de", "en", "image_translation",
        item="20110007",
        meta={"split": "train", "id": "20110007_DE-EN", "difficulty": 1, "category": "shop"},
    )  # fmt: skip
    german = examples("mit-10m", pairs=("en-de",))
    assert [e.meta["split"] for e in german] == ["train"] * 6 + ["test"] * 3
    assert german[1].target == "Geöffnet\n9 - 18 Uhr"
    # Test images lie there by their base names alone, as the published samples do.
    assert german[-1].images == (FIXTURES / "mit-10m/images/en_10596681.jpg",)
    fenced = [e for e in german if e.meta.get("fenced")]
    assert [(e.target, e.meta["id"]) for e in fenced] == [("Rauchen verboten", "10596675_EN-DE")]
    both = examples("mit-10m", pairs=("en-de", "en-fr"), tasks=("image_translation", "ocr"))
    assert sum(e.task == "ocr" for e in both) == 9  # a photograph is transcribed once


def test_mit10m_as_its_public_sample_has_it():
    """test.jsonl and data/base; a row's own split is not the file's, which is reported."""
    found = examples("mit-10m-sample")
    assert found == examples("mit-10m-sample/test.jsonl")
    assert [(e.target, e.meta["split"], e.images[0].relative_to(FIXTURES).as_posix()) for e in found] == [
        ("Fahrkarten", "test", "mit-10m-sample/data/base/en_10596679.jpg"),
        ("Guichet", "test", "mit-10m-sample/data/base/en_10596679.jpg"),
    ]
    assert [kind for kind, _ in found[1].meta["notes"]] == ["cleaned", "other_split"]
    assert found[1].meta["notes"][1][1] == "the record says 'train' and its file is test; it is put in test"


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("```\nname\n```", "name"),
        ("```plaintext\nname\nvorname\n```\n", "name\nvorname"),
        ("```クラス\n名前```", "クラス\n名前"),
        ("```python\nname\n```", "python\nname"),
        ("```name```", "name"),
        ("``` text ```", "text"),
        ("```\na\n```\n```\nb\n```", None),
        ("a ```b``` c", None),
        ("```\nname", None),
    ],
)
def test_no_text_of_a_code_fence_is_lost(given, cleaned, tmp_path):
    row = {"id": "1_EN-DE", "img": "a.jpg", "src_lang": "EN", "tgt_lang": "DE", "src_text": "x", "tgt_text": given}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    (example,) = examples(tmp_path)
    assert example.target == (given if cleaned is None else cleaned)
    notes = example.meta.get("notes", [])
    assert notes == ([] if cleaned is None else [["cleaned", f"target {given.strip()!r} became {cleaned!r}"]])
    assert list(faults(example))[: len(notes)] == [tuple(note) for note in notes]


def test_mit10m_transcribes_each_photograph_once(tmp_path):
    """With the first of its directions that is kept, whatever the pairs, and whichever of them it has."""
    rows = {"EN": [(1, "ZH"), (1, "JA"), (1, "FR"), (2, "FR"), (3, "IT")], "DE": [(1, "FR")]}
    (tmp_path / "train").mkdir()
    for source, held in rows.items():
        lines = [{"id": f"{k}_{source}-{target}", "img": f"{source}{k}.jpg", "src_lang": source, "tgt_lang": target,
                  "src_text": "Exit", "tgt_text": " " if target == "ZH" else "x"} for k, target in held]  # fmt: skip
        (tmp_path / f"train/{source}.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def transcribed(**layout) -> list[str]:
        records = read_source(tmp_path, Layout(tasks=("image_translation", "ocr"), **layout))
        return [e.images[0].name for _, e in records if isinstance(e, Example) and e.task == "ocr"]

    assert transcribed() == ["DE1.jpg", "EN1.jpg", "EN2.jpg", "EN3.jpg"]
    assert transcribed(pairs=("en-ja", "en-fr")) == ["EN1.jpg", "EN2.jpg"]


def test_ocrmt30k():
    found = examples("ocrmt30k")
    assert [(e.source, e.target, e.meta["split"]) for e in found] == [
        ("小心地滑\n请勿奔跑", "Caution, slippery floor\nNo running", "train"),
        ("出口", "Exit", "train"),
        ("欢迎光临\n营业时间", "Welcome\nOpening hours", "train"),
        ("禁止吸烟", "No smoking", "dev"),
        ("停车场", "Car park", "test"),
        ("新鲜水果", "Fresh fruit", "test"),
    ]
    assert found[0].images == (FIXTURES / "ocrmt30k/whole_image_v2/OCRMT30K_00000.jpg",)
    assert found[0].meta["ocr"] == "小心地猾\n请勿奔跑"
    assert found == examples("ocrmt30k/after_proprecess/before_tok_bpe")
    texts = read("ocrmt30k", task="multimodal_translation", columns={"source": "ocr"})
    assert [(position, e.source, e.target) for position, e in texts[:3]] == [
        (1, "小心地猾", "Caution, slippery floor"),
        (2, "请勿奔跑", "No running"),
        (3, "出囗", "Exit"),
    ]
    assert len(texts) == 8


def test_iwslt():
    found = examples("iwslt-2017", pairs=("en-de",), splits={"test": "tst2015"})
    assert said(found) == [
        ("Thank you so much.", "Vielen Dank.", "en-de", "train"),
        ("I grew up in a small town.", "Ich wuchs in einer Kleinstadt auf.", "en-de", "train"),
        ("We had one computer.", "Wir hatten einen Computer.", "en-de", "train"),
        ("It changed my life.", "Er veränderte mein Leben.", "en-de", "train"),
        ("So what can we do?", "Was können wir also tun?", "en-de", "train"),
        ("Let me show you a map.", "Hier ist eine Karte.", "en-de", "train"),
        ("Think of your own town.", "Denken Sie an Ihre Stadt.", "en-de", "dev"),
        ("That is Q & A.", "Das ist Frage & Antwort.", "en-de", "dev"),
        ("Nobody was there.", "Niemand war dort.", "en-de", "test"),
        ("Now we know why.", "Jetzt wissen wir, warum.", "en-de", "test"),
    ]
    assert found[0].images == (RenderSpec("Thank you so much.", 1, 1),)
    both = examples("iwslt-2017", splits={"test": "tst2014"})
    assert [str(e.pair) for e in both].count("en-fr") == 6 + 2 + 1
    with pytest.raises(UserError, match=r"could be test: tst2014, tst2015; choose with data\.splits"):
        examples("iwslt-2017")


def test_any_parallel_text(tmp_path):
    """Files of one corpus without splits, as OPUS has them; the direction that is asked for."""
    (tmp_path / "signs.de-lv.de").write_text("Ausgang\n\nFrisches Brot\n", encoding="utf-8")
    (tmp_path / "signs.de-lv.lv").write_text("Izeja\n\nSvaiga maize\n\n", encoding="utf-8")
    (tmp_path / "LICENSE.txt").write_text("ours", encoding="utf-8")
    found = examples(tmp_path, pairs=("lv-de",), render=(("width", "200"),))
    assert said(found) == [("Izeja", "Ausgang", "lv-de", None), ("Svaiga maize", "Frisches Brot", "lv-de", None)]
    assert found[1].images == (RenderSpec("Svaiga maize", 1, 2, style=(("width", "200"),)),)
    with pytest.raises(UserError, match=r"has de, lv and no English; say in data\.pairs what is translated"):
        examples(tmp_path)


def test_commute():
    found = examples("commute")
    assert [(e.source, e.target, e.alternatives, str(e.pair)) for e in found[:2]] == [
        ("They sat by the bank.", "Sie saßen am Ufer.", ("Sie saßen bei der Bank.",), "en-de"),
        ("They sat by the bank.", "Sie saßen bei der Bank.", ("Sie saßen am Ufer.",), "en-de"),
    ]
    assert {e.task for e in found} == {"multimodal_translation"}
    assert [(str(e.pair), e.meta["split"]) for e in found] == (
        [("en-de", "test")] * 4 + [("en-fr", "test")] * 2 + [("en-fr", "dev")] * 2
    )
    assert found[0].images == (FIXTURES / "commute/images/a1b2c3.jpeg",)
    assert found[0].item == found[4].item != found[1].item  # the photograph decides, whatever the language
    assert examples("commute/en-de") == found[:4] == examples("commute", pairs=("en-de",))
    text = examples("commute", pairs=("en-fr",), tasks=("text_translation",))
    assert (text[0].images, text[0].alternatives) == ((), ("Ils étaient assis près de la banque.",))


@pytest.mark.parametrize("path", ["m3-multi30k", "m3-ambigcaps", "mit-10m", "ocrmt30k", "commute", "imagefolder"])
def test_every_image_of_a_fixture_opens(path):
    task = "image_translation" if path in ("mit-10m", "ocrmt30k", "imagefolder") else "multimodal_translation"
    for example in examples(path, task=task):
        assert min(open_image(example.images[0]).size) >= 32


def test_csv_in_neuroglots_fields(tmp_path):
    text = 'source,target,source_lang,target_lang\n"Exit, left","Ausgang\nlinks",en,de\nPush,Drücken,en,de\n'
    (tmp_path / "signs.csv").write_text(text, encoding="utf-8")
    assert [(p, e.source, e.target, e.task) for p, e in read(tmp_path / "signs.csv")] == [
        (3, "Exit, left", "Ausgang\nlinks", "text_translation"),
        (4, "Push", "Drücken", "text_translation"),
    ]
    (tmp_path / "signs.tsv").write_text(text.replace(",", "\t").replace("Exit\t", "Exit,"), encoding="utf-8")
    assert examples(tmp_path / "signs.tsv") == examples(tmp_path / "signs.csv")
