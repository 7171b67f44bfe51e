"""What a recipe says of how its data lie, on its way to the readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroglot.config.load import load_recipe
from neuroglot.data.readers import Layout, read_source
from neuroglot.data.readers.layout import split_of, splits_of
from neuroglot.errors import UserError


def test_a_recipe_as_a_layout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(
        "quickstart",
        [
            "data.source=signs.parquet",
            "data.images=photos",
            "data.columns={source: translation.en, source_lang: =en}",
            "data.splits={test: exam}",
            "data.pairs=[en-de]",
            "data.tasks=[image_translation, ocr]",
            "data.render={width: 448, height: 96, plain: true}",
            "data.seed=4",
        ],
    )
    assert recipe.data.source == str(tmp_path / "signs.parquet")
    assert recipe.data.layout(recipe.task) == Layout(
        format="auto",
        columns={"source": "translation.en", "source_lang": "=en"},
        pairs=("en-de",),
        splits={"test": "exam"},
        images=tmp_path / "photos",
        tasks=("image_translation", "ocr"),
        task="image_translation",
        render=(("height", "96"), ("plain", "yes"), ("width", "448")),
        seed=4,
    )


def test_a_name_of_the_hub_is_no_path():
    recipe = load_recipe("quickstart", ["data.source=hf:owner/name:german"])
    assert recipe.data.source == "hf:owner/name:german"
    assert str(Path(recipe.data.source)) == recipe.data.source
    assert recipe.data.layout("ocr").images is None


def test_what_a_recipe_may_not_say():
    with pytest.raises(UserError, match="task 'orc' is not known; did you mean ocr"):
        load_recipe("quickstart", ["data.tasks=[orc]"])
    with pytest.raises(UserError, match="data.splits.valid"):
        load_recipe("quickstart", ["data.splits={valid: x}"])


NAMES = ("train", "val", "test_2016_flickr", "test_2017_flickr", "notes")


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        (("train", "validation", "test"), {}, {"train": "train", "dev": "validation", "test": "test"}),
        (("train", "val", "test_2016_flickr"), {}, {"train": "train", "dev": "val", "test": "test_2016_flickr"}),
        (("Train", "test"), {}, {"train": "Train", "test": "test"}),
        (NAMES, {"test": "test_2017_flickr"}, {"train": "train", "dev": "val", "test": "test_2017_flickr"}),
        (NAMES, {"test": "val", "dev": "notes"}, {"train": "train", "dev": "notes", "test": "val"}),
        (("train.lc.norm.tok", "val.lc.norm.tok"), {}, {"train": "train.lc.norm.tok", "dev": "val.lc.norm.tok"}),
        (("notes",), {}, {}),
    ],
)
def test_names_of_splits(names, asked, found):
    layout = Layout(splits=asked)
    assert splits_of(names, layout, "there") == found
    for ours, theirs in asked.items():
        assert split_of(theirs, layout) == ours


def test_splits_that_cannot_be_told_apart():
    with pytest.raises(
        UserError, match=r"there has several splits that could be test: test_2016_flickr, test_2017_fl"
    ):
        splits_of(NAMES, Layout(), "there")
    with pytest.raises(UserError, match=r"there has no split 'tset', which data.splits.test names; did you mean test"):
        splits_of(("test",), Layout(splits={"test": "tset"}), "there")


def test_a_pair_that_is_no_pair(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"source": "a", "target": "b"}\n')
    ((position, record),) = read_source(tmp_path / "x.jsonl", Layout(pairs=("en-xx",)))
    assert position == 1
    assert "language code 'xx' is not known" in str(record)


def test_a_split_that_the_run_divides():
    """A corpus of nothing but a test split can be trained and tested on; nothing is read twice."""
    path = Path(__file__).parent / "fixtures" / "mit-10m-sample"
    layout = Layout(splits={"train": "test", "test": "test"})
    found = [example for _, example in read_source(path, layout)]
    assert [e.meta.get("split") for e in found] == [None, None]
