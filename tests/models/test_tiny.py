"""The embedded model's recipe: its tokenizer, its shape, and lessons that equal what the processor would make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroglot.data.batch import Batcher
from neuroglot.data.example import TEMPLATES, Example, RenderSpec, instruction, paraphrases
from neuroglot.data.image import open_image
from neuroglot.models.load import EMBEDDED, embedded_folder, load_model, load_processor
from neuroglot.models.tiny.build import PATCH, build_model, build_processor, characters, phrases
from neuroglot.models.tiny.pretrain import SIDE, SLOTS, Lessons, pixels
from neuroglot.pair import language_name
from neuroglot.synthetic.pictures import names
from neuroglot.synthetic.render import render
from neuroglot.synthetic.signs import LANGUAGES, Sign, signs
from neuroglot.synthetic.style import SIZE


@pytest.fixture(scope="module")
def processor():
    return load_processor(EMBEDDED)


@pytest.fixture(scope="module")
def built():
    return build_processor()


@pytest.fixture
def lessons():
    return Lessons(seed=3, count=60)


def test_the_shipped_processor_is_the_one_that_the_recipe_builds(processor, built, tmp_path):
    assert built.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert built.chat_template == processor.chat_template
    built.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (embedded_folder() / name).read_bytes(), name


def test_the_shipped_weights_have_the_shape_that_the_recipe_builds(built):
    shipped, fresh = load_model(EMBEDDED), build_model(built.tokenizer)
    assert {n: p.shape for n, p in shipped.named_parameters()} == {n: p.shape for n, p in fresh.named_parameters()}
    assert 2_000_000 < sum(p.numel() for p in fresh.parameters()) < 4_000_000
    for name, value in shipped.config.to_dict()["text_config"].items():
        if name not in ("dtype", "_name_or_path", "architectures"):
            assert getattr(fresh.config.text_config, name) == value or name == "rope_parameters", name
    assert shipped.config.vision_config.patch_size == PATCH
    assert shipped.config.image_seq_length == SIDE**2 == (SIZE // PATCH) ** 2
    assert shipped.generation_config.eos_token_id == built.tokenizer.eos_token_id


def test_every_sign_is_made_of_known_characters_and_comes_back(processor):
    tokenizer = processor.tokenizer
    for split in ("pretrain", "train", "heldout"):
        for sign in signs(split, 60, seed=11):
            for language in ("en", *LANGUAGES):
                text = sign.text(language)
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert tokenizer.unk_token_id not in ids, text
                assert len(ids) == len(text), "one token a character"
                assert tokenizer.decode(ids) == text
    assert set(names("test")[0]) <= set(characters())


def test_instructions_cost_two_or_three_tokens(processor):
    tokenizer = processor.tokenizer
    assert len(set(phrases())) == len(phrases())
    for task in TEMPLATES:
        for language in LANGUAGES:
            for paraphrase in range(paraphrases(task)):
                example = Example((), "x", "", "en", language, task)
                ids = tokenizer(instruction(example, paraphrase), add_special_tokens=False)["input_ids"]
                assert len(ids) <= 3, tokenizer.convert_ids_to_tokens(ids)
                assert tokenizer.decode(ids) == instruction(example, paraphrase)
    assert tokenizer.unk_token_id not in tokenizer("Translate the text to Japanese.")["input_ids"], "by its letters"


@pytest.mark.parametrize("task", ["ocr", "describe", "text_translation"])
def test_lessons_by_look_up_equal_the_processors_batches(task, lessons, processor):
    """Prompt ids, padding, masks and labels, for every instruction of a task and texts of several lengths."""
    batcher = Batcher(processor)
    rows, examples, turns = [], [], []
    for number, sign in enumerate(signs("pretrain", 12, seed=3)):
        if task == "text_translation":
            language = (*LANGUAGES, "en")[number % 7]
            example = Example((), sign.text("en"), sign.text(language), "en", language, task)
        elif task == "ocr":
            example = Example((RenderSpec(sign.text("en"), 3, number),), None, sign.text("en"), "en", "en", task)
        else:
            name = names("pretrain")[number * 7]
            example = Example((RenderSpec(name, 3, number, kind="picture"),), None, name, "en", "en", task)
        state = lessons.rng.getstate()  # what the lesson is about to draw
        turns.append(lessons.rng.randrange(paraphrases(task)))
        lessons.rng.setstate(state)
        rows.append((lessons._prompt(task, example.target_lang, example.source), example.target))
        examples.append(example)
    assert set(turns) == set(range(paraphrases(task)))
    ours, theirs = lessons._pad(rows), batcher.encode(examples, turns)
    for key in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(ours[key], theirs[key]), key
    if task != "text_translation":
        images = np.stack([pixels(open_image(e.images[0])) for e in examples])
        torch.testing.assert_close(torch.from_numpy(images), theirs["pixel_values"], rtol=0, atol=1e-5)


def test_a_lesson_in_seeing(lessons, processor):
    batch = lessons.seeing(40)
    tokenizer = processor.tokenizer
    assert batch["pixel_values"].shape == (40, 3, SIZE, SIZE)
    assert batch["cells"].shape == (40, SIDE**2, SLOTS)
    kinds = []
    for ids, labels, cells in zip(batch["input_ids"], batch["labels"], batch["cells"], strict=True):
        assert (ids == tokenizer.convert_tokens_to_ids("<image>")).sum() == SIDE**2
        prompt = tokenizer.decode(ids[labels == -100])
        target = tokenizer.decode(labels[labels != -100]).removesuffix("</s>")
        described = any(text in prompt for text in TEMPLATES["describe"])
        assert described != any(text in prompt for text in TEMPLATES["ocr"])
        assert "Translate" not in prompt
        assert not any(language_name(code) in prompt for code in LANGUAGES), "never an image into another language"
        kinds.append(described)
        if described:
            assert target in names("pretrain")
            assert (cells == -100).all()
        else:
            written = [processor.tokenizer.convert_ids_to_tokens(int(i)) for i in cells.flatten() if i > 0]
            letters = [c for c in target if c != " "]
            assert len(written) >= 0.95 * len(letters), "nearly every character has a cell"
            assert not set(written) - set(letters)
    assert 0 < sum(kinds) < 20


def test_cells_are_where_the_characters_are(lessons):
    for index in range(20):
        rendered = render("Exit 5", 0, index)
        cells = lessons._cells(rendered)
        for character in rendered.characters:
            place = int(character.y // PATCH) * SIDE + int(character.x // PATCH)
            assert lessons.ids[character.text] in cells[place]
        assert (cells > 0).sum() == 5


def test_a_lesson_in_translating(lessons, processor):
    batch = lessons.translating(60)
    by_source = {text["en"]: text for text in lessons.texts}
    tokenizer = processor.tokenizer
    languages = set()
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        assert (ids != tokenizer.convert_tokens_to_ids("<image>")).all()
        prompt = tokenizer.decode(ids[labels == -100], skip_special_tokens=True)
        source = prompt.partition("\n")[0]
        target = tokenizer.decode(labels[labels != -100]).removesuffix("</s>")
        (asked,) = [c for c in ("en", *LANGUAGES) if language_name(c) in prompt.partition("\n")[2]]
        assert target == by_source[source][asked]
        languages.add(asked)
    assert languages >= set(LANGUAGES)


def test_lessons_use_the_pretraining_split_alone(lessons):
    """No lesson knows a sign that tuning or a test will use."""
    later = {sign.text("en") for split in ("train", "dev", "test", "heldout") for sign in signs(split, 40)}
    assert not {text["en"] for text in lessons.texts} & later
    assert [text["en"] for text in lessons.texts] == [s.text("en") for s in signs("pretrain", 60, 3)]
    assert all(isinstance(s, Sign) and s.split == "pretrain" for s in signs("pretrain", 60, 3))
    assert not set(names("pretrain")) & set(names("test"))


def test_lessons_follow_from_their_seed():
    def drawn(seed):
        lessons = Lessons(seed, count=20)
        return lessons.seeing(3), lessons.translating(3), lessons.dense(2)

    first, again, other = drawn(0), drawn(0), drawn(1)
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(first[2]["pixel_values"], other[2]["pixel_values"])
    lessons = Lessons(0, count=20)
    assert not torch.equal(lessons.dense(2)["pixel_values"], lessons.dense(2)["pixel_values"]), "never one twice"


def test_a_fresh_tower_sees_strokes_and_knows_rows_and_columns(built):
    torch.manual_seed(0)
    embeddings = build_model(built.tokenizer).model.vision_tower.embeddings
    assert embeddings.patch_embedding(torch.full((1, 3, SIZE, SIZE), 0.7)).abs().max() < 1e-5
    places = embeddings.position_embedding.weight[1:].unflatten(0, (SIDE, SIDE))
    rows, columns = places.chunk(2, dim=2)
    assert (rows == rows[:, :1]).all()
    assert (columns == columns[:1]).all()
    assert torch.pdist(places.flatten(0, 1)).min() > 0.1, "no two patches alike"
