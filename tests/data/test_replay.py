"""Replay: other tasks of a file, or of the training items themselves; nothing that is tested is ever among them."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from neuroglot.data.corpus import TRAINS, Sizes, TrainingSet, load_corpus
from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.errors import UserError

SIZES = Sizes(train=12, dev=4, test=6, heldout=3, retention=5)
TASK = "image_translation"


def replay_of(source, task=TASK, pairs=(), sizes=SIZES, examples=None, describes=True):
    return load_corpus(str(source), task, pairs, sizes, 0, describes, examples, replays=True)


MUTE = replace(SIZES, retention=0)
"""Without the signs that a file of one task is tested on besides, which take their time."""


def scored(corpus):
    """Every example that is scored or by which settings are chosen."""
    parts = (corpus.dev, *corpus.splits.values(), *corpus.retention.values(), *corpus.dev_retention.values())
    return list(chain.from_iterable(parts))


def test_nothing_is_replayed_unless_it_is_asked_for():
    corpus = load_corpus("signs", TASK, ["en-de"], SIZES, 0, True)
    assert corpus.replay == {}
    drawn = TrainingSet(corpus)
    assert (list(drawn), drawn.replayed, set(drawn.kinds)) == (list(corpus.train), {}, {"image"})


@pytest.mark.parametrize(
    ("source", "task", "pairs"),
    [("signs", TASK, ["en-de", "en-fr", "de-fr"]), ("scenes", "multimodal_translation", ["en-fr", "en-cs"])],
)
def test_the_embedded_corpora_replay_training_signs(source, task, pairs):
    corpus = replay_of(source, task, pairs)
    assert set(corpus.replay) == {"ocr", "text_translation", "describe"}
    seen = scored(corpus)
    images, texts = {i for e in seen for i in e.images}, {(e.task, e.source, e.target) for e in seen}
    for name, part in corpus.replay.items():
        for example, pair in zip(part, part.pairs, strict=True):
            assert example.task == name
            assert example.meta[TRAINS] == pair in pairs
            assert not set(example.images) & images
            assert (name, example.source, example.target) not in texts
            assert bool(example.images) == (name != "text_translation")
    read = list(corpus.replay["ocr"])
    assert open_image(read[0].images[0]).size
    assert {str(e.pair) for e in read} == {f"{p[:2]}-{p[:2]}" for p in pairs}
    for example, pair in zip(read, corpus.replay["ocr"].pairs, strict=True):
        assert pair.startswith(example.source_lang), "trains what its own language's pairs train"
    of_english = [p for e, p in zip(read, corpus.replay["ocr"].pairs, strict=True) if e.source_lang == "en"]
    counts = {p: of_english.count(p) for p in pairs if p.startswith("en")}
    assert max(counts.values()) - min(counts.values()) <= 1, "in turn"
    if source == "signs":
        assert {e.target for e in read} <= {e.source for e in corpus.train}
    assert "describe" not in replay_of(source, task, pairs, describes=False).replay


def record(item, lang="de", task=TASK, split=None, **more):
    images = () if more.pop("text", False) else (Path(more.pop("image", f"{item}.png")),)
    return Example(images, more.pop("source", None), f"{lang} {item}", "en", lang, task, (), str(item),
                   {"split": split} if split else {})  # fmt: skip


MAIN = [record(f"m{k}", lang, split="test" if k < 4 else "dev" if k < 6 else "train", source=f"say {k}")
        for k in range(14) for lang in ("de", "fr")]  # fmt: skip


def test_a_files_other_tasks_without_what_is_tested():
    read = [record(f"r{k}", "en", "ocr") for k in range(12)]
    marked = [record("r-test", "en", "ocr", "test"), record("r-dev", "en", "ocr", "dev"),
              record("r-train", "en", "ocr", "train")]  # fmt: skip
    shared = [
        record("m1", "en", "ocr", image="other.png"),  # a test item, in another picture
        record("else", "en", "ocr", image="m2.png"),  # a test item's picture, by another name
        record("m5", "en", "ocr", image="fresh.png"),  # a dev item
        record("m9", "en", "ocr"),  # a training item
    ]
    texts = [record(f"t{k}", lang, "text_translation", source=f"text {k}", text=True)
             for k in range(9) for lang in ("de", "fr", "tr")]  # fmt: skip
    corpus = replay_of("f.jsonl", examples=[*MAIN, *read, *marked, *shared, *texts])
    plain = load_corpus("f.jsonl", TASK, [], SIZES, 0, True, [*MAIN, *read, *marked, *shared, *texts])
    assert corpus.retention == plain.retention, "what is measured does not depend on what is replayed"
    assert corpus.dev_retention == plain.dev_retention
    assert [e.item for e in corpus.retention["ocr"]] == ["r0", "r1", "r2", "r3", "r4"]
    assert [e.item for e in corpus.replay["ocr"]] == [*(f"r{k}" for k in range(5, 12)), "r-train", "m9"]
    assert corpus.replay["ocr"].pairs == ["en-de", "en-fr"] * 4 + ["en-de"]
    assert {e.item for e in corpus.replay["text_translation"]} == {f"t{k}" for k in range(5, 9)}
    assert {str(e.pair) for e in corpus.replay["text_translation"]} == {"en-de", "en-fr"}, "of the run's pairs"
    items = {e.item for e in scored(corpus)}
    images = {i for e in scored(corpus) for i in e.images}
    for part in corpus.replay.values():
        assert not {e.item for e in part} & items
        assert not {i for e in part for i in e.images} & images


def test_a_file_of_one_task_replays_its_training_items():
    corpus = replay_of("f.jsonl", sizes=MUTE, examples=[*MAIN, record("silent", split="train")])
    assert set(corpus.replay) == {"ocr", "text_translation"}
    train = {(e.item, e.source) for e in corpus.train if e.source}
    assert {(e.item, e.target) for e in corpus.replay["ocr"]} == train
    assert len(corpus.replay["ocr"]) == len(train), "read once, however many languages follow"
    assert all(str(e.pair) == "en-en" and e.images for e in corpus.replay["ocr"])
    texts = [(e.item, e.source, e.target, e.images) for e in corpus.replay["text_translation"]]
    assert texts == [(e.item, e.source, e.target, ()) for e in corpus.train if e.source]
    leaked = [record("copy", split="train", image="m0.png", source="say it")]
    again = replay_of("f.jsonl", sizes=MUTE, examples=[*MAIN, *leaked]).replay
    assert "copy" not in {e.item for part in again.values() for e in part}, "its picture is tested"
    spoken = [record(e.item, e.target_lang, "multimodal_translation", e.meta["split"], source=e.source) for e in MAIN]
    replayed = replay_of("f.jsonl", "multimodal_translation", sizes=MUTE, examples=spoken).replay
    assert set(replayed) == {"text_translation"}


def test_nothing_to_replay_is_said():
    silent = [record(f"m{k}", split=split) for k, split in enumerate(["train", "test"])]
    with pytest.raises(UserError, match=r"data\.replay: f\.jsonl holds nothing to replay: it has no examples of"):
        replay_of("f.jsonl", sizes=MUTE, examples=silent)
    kept = [record("r", "en", "ocr", "test")]
    with pytest.raises(UserError, match="all its examples of other tasks are tested, or share an item, an image or"):
        replay_of("f.jsonl", sizes=MUTE, examples=[*silent, *kept])


def test_a_training_set_says_what_each_example_trains():
    texts = [record(f"t{k}", "fr", "text_translation", source=f"text {k}", text=True) for k in range(9)]
    read = [record(f"r{k}", "en", "ocr") for k in range(7)]
    corpus = replay_of("f.jsonl", examples=[*MAIN, *texts, *read])
    drawn = TrainingSet(corpus)
    assert len(drawn) == len(corpus.train) + 2 + 4 == len(drawn.pairs) == len(drawn.kinds)
    assert drawn.replayed == {"ocr": 2, "text_translation": 4}
    assert [drawn[k] for k in range(len(drawn))] == list(drawn)
    assert (drawn[-1], drawn[2:4]) == (list(drawn)[-1], list(drawn)[2:4])
    own = len(corpus.train)
    assert list(drawn[:own]) == list(corpus.train)
    assert drawn.pairs[:own] == [str(e.pair) for e in corpus.train]
    for example, pair, kind in list(zip(drawn, drawn.pairs, drawn.kinds, strict=True))[own:]:
        assert example.meta[TRAINS] == pair
        assert kind == f"{example.task} {'image' if example.images else ''}"
    with pytest.raises(IndexError):
        drawn[len(drawn)]


def test_what_a_recipe_says(tmp_path):
    from neuroglot.config.load import load_recipe

    recipe = load_recipe("quickstart", ["data.replay=0.1", "data.temperature=2"], "smoke")
    assert (recipe.data.replay, recipe.data.temperature) == (0.1, 2.0)
    for setting in ("data.replay=0.95", "data.replay=-0.1", "data.temperature=0.5", "data.max_pixels=-1"):
        with pytest.raises(UserError, match=setting.partition("=")[0].replace(".", r"\.")):
            load_recipe("quickstart", [setting], "smoke")


def test_a_recipe_chooses_the_replayed_tasks(tmp_path):
    from neuroglot.config.load import load_recipe
    from neuroglot.pipeline.context import Context

    def replayed(*settings):
        recipe = load_recipe("quickstart", ["data.pairs=[en-de]", "data.replay=0.3", *settings], "smoke")
        return list(Context(recipe, tmp_path, lambda label, total: lambda done: None, print).training.replayed)

    assert replayed() == ["ocr", "text_translation", "describe"]
    assert replayed("data.replay_tasks=[text_translation, ocr]") == ["text_translation", "ocr"]
    with pytest.raises(UserError, match="replay_tasks says what is replayed, and replay is 0; set replay"):
        load_recipe("quickstart", ["data.replay=0", "data.replay_tasks=[ocr]"], "smoke")
    with pytest.raises(UserError, match="data.replay_tasks.*'orc' is not known; did you mean ocr"):
        replayed("data.replay_tasks=[orc]")
    with pytest.raises(
        UserError, match="names multimodal_translation, of which there is nothing to replay; there is ocr, text_"
    ):
        replayed("data.replay_tasks=[multimodal_translation]")
