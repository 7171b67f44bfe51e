"""The examples of a run: from the embedded signs, and from a user's file with real images."""

from __future__ import annotations

import json
import logging

import pytest
from PIL import Image

from neuroglot.data.corpus import Sizes, as_task, load_corpus, sign_retention
from neuroglot.data.example import split_seed
from neuroglot.data.image import open_image
from neuroglot.errors import UserError
from neuroglot.pair import Pair
from neuroglot.synthetic.signs import signs

PAIRS = ("en-de", "en-fr", "en-tr")
SIZES = Sizes(train=6, dev=3, test=5, heldout=2, retention=4)
TASK = "image_translation"


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("signs", TASK, PAIRS, SIZES, seed=0, describes=True)


def by_item(examples):
    items: dict[str, list] = {}
    for example in examples:
        items.setdefault(example.item, []).append(example)
    return items


def test_signs_have_every_item_in_every_pair(corpus):
    assert corpus.pairs == PAIRS
    assert set(corpus.splits) == {TASK, f"{TASK}_heldout"}
    counts = {"train": corpus.train, "dev": corpus.dev, "test": corpus.splits[TASK],
              "heldout": corpus.splits[f"{TASK}_heldout"]}  # fmt: skip
    for split, examples in counts.items():
        items = by_item(examples)
        assert len(items) == getattr(SIZES, split)
        drawn = signs(split, len(items))
        for sign, group in zip(drawn, items.values(), strict=True):
            assert [str(e.pair) for e in group] == list(PAIRS)
            assert {e.source for e in group} == {sign.text("en")}
            assert [e.target for e in group] == [sign.text(code) for code in ("de", "fr", "tr")]
            assert {e.task for e in group} == {TASK}
            assert all(e.images[0].text == e.source for e in group)


def test_no_two_splits_of_any_corpora_share_images():
    seeds = [split_seed(split, seed) for seed in range(20) for split in ("train", "dev", "test", "heldout")]
    assert len(set(seeds)) == 80


def test_training_draws_each_pair_anew_and_profiling_shares_one_image(corpus):
    pixels = [open_image(e.images[0]).tobytes() for e in corpus.train]
    assert len(set(pixels)) == len(corpus.train)
    shared = by_item(corpus.profile)
    assert [e.item for e in corpus.profile] == [e.item for e in corpus.train]
    for group in shared.values():
        assert len({e.images for e in group}) == 1
    for examples in (corpus.profile, corpus.dev, *corpus.splits.values()):
        images = {e.images for e in examples}
        assert len(images) == len(by_item(examples))
    train = {e.images for e in (*corpus.train, *corpus.profile)}
    assert not train & {e.images for part in (corpus.dev, *corpus.splits.values()) for e in part}
    assert not {e.images for e in corpus.train} & {e.images for e in corpus.profile}


def test_what_should_be_kept(corpus):
    kept = corpus.retention
    assert set(kept) == {"ocr", "text_translation", "describe"}
    assert len(kept["ocr"]) == SIZES.retention, "one reading an item, however many pairs"
    for example in kept["ocr"]:
        assert (str(example.pair), example.task, example.source) == ("en-en", "ocr", None)
        assert example.images[0].text == example.target
    assert len(kept["text_translation"]) == SIZES.retention * len(PAIRS)
    assert all(not e.images and e.source and e.task == "text_translation" for e in kept["text_translation"])
    assert {str(e.pair) for e in kept["text_translation"]} == set(PAIRS)
    assert len(kept["describe"]) == SIZES.retention
    for example in kept["describe"]:
        assert example.images[0].kind == "picture"
        assert example.images[0].text == example.target
        assert open_image(example.images[0]).size == (120, 120)
    assert not {e.source for e in corpus.train} & {e.target for e in kept["ocr"]}
    assert set(load_corpus("signs", TASK, PAIRS, SIZES, 0, describes=False).retention) == {"ocr", "text_translation"}
    assert sign_retention([Pair("en", "de")], 0, 0, True) == {}


def test_settings_are_chosen_by_other_examples_of_the_same_tasks(corpus):
    kept = corpus.dev_retention
    fewer = min(SIZES.dev, SIZES.retention)
    assert {task: len(examples) for task, examples in kept.items()} == {
        "ocr": fewer,
        "text_translation": fewer * len(PAIRS),
        "describe": fewer,
    }
    assert {e.source for e in kept["text_translation"]} == {e.source for e in corpus.dev}
    for task, examples in kept.items():
        asked = {(e.images, e.source) for e in examples}
        assert not asked & {(e.images, e.source) for e in corpus.retention[task]}
    assert not {e.target for e in kept["describe"]} & {e.target for e in corpus.retention["describe"]}
    assert load_corpus("signs", TASK, PAIRS, Sizes(2, 0, 1, 0, 2), 0, True).dev_retention == {}


def test_another_seed_is_another_corpus_and_the_same_seed_the_same(corpus):
    assert load_corpus("signs", TASK, PAIRS, SIZES, 0, True) == corpus
    other = load_corpus("signs", TASK, PAIRS, SIZES, 1, True)
    assert not {e.images for e in other.train} & {e.images for e in corpus.train}
    assert {e.source for e in other.train} != {e.source for e in corpus.train}


def test_signs_in_other_directions_and_sizes():
    small = load_corpus("signs", TASK, ["de-en", "fr-de"], Sizes(2, 0, 1, 0, 2), 0, False)
    assert small.dev == []
    assert set(small.splits) == {TASK}
    first, second = small.train[:2]
    (sign,) = signs("train", 1)
    assert (first.source, first.target) == (sign.text("de"), sign.text("en"))
    assert (second.source, second.target) == (sign.text("fr"), sign.text("de"))
    assert {str(e.pair) for e in small.retention["ocr"]} == {"de-de", "fr-fr"}


def test_signs_know_one_task():
    with pytest.raises(UserError, match="the embedded signs have no task describe, only image_translation; change"):
        load_corpus("signs", "describe", PAIRS, SIZES, 0, True)
    with pytest.raises(UserError, match="cannot be written in tlh"):
        load_corpus("signs", TASK, ["en-tlh"], SIZES, 0, True)


def test_as_task(corpus):
    example = corpus.train[0]
    read = as_task(example, "ocr")
    assert (read.target, read.source, str(read.condition)) == (example.source, None, "ocr:en-en")
    assert as_task(example, "describe") is None
    assert as_task(example, "describe", "a sign").target == "a sign"


@pytest.fixture
def file(tmp_path):
    """Writes a JSONL file beside one real PNG an item."""

    def write(records, name="data.jsonl"):
        for record in records:
            if record.get("image"):
                Image.new("RGB", (30, 20), "white").save(tmp_path / record["image"])
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
        return path

    return write


def record(item, lang, split=None, task=None, **more):
    made = {"image": f"{item}.png", "target": f"{lang} {item}", "source_lang": "en", "target_lang": lang, **more}
    return {**made, **({"split": split} if split else {}), **({"task": task} if task else {})}


def load(path, pairs=(), sizes=SIZES, seed=0, task=TASK):
    return load_corpus(str(path), task, pairs, sizes, seed, describes=True)


def test_a_file_with_splits(file):
    plan = {"train": range(8), "dev": range(8, 12), "test": range(12, 18)}
    records = [record(k, lang, split) for split, items in plan.items() for k in items for lang in ("de", "fr")]
    corpus = load(file(records))
    assert corpus.pairs == ("en-de", "en-fr")
    assert set(corpus.splits) == {TASK}
    for examples, split in ((corpus.train, "train"), (corpus.dev, "dev"), (corpus.splits[TASK], "test")):
        items = by_item(examples)
        assert list(items) == [f"{k}.png|" for k in list(plan[split])[: getattr(SIZES, split)]], "the first of them"
        assert all([str(e.pair) for e in group] == ["en-de", "en-fr"] for group in items.values())
        assert all(open_image(e.images[0]).size == (30, 20) for e in examples)
    assert corpus.profile == corpus.train
    assert set(corpus.retention) == {"ocr", "text_translation", "describe"}, "on embedded signs"


def test_a_file_without_splits_is_divided_by_item(file):
    path = file([record(k, lang) for k in range(120) for lang in ("de", "fr")])
    everything = Sizes(1000, 1000, 1000, 0, 0)
    corpus = load(path, sizes=everything)
    parts = {
        "train": set(by_item(corpus.train)),
        "dev": set(by_item(corpus.dev)),
        "test": set(by_item(corpus.splits[TASK])),
    }
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 120
    assert 80 < len(parts["train"]) < 110
    assert min(map(len, parts.values())) >= 4
    assert all(
        len(group) == 2 for part in (corpus.train, corpus.dev, corpus.splits[TASK]) for group in by_item(part).values()
    )
    assert load(path, sizes=everything) == corpus
    assert set(by_item(load(path, sizes=everything, seed=1).train)) != parts["train"]
    assert corpus.retention == {}


def test_pairs_can_be_chosen(file):
    records = [record(k, lang, split) for k, split in enumerate(["train", "test"]) for lang in ("de", "fr", "tr")]
    corpus = load(file(records), pairs=["en-tr", "en-de"])
    assert corpus.pairs == ("en-tr", "en-de")
    assert {str(e.pair) for e in (*corpus.train, *corpus.splits[TASK])} == {"en-tr", "en-de"}
    with pytest.raises(UserError, match=r"data\.jsonl has no example of pair en-cs; it has en-de, en-fr, en-tr"):
        load(file(records), pairs=["en-cs"])


def test_a_file_sorted_by_language_keeps_all_its_languages(file):
    unpaired = [record(f"{lang}{k}", lang, split) for lang in ("de", "fr", "tr") for split in ("train", "test")
                for k in (range(9) if split == "train" else range(9, 12))]  # fmt: skip
    corpus = load(file(unpaired))
    counts = {pair: sum(str(e.pair) == pair for e in corpus.train) for pair in corpus.pairs}
    assert counts == {"en-de": SIZES.train, "en-fr": SIZES.train, "en-tr": SIZES.train}


def test_a_files_own_retention_tasks(file):
    records = [record(k, lang, split) for k, split in enumerate(["train", "test"]) for lang in ("de", "fr")]
    texts = [record(f"t{k}", lang, None, "text_translation", image=None, source=f"text {k}")
             for lang in ("de", "fr", "tr") for k in range(6)]  # fmt: skip
    read = [record(f"r{k}", "en", None, "ocr") for k in range(6)]
    kept = load(file([*records, *texts, *read])).retention
    assert set(kept) == {"ocr", "text_translation"}
    assert len(kept["ocr"]) == SIZES.retention
    counts = {pair: sum(str(e.pair) == pair for e in kept["text_translation"]) for pair in ("en-de", "en-fr", "en-tr")}
    assert counts == {"en-de": SIZES.retention, "en-fr": SIZES.retention, "en-tr": 0}, "of the pairs that are trained"
    assert load(file([*records, *texts])).dev_retention == {}, "none is marked"
    marked = [record(f"d{k}", "en", "dev", "ocr") for k in range(6)]
    corpus = load(file([*records, *read, *marked]))
    assert [e.images[0].name for e in corpus.dev_retention["ocr"]] == ["d0.png", "d1.png", "d2.png"]
    assert {e.images[0].name[0] for e in corpus.retention["ocr"]} == {"r"}


def test_retention_leaves_out_languages_that_signs_cannot_be_written_in(file, caplog):
    records = [record(k, lang, split) for k, split in enumerate(["train", "test"]) for lang in ("de", "tlh")]
    with caplog.at_level(logging.WARNING):
        kept = load(file(records)).retention
    assert {str(e.pair) for e in kept["text_translation"]} == {"en-de"}
    assert "retention is not measured for en-tlh: the embedded corpus cannot be written in tlh" in caplog.text


def test_mistakes_in_a_file(file, tmp_path):
    every = [record(k, "de", "train") for k in range(3)]
    with pytest.raises(
        UserError, match=r"data\.jsonl: the test split is empty for en-de \(3 examples in all\); .*mark som"
    ):
        load(file(every))
    with pytest.raises(UserError, match="the train split is empty"):
        load(file([{**r, "split": "test"} for r in every]))
    lopsided = [*every, record(7, "de", "test"), record(8, "fr", "train")]
    with pytest.raises(UserError, match="the test split is empty for en-fr"):
        load(file(lopsided))
    with pytest.raises(UserError, match="has no ocr examples; it has image_translation; set task"):
        load(file(every), task="ocr")
    with pytest.raises(UserError, match="does not exist; give a JSONL file, `signs` or `scenes`"):
        load(tmp_path / "sings")
    corpus = load(file([*every, record(7, "de", "test")]))
    (tmp_path / "7.png").unlink()
    with pytest.raises(UserError, match=r"7\.png does not exist"):
        open_image(corpus.splits[TASK][0].images[0])
