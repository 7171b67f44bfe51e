"""Decoding: beams with a length penalty, tokens counted, and no logits kept, however many samples there are."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from neuroglot.systems import HFSystem, without_image


def longest(model, batcher, one, penalty):
    """The best of four beams by a search of the transformers library called directly."""
    inputs = batcher.prompts([one])
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=10, num_beams=4, do_sample=False, length_penalty=penalty,
                                eos_token_id=HFSystem(model, batcher, "m")._eos(), pad_token_id=0)  # fmt: skip
    return batcher.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.slow
def test_beams_take_the_length_penalty(model, batcher, mixed):
    found = {}
    for penalty in (-4.0, 4.0):
        system = HFSystem(model, batcher, "m", 1, 10, num_beams=4, length_penalty=penalty)
        found[penalty] = system.translate(mixed)
        assert found[penalty] == [longest(model, batcher, one, penalty) for one in mixed]
    lengths = [sum(map(len, texts)) for texts in found.values()]
    assert lengths[0] < lengths[1]


def test_greedy_decoding_has_no_use_for_it(model, batcher, mixed, caplog):
    plain = HFSystem(model, batcher, "m", 5, 6).translate(mixed)
    assert HFSystem(model, batcher, "m", 5, 6, length_penalty=-4.0).translate(mixed) == plain
    assert "length_penalty" not in caplog.text


OTHERWISE = {
    "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_length": 500, "suppress_tokens": [3, 4, 5, 6, 7, 8],
    "bad_words_ids": [[9], [10]], "forced_eos_token_id": 12, "num_beams": 3, "do_sample": True, "temperature": 9.0,
    "top_k": 2, "min_new_tokens": 3, "early_stopping": True, "num_return_sequences": 2,
}  # fmt: skip


def test_a_checkpoints_own_settings_do_not_change_an_answer(model, batcher, mixed):
    system = HFSystem(model, batcher, "m", 5, 6)
    plain, own = system.translate(mixed), model.generation_config
    try:
        model.generation_config = theirs = GenerationConfig(**own.to_diff_dict(), **OTHERWISE)
        assert system.translate(mixed) == plain
        assert model.generation_config is theirs, "which is put back"
        tuned = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
        assert HFSystem(tuned, batcher, "m", 5, 6).translate(mixed) == plain
        assert tuned.generation_config is not None
        with torch.no_grad():
            inputs = batcher.prompts(mixed[:1])
            free = model.generate(**inputs, max_new_tokens=6, num_return_sequences=1, do_sample=False)
        assert batcher.tokenizer.decode(free[0, inputs["input_ids"].shape[1] :]) != plain[0], "they do matter"
    finally:
        model.generation_config = own


def test_tokens_are_those_that_the_nats_are_of(model, batcher, mixed):
    system = HFSystem(model, batcher, "m")
    labels = [int((batcher.encode([one])["labels"] != -100).sum()) for one in mixed]
    assert system.tokens(mixed) == labels
    assert without_image(system).tokens(mixed) == labels


@pytest.mark.parametrize("ask", ["translate", "nll"])
def test_no_logits_are_kept_and_none_is_larger_than_a_batch(model, batcher, mixed, ask):
    alive, sizes, after_a_batch = [], [], []

    def look(module, args, output):
        alive.append(weakref.ref(output))
        sizes.append(output.numel())

    hook = model.lm_head.register_forward_hook(look)
    try:
        for samples in (mixed[:4], [*mixed, *mixed, *mixed]):
            system = HFSystem(model, batcher, "m", 4, 6)
            system.progress = lambda count: after_a_batch.append(sum(one() is not None for one in alive))
            getattr(system, ask)(samples)
    finally:
        hook.remove()
    assert len(after_a_batch) > 9
    assert max(after_a_batch) == 0, "logits outlived their batch"
    vocabulary = model.lm_head.out_features
    most = (
        1 if ask == "translate" else max(map(len, (e.target for e in mixed))) + max(len(e.source or "") for e in mixed)
    )
    assert max(sizes) <= 4 * (most + 1) * vocabulary
