"""Controls take away what they say and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example, RenderSpec
from neuroglot.errors import UserError
from neuroglot.models.load import load_processor
from neuroglot.pair import Pair
from neuroglot.synthetic.scenes import scene_examples
from neuroglot.systems import System, shuffled_image, without_image, without_text


class Witness:
    """Keeps what it was shown; a target costs its length."""

    name = "neumt"

    def __init__(self):
        self.seen = []

    def translate(self, examples):
        self.seen = list(examples)
        return [str(number) for number in range(len(examples))]

    def nll(self, examples):
        self.seen = list(examples)
        return [float(len(example.target)) for example in examples]


@pytest.fixture(scope="module")
def examples():
    return scene_examples("test", 16, [Pair("en", "de"), Pair("en", "tr")], 0)


@pytest.mark.parametrize(
    ("control", "note", "kept"),
    [(without_image, "no image", {"images": ()}), (without_text, "no text", {"source": ""})],
)
def test_one_part_is_taken_away(examples, control, note, kept):
    witness = Witness()
    system = control(witness)
    assert isinstance(system, System)
    assert system.name == f"neumt ({note})"
    assert system.translate(examples) == [str(number) for number in range(len(examples))]
    assert witness.seen == [replace(example, **kept) for example in examples]
    assert system.nll(examples) == [float(len(example.target)) for example in examples]
    assert witness.seen == [replace(example, **kept) for example in examples]


def test_another_image_is_never_the_own_and_shows_the_other_reading(examples):
    witness = Witness()
    system = shuffled_image(witness, examples)
    assert system.name == "neumt (other image)"
    system.translate(examples)
    target = {(e.source, e.images, e.pair): e.target for e in examples}
    for example, seen in zip(examples, witness.seen, strict=True):
        assert seen == replace(example, images=seen.images)
        assert seen.images != example.images
        assert target[example.source, seen.images, example.pair] == example.alternatives[0]


def test_the_exchange_is_one_of_items_and_follows_from_the_seed():
    """Without another reading any other image will do: the same in all pairs, and for wrong targets too."""
    plain = [
        Example((RenderSpec(str(k), 0, k),), f"source {k}", f"{k} {language}", "en", language,
                "multimodal_translation", item=str(k))
        for k in range(12) for language in ("de", "fr")
    ]  # fmt: skip
    drawn = []
    for seed in (0, 0, 1):
        witness = Witness()
        system = shuffled_image(witness, plain, seed)
        system.nll([replace(example, target="wrong") for example in plain])
        drawn.append([example.images for example in witness.seen])
        assert all(seen != own.images for seen, own in zip(drawn[-1], plain, strict=True))
        assert drawn[-1][::2] == drawn[-1][1::2]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 4


def test_one_image_cannot_be_exchanged(examples):
    with pytest.raises(UserError, match="with 1 image; give at least two"):
        shuffled_image(Witness(), [replace(example, images=examples[0].images) for example in examples])


def test_without_text_the_instruction_stays():
    batcher = Batcher(load_processor("embedded"))
    (example,) = scene_examples("test", 1, [Pair("en", "de")], 0)[:1]
    shown = {}
    for name, one in {"text": example, "none": replace(example, source="")}.items():
        (ids,) = batcher.prompts([one])["input_ids"]
        shown[name] = batcher.tokenizer.decode(ids[ids != batcher.tokenizer.convert_tokens_to_ids("<image>")])
    assert shown["text"] == f"<s>{example.source}\nTranslate the text to German.<|assistant|>"
    assert shown["none"] == "<s>\nTranslate the text to German.<|assistant|>"
