"""Every family with its real processor: examples, inputs, a profile, a selection, and a step of training."""

from __future__ import annotations

import functools
import io
import types

import family_processors
import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example
from neuroglot.models.families import PARTS, family_of, image_token_id
from neuroglot.neurons import inventory, select
from neuroglot.neurons.profiling.importance import profile
from neuroglot.tuner import NeuroglotConfig, active_pair

pytestmark = [pytest.mark.turns, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]

NEEDS = {"smolvlm": "num2words"}
QUICK = ("llava", "qwen2_5_vl", "gemma3")
"""One whose images are all alike, one that packs them, one with a connector that is no Linear."""
FAMILIES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in family_processors.PROCESSED
]


@functools.cache
def png(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def shown(target: str, *sizes: tuple[int, int], lang: str = "de") -> Example:
    return Example(tuple(png(*size) for size in sizes), None, target, "en", lang, "image_translation")


def text_only(source: str, target: str, lang: str = "de") -> Example:
    return Example((), source, target, "en", lang, "text_translation")


SHOWN = [shown("Ausgang", (24, 40), (16, 16)), shown("geschlossen am Freitag", (50, 20)), shown("Café", (16, 16))]
TEXTS = [text_only("Exit", "Überfahrt: 7,00 €"), text_only("Read the text. Closed on Friday, 9:00 to 17:30.", "zu")]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """A family's batcher and model; tests that change the model copy it."""
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param], reason=f"the processor of {request.param} asks for it")
    processor = family_processors.processor(request.param)
    return types.SimpleNamespace(
        family=request.param, batcher=Batcher(processor), tokenizer=processor.tokenizer,
        model=family_processors.model(request.param),
    )  # fmt: skip


QUESTION = "Translate the text in the image to German."


@pytest.mark.parametrize("family", family_processors.PROCESSED)
@pytest.mark.parametrize("pictured", [True, False], ids=["image", "text"])
def test_a_model_sees_and_learns_what_its_template_writes(family, pictured):
    """Prompts are those of transformers; targets, with the token that ends them, those of the whole conversation."""
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    processor = family_processors.processor(family)
    batcher, tokenizer = Batcher(processor), processor.tokenizer
    end = tokenizer.convert_tokens_to_ids(family_processors.ENDS[family])
    assert end in batcher.ends
    for target in ("Haus", "Ausgang, 7,00 €"):
        example = shown(target, (16, 16)) if pictured else text_only("Exit", target)
        asked = f"\n{QUESTION}" if pictured else "Exit\nTranslate the text to German."
        pictures = [{"type": "image", "image": Image.open(io.BytesIO(png(16, 16)))}] if pictured else []
        chat = [{"role": "user", "content": [*pictures, {"type": "text", "text": asked}]}]
        told = [*chat, {"role": "assistant", "content": [{"type": "text", "text": target}]}]
        ours, learned = batcher.prompts([example])["input_ids"][0].tolist(), batcher.encode([example])
        labels = learned["labels"][0]
        answer = labels[labels != -100].tolist()
        assert learned["input_ids"][0].tolist() == [*ours, *answer]
        assert (answer[-1], batcher.target_tokens([example])) == (end, [len(answer)])
        assert tokenizer.decode(answer[:-1]).strip() == target
        if family == "paligemma":  # no template is published; its processor ends a prompt with a line break
            assert tokenizer.decode(ours).endswith("German.\n")
            continue
        options = {"tokenize": True, "return_dict": True}
        assert ours == processor.apply_chat_template(chat, add_generation_prompt=True, **options)["input_ids"][0]
        whole = processor.apply_chat_template(told, **options)["input_ids"][0]
        if family == "llava_onevision":  # it writes a space more before an answer than at the end of a prompt
            assert whole[-len(answer) :] == answer
        elif family in ("llava", "llava_next"):  # nothing, or no token, ends an answer
            assert whole[: len(ours) + len(answer) - 1] == [*ours, *answer[:-1]]
        else:
            assert whole[: len(ours) + len(answer)] == [*ours, *answer]
            assert not tokenizer.decode(whole[len(ours) + len(answer) :]).strip()


@pytest.mark.parametrize("examples", [SHOWN, TEXTS], ids=["images", "texts"])
def test_labels_are_the_targets_and_nothing_else(case, examples):
    inputs = case.batcher.encode(examples)
    tokenizer, token = case.tokenizer, image_token_id(case.model)
    for row, example in enumerate(examples):
        labels, ids = inputs["labels"][row], inputs["input_ids"][row]
        learned = labels[labels != -100]
        assert torch.equal(learned, ids[labels != -100])
        assert learned.tolist()[-1] == tokenizer.convert_tokens_to_ids(family_processors.ENDS[case.family])
        assert tokenizer.decode(learned[:-1]).strip() == example.target
        held = inputs["attention_mask"][row].bool()
        assert (labels[~held] == -100).all()
        assert held.tolist() == sorted(held.tolist(), reverse=True)  # padded on the right
        # what is learned ends the sample, and the prompt before it holds every image token
        start = int((labels != -100).nonzero()[0])
        assert (labels[start : int(held.sum())] != -100).all()
        assert bool((ids[:start] == token).any()) == bool(example.images)
        assert not (ids[start:] == token).any()
        prompt = tokenizer.decode(ids[:start])
        assert "German" in prompt
        assert not example.source or example.source in prompt
    assert ("pixel_values" in inputs) == bool(examples[0].images)
    assert inputs["input_ids"].shape == inputs["labels"].shape == inputs["attention_mask"].shape
    assert all(x.shape == inputs["input_ids"].shape for key, x in inputs.items() if key.endswith("token_type_ids"))


@pytest.mark.parametrize("examples", [SHOWN, TEXTS], ids=["images", "texts"])
def test_prompts_are_padded_on_the_left_and_can_be_continued(case, examples):
    inputs = case.batcher.prompts(examples)
    masks = inputs["attention_mask"].tolist()
    assert masks == [sorted(mask) for mask in masks]
    assert len({sum(mask) for mask in masks}) > 1
    assert "labels" not in inputs
    pad = case.tokenizer.eos_token_id if case.tokenizer.pad_token_id is None else case.tokenizer.pad_token_id
    config = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": pad}
    together = case.model.generate(**inputs, **config)[:, inputs["input_ids"].shape[1] :]
    for row, example in enumerate(examples):
        alone = case.batcher.prompts([example])
        assert sum(masks[row]) == alone["input_ids"].shape[1]
        said = case.model.generate(**alone, **config)[0, alone["input_ids"].shape[1] :]
        assert said.tolist() == together[row, : len(said)].tolist()


@pytest.mark.parametrize("examples", [SHOWN[:1], TEXTS[:1]], ids=["images", "texts"])
@torch.no_grad()
def test_no_target_token_sees_what_comes_after_it(case, examples):
    """PaliGemma lets a prompt see all of itself, Gemma3 an image: a target must not be taken for either."""
    inputs = case.batcher.encode(examples)
    for training in (False, True):
        model = case.model.train(training)
        before = model(**inputs).logits
        last = int((inputs["labels"][0] != -100).nonzero()[-2])
        changed = inputs["input_ids"].clone()
        changed[0, last] = (changed[0, last] + 7) % 250 + 20
        after = model(**{**inputs, "input_ids": changed, "labels": None}).logits
        model.eval()
        assert torch.allclose(before[0, :last], after[0, :last], atol=1e-5)
        assert not torch.allclose(before[0, last], after[0, last], atol=1e-3)


def double(inputs: dict) -> dict:
    return {key: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for key, x in inputs.items()}


def test_a_batch_profiles_as_its_samples_one_by_one(case):
    """Two images, one, or one of another size a sample, cut into as many tiles or crops as their processor likes."""
    model = family_processors.model(case.family).double()
    pair = "image_translation:en-de"
    encode = lambda examples: double(case.batcher.encode(examples))  # noqa: E731
    whole = profile(model, [(encode(SHOWN), pair)])
    parts = profile(model, [(encode([example]), pair) for example in SHOWN])
    assert [layer.name for layer in whole.layers] == [layer.name for layer in inventory(model)]
    seen = dict.fromkeys(PARTS, 0)
    for layer in whole.layers:
        found, expected = whole.sums[layer.name], parts.sums[layer.name]
        assert ((found - expected).abs() <= 1e-6 * expected.abs() + 1e-15).all(), layer.name
        seen[layer.part] += bool(found.any())
    assert all(seen.values())


def test_profile_select_and_one_step_of_training(case):
    """The chosen neurons of each part move on their own pair's step, and so does nothing else."""
    examples = [[shown(t, (24, 40), (16, 16), lang=lang), shown(t + " 7", (50, 20), lang=lang)]
                for lang, t in (("de", "Ausgang"), ("fr", "Sortie"))]  # fmt: skip
    batches = [(case.batcher.encode(e), str(e[0].condition)) for e in examples]
    model = family_processors.model(case.family)
    found = profile(model, batches)
    layers = {"vision": 0.6, "connector": 1.0, "language": 0.6}
    chosen = select(found, "mnaft", budget=0.2, layers=layers, specific=0.3)
    family = family_of(model)
    assert {family.part_of(name) for name in chosen.rows} == set(PARTS)
    bare = {layer.name: 1 for layer in found.layers if layer.axis}
    assert dict(chosen.axes) == bare
    assert bool(bare) == (case.family == "gemma3")
    before = {name: x.clone() for name, x in model.state_dict().items()}
    tuned = get_peft_model(model, NeuroglotConfig.from_selection(chosen)).train()
    optimiser = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.01)
    inputs, _ = batches[0]
    with active_pair(tuned, "en-de"):
        tuned(**inputs).loss.backward()
    optimiser.step()
    after = tuned.merge_and_unload().state_dict()
    moved = dict.fromkeys(PARTS, 0)
    for module, group, index in chosen:
        key = module if module in chosen.axes else f"{module}.weight"
        change = (after[key] != before[key]).any(1 - chosen.axes.get(module, 0))
        if "en-de" in group:
            moved[family.part_of(module)] += int(change[index].sum())
        else:
            assert not change[index].any()
    assert all(moved.values())
    trained = {x if x in chosen.axes else f"{x}.{leaf}" for x in chosen.rows for leaf in ("weight", "bias")}
    assert all(torch.equal(after[key], before[key]) for key in before if key not in trained)
