"""What reaches a model: `check` and `encode` agree on every text and image, and no text poses as a special token."""

from __future__ import annotations

import copy
import functools
import io
import random
from collections import Counter
from dataclasses import replace

import family_processors
import pytest
from PIL import Image

from neuroglot.data.batch import Batcher, special_tokens
from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.errors import UserError
from neuroglot.models.load import load_processor
from neuroglot.validation.texts import Lengths

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

FAMILIES = ("embedded", "llava", "qwen2_5_vl", "gemma3")
TASKS = ("image_translation", "text_translation", "multimodal_translation", "ocr", "instruct")


def processor_of(family: str):
    return load_processor("embedded") if family == "embedded" else family_processors.processor(family)


@functools.cache
def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return file.getvalue()


def refused(ask, *given) -> str:
    """Return what is said against it, on one line, or nothing."""
    said = ""
    try:
        ask(*given)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    return said


def drawn(rng: random.Random, marks: tuple[str, ...]) -> str:
    pieces = ["Haus", "Exit 5", " ", "\n", "é", "日", "{target}", "<ima", "ge>", "<think>", "it's", "  7,00 €"]
    return "".join(rng.choice(marks if rng.random() < 0.12 else pieces) for _ in range(rng.randint(1, 4)))


@pytest.mark.parametrize(
    "family", [name if name in FAMILIES[:2] else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_check_refuses_what_encode_refuses_and_nothing_else(family):
    processor, rng, seen = processor_of(family), random.Random(0), Counter()
    marks = (*Batcher(processor).marks, "<image>", "</s>", "<|assistant|>")
    special = set(map(processor.tokenizer.convert_tokens_to_ids, special_tokens(processor.tokenizer)))
    for number in range(50):
        task, text = TASKS[number % len(TASKS)], functools.partial(drawn, rng, marks)
        pictured = task not in ("text_translation", "instruct") or rng.random() < 0.3
        wrong = tuple(text() for _ in range(rng.choice((0, 0, 2))))
        example = Example((png(30, 20),) * pictured, text(), text(), "en", "de", task, wrong,
                          meta={"instruction": text()} if task == "instruct" else {})  # fmt: skip
        batcher = Batcher(processor, prompt=text() if rng.random() < 0.2 else None)
        sizes = [open_image(image).size for image in example.images]
        every = [example, *(replace(example, target=answer) for answer in wrong)]
        said, found = refused(batcher.check, example, sizes), [refused(batcher.encode, [one]) for one in every]
        assert bool(said) == any(found), (example, said, found)
        seen[bool(said)] += 1
        if said:
            continue
        inputs = [batcher.encode([one]) for one in every]
        plain = replace(example, source="x", target="x", meta={"instruction": "x"})
        counts = [sum(int(i) in special for i in made["input_ids"][0]) for made in
                  (*inputs, Batcher(processor).encode([plain]))]  # fmt: skip
        assert len(set(counts)) == 1, "no text became a special token"
        longest = max(made["input_ids"].shape[1] for made in inputs)
        assert not refused(replace(batcher, max_length=longest).check, example, sizes)
        assert refused(replace(batcher, max_length=longest - 1).check, example, sizes)
    assert min(seen.values()) > 10


@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", *(pytest.param(x, marks=pytest.mark.slow) for x in ("llava_next", "smolvlm"))]
)
def test_check_refuses_the_images_that_encode_refuses(family):
    if family == "smolvlm":
        pytest.importorskip("num2words")
    processor, answers = processor_of(family), set()
    for sizes in ([(1, 300)], [(300, 1)], [(10, 10)], [(1, 1)], [(2000, 20)], [(24, 40), (16, 16)], [(40, 24)] * 3):
        example = Example(tuple(png(*size) for size in sizes), None, "Haus", "en", "de", "image_translation")
        length = 0
        for settings in ({}, {"max_length": 512}, {"max_pixels": 5000}, {"max_image_tokens": 200}):
            batcher = Batcher(processor, **settings)
            said = refused(batcher.check, example, sizes)
            assert bool(said) == bool(refused(batcher.encode, [example])), (sizes, settings, said)
            answers.add(bool(said))
            if not said and not settings:
                length = batcher.encode([example])["input_ids"].shape[1]
        if length:
            assert not refused(Batcher(processor, max_length=length).check, example, sizes)
            assert refused(Batcher(processor, max_length=length - 1).check, example, sizes)
    assert False in answers


PART = "{% for m in messages %}{% for p in m['content'] %}"
BOTH = PART + "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}"
DONE = "{% endfor %}{% endfor %}"
OPEN = "{% if add_generation_prompt %}A:{% endif %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (PART + "{{ p['text'] }}" + DONE, "leaves out an image"),
        ("{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}", "chat template fails: can only conc"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "prints the parts of a message"),
        ("{{ raise_exception('roles must\nalternate') }}", "chat template fails: roles must alternate"),
        ("{% for m in messages %}", "chat template fails: Unexpected end of template"),
        ("{{ 1 // 0 }}", "chat template fails: "),
        (PART + "<image>" + DONE, "leaves out the text"),
        (BOTH + DONE + OPEN, "does not go on from"),
        (BOTH.replace("{{ p", "{{ '' if m['role'] != 'user' else p") + DONE, "text of an assistant's turn"),
        (BOTH.replace("<image>", "<image><image>") + DONE, "the model's processor refuses images of 30 x 20 pixels"),
    ],
)
def test_a_template_that_cannot_be_used_is_said(template, message):
    processor = copy.deepcopy(processor_of("embedded"))
    processor.chat_template = template
    example = Example((png(30, 20),), None, "Haus", "en", "de", "image_translation")
    for ask, given in (("check_chat", ()), ("encode", ([example],)), ("check", (example, [(30, 20)]))):
        if "processor refuses" in message and ask == "check_chat":
            continue
        assert message in refused(getattr(Batcher(processor), ask), *given), ask


def test_a_template_that_changes_answers_is_said_of_those_that_it_changes():
    processor = copy.deepcopy(processor_of("embedded"))
    processor.chat_template = processor.chat_template.replace(
        "{{ part['text'] }}", "{{ part['text'].split('</think>')[-1] | trim }}"
    )
    batcher = Batcher(processor)
    assert batcher.tokenizer.decode(labels(batcher, " Haus "), skip_special_tokens=True) == "Haus"
    assert "otherwise than it stands" in refused(batcher.check, example_of("a</think>b"))


def example_of(target: str) -> Example:
    return Example((), "Exit", target, "en", "de", "text_translation")


def labels(batcher: Batcher, target: str) -> list[int]:
    found = batcher.encode([example_of(target)])["labels"][0]
    return found[found != -100].tolist()


@pytest.mark.parametrize(
    ("end", "stops", "last"),
    [
        ("{{ eos_token }}\n", (), "</s>"),
        ("", (), "</s>"),
        ("<|assistant|>\n", (), "<|assistant|>"),  # a special token of this vocabulary stands for an end of turn
        ("<|assistant|></s>", (), "</s>"),  # where generation is known to stop
        ("!</s>", (), "</s>"),
        ("~\n", ("~",), "~"),  # an ordinary token at which the checkpoint's generation_config stops
    ],
)
def test_an_answer_ends_where_generation_stops(end, stops, last):
    processor = copy.deepcopy(processor_of("embedded"))
    processor.chat_template = processor.chat_template.replace("{{ eos_token }}", end)
    ids = processor.tokenizer.convert_tokens_to_ids
    batcher = Batcher(processor, stops=tuple(map(ids, stops)))
    learned = labels(batcher, "Haus")
    assert learned[-1] == ids(last)
    assert ids(last) in batcher.ends
    assert processor.tokenizer.decode(learned[:-1]) == f"Haus{end[: end.index(last)] if last in end else ''}"


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_a_tokenizer_pads_with_another_token_where_it_has_none(pad):
    processor = copy.deepcopy(processor_of("embedded"))
    expected = Batcher(processor).encode([example_of("Haus"), example_of("Ausgang rechts")])
    processor.tokenizer.pad_token = pad
    batcher = Batcher(processor)
    found = batcher.encode([example_of("Haus"), example_of("Ausgang rechts")])
    assert found["labels"].equal(expected["labels"])
    assert found["attention_mask"].equal(expected["attention_mask"])
    real = expected["attention_mask"].bool()
    assert found["input_ids"][real].equal(expected["input_ids"][real])
    assert batcher.prompts([example_of("a"), example_of("b")])["input_ids"].shape[0] == 2
    assert processor.tokenizer.pad_token == pad, "the user's own is left alone"


def test_questions_are_measured_with_what_they_ask():
    """Of an example that waits to be measured, the question is kept."""
    asked = Example((), None, "Paris", "en", "en", "instruct", meta={"instruction": "Which city?", "id": "7"})
    lengths = Lengths(Batcher(processor_of("embedded")))
    for place, example in enumerate((asked, example_of("Haus"))):
        lengths.offer(place, example, [])
    lengths.finish(lambda what, done: None)
    assert (lengths.measured, lengths.refused.count) == (2, 0)
    assert "needs its question" in refused(lengths.batcher.check, replace(asked, meta={}))
