"""Examples to batches on the embedded model's processor, and on tokenizers with other habits."""

from __future__ import annotations

import io
from collections import Counter

import pytest
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from neuroglot.data.batch import Batcher
from neuroglot.data.example import TEMPLATES, Example, RenderSpec, instruction, paraphrases
from neuroglot.data.image import open_image
from neuroglot.errors import UserError
from neuroglot.pair import Condition

PATCHES = 100


@pytest.fixture(scope="module")
def batcher(processor):
    return Batcher(processor)


def shown(target="Ausgang", index=0, lang="de", task="image_translation", images=1, item="", text="Exit 5"):
    specs = tuple(RenderSpec(text, k, index) for k in range(images))
    return Example(specs, None, target, "en", lang, task, item=item)


def text_only(source="Exit", target="Ausgang", lang="de", item=""):
    return Example((), source, target, "en", lang, "text_translation", item=item)


def ids_of(batcher, text):
    return batcher.tokenizer(text, add_special_tokens=False)["input_ids"]


def real(inputs, row):
    return inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()


MIXED = [
    shown("a"),
    shown("Freitag: 09:00", 1, "fr"),
    shown("x" * 30, 2, "hi", "ocr"),
    shown("zwei", 3, "de", images=2),
]
TEXTS = [text_only(), text_only("A much longer source text", "b", "fr"), text_only("7", "sieben: 7,00 €")]


@pytest.mark.parametrize("examples", [MIXED, TEXTS], ids=["images", "texts"])
def test_prompts_are_padded_left_and_targets_right(batcher, examples):
    prompts = batcher.prompts(examples)
    encoded = batcher.encode(examples)
    pad = batcher.tokenizer.pad_token_id
    assert "labels" not in prompts
    for inputs, padded_first in ((prompts, True), (encoded, False)):
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        assert ids.shape == mask.shape
        assert ids.dtype == mask.dtype == torch.long
        assert (ids[mask == 0] == pad).all()
        assert mask.sum(1).max() == mask.size(1), "no column of padding alone"
        assert mask.sum(1).min() < mask.size(1), "the examples differ in length"
        steps = mask.diff(dim=1)
        assert (steps >= 0).all() if padded_first else (steps <= 0).all()
    for row, example in enumerate(examples):
        target = [*ids_of(batcher, example.target), batcher.tokenizer.eos_token_id]
        prompt = real(prompts, row)
        assert real(encoded, row) == [*prompt, *target]
        labels = encoded["labels"][row]
        assert labels[labels != -100].tolist() == target
        assert labels.tolist() == [-100] * len(prompt) + target + [-100] * (len(labels) - len(prompt) - len(target))
        assert batcher.tokenizer.decode(target, skip_special_tokens=True) == example.target


def test_prompts_hold_images_sources_and_instructions(batcher):
    image = batcher.tokenizer.convert_tokens_to_ids("<image>")
    inputs = batcher.prompts(MIXED)
    assert [real(inputs, row).count(image) for row in range(4)] == [PATCHES, PATCHES, PATCHES, 2 * PATCHES]
    assert inputs["pixel_values"].shape == (5, 3, 120, 120)
    assert inputs["pixel_values"].dtype == torch.float32
    expected = batcher.processor.image_processor([open_image(MIXED[1].images[0])], return_tensors="pt")["pixel_values"]
    assert torch.equal(inputs["pixel_values"][1], expected[0])
    for row, example in enumerate(MIXED):
        words = batcher.tokenizer.decode([i for i in real(inputs, row) if i != image])
        assert words == f"<s>\n{instruction(example)}<|assistant|>"
    inputs = batcher.prompts(TEXTS)
    assert "pixel_values" not in inputs
    for row, example in enumerate(TEXTS):
        assert (
            batcher.tokenizer.decode(real(inputs, row)) == f"<s>{example.source}\n{instruction(example)}<|assistant|>"
        )
    assert "French" in instruction(TEXTS[1])


def test_multimodal_examples_show_image_and_source(batcher):
    example = Example((RenderSpec("x", 0, 0),), "a bat", "ein Schläger", "en", "de", "multimodal_translation")
    ids = real(batcher.prompts([example]), 0)
    words = batcher.tokenizer.decode([i for i in ids if i != batcher.tokenizer.convert_tokens_to_ids("<image>")])
    assert words == f"<s>a bat\n{instruction(example)}<|assistant|>"
    with pytest.raises(UserError, match="a text_translation example needs a source text, got none .target 'Ausgang'"):
        batcher.prompts([Example((), None, "Ausgang", "en", "de", "text_translation")])


def test_a_sample_does_not_depend_on_its_neighbours(batcher):
    together = batcher.encode(MIXED)
    for row, example in enumerate(MIXED):
        assert real(batcher.encode([example]), 0) == real(together, row)


def test_every_paraphrase(batcher, processor):
    example = shown()
    count = paraphrases(example.task)
    assert count == len(TEMPLATES[example.task]) >= 3
    prompts = {tuple(real(Batcher(processor, paraphrase=p).prompts([example]), 0)) for p in range(count)}
    assert len(prompts) == count
    one_by_one = batcher.encode([example] * count, list(range(count)))
    assert {tuple(real(one_by_one, p)[: -len("Ausgang") - 1]) for p in range(count)} == prompts
    with pytest.raises(UserError, match="task 'image_tranlsation' is not known; did you mean image_translation"):
        batcher.prompts([shown(task="image_tranlsation")])


@pytest.mark.parametrize("character", ["日", "𝔞", "ß́"[1]])
def test_a_character_that_the_model_has_no_token_for(batcher, character):
    code = rf"has no token for .* \(U\+{ord(character):04X}\)"
    with pytest.raises(UserError, match=code) as caught:
        batcher.encode([shown(), shown(f"Aus{character}gang")])
    assert "\n" not in str(caught.value)
    assert "leave the example out" in str(caught.value)
    for use in (batcher.encode, batcher.prompts):
        with pytest.raises(UserError, match=code):
            use([text_only(f"Ex{character}t")])
    assert batcher.prompts([shown(f"Aus{character}gang")]), "to generate, the reference is not needed"


@pytest.mark.parametrize("mark", ["<image>", "</s>", "<|assistant|>"])
def test_a_text_cannot_pose_as_a_special_token(batcher, mark):
    for example in (text_only(f"a {mark} b"), shown(f"a {mark} b")):
        with pytest.raises(UserError, match="which is a special token of the model's tokenizer; remove it") as caught:
            batcher.encode([example])
        assert repr(mark) in str(caught.value)


def test_max_length(processor):
    example = shown("x" * 20)
    length = Batcher(processor).encode([example])["input_ids"].size(1)
    assert Batcher(processor, max_length=length).encode([example])["input_ids"].size(1) == length
    short = Batcher(processor, max_length=length - 1)
    with pytest.raises(UserError, match=rf"an example takes {length} tokens, at most {length - 1} fit: 'xxxx"):
        short.encode([example])
    assert short.prompts([example])
    with pytest.raises(UserError, match="at most 50 fit"):
        Batcher(processor, max_length=50).prompts([example])
    # The one that is too long is named, not a short neighbour padded to its length.
    with pytest.raises(UserError, match="'the long one'"):
        Batcher(processor, max_length=60).prompts(
            [text_only("a", "the short one"), text_only("a" * 90, "the long one")]
        )


@pytest.mark.parametrize("sizes", [[], [(40, 400)], [(224, 224)], [(900, 50), (30, 30)]])
@pytest.mark.parametrize("target", ["Ausgang", "ja, nein " * 9])
def test_an_example_is_measured_without_its_images_as_it_is_encoded(processor, sizes, target):
    images = tuple(encoded_png(size) for size in sizes)
    example = Example(images, "Exit", target, "en", "de", "image_translation" if sizes else "text_translation")
    lengths = [Batcher(processor, paraphrase=turn).encode([example])["attention_mask"].sum() for turn in range(3)]
    longest = int(max(lengths))
    Batcher(processor, max_length=longest).check(example, sizes, 3)
    with pytest.raises(UserError, match=f"takes {longest} tokens, at most {longest - 1} fit"):
        Batcher(processor, max_length=longest - 1).check(example, sizes, 3)
    Batcher(processor, max_length=int(lengths[0])).check(example, sizes)


def encoded_png(size):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def plain_tokenizer(vocabulary, splitter, **specials) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({token: k for k, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", **specials)
    wrapped.chat_template = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    return wrapped


def test_a_tokenizer_that_pads_with_its_unknown_token():
    every = sorted({*"".join(instruction(e) + e.source + e.target for e in TEXTS), "\n"})
    splitter = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    batcher = Batcher(plain_tokenizer(["<unk>", "</s>", *every], splitter, pad_token="<unk>"))
    inputs = batcher.encode(TEXTS)
    assert "".join(batcher.tokenizer.convert_ids_to_tokens(real(inputs, 0))[:5]) == "Exit\n"
    with pytest.raises(UserError, match="no token for 'Q'"):
        batcher.encode([text_only("Q")])


def test_a_tokenizer_that_adds_a_beginning_of_its_own():
    """The chat template has written it already; twice would be a prompt that the model has never seen."""
    every = sorted({*"".join(instruction(e) + e.source + e.target for e in TEXTS), "\n"})
    splitter = pre_tokenizers.Split(Regex(r"<s>|[\s\S]"), "isolated")
    tokenizer = plain_tokenizer(["<unk>", "</s>", "<s>", *every], splitter, pad_token="</s>", bos_token="<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    tokenizer.chat_template = "<s>" + tokenizer.chat_template
    assert tokenizer("Exit")["input_ids"][0] == 2
    batcher = Batcher(tokenizer)
    for row in range(3):
        assert real(batcher.prompts(TEXTS), row).count(2) == 1
        ids = real(batcher.encode(TEXTS), row)
        assert (ids[0], ids.count(2), ids[-1], ids.count(1)) == (2, 1, 1, 1)


def test_a_tokenizer_that_knows_letters_and_some_words():
    words = [*instruction(TEXTS[0]).replace(".", " .").split(), "Exit", "Ausgang", *"abcdefghijklmnopqrstuvwxyz."]
    tokenizer = plain_tokenizer(["<unk>", "</s>", "<pad>", *words], pre_tokenizers.Whitespace(), pad_token="<pad>")
    batcher = Batcher(tokenizer)
    assert batcher.encode([text_only()])
    with pytest.raises(UserError, match="no token for 'ausgang' in 'ausgang'"):
        batcher.encode([text_only(target="ausgang")])


def parallel(count, languages=("de", "fr", "tr"), task="image_translation"):
    return [
        Example((RenderSpec(f"Exit {k}", 0, k),), None, f"{lang} {k}", "en", lang, task, item=f"sign-{k}")
        for k in range(count)
        for lang in languages
    ]


@pytest.mark.parametrize("order", ["by item", "by pair"])
def test_parallel_batches_keep_an_items_pairs_together(batcher, order):
    examples = parallel(7)
    if order == "by pair":
        examples.sort(key=lambda e: e.target_lang)
    batches = list(batcher.batches(examples, size=3, paraphrases=3))
    assert [len(batch.items) for batch in batches] == [3] * 6 + [1] * 3
    for start in range(0, len(batches), 3):
        block = batches[start : start + 3]
        assert len({batch.items for batch in block}) == 1, "the same items in every pair, one pair after the other"
        assert [batch.condition.pair.target for batch in block] == ["de", "fr", "tr"]
    for batch in batches:
        assert isinstance(batch.condition, Condition)
        assert batch.inputs["input_ids"].size(0) == batch.inputs["pixel_values"].size(0) == len(batch.items)
        for row, item in enumerate(batch.items):
            labels = batch.inputs["labels"][row]
            said = batcher.tokenizer.decode(labels[labels != -100], skip_special_tokens=True)
            assert said == f"{batch.condition.pair.target} {item.removeprefix('sign-')}"


def test_instructions_take_turns_and_are_the_same_in_all_pairs(batcher):
    examples = parallel(5, ("de", "fr"))
    seen = {}
    for batch in batcher.batches(examples, size=2, paraphrases=3):
        for row, item in enumerate(batch.items):
            words = batcher.tokenizer.decode(batch.inputs["input_ids"][row])
            target = batch.condition.pair.target
            example = next(e for e in examples if (e.item, e.target_lang) == (item, target))
            (turn,) = [p for p in range(3) if instruction(example, p) in words]
            seen.setdefault(item, set()).add(turn)
    assert [seen[f"sign-{k}"] for k in range(5)] == [{0}, {1}, {2}, {0}, {1}]


def test_what_is_not_parallel_is_all_there_once(batcher):
    """Items missing pairs, several tasks, texts without images, one item twice, and items without a name."""
    examples = [
        *parallel(4),
        *parallel(3, ("fr", "de")),  # the same names, pairs and task again, in another order
        *parallel(2, ("hi",)),
        *parallel(3, ("de",), "ocr"),
        *(text_only(f"Exit {k}", f"x {k}", item="sign-1") for k in range(3)),
        *(text_only("Exit", f"nameless {k}") for k in range(3)),
        Example((RenderSpec("a", 0, 0),), "Exit", "with an image", "en", "de", "text_translation", item="pictured"),
    ]
    examples = [examples[(k * 7) % len(examples)] for k in range(len(examples))]  # shuffled: 7 divides no length here
    expected = Counter((str(e.condition), e.target) for e in examples)
    found: Counter = Counter()
    for batch in batcher.batches(examples, size=4):
        assert len(batch.items) == len(set(batch.items)) <= 4
        for labels in batch.inputs["labels"]:
            said = batcher.tokenizer.decode(labels[labels != -100], skip_special_tokens=True)
            found[str(batch.condition), said] += 1
    assert found == expected
    assert sum(expected.values()) == len(examples)


def test_unpaired_data_fill_their_batches(batcher):
    """Languages that alternate from line to line are batched by language, not one by one."""
    examples = [shown(f"t {k}", k, ("de", "fr")[k % 2], item=f"i{k}") for k in range(12)]
    assert [len(batch.items) for batch in batcher.batches(examples, size=3)] == [3, 3, 3, 3]
    assert list(batcher.batches([], size=3)) == []
