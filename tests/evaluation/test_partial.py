"""An evaluation that goes on: portions, what counts as done, and a file that was cut off anywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroglot.data.example import Example, RenderSpec
from neuroglot.evaluation import Partial, evaluate
from neuroglot.evaluation.evaluate import portions


def example(item, pair="de", image=None, text="eins zwei"):
    images = () if image is None else (RenderSpec("x", 0, image),)
    return Example(images, "one", text, "en", pair, "image_translation", item=item)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.text("ab", min_size=1, max_size=9)), min_size=1, max_size=40),
       st.integers(1, 12))  # fmt: skip
def test_portions_divide_the_examples_and_keep_images_together(made, size):
    examples = [example(f"i{place}", image=image, text=text) for place, (image, text) in enumerate(made)]
    found = portions(examples, size)
    assert sorted(index for portion in found for index in portion) == list(range(len(examples)))
    assert all(len(portion) >= size for portion in found[:-1])
    homes = [{examples[index].images for index in portion} for portion in found]
    assert sum(map(len, homes)) == len(set().union(*homes)), "an image is in one portion"
    longest = [max(len(examples[index].target) for index in portion) for portion in found]
    assert longest == sorted(longest, reverse=True)
    assert portions(examples, size) == found


class Counting:
    """Says the target in capitals, counts what it was asked, and may fall over."""

    name = "counting"
    batch_size = 2

    def __init__(self, most=10**6):
        self.asked = 0
        self.most = most

    def translate(self, examples):
        self.asked += len(examples)
        if self.asked > self.most:
            raise KeyboardInterrupt
        return [example.target.upper() for example in examples]

    def nll(self, examples):
        return [float(len(example.target)) for example in examples]


@pytest.fixture
def splits():
    texts = ["eins", "eins zwei", "drei vier fünf", "sechs", "sieben acht", "neun zehn elf zwölf"]
    return {
        "image_translation": [example(f"i{n}", text=f"{t} {n}") for n, t in enumerate(texts * 4)],
        "ocr": [replace(example(f"o{n}", text=t), task="ocr") for n, t in enumerate(texts)],
    }


def test_it_goes_on_with_what_is_missing(splits, tmp_path):
    expected = evaluate(Counting(), splits)
    path = tmp_path / "deep" / "said.jsonl"
    for most, done in ((10, 8), (20, 24)):
        with pytest.raises(KeyboardInterrupt):
            evaluate(Counting(most), splits, partial=Partial(path, "one"))
        assert len(path.read_text().splitlines()) == done
    system, partial = Counting(), Partial(path, "one")
    assert evaluate(system, splits, partial=partial) == expected
    assert (partial.reused, system.asked) == (24, 6)
    assert partial.seconds["counting"] > 0
    again = Counting()
    assert evaluate(again, splits, partial=Partial(path, "one")) == expected
    assert again.asked == 0


def test_what_was_made_from_something_else_does_not_count(splits, tmp_path):
    path = tmp_path / "said.jsonl"
    evaluate(Counting(), splits, partial=Partial(path, "one adapter"))
    other = Counting()
    evaluate(other, splits, partial=Partial(path, "another adapter"))
    assert other.asked == 30
    changed = {**splits, "ocr": [replace(splits["ocr"][0], source="two"), *splits["ocr"][1:]]}
    third = Counting()
    evaluate(third, changed, partial=Partial(path, "another adapter"))
    assert third.asked == 6, "the portions with the changed example, and no other split"


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 4000))
def test_a_file_cut_off_anywhere(tmp_path_factory, cut):
    parts = {"image_translation": [example(f"i{n}", text=f"wörter {n}") for n in range(20)]}
    path = tmp_path_factory.mktemp("cut") / "said.jsonl"
    expected = evaluate(Counting(), parts, partial=Partial(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    system = Counting()
    assert evaluate(system, parts, partial=Partial(path)) == expected
    assert 0 < system.asked <= 20
    for line in path.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {"of", "seconds", "row"}
    untouched = Counting()
    assert evaluate(untouched, parts, partial=Partial(path)) == expected
    assert untouched.asked == 0
