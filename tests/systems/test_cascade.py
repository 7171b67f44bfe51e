"""The cascade reads an image once, and translates what it read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neuroglot.data.example import Example, RenderSpec
from neuroglot.systems import Cascade, HFSystem, System

LANGUAGES = ("fr", "cs", "de", "lv", "hi", "tr")


class Recorder:
    """A System around a function, which keeps what it was asked."""

    def __init__(self, answer):
        self.name, self.answer, self.asked = "recorder", answer, []

    def translate(self, examples):
        self.asked += examples
        return [self.answer(example) for example in examples]

    def nll(self, examples):
        return None


def sign(text: str, target_lang: str = "de", **changes) -> Example:
    fields = {"source": text, "target": "?", "source_lang": "en", "task": "image_translation", **changes}
    return Example((RenderSpec(text, 1, 0),), target_lang=target_lang, **fields)


@pytest.fixture
def parts():
    reader = Recorder(lambda example: example.images[0].text.lower())
    translator = Recorder(lambda example: f"{example.target_lang}:{example.source}")
    return reader, translator, Cascade(reader, translator)


def test_each_image_is_read_once_for_six_languages(parts):
    reader, translator, cascade = parts
    examples = [sign(text, language) for language in LANGUAGES for text in ("OPEN", "EXIT")]
    answers = cascade.translate(examples)
    assert answers == [f"{language}:{text}" for language in LANGUAGES for text in ("open", "exit")]
    assert len(reader.asked) == 2
    assert len(translator.asked) == 12
    assert cascade.translate(examples[:3]) == answers[:3]
    assert len(reader.asked) == 2, "a later call knows the image too"


def test_the_reader_is_asked_for_a_transcription_and_not_shown_the_text(parts):
    reader, translator, cascade = parts
    cascade.translate([sign("OPEN", alternatives=("wrong",))])
    (asked,) = reader.asked
    assert (asked.task, str(asked.pair), asked.source, asked.alternatives) == ("ocr", "en-en", None, ())
    (asked,) = translator.asked
    assert (asked.task, str(asked.pair), asked.source, asked.images) == ("text_translation", "en-de", "open", ())


def test_an_empty_transcription_is_an_empty_translation(parts):
    _, translator, cascade = parts
    assert cascade.translate([sign(""), sign("EXIT")]) == ["", "de:exit"]
    assert len(translator.asked) == 1


def test_other_tasks_go_to_the_system_that_knows_them(parts):
    reader, translator, cascade = parts
    text = replace(sign("EXIT"), images=(), task="text_translation", source="Exit")
    ocr = replace(sign("OPEN"), task="ocr", target_lang="en")
    assert cascade.translate([ocr, text, sign("WAY")]) == ["open", "de:Exit", "de:way"]
    assert [example.task for example in reader.asked] == ["ocr", "ocr"]


def test_images_are_told_apart_by_content_and_language(parts):
    reader, _, cascade = parts
    reader.answer = lambda example: "x"
    as_bytes = [replace(sign("A"), images=(content,)) for content in (b"one", b"two", b"one")]
    cascade.translate([*as_bytes, replace(as_bytes[0], source_lang="fr")])
    assert len(reader.asked) == 3


def test_no_likelihood_and_a_name(parts):
    cascade = parts[2]
    assert isinstance(cascade, System)
    assert cascade.nll([sign("OPEN")]) is None
    assert cascade.name == "cascade"
    assert cascade.translate([]) == []


def test_with_a_real_model(model, batcher, mixed):
    system = HFSystem(model, batcher, "base", 4, 6)
    counted = Recorder(lambda example: system.translate([example])[0])
    images = [one for one in mixed if len(one.images) == 1]
    both = [replace(one, target_lang=language) for one in images for language in ("de", "fr")]
    answers = Cascade(counted, system).translate(both)
    assert len(counted.asked) == len(images)
    by_hand = []
    for one in both:
        read = system.translate([replace(one, task="ocr", target_lang="en", source=None)])[0]
        asked = replace(one, images=(), task="text_translation", source=read)
        by_hand.append(system.translate([asked])[0] if read else "")
    assert answers == by_hand
