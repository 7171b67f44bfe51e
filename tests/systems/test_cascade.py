"""The cascade reads an image once, and translates what it read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example, RenderSpec
from neuroglot.errors import UserError
from neuroglot.evaluation import evaluate
from neuroglot.models.load import load_model, load_processor
from neuroglot.systems import Cascade, HFSystem, System
from neuroglot.systems.cascade import known, unmarked

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


def test_what_was_read_stands_beside_what_was_said(parts):
    reader, _, cascade = parts
    examples = [sign("OPEN"), sign("EXIT", task="ocr", target_lang="en")]
    _, rows = evaluate(cascade, {"signs": examples})
    assert [(row["hypothesis"], row.get("transcription")) for row in rows] == [("de:open", "open"), ("exit", None)]
    assert len(reader.asked) == 2, "it is not read again for the file"


def test_an_empty_transcription_is_an_empty_translation(parts):
    _, translator, cascade = parts
    assert cascade.translate([sign(""), sign("EXIT")]) == ["", "de:exit"]
    assert len(translator.asked) == 1


def test_other_tasks_go_to_the_system_that_knows_them(parts):
    reader, _translator, cascade = parts
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


# ---- what a machine has read and no user can mend -----------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> HFSystem:
    batcher = Batcher(load_processor("embedded"), max_length=96)
    return HFSystem(load_model("embedded"), batcher, "base", max_new_tokens=8)


def test_an_odd_or_a_long_text_is_translated_as_far_as_the_model_can_be_shown_it(embedded):
    odd = ["Exit 一", "Ex★it", "Ex<pad>it", "Ex<p<image>ad>it", "Ex<pa★d>it", "Exit"]
    nothing = ["一", " ★ <pad>", "<unk>" * 3]
    asked = Recorder(lambda example: embedded.translate([example])[0])
    asked.readable = embedded.readable
    reader = Recorder(lambda example: example.images[0].text)
    answers = Cascade(reader, asked).translate([sign(text) for text in (*odd, *nothing, "Exit " * 200)])
    assert answers[0]
    assert answers[: len(odd)] == answers[:1] * len(odd)
    assert [example.source for example in asked.asked[: len(odd)]] == ["Exit"] * len(odd)
    assert answers[len(odd) : -1] == [""] * len(nothing)
    assert len(asked.asked) == len(odd) + 1, "where nothing is left there is nothing to ask"
    cut = asked.asked[-1]
    assert ("Exit " * 200).startswith(cut.source)
    assert 96 - 8 - 5 <= embedded.batcher.lengths(cut)[0] <= 96 - 8, "as much as leaves room for the answer"


def test_the_users_own_text_is_still_refused(embedded):
    for text, why in (("Exit 一", "has no token for"), ("Ex<pad>it", "special token"), ("Exit " * 200, "at most 96")):
        own = replace(sign("x"), images=(), task="text_translation", source=text)
        with pytest.raises(UserError, match=why):
            Cascade(embedded, embedded).translate([own])


def test_words_are_left_out_where_characters_do_not_help():
    class Words:
        """Knows single letters, spaces and one word."""

        unk_token_id = 0

        def __call__(self, text, add_special_tokens=False):
            return {"input_ids": [int(len(word) < 2 or word == "exit") for word in text.split()]}

    assert known("exit there a", Words()) == "exit  a"
    assert unmarked("a<s>b<<s>s>", ["<s>"]) == "ab"
