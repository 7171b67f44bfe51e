"""Broken sources, reader by reader: one line each, which names the file and the line, and nothing else is lost."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroglot.data.example import Example
from neuroglot.data.readers import Layout, checked, read_source
from neuroglot.data.readers.checked import Bad, check_records
from neuroglot.data.readers.records import read_records
from neuroglot.errors import UserError

FIXTURES = Path(__file__).parent / "fixtures"
SIGNS = {"image": "picture", "source": "translation.en", "target": "translation.de"}
LATIN = "Grüße".encode("latin-1")

LAYOUTS = {
    "jsonl": {"columns": {"source_lang": "=en", "task": "=multimodal_translation"}, "pairs": ("en-de",)},
    "parquet": {"columns": SIGNS, "pairs": ("en-de",)},
    "imagefolder": {},
    "trl": {},
    "sharegpt": {"pairs": ("en-de",)},
    "m3-multi30k": {"pairs": ("en-de",), "task": "multimodal_translation"},
    "m3-ambigcaps": {"pairs": ("en-tr",), "task": "multimodal_translation"},
    "mit-10m": {},
    "ocrmt30k": {},
    "iwslt-2017": {"pairs": ("en-de",), "splits": {"test": "tst2015"}},
    "commute": {"pairs": ("en-de",)},
}
"""Fixture -> how it is read."""

FILES = {"jsonl": "pictograms.jsonl", "trl": "prompt-completion.jsonl", "sharegpt": "signs.json"}
"""Of the fixtures that are one file, which."""


@pytest.fixture
def copy(tmp_path):
    def copy(name: str) -> Path:
        shutil.copytree(FIXTURES / name, tmp_path / name)
        return tmp_path / name

    return copy


def source(folder: Path) -> Path:
    return folder / FILES.get(folder.name, "")


def read(folder: Path, **changes) -> tuple[list[Example], list[tuple[int, str]]]:
    """Return the examples of a source and, by position, what is wrong with the others."""
    layout = Layout(**{**LAYOUTS[folder.name], **changes})
    good, bad = [], []
    for position, record in read_source(source(folder), layout):
        if isinstance(record, UserError):
            assert "\n" not in str(record)
            bad.append((position, str(record)))
        else:
            good.append(record)
    return good, bad


def refused(folder: Path, message: str, **changes) -> None:
    """What is wrong with the source as a whole."""
    with pytest.raises(UserError, match=message) as caught:
        read(folder, **changes)
    assert "\n" not in str(caught.value)


def change_line(path: Path, number: int, change) -> None:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        lines = file.read().split(b"\n")
    lines[number - 1] = change(lines[number - 1])
    with opened(path, "wb") as file:
        file.write(b"\n".join(line for line in lines if line is not None))


def change_row(path: Path, number: int, **fields) -> None:
    """Change fields of a JSON object on a line; None takes a field away."""

    def changed(line: bytes) -> bytes:
        row = {**json.loads(line), **fields}
        return json.dumps({k: v for k, v in row.items() if v is not None}).encode()

    change_line(path, number, changed)


# ---- bytes that are not UTF-8 ---------------------------------------------------------------------------------------

BYTES = {
    "jsonl": ("pictograms.jsonl", 2, None),
    "imagefolder": ("train/metadata.jsonl", 2, "train/metadata.jsonl line 2: "),
    "trl": ("prompt-completion.jsonl", 2, None),
    "m3-multi30k": ("raw/train.de.gz", 4, "raw/train.de.gz line 4: "),
    "m3-ambigcaps": ("raw/val.tr.gz", 1, "raw/val.tr.gz line 1: "),
    "mit-10m": ("train/EN.jsonl", 3, "train/EN.jsonl line 3: "),
    "ocrmt30k": ("after_proprecess/before_tok_bpe/ocr_en_train.txt", 3,
                 "after_proprecess/before_tok_bpe/ocr_en_train.txt line 3: "),
    "iwslt-2017": ("train.tags.en-de.de", 9, "train.tags.en-de.de line 9: "),
    "commute": ("en-de/incorrect.de", 2, "en-de/incorrect.de line 2: "),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_bad_utf8_costs_one_record(name, copy):
    file, line, place = BYTES[name]
    folder = copy(name)
    whole, none = read(folder)
    assert none == []
    change_line(folder / file, line, lambda old: LATIN)
    good, bad = read(folder)
    assert [reason for _, reason in bad] == [f"{place or ''}the line is not UTF-8 (byte 2); save the file as UTF-8"]
    if place is None:
        assert bad[0][0] == line  # the position is the line, which whoever prints it names
    assert len(good) == len(whole) - 1
    assert [e.target for e in good] == [e.target for e in whole if e.target in {g.target for g in good}]


def test_bad_utf8_in_a_json_array(copy):
    """Nothing after it can be told apart, so that the array as a whole is refused, with the line."""
    folder = copy("sharegpt")
    path = source(folder)
    raw = path.read_bytes().replace(b"Frisches", LATIN)
    path.write_bytes(raw)
    line = raw[: raw.index(LATIN)].count(b"\n") + 1
    refused(folder, rf"signs\.json line {line}: the line is not UTF-8 \(byte \d+\); save the file as UTF-8")


def test_bad_utf8_in_csv(copy):
    folder = copy("imagefolder")
    shutil.rmtree(folder / "test")
    (folder / "train/metadata.jsonl").unlink()
    rows = [b"file_name,target", b"0000.png," + LATIN, "0001.png,Grüße".encode(), b"0001.png,a,b"]
    (folder / "train/metadata.csv").write_bytes(b"\r\n".join(rows))
    good, bad = read(folder, pairs=("en-de",))
    assert [e.target for e in good] == ["Grüße"]
    assert bad == [
        (1, "train/metadata.csv line 2: the line is not UTF-8; save the file as UTF-8"),
        (3, "train/metadata.csv line 4: the row has 3 values, expected 2: file_name, target"),
    ]


def test_bad_utf8_in_parquet(tmp_path):
    """Other tools write what they like into a column of texts."""
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\7\0\0\0\11\0\0\0"), pa.py_buffer(b"ja" + LATIN + b"ne")]
    )
    pq.write_table(pa.table({"source": ["yes", "greetings", "no"], "target": texts}), tmp_path / "x.parquet")
    records = list(read_source(tmp_path / "x.parquet", Layout(pairs=("en-de",))))
    assert [r.target for _, r in records if isinstance(r, Example)] == ["ja", "ne"]
    assert [(p, str(r)) for p, r in records if isinstance(r, UserError)] == [
        (2, "a text is not UTF-8 (byte 2); write the table from decoded texts")
    ]


# ---- images that are missing ----------------------------------------------------------------------------------------

IMAGES = {
    "jsonl": ("png/1.png", 2),
    "imagefolder": ("train/0001.png", 3),
    "trl": ("images/3.png", 2),
    "sharegpt": ("3.png", 2),
    "m3-multi30k": ("images/2000333.jpg", 10),
    "m3-ambigcaps": ("val/000000005.jpg", 6),
    "mit-10m": ("images/de/01/02/de_20110007.jpg", 1),
    "ocrmt30k": ("whole_image_v2/OCRMT30K_00001.jpg", 3),
    "commute": ("images/0a9b8c.jpeg", 3),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_missing_image_is_found_before_training(name, copy):
    """Not by the reader, which opens none, but by the check that every record goes through."""
    file, position = IMAGES[name]
    folder = copy(name)
    (folder / file).unlink()
    layout = Layout(**LAYOUTS[name])
    checked = list(check_records(read_source(source(folder), layout), lambda example, sizes: None))
    bad = [(p, r.reason) for p, r in checked if isinstance(r, Bad)]
    assert bad == [(position, f"image {folder / file} does not exist; paths are taken relative to the data file")]
    assert len(checked) > 1


def test_broken_bytes_inside_a_table(copy):
    folder = copy("parquet")
    rows = pq.read_table(folder / "train-00000-of-00001.parquet").to_pylist()
    rows[1]["picture"] = {"bytes": rows[1]["picture"]["bytes"][:200], "path": None}
    rows[2]["picture"] = {"bytes": None, "path": None}
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    records = read_source(folder / "train-00000-of-00001.parquet", Layout(**LAYOUTS["parquet"]))
    bad = [(p, r.reason) for p, r in check_records(records, lambda e, sizes: None) if isinstance(r, Bad)]
    assert [p for p, _ in bad] == [2, 3]
    assert re.search(r"image of 200 bytes cannot be read: .*truncated", bad[0][1])
    assert bad[1][1] == "image must be a path or a list of paths, got an object without bytes and path"


# ---- lines that do not belong together ------------------------------------------------------------------------------

LINES = {
    "m3-multi30k": (
        "raw/train.de.gz",
        2,
        r"raw/train\.de\.gz has 5, raw/train\.en\.gz has 6, image_spl",
    ),
    "m3-ambigcaps": ("test/index.txt", 1, r"raw/test\.en\.gz has 2, raw/test\.tr\.gz has 2, test/index\.txt has 1"),
    "ocrmt30k": ("after_proprecess/before_tok_bpe/ocr_zh_pseudo_train.txt", 5, r"ocr_zh_pseudo_train\.txt has 4"),
    "iwslt-2017": ("IWSLT17.TED.dev2010.en-de.de.xml", 7, r"dev2010\.en-de\.de\.xml has 1, .*en-de\.en\.xml has 2"),
    "commute": ("en-de/img.order", 4, r"en-de/src\.en has 4, .*en-de/img\.order has 3"),
}


@pytest.mark.parametrize("name", LINES)
def test_misaligned_files_are_refused_before_any_is_used(name, copy):
    file, line, counts = LINES[name]
    folder = copy(name)
    change_line(folder / file, line, lambda old: None)
    refused(folder, rf"files that belong together have different numbers of lines: .*{counts}.*; align them")


def test_a_misaligned_training_set_yields_nothing(copy):
    folder = copy("m3-multi30k")
    change_line(folder / "raw/train.de.gz", 2, lambda old: None)
    with pytest.raises(UserError, match="different numbers of lines"):
        next(read_source(folder, Layout(**LAYOUTS["m3-multi30k"])))


def test_one_blank_line(copy):
    folder = copy("m3-multi30k")
    change_line(folder / "raw/train.de.gz", 2, lambda old: b"  ")
    good, bad = read(folder)
    assert bad == [(2, "raw/train.de.gz line 2: the line is blank, and other files have a text there; fill it in")]
    assert len(good) == 9


def test_a_photograph_with_a_text_that_cannot_be_read_is_left_out_whole(copy):
    """Half of what stands in it would be the wrong reference."""
    folder = copy("ocrmt30k")
    change_line(folder / "after_proprecess/before_tok_bpe/ocr_en_train.txt", 2, lambda old: LATIN)
    good, bad = read(folder)
    assert [position for position, _ in bad] == [2]
    assert good[0].source == "出口"


def test_a_broken_gz(copy):
    folder = copy("m3-multi30k")
    path = folder / "raw/train.de.gz"
    path.write_bytes(path.read_bytes()[:60])
    refused(folder, rf"{re.escape(str(path))} cannot be read: .*expected a text file, plain or \.gz")


# ---- columns --------------------------------------------------------------------------------------------------------


def test_a_parquet_without_the_column(copy):
    folder = copy("parquet")
    first = folder / "train-00000-of-00001.parquet"
    held = "it has picture, translation, licence; say in data.columns which is which"
    refused(folder, rf"{re.escape(str(first))} has no column 'target' or 'targets'; {re.escape(held)}", columns={})
    other = {**SIGNS, "image": "bild"}
    refused(folder, rf"{re.escape(str(first))} has no column 'bild'; {re.escape(held)}", columns=other)
    _, bad = read(folder, columns={**SIGNS, "target": "translation.cs"})
    assert bad[0] == (
        1,
        "train-00000-of-00001.parquet record 1: there is no 'translation.cs', which data.columns.target names; it has "
        "en, de, fr",
    )
    refused(folder, "data.columns has no field 'traget'; did you mean target", columns={"traget": "x"})


def test_a_saved_dataset_without_the_column(tmp_path):
    datasets.Dataset.from_dict({"bild": ["a.png"], "text": ["x"]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="saved has no column 'target' or 'targets'; it has bild, text; say in data"):
        list(read_source(tmp_path / "saved"))
    with pytest.raises(UserError, match="saved has no column 'messages'; it has bild, text"):
        list(read_source(tmp_path / "saved", Layout(format="trl", columns={"messages": "messages"})))


@pytest.mark.parametrize("name", ["trl", "sharegpt"])
def test_a_table_that_holds_no_conversation(name, copy):
    with pytest.raises(UserError, match=r"has no column '(completion' or 'messages|conversations)'; it has pic"):
        list(read_source(copy("parquet"), Layout(format=name)))


def test_what_is_no_parquet_and_no_dataset(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read as parquet: .*; expected a whole parquet file"):
        list(read_source(tmp_path / "x.parquet"))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/state.json").write_text("{}")
    with pytest.raises(UserError, match=r"saved cannot be read as a saved dataset: .*; save it again"):
        list(read_source(tmp_path / "saved"))
    with pytest.raises(UserError, match="holds no parquet file and no saved dataset"):
        list(read_source(FIXTURES / "commute", Layout(format="parquet")))


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"^hf:nobody/nothing cannot be read: HF_HUB_OFFLINE is set, .* or give a file"
    ):
        list(read_source("hf:nobody/nothing"))


# ---- languages ------------------------------------------------------------------------------------------------------

UNKNOWN = "language code '{}' is not known; expected a BCP 47 code such as de, pt_BR or zh_Hans"


def test_an_unknown_language_in_records(copy):
    _, bad = read(copy("jsonl"), columns={"source_lang": "=xx", "task": "=multimodal_translation"}, pairs=())
    assert bad[0] == (1, UNKNOWN.format("xx"))
    folder = copy("imagefolder")
    change_row(folder / "train/metadata.jsonl", 2, target_lang="qq")
    assert read(folder)[1] == [(3, f"train/metadata.jsonl line 2: {UNKNOWN.format('qq')}")]
    folder = copy("trl")
    change_row(source(folder), 1, target_lang="qq")
    assert read(folder)[1] == [(1, UNKNOWN.format("qq"))]
    folder = copy("mit-10m")
    change_row(folder / "test/EN.jsonl", 1, tgt_lang="QQ")
    assert [reason for _, reason in read(folder)[1]] == [f"test/EN.jsonl line 1: {UNKNOWN.format('QQ')}"]
    _, bad = read(copy("parquet"), columns={**SIGNS, "source_lang": "=en", "target_lang": "=qq"})
    assert len(bad) == 6
    assert bad[0][1] == f"train-00000-of-00001.parquet record 1: {UNKNOWN.format('qq')}"


def test_records_that_do_not_say_their_languages(copy):
    _, bad = read(copy("sharegpt"), pairs=())
    assert bad[0] == (
        1,
        "field 'source_lang' must be a text, got None; name one pair in data.pairs, or give data.columns.source_lang "
        "a column or a constant such as =en",
    )


@pytest.mark.parametrize(("name", "old", "new"), [("m3-multi30k", "raw/{}.tr.gz", "raw/{}.qq.gz"),
                                                  ("iwslt-2017", "{}.tags.en-de.de", "{}.tags.en-de.qq")])  # fmt: skip
def test_an_unknown_language_in_a_file_name(name, old, new, copy):
    folder = copy(name)
    (folder / old.format("train")).rename(folder / new.format("train"))
    path = re.escape(str(folder / new.format("train")))
    refused(folder, rf"{path}: {re.escape(UNKNOWN.format('qq'))}; the file's ending is its language")


def test_one_language_under_two_codes(copy):
    folder = copy("iwslt-2017")
    path = folder / "train.tags.en-de.de"
    (folder / "train.tags.en-de.deu_Latn").write_bytes(path.read_bytes())
    refused(folder, "train.tags.en-de.de and train.tags.en-de.deu_Latn are both of the language de; leave one out")
    lines = json.dumps({"source": "yes", "source_lang": "en", "targets": {"de": "ja", "ger": "ja"}})
    (folder / "x.jsonl").write_text(lines)
    [(_, error)] = read_records(folder / "x.jsonl")
    assert str(error) == "targets names the language de twice, as ger too; leave one out"


def test_an_unknown_language_in_a_folder_name(copy):
    folder = copy("commute")
    (folder / "en-de").rename(folder / "en-qq")
    refused(folder, rf"en-qq: {re.escape(UNKNOWN.format('qq'))}; the folder's name is its pair")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m3-multi30k", "has no ja, which pair en-ja needs; known: cs, de, en, fr, hi, lv, tr"),
        ("m3-ambigcaps", "has no ja, which pair en-ja needs"),
        ("iwslt-2017", "has no files for pair en-ja; it has the languages de, en, fr"),
        ("commute", "has no pair en-ja; "),
        ("ocrmt30k", "has the pair zh-en, and data.pairs asks for en-ja"),
    ],
)
def test_a_pair_that_the_corpus_does_not_have(name, message, copy):
    refused(copy(name), message, pairs=("en-ja",))


# ---- ids ------------------------------------------------------------------------------------------------------------


def test_records_that_share_an_id(tmp_path):
    """As five captions of one image do: none of them is lost."""
    rows = [f"7,a.png,A dog {k},Ein Hund {k},en,de" for k in range(5)]
    (tmp_path / "x.csv").write_text("\n".join(["id,image,source,target,source_lang,target_lang", *rows]))
    records = [record for _, record in read_source(tmp_path / "x.csv")]
    assert [(e.meta["id"], e.target) for e in records] == [("7", f"Ein Hund {k}") for k in range(5)]


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_a_column_that_is_there_twice(name, tmp_path):
    """One of the two would be lost; columns without a name, and of a table those that are not read, are not asked."""
    if name == "x.csv":
        (tmp_path / name).write_text("target,target,,\nAusgang,Tor,1,2\n")
    else:
        columns = {"a": ["Ausgang"], "b": ["Tor"], "c": ["1"], "d": ["2"]}
        pq.write_table(pa.table(columns).rename_columns(["target", "target", "x", "x"]), tmp_path / name)
    with pytest.raises(UserError, match=r"has 2 columns called 'target'; give each a name of its own"):
        list(read_source(tmp_path / name, Layout(pairs=("en-de",))))


def test_two_files_or_texts_of_one_language(copy, tmp_path):
    folder = copy("m3-multi30k")
    with gzip.open(folder / "raw/train.de.gz") as file:
        (folder / "raw/train.de").write_bytes(file.read())
    refused(folder, r"train\.de and train\.de\.gz are both of the language de; leave one out")
    (tmp_path / "x.jsonl").write_text(json.dumps({"source_lang": "en", "targets": {"de": "Tor", "DE": "Ausgang"}}))
    ((_, record),) = read_source(tmp_path / "x.jsonl")
    assert str(record) == "targets names the language de twice, as DE too; leave one out"


def test_a_record_whose_split_is_not_its_files(copy):
    folder = copy("imagefolder")
    change_row(folder / "train/metadata.jsonl", 1, split="test")
    good, bad = read(folder)
    assert bad == []
    assert [(e.meta["split"], e.meta.get("notes")) for e in good[1:]] == [
        ("test", [["other_split", "the record says 'test' and its file is train; it is put in test"]]),
        ("train", None),
    ]


def test_no_sentence_of_tagged_files_is_lost(copy):
    """Two sentences on a line, one that begins with `<`, and one that goes on in the next line."""
    folder = copy("iwslt-2017")
    whole, _ = read(folder)
    change_line(folder / "train.tags.en-de.en", 8, lambda line: b"<3 " + line)
    for language in ("en", "de"):
        file = folder / f"IWSLT17.TED.tst2015.en-de.{language}.xml"
        text = file.read_text()
        line = next(line for line in text.splitlines() if "<seg" in line)
        file.write_text(
            text.replace(line, f'{line.strip()} <seg id="x"> One more {language}. </seg>\n<seg id="9"> half', 1)
        )
    good, bad = read(folder)
    assert len(good) == len(whole) + 1
    assert "One more de." in {e.target for e in good}
    assert [e.source for e in good if e.source.startswith("<3")] != []
    assert [reason.partition(": ")[2] for _, reason in bad] == [
        "a <seg> does not end in its line; write each with its </seg> on one line"
    ]


def test_ids_are_known_beyond_the_block_that_is_kept_apart(monkeypatch):
    monkeypatch.setattr(checked, "BLOCK", 50)
    known = checked.Ids()
    assert all(known.earlier(f"record-{k}", k) is None for k in range(330))
    assert [known.earlier(f"record-{k}", 0) for k in range(330)] == list(range(330))


# ---- conversations --------------------------------------------------------------------------------------------------

TALK = {
    "trl": {
        "the answer first": ({"completion": None, "messages": [{"role": "assistant", "content": "a"},
                                                               {"role": "user", "content": "q"}]},
                             "the answer of the assistant comes before the question; expected the user's turn first"),
        "two answers": ({"completion": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]},
                        "expected one user turn and one assistant turn, got 1 and 2"),
        "a text": ({"completion": "a"},
                   "field 'completion' must be a list of messages with role and content, got 'a'"),
        "no content": ({"completion": [{"role": "assistant"}]},
                       "a message of 'completion' must have role and content, got {'role': 'assistant'}"),
        "unknown role": ({"completion": [{"role": "bot", "content": "a"}]},
                         "role 'bot' is not known; expected one of human, user, gpt, assistant, system"),
        "blank": ({"completion": [{"role": "assistant", "content": " "}]},
                  "the answer of the assistant is empty; leave the record out, or fill it in"),
        "number": ({"completion": [{"role": "assistant", "content": 7}]},
                   "the content of a message must be a text or a list of parts, got 7"),
    },
}  # fmt: skip


@pytest.mark.parametrize("case", TALK["trl"])
def test_conversations_that_cannot_be_used(case, copy):
    fields, message = TALK["trl"][case]
    folder = copy("trl")
    change_row(source(folder), 2, **fields)
    good, bad = read(folder)
    assert bad == [(2, message)]
    assert len(good) == 1


def test_places_of_images_are_counted(copy):
    folder = copy("sharegpt")
    rows = json.loads(source(folder).read_text(encoding="utf-8"))
    rows[1]["images"] = ["3.png", "0.png"]
    source(folder).write_text(json.dumps(rows), encoding="utf-8")
    assert read(folder)[1] == [(2, "the turns have 1 <image>, and the record has 2 images; expected as many")]
    source(folder).write_text(json.dumps(rows)[:-30], encoding="utf-8")
    refused(folder, r"signs\.json record 2: the JSON is broken: .*; mend the array")


@pytest.mark.parametrize(
    ("name", "says"),
    [("x.json", "the JSON is broken: more than 200 brackets"), ("x.jsonl", "maximum recursion depth")],
)
def test_brackets_without_end(name, says, tmp_path):
    """100 KB of them took 25 GB of memory."""
    (tmp_path / name).write_text("[" * 100_000)
    try:
        said = [str(record) for _, record in read_source(tmp_path / name)]
    except UserError as error:
        said = [str(error)]
    assert len(said) == 1
    assert says in said[0]


ASKED = {"role": "user", "content": "Translate."}
ANSWER = {"role": "assistant", "content": "Ausgang"}
TEXT = {"type": "text", "text": "Translate."}
PLACES = "the messages have {} places for images (<image> or a part of type image), and the record has {} images; "


@pytest.mark.parametrize(
    ("content", "images", "message"),
    [
        ([{"type": "image"}, TEXT], None, PLACES.format(1, 0)),
        ("<image>\nTranslate.", None, PLACES.format(1, 0)),
        ([{"type": "image"}, {"type": "image"}, TEXT], ["a.png"], PLACES.format(2, 1)),
        ([{"type": "image"}, {"type": "image", "image": "a.png"}, TEXT, {"type": "image"}], None, PLACES.format(2, 1)),
        ([{"type": "image", "image": "a.png"}, TEXT], ["b.png"], "images stand both in the messages and in the field"),
        ([{"type": "video", "video": "a.mp4"}, TEXT], None, "a part of type 'video' in the content of a message"),
        ([{"content": "x"}], None, "a part of type None in the content of a message cannot be read; "),
        ([{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}, TEXT], None,
         "image 'https://x.org/a.png' is an address; fetch it, and give the path of the file"),
        ([{"type": "image_url", "image_url": {}, "image": {}}, TEXT], None, PLACES.format(1, 0)),
        ([{"type": "image_url", "image_url": {"detail": "low"}}, TEXT], None, "image must be a path or a list of "),
    ],
)  # fmt: skip
def test_no_image_of_a_message_is_lost(content, images, message, tmp_path):
    """It became text translation, with the instruction as its source."""
    row = {"messages": [{**ASKED, "content": content}, ANSWER], **({"images": images} if images else {})}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    ((_, record),) = read_source(tmp_path / "x.jsonl", Layout(pairs=("en-de",)))
    assert isinstance(record, UserError)
    assert str(record).startswith(message)


PIXEL = base64.b64encode(b"not really an image").decode()


@pytest.mark.parametrize(
    ("content", "images", "found"),
    [
        ([{"type": "image"}, TEXT], ["a.png"], "a.png"),
        ("<image>\nTranslate.", ["a.png"], "a.png"),
        ("Translate.", ["a.png"], "a.png"),  # TRL puts it before the text
        ([{"type": "image", "text": None}, {**TEXT, "image": None}], "a.png", "a.png"),
        ([{"type": "image", "url": "a.png"}, TEXT], None, "a.png"),
        ([{"type": "image", "image": "a.png"}, TEXT], ["a.png"], "a.png"),
        ([{"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}, TEXT], None, "a.png"),
        ([{"type": "image_url", "image_url": "a.png"}, TEXT], None, "a.png"),
        ([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}, TEXT], None, None),
    ],
)
def test_images_of_messages(content, images, found, tmp_path):
    row = {"messages": [{**ASKED, "content": content}, ANSWER], **({"images": images} if images else {})}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    ((_, record),) = read_source(tmp_path / "x.jsonl", Layout(pairs=("en-de",)))
    assert isinstance(record, Example)
    assert (record.task, record.source) == ("image_translation", None)
    assert record.images == ((tmp_path / found) if found else b"not really an image",)


# ---- folders that are something else --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multi30k", "holds no captions; expected files such as train.en and train.de"),
        ("ambigcaps", "holds no captions"),
        ("parallel", "holds no parallel text; expected files such as train.en"),
        ("mit10m", "is no MIT-10M; expected files such as train/EN.jsonl"),
        ("ocrmt30k", "is no OCRMT30K; expected files such as ocr_en_train.txt"),
        ("commute", "is no CoMMuTE; expected folders such as en-de"),
        ("imagefolder", "has no metadata; expected metadata.jsonl or metadata.csv"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_of_another_kind(name, message, there, tmp_path):
    path = tmp_path if there else tmp_path / "gone"
    with pytest.raises(UserError, match=re.escape(message)):
        list(read_source(path, Layout(format=name)))


def test_photographs_without_their_list(copy):
    folder = copy("m3-multi30k")
    (folder / "image_splits/val.txt").unlink()
    refused(folder, "has no list of photographs for val; expected val.txt beside the captions or in image_splits/")


def test_a_column_map_where_files_say_it_all(copy):
    refused(copy("m3-multi30k"), "data.columns has no meaning for the format multi30k", columns={"source": "x"})
    refused(copy("ocrmt30k"), "data.columns of OCRMT30K is", columns={"source": "x"})
