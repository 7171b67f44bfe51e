"""Logits at target positions only: the same loss and gradients as with logits everywhere, over all model families."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, SIBLINGS, build

from neuroglot import profile
from neuroglot.models.targets import keeps_some_logits, on_targets, target_columns
from neuroglot.training import prepare

TRIO = ("llava", "qwen2_5_vl", "paligemma")
FEW = [name if name in TRIO else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def gradients(model, inputs):
    model.zero_grad()
    out = model(**inputs)
    out.loss.backward()
    return out, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in SIBLINGS])
def test_loss_and_gradients_equal_those_with_all_logits(family):
    model, inputs = build(family)
    model.eval()
    assert keeps_some_logits(model)
    whole, expected = gradients(model, inputs)
    some, found = gradients(model, on_targets(inputs))
    columns = target_columns(inputs["labels"])
    assert some.logits.shape[1] == len(columns) + 1 < whole.logits.shape[1]
    torch.testing.assert_close(some.loss, whole.loss, rtol=1e-6, atol=1e-6)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_labels_that_differ_between_samples():
    """Every sample has its own target positions; what is no target of a sample is ignored there."""
    labels = torch.tensor([[7, -100, 5, 6, -100], [-100, -100, -100, 8, 9]])
    made = on_targets({"input_ids": torch.zeros(2, 5), "labels": labels})
    assert made["logits_to_keep"].tolist() == [1, 2, 3, 3]
    assert made["labels"].tolist() == [[-100, 5, 6, -100], [-100, -100, 8, 9]]
    assert on_targets({"input_ids": labels}) == {"input_ids": labels}


def test_a_batch_without_targets():
    made = on_targets({"labels": torch.full((2, 4), -100)})
    assert made["logits_to_keep"].tolist() == [0]
    assert made["labels"].tolist() == [[-100], [-100]]


@pytest.mark.parametrize("family", FEW)
def test_a_profile_equals_one_with_all_logits(family, monkeypatch):
    model, inputs = build(family)
    batches = [(inputs, "image_translation:en-de")]
    seen = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    some = profile(model, batches, scores=("taylor_token", "gradient"))
    monkeypatch.setattr("neuroglot.neurons.profiling.importance.keeps_some_logits", lambda model: False)
    whole = profile(model, batches, scores=("taylor_token", "gradient"))
    handle.remove()
    length = inputs["input_ids"].shape[1]
    assert seen == [len(target_columns(inputs["labels"])), length]
    for name in whole.sums:
        torch.testing.assert_close(some.sums[name], whole.sums[name], rtol=1e-5, atol=1e-9)


def test_a_profile_of_the_head_sees_every_position():
    model, inputs = build("llava")
    (head,) = (name for name, module in model.named_modules() if module is model.get_output_embeddings())
    made = profile(model, [(inputs, "image_translation:en-de")], scores=("activation",), include=(head,))
    activations = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, args, out: activations.append(out.detach()))
    with torch.no_grad():
        model.eval()(**{key: x for key, x in inputs.items() if key != "labels"})
    handle.remove()
    mask = inputs["attention_mask"].bool()
    expected = sum(activations[0][b][mask[b]].abs().mean(0) for b in range(len(mask)))
    torch.testing.assert_close(made.sums[head][0, 0, 0].float(), expected, rtol=1e-4, atol=1e-5)


def test_a_learned_prompt_shifts_the_positions():
    model, inputs = build("llava")
    tuned = prepare(model, "prompt").eval()
    whole, some = tuned(**inputs).loss, tuned(**on_targets(inputs)).loss
    torch.testing.assert_close(some, whole, rtol=1e-6, atol=1e-6)
