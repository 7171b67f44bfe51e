"""The second task: its lexicon is sound, and neither text nor picture alone can answer it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import replace

import pytest

from neuroglot.data.corpus import Sizes, load_corpus
from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.errors import UserError
from neuroglot.pair import Pair
from neuroglot.synthetic import scenes
from neuroglot.synthetic.pictograms import PICTOGRAMS
from neuroglot.synthetic.scenes import (
    DOMAINS,
    HOURS,
    TASK,
    ambiguities,
    image_only_ceiling,
    minutes,
    scene_examples,
    text_only_ceiling,
)
from neuroglot.synthetic.signs import LANGUAGES, MAX_SOURCE, MAX_TARGET, Sign

PAIRS = [Pair("en", language) for language in LANGUAGES]
SIZES = Sizes(train=80, dev=20, test=40, heldout=40, retention=3)


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("scenes", TASK, [str(pair) for pair in PAIRS], SIZES, seed=0, describes=True)


@pytest.fixture(scope="module")
def splits(corpus):
    return {"train": corpus.train, "dev": corpus.dev, "test": corpus.splits[TASK],
            "heldout": corpus.splits[f"{TASK}_heldout"]}  # fmt: skip


def test_two_readings_never_share_a_form_and_every_domain_has_what_the_task_needs():
    for ambiguity in ambiguities():
        first, second = ambiguity.readings
        assert first.scene != second.scene
        assert tuple(first.forms) == tuple(second.forms) == ambiguity.languages != ()
        for language in ambiguity.languages:
            assert first.forms[language] != second.forms[language], (ambiguity.word, language)
    for domain in DOMAINS:
        words = [a for a in ambiguities() if a.domain == domain]
        assert {True, False} == {a.held_out for a in words}
        assert len({a.word for a in words}) == len(words) > 6


def test_languages_drop_out_where_their_readings_coincide():
    languages = {a.word: set(a.languages) for a in ambiguities()}
    assert languages["crane"] == {"de", "lv", "hi", "tr"}, "grue and jeřáb are both"
    assert "de" not in languages["nail"]
    assert "cs" not in languages["sheep"]
    assert not any("tr" in a.languages for a in ambiguities() if a.domain == "gender")


def test_the_embedded_model_can_write_every_form(processor):
    known = set(processor.tokenizer.get_vocab())
    for ambiguity in ambiguities():
        texts = [ambiguity.word, *(form for reading in ambiguity.readings for form in reading.forms.values())]
        for text in texts:
            assert text == unicodedata.normalize("NFC", text)
            assert set(text) <= known, (ambiguity.word, text)


def test_sun_and_moon_decide_times():
    assert minutes("9:30") == {"day": 9 * 60 + 30, "night": 21 * 60 + 30}
    assert minutes("3:15") == {"day": 15 * 60 + 15, "night": 3 * 60 + 15}
    assert minutes("12:00") == {"day": 12 * 60, "night": 0}
    for hour in HOURS:
        day, night = minutes(f"{hour}:45").values()
        assert 7 * 60 <= day < 17 * 60, "daylight, anywhere"
        assert not 6 * 60 <= night < 18 * 60


def test_examples_are_what_they_say(splits):
    names = {a.word: a for a in ambiguities()}
    for split, examples in splits.items():
        assert len({e.item for e in examples}) == getattr(SIZES, split)
        for e in examples:
            ambiguity = next(a for word, a in names.items() if word in e.source and a.domain == e.meta["domain"])
            own, other = sorted(ambiguity.readings, key=lambda reading: reading.name != e.meta["reading"])
            assert e.images[0].kind == "scene"
            assert e.images[0].text == own.scene
            assert (e.source_lang, e.task) == ("en", TASK)
            assert e.alternatives != (e.target,)
            if e.meta["domain"] != "time":  # a time may lose its leading zero inside a sentence
                assert own.forms[e.target_lang] in e.target
                assert other.forms[e.target_lang] in e.alternatives[0]
            assert len(e.source) <= MAX_SOURCE
            assert max(map(len, (e.target, *e.alternatives))) <= MAX_TARGET
            assert ambiguity.held_out == (split == "heldout")


def test_a_time_is_written_as_in_the_signs():
    day, night = [e for e in scene_examples("test", 4, [Pair("en", "de")], 0) if e.item.startswith("test-0")]
    clock = day.source.rpartition(" ")[2]
    written = {k: f"{v // 60:02}:{v % 60:02}" for k, v in minutes(clock).items()}
    assert (day.target.rpartition(" ")[2], night.target.rpartition(" ")[2]) == (written["day"], written["night"])
    assert day.alternatives == (night.target,)
    assert "M" not in clock


def test_every_domain_is_in_every_split_and_every_pair_in_every_item_that_it_can_have(splits):
    for examples in splits.values():
        assert {e.meta["domain"] for e in examples} == set(DOMAINS)
        assert {e.target_lang for e in examples} == set(LANGUAGES)
        items = Counter((e.item, e.pair) for e in examples)
        assert set(items.values()) == {1}
        assert not [e for e in examples if e.meta["domain"] == "gender" and e.target_lang == "tr"]


def test_neither_text_nor_picture_alone_can_answer(splits):
    """Each sentence occurs with both readings, and each picture of a scored split serves two sentences."""
    for split in ("dev", "test", "heldout"):
        examples = splits[split]
        readings, uses = {}, {}
        for e in examples:
            readings.setdefault((e.source, e.pair), set()).add(e.target)
            uses.setdefault((e.images, e.pair), set()).add(e.target)
        assert {len(found) for found in readings.values()} == {2}
        assert {len(found) for found in uses.values()} == {2}
        assert text_only_ceiling(examples) == image_only_ceiling(examples) == 50.0
    assert text_only_ceiling(splits["train"]) == 50.0


def test_a_ceiling_is_counted_from_the_examples():
    a, b = (Example((path,), "bat", path, "en", "de", TASK) for path in ("A", "B"))
    assert text_only_ceiling([a, b]) == 50.0
    assert text_only_ceiling([a, replace(a, images=("C",)), b]) == pytest.approx(200 / 3)
    assert image_only_ceiling([a, b]) == 100.0
    other = replace(a, target_lang="fr")
    assert text_only_ceiling([a, b, other]) == 75.0, "the mean over pairs"


def test_splits_share_no_sentence_no_picture_and_no_held_out_word(corpus, splits):
    sources = {split: {e.source for e in examples} for split, examples in splits.items()}
    images = {split: {e.images for e in examples} for split, examples in splits.items()}
    for found in (sources, images):
        every = [x for one in found.values() for x in one]
        assert len(every) == len(set(every))
    assert len(images["train"]) == len(splits["train"]), "training draws every example anew"
    assert {e.item: e.source for e in corpus.profile} == {e.item: e.source for e in corpus.train}
    assert len({(e.item, e.images) for e in corpus.profile}) == SIZES.train, "profiling shows one in all pairs"


def test_the_same_seed_is_the_same_corpus_and_another_another(splits):
    again = scene_examples("test", SIZES.test, PAIRS, 0)
    assert again == splits["test"]
    other = scene_examples("test", SIZES.test, PAIRS, 1)
    assert not {e.images for e in again} & {e.images for e in other}
    assert {e.source for e in again} != {e.source for e in other}
    pixels = {open_image(e.images[0]).tobytes() for e in again}
    assert pixels == {open_image(e.images[0]).tobytes() for e in splits["test"]}
    assert len(pixels) == len({e.images for e in again})


def test_a_single_item_already_has_every_pair():
    examples = scene_examples("heldout", 1, PAIRS, 0)
    assert {e.pair for e in examples} == set(PAIRS)
    assert len({e.item for e in examples}) == 4, "two sentences in two readings"
    assert scene_examples("test", 0, PAIRS, 0) == []


def test_what_should_be_kept_is_that_of_the_signs(corpus):
    signs = load_corpus("signs", "image_translation", [str(p) for p in PAIRS], SIZES, seed=0, describes=True)
    assert corpus.retention == signs.retention
    assert corpus.dev_retention == signs.dev_retention


@pytest.mark.parametrize("pair", ["en-es", "de-fr"])
def test_pairs_that_the_lexicon_lacks(pair):
    with pytest.raises(UserError, match=f"the embedded scenes have no pair {pair}; they have en-fr, en-cs"):
        load_corpus("scenes", TASK, [pair], SIZES, 0, False)


def test_more_than_there_are(monkeypatch):
    monkeypatch.setattr(scenes, "signs", lambda *_: [Sign("unit", (3, "duration-day"))])
    with pytest.raises(UserError, match="the embedded scenes hold fewer than 20 dev items; ask for fewer"):
        scene_examples("dev", 20, PAIRS, 0)


def test_every_reading_has_a_picture_and_every_picture_a_reading():
    scenes = {reading.scene for a in ambiguities() for reading in a.readings}
    assert {s.partition(":")[0] if s.endswith((":one", ":several")) else s for s in scenes} == set(PICTOGRAMS)


def test_domains_can_be_chosen_and_are_checked() -> None:
    found = {e.meta["domain"] for e in scene_examples("test", 16, PAIRS, 0, domains=("gender", "number"))}
    assert found == {"gender", "number"}
    assert text_only_ceiling(scene_examples("test", 16, PAIRS, 0, domains=["gender"])) == 50.0
    with pytest.raises(UserError, match="data.domains: 'gendre' is not known; did you mean gender"):
        scene_examples("test", 16, PAIRS, 0, domains=["gendre"])
