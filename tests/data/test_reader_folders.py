"""Folders of several files: none is left out in silence, none is read twice, and none that is no data is refused."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroglot.data.example import Example
from neuroglot.data.readers import Layout, read_source
from neuroglot.errors import UserError

FIXTURES = Path(__file__).parent / "fixtures"
ROW = {"source": "Exit", "target": "Ausgang"}


def read(path: Path, **layout) -> list[Example]:
    records = [record for _, record in read_source(path, Layout(pairs=("en-de",), **layout))]
    assert [str(record) for record in records if isinstance(record, UserError)] == []
    return [record for record in records if isinstance(record, Example)]


def splits(found: list[Example]) -> list[str | None]:
    return [example.meta.get("split") for example in found]


def parquet(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({key: [value] for key, value in ROW.items()}), path)


def test_a_parquet_file_beside_the_splits(tmp_path, caplog):
    parquet(tmp_path / "train.parquet", tmp_path / "part2.parquet")
    expected = (
        "has the splits train, and part2.parquet belongs to none; rename or move it, name it in data.splits, such "
    )
    with pytest.raises(UserError, match=re.escape(expected + "as {dev: part2}, or leave it out with {train: train}")):
        read(tmp_path)
    assert splits(read(tmp_path, splits={"dev": "part2"})) == ["train", "dev"]
    with caplog.at_level(logging.WARNING):
        assert splits(read(tmp_path, splits={"train": "train"})) == ["train"]
    assert "not read, since data.splits names others: part2.parquet" in caplog.text
    (tmp_path / "part2.parquet").rename(tmp_path / "train-part2.parquet")
    assert splits(read(tmp_path)) == ["train", "train"]


def test_a_folder_of_parquet_files_beside_the_splits(tmp_path):
    parquet(*(tmp_path / name / "0.parquet" for name in ("train", "extra", "test")))
    with pytest.raises(UserError, match=r"has the splits train, test, and extra/0\.parquet belongs to none"):
        read(tmp_path)
    assert splits(read(tmp_path, splits={"dev": "extra"})) == ["train", "dev", "test"]


def test_a_saved_split_of_another_name(tmp_path):
    one = datasets.Dataset.from_list([ROW])
    datasets.DatasetDict({"train": one, "extra": one}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"has the splits train, and split extra belongs to none"):
        read(tmp_path / "saved")
    assert splits(read(tmp_path / "saved", splits={"test": "extra"})) == ["train", "test"]


@pytest.fixture
def images(tmp_path):
    shutil.copytree(FIXTURES / "imagefolder", tmp_path, dirs_exist_ok=True)
    return tmp_path


def above(folder: Path) -> None:
    """Put the metadata above the folders of the splits."""
    rows = []
    for file in sorted(folder.glob("*/metadata.jsonl")):
        held = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        rows += [{**row, "file_name": f"{file.parent.name}/{row['file_name']}"} for row in held]
        file.unlink()
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_split_that_an_imagefolder_does_not_have(images):
    message = "has no split 'tset', which data.splits.test names; did you mean test"
    with pytest.raises(UserError, match=message):
        read(images, splits={"test": "tset"})
    above(images)
    assert splits(read(images)) == ["test", "train", "train"]
    found = [record for _, record in read_source(images, Layout(pairs=("en-de",), splits={"test": "tset"}))]
    assert all(isinstance(record, UserError) and message in str(record) for record in found)


def test_a_folder_of_images_beside_the_splits(images):
    shutil.copytree(images / "test", images / "extra")
    with pytest.raises(UserError, match=r"has the splits train, test, and extra/metadata\.jsonl belongs to none"):
        read(images)
    assert splits(read(images, splits={"dev": "extra"})) == ["dev", "test", "train", "train"]


@pytest.mark.parametrize("second", ["train/metadata.csv", "metadata.csv"])
def test_two_files_of_metadata_for_the_same_images(second, images):
    (images / second).write_text("file_name,target\n0000.png,x\n")
    with pytest.raises(UserError, match=r"has .*metadata\.\w+ and .*metadata\.\w+ for the same images; keep one of"):
        read(images)


@pytest.mark.parametrize("ending", ["bpe", "bak", "idx", "tmp", "xyz_1"])
def test_a_stray_file_beside_parallel_text(ending, tmp_path):
    for name in ("en", "de", ending):
        (tmp_path / f"train.{name}").write_text("Exit\n" * (1 if len(name) == 2 else 7))
    assert len(read(tmp_path, format="parallel")) == 1
    assert len(list(read_source(tmp_path, Layout()))) == 1


def test_files_named_by_other_codes_of_their_languages(tmp_path):
    for name in ("eng_Latn", "ger", "zh-Hans-CN"):
        (tmp_path / f"train.{name}").write_text("Exit\n")
    found = read_source(tmp_path, Layout(format="parallel", pairs=("eng-deu", "en-zh-Hans-CN")))
    assert {str(e.pair) for _, e in found} == {"en-de", "en-zh_Hans_CN"}


# ---- OCRMT30K -------------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    """Four texts, of which the first and the last are of one photograph."""
    texts = {"image": "abca", "ocr_zh": "一二三四", "ocr_zh_pseudo": "一 三四", "ocr_en": "ABCD"}
    for name, held in texts.items():
        (tmp_path / f"{name}_train.txt").write_text("\n".join(held), encoding="utf-8")
    return tmp_path


def ocrmt30k(path: Path, **layout) -> list[tuple]:
    records = read_source(path, Layout(**layout))
    return [(p, str(r)) if isinstance(r, UserError) else (p, r.images[0].name, r.source) for p, r in records]


def test_a_photograph_that_returns_has_all_its_texts(photographs):
    assert ocrmt30k(photographs) == [(2, "b", "二"), (3, "c", "三"), (4, "a", "一\n四")]
    alone = ocrmt30k(photographs, tasks=("image_translation", "multimodal_translation"))
    assert alone == [(1, "a", "一"), (2, "b", "二"), (2, "b", "二"), (3, "c", "三"), (3, "c", "三"),
                     (4, "a", "一\n四"), (4, "a", "四")]  # fmt: skip


def test_what_the_ocr_did_not_read_costs_nothing(photographs):
    """It is only kept beside the text; where it is the source, its line is needed."""
    metas = [record.meta.get("ocr") for _, record in read_source(photographs)]
    assert metas == [None, "三", "一\n四"]
    found = ocrmt30k(photographs, columns={"source": "ocr"})
    assert [record[:2] for record in found if len(record) == 3] == [(3, "c"), (4, "a")]
    assert [record for record in found if len(record) == 2] == [
        (2, "ocr_zh_pseudo_train.txt line 2: the line is blank, and other files have a text there; fill it in")
    ]
