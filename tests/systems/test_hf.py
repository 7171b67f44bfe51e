"""HFSystem on a real, tiny, random LLaVA: neither batching nor order nor padding may change an answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from neuroglot.errors import UserError
from neuroglot.systems import HFSystem, System, length_sorted_batches

NEW = 12


@pytest.fixture(scope="module")
def alone(model, batcher, mixed):
    """What the model says to each example on its own, without the class under test."""
    texts = []
    for one in mixed:
        inputs = batcher.prompts([one])
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=1, pad_token_id=0)
        fresh = tokens[0, inputs["input_ids"].shape[1] :]
        texts.append(batcher.tokenizer.decode(fresh, skip_special_tokens=True).strip())
    return texts


def test_is_a_system(model, batcher):
    assert isinstance(HFSystem(model, batcher, "m"), System)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 32])
def test_answers_do_not_depend_on_the_batch_size(model, batcher, mixed, alone, batch_size):
    assert len(set(alone)) > 6, "a model that always says the same proves nothing"
    assert HFSystem(model, batcher, "m", batch_size, NEW).translate(mixed) == alone


def test_answers_follow_the_order_of_the_examples(model, batcher, mixed, alone):
    order = list(range(len(mixed)))
    random.Random(1).shuffle(order)
    system = HFSystem(model, batcher, "m", 5, NEW)
    assert system.translate([mixed[index] for index in order]) == [alone[index] for index in order]


def test_the_image_is_seen(model, batcher, mixed):
    one = next(example for example in mixed if example.images)
    other = replace(one, images=tuple(replace(image, seed=image.seed + 1) for image in one.images))
    losses = HFSystem(model, batcher, "m").nll([one, other])
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def brute_force_nll(model, batcher, one) -> float:
    """-log p of each target token from a full forward of the one unpadded sample, in float64."""
    inputs = batcher.encode([one])
    labels = inputs.pop("labels")[0]
    with torch.no_grad():
        log_p = model(**inputs).logits[0].double().log_softmax(-1)
    return -sum(log_p[place - 1, token].item() for place, token in enumerate(labels.tolist()) if token != -100)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_nll_equals_brute_force(model, batcher, mixed, batch_size):
    got = HFSystem(model, batcher, "m", batch_size).nll(mixed)
    assert got == pytest.approx([brute_force_nll(model, batcher, one) for one in mixed], rel=1e-4)


def test_nll_asks_for_logits_of_targets_only(model, batcher, mixed):
    shapes = []
    hook = model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    try:
        HFSystem(model, batcher, "m", 4).nll(mixed)
    finally:
        hook.remove()
    longest = max(len(one.target) for one in mixed) + 1
    spread = max(len(f"{one.source or ''}") for one in mixed)  # prompts of one batch differ by their source
    assert shapes
    assert all(batch <= 4 and length <= longest + spread for batch, length, _ in shapes)


def test_nll_without_logits_to_keep(model, batcher, mixed):
    class Older:
        """A checkpoint's own code from before `logits_to_keep`."""

        config, device, dtype, training = model.config, model.device, model.dtype, False

        def forward(self, input_ids, attention_mask, pixel_values=None, use_cache=None):
            return model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)

        __call__ = forward

        def modules(self):
            return iter(())

        def eval(self):
            return self

        def train(self, mode=True):
            return self

    assert HFSystem(Older(), batcher, "m", 4).nll(mixed) == pytest.approx(
        HFSystem(model, batcher, "m", 4).nll(mixed), rel=1e-5
    )


def test_training_mode_is_restored_also_after_an_error(model, batcher, mixed):
    model.train()
    frozen = model.model.vision_tower.eval()
    try:
        system = HFSystem(model, batcher, "m", 4, 2)
        system.translate(mixed[:3])
        assert model.training
        assert model.lm_head.training
        assert not frozen.training

        def stop(count):
            raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            HFSystem(model, batcher, "m", 4, 2, progress=stop).nll(mixed[:3])
        assert model.training
    finally:
        model.eval()


def test_batches_never_mix_kinds_and_start_with_the_longest(mixed):
    batches = length_sorted_batches(mixed, 3)
    assert sorted(index for batch in batches for index in batch) == list(range(len(mixed)))
    for batch in batches:
        assert len({len(mixed[index].images) for index in batch}) == 1
        lengths = [len(mixed[index].target) for index in batch]
        assert lengths == sorted(lengths, reverse=True)


def test_the_reference_does_not_reach_the_answer(model, batcher, mixed, alone):
    batcher.prompt_batches.clear()
    blind = [replace(one, target="") for one in mixed]
    assert HFSystem(model, batcher, "m", 4, NEW).translate(blind) == alone
    assert max(map(len, batcher.prompt_batches)) <= 4, "no batch is larger than it may be"


def test_progress_counts_every_example(model, batcher, mixed):
    counts = []
    HFSystem(model, batcher, "m", 5, 2, progress=counts.append).translate(mixed)
    assert sum(counts) == len(mixed)


def test_end_of_sequence_stops_and_is_not_shown(model, batcher, mixed, alone):
    free = model.generation_config.eos_token_id
    # Every token that an answer starts with becomes an end: nothing may be left of those answers.
    first = batcher.tokenizer(next(text for text in alone if text)[0], add_special_tokens=False)["input_ids"][0]
    try:
        model.generation_config.eos_token_id = first
        answers = HFSystem(model, batcher, "m", 8, NEW).translate(mixed)
    finally:
        model.generation_config.eos_token_id = free
    letter = batcher.tokenizer.decode([first])
    expected = [text.partition(letter)[0].strip() for text in alone]
    assert [answer.rstrip(letter).strip() for answer in answers] == expected
    assert not any("</s>" in answer or "<pad>" in answer for answer in answers)


def test_beams_find_answers_at_least_as_likely(model, batcher, mixed):
    def likelihood(beams):
        answers = HFSystem(model, batcher, "m", 4, 4, num_beams=beams).translate(mixed)
        as_target = [replace(one, target=answer) for one, answer in zip(mixed, answers, strict=True)]
        return answers, sum(HFSystem(model, batcher, "m").nll(as_target))

    (greedy, _), (beamed, _) = likelihood(1), likelihood(4)
    assert len(beamed) == len(greedy) == len(mixed)
    assert beamed != greedy


def test_a_peft_adapter_is_used(model, batcher, mixed):
    torch.manual_seed(1)
    before = HFSystem(model, batcher, "m").nll(mixed)
    config = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
    tuned = get_peft_model(model, config)
    try:
        system = HFSystem(tuned, batcher, "tuned", 4, 4)
        after = system.nll(mixed)
        assert after != pytest.approx(before, rel=1e-3)
        assert len(system.translate(mixed)) == len(mixed)
        with tuned.disable_adapter():
            assert system.nll(mixed) == pytest.approx(before, rel=1e-5)
    finally:
        tuned.unload()


def test_nothing_to_do(model, batcher):
    system = HFSystem(model, batcher, "m")
    assert system.translate([]) == []
    assert system.nll([]) == []


@pytest.mark.parametrize("field", ["batch_size", "max_new_tokens", "num_beams"])
def test_numbers_must_be_positive(model, batcher, field):
    with pytest.raises(UserError, match=f"{field} must be at least 1, got 0"):
        HFSystem(model, batcher, "m", **{field: 0})
