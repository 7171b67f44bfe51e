"""One training of examples with one image, with two, and with none, on the embedded model; and of replayed ones."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from neuroglot.config import TrainSection
from neuroglot.data.batch import Batcher
from neuroglot.data.corpus import TRAINS
from neuroglot.data.example import Example, RenderSpec
from neuroglot.models.load import load_model, load_processor
from neuroglot.systems import HFSystem
from neuroglot.training import Mix, prepare, train


def shown(texts: tuple[str, ...], target: str, lang: str) -> Example:
    images = tuple(RenderSpec(text, 5, k) for k, text in enumerate(texts))
    return Example(images, None, target, "en", lang, "image_translation", item=target)


def text(source: str, target: str, lang: str) -> Example:
    return Example((), source, target, "en", lang, "text_translation", item=target)


EXAMPLES = {
    "one image": [shown(("Exit",), "Ausgang", "de"), shown(("Closed",), "Fermé", "fr")],
    "two images": [shown(("Exit", "Closed"), "Ausgang zu", "de"), shown(("Closed", "Exit"), "Fermé ici", "fr")],
    "no image": [text("Exit", "Ausgang", "de"), text("Closed", "Fermé", "fr")],
}
ALL = [example for examples in EXAMPLES.values() for example in examples]


@pytest.fixture(scope="module")
def batcher():
    return Batcher(load_processor("embedded"))


def test_training_learns_every_kind_at_once(batcher, tmp_path):
    model = load_model("embedded", "float32")
    before = HFSystem(model.eval(), batcher, "base").nll(ALL)
    seen: list[tuple[str, bool, int]] = []

    def collate(examples):
        inputs = batcher.encode(examples)
        seen.append((str(examples[0].pair), "pixel_values" in inputs, len(examples)))
        assert ("pixel_values" in inputs) == all(e.images for e in examples) == any(e.images for e in examples)
        if examples[0].images:
            assert len(inputs["pixel_values"]) == sum(len(e.images) for e in examples)
        return {**inputs, "pair": str(examples[0].pair)}

    options = TrainSection(steps=16, batch_size=4, lr=1e-3, warmup=0.0, scheduler="constant")
    tuned = prepare(model, "full")
    train(tuned, ALL, collate, options, tmp_path)
    after = HFSystem(tuned.eval(), batcher, "tuned").nll(ALL)
    for example, old, new in zip(ALL, before, after, strict=True):
        assert new < 0.6 * old, (example.target, len(example.images), old, new)
    assert Counter(seen) == {("en-de", True, 2): 4, ("en-fr", True, 2): 4, ("en-de", False, 1): 4,
                             ("en-fr", False, 1): 4}  # fmt: skip


def test_samples_of_one_and_two_images_do_not_touch_each_other(batcher):
    model = load_model("embedded", "float32").eval()
    pair = [EXAMPLES["one image"][0], EXAMPLES["two images"][0]]
    with torch.no_grad():
        whole = batcher.encode(pair)
        logits = model(**{k: v for k, v in whole.items() if k != "labels"}).logits
        for row, example in enumerate(pair):
            alone = batcher.encode([example])
            own = model(**{k: v for k, v in alone.items() if k != "labels"}).logits
            assert torch.allclose(own[0], logits[row, : own.shape[1]], atol=1e-4)
        swapped = batcher.encode([shown(("Closed", "Exit"), "Ausgang zu", "de")])
        turned = model(**{k: v for k, v in swapped.items() if k != "labels"}).logits
        assert not torch.allclose(turned[0], logits[1, : turned.shape[1]], atol=1e-3), "their order counts"


def test_a_text_trains_nothing_where_only_the_vision_part_is_trained(batcher, tmp_path):
    model = load_model("embedded", "float32")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("vision" in name)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def collate(examples):
        return {**batcher.encode(examples), "pair": str(examples[0].pair)}

    def moved(examples, folder) -> set[str]:
        options = TrainSection(steps=2, batch_size=2, lr=1e-2, warmup=0.0, weight_decay=0.1, scheduler="constant")
        train(model, examples, collate, options, tmp_path / folder)
        return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}

    assert moved(EXAMPLES["no image"], "texts") == set(), "not by weight decay either"
    changed = moved(EXAMPLES["no image"] + EXAMPLES["one image"] * 2, "both")
    assert changed
    assert all("vision" in name for name in changed)


@pytest.mark.slow
def test_a_resumed_training_replays_as_if_nothing_had_happened(batcher, tmp_path):
    kinds = ["image"] * 4 + ["text "] * 2
    mix = Mix(kinds, 2.0, 2, 0.3)
    pairs = [str(example.pair) for example in ALL]
    options = TrainSection(steps=9, batch_size=1, lr=1e-3, warmup=0.0, accumulation=2, save_steps=5)

    def collate(examples):
        return {**batcher.encode(examples), "pair": str(examples[0].pair)}

    def trained(folder):
        tuned = prepare(load_model("embedded", "float32"), "full")
        found = train(tuned, ALL, collate, options, folder, pairs=pairs, mix=mix, resume=True)
        return tuned.state_dict(), found.resumed_from

    whole, started = trained(tmp_path)
    assert started == 0
    shutil.rmtree(tmp_path / "checkpoint-9")
    again, resumed = trained(tmp_path)
    assert resumed == 5, "in the middle of an epoch of six batches"
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mnaft", "random", "full", "lora", "bitfit"])
@pytest.mark.turns
def test_every_method_replays(method, tmp_path, monkeypatch):
    """A run replays its share, of the tasks and pairs that it says, and nothing that it scores."""
    from neuroglot.config.load import load_recipe
    from neuroglot.pipeline.context import Context
    from neuroglot.pipeline.run import execute

    drawn: list[list[Example]] = []
    collate = Context.collate

    def watched(context, examples):
        drawn.append(list(examples))
        made = collate(context, examples)
        assert made["pair"] == (examples[0].meta.get(TRAINS) or str(examples[0].pair))
        return made

    monkeypatch.setattr(Context, "collate", watched)
    settings = [f"method={method}", "data.replay=0.25", "data.temperature=2", "data.pairs=[en-de, en-fr]",
                "train.steps=20", "train.batch_size=2", "train.accumulation=2", "data.retention=4"]  # fmt: skip
    recipe = load_recipe("quickstart", settings, "smoke")
    lines: list[str] = []
    folder = execute(recipe, tmp_path, lambda label, total: lambda done: None, lines.append)
    assert 40 <= len(drawn) <= 41, "accelerate fetches a batch ahead"
    tasks = Counter(batch[0].task for batch in drawn[:40])
    assert abs(40 - tasks.pop("image_translation") - 10) <= 1
    assert tasks.keys() == {"ocr", "text_translation", "describe"}
    assert max(tasks.values()) - min(tasks.values()) <= 1, "in turn, over the epochs too"
    facts = json.loads((Path(folder) / "training.json").read_text())
    share = facts["replay"]
    assert share["share"] == 0.25
    assert set(share["examples"]) == {"ocr", "text_translation", "describe"}
    assert abs(share["epoch"]["replayed"] / share["epoch"]["batches"] - 0.25) < 0.5 / share["epoch"]["batches"]
    assert any(
        f"{share['epoch']['replayed']} of {share['epoch']['batches']} batches an epoch" in line for line in lines
    )
    rows = [json.loads(line) for line in (Path(folder) / "hypotheses.jsonl").read_text().splitlines()]
    scored = {(row["task"], row["source"], row["reference"]) for row in rows}
    assert not scored & {(e.task, e.source, e.target) for batch in drawn for e in batch}
