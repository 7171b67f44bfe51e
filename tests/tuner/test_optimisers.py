"""Every optimiser leaves foreign groups alone, its state included; the weight that holds the units is not stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_llava import batch, deltas, fill_deltas, group_of, logits, tiny_llava, tiny_selection
from torch import nn
from transformers.optimization import Adafactor

from neuroglot.tuner import NeuroglotConfig, NeuroglotLinear, active_pair, modes, refresh

pytestmark = pytest.mark.turns

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, foreach=False, fused=False),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9, weight_decay=0.1),
    "adafactor": lambda p: Adafactor(p, lr=1e-2, relative_step=False, scale_parameter=False, weight_decay=0.1),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)

STEPS = (("en-de", "en-cs"), ("en-de", "en-de"), ("en-fr", "en-cs"), ("en-cs", "en-cs"), ("en-fr", "en-de"))


def tuned(rank: int | None = None, mode: str = "auto") -> PeftModel:
    config = NeuroglotConfig.from_selection(tiny_selection(), rank=rank, mode=mode)
    model = get_peft_model(tiny_llava(bias=True), config)
    fill_deltas(model, 0.05)
    return model


def fresh_with(model: PeftModel, rank: int | None = None) -> PeftModel:
    """Return a new model with the same deltas, that has never run."""
    other = tuned(rank)
    with torch.no_grad():
        for name, parameter in deltas(other).items():
            parameter.copy_(deltas(model)[name])
    return other.eval()


def state(model: PeftModel, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """Copy every delta and what the optimiser keeps about it."""
    return {
        name: {"value": p.detach().clone()}
        | {k: torch.as_tensor(v).clone() for k, v in optimizer.state.get(p, {}).items() if v is not None}
        for name, p in deltas(model).items()
    }


def accumulate(model: PeftModel, step: int) -> None:
    """Run the micro-steps of a step, each with its own pair."""
    for micro, pair in enumerate(STEPS[step % len(STEPS)]):
        with active_pair(model, pair):
            (model(**batch(10 * step + micro)).loss / 2).backward()


def run(model: PeftModel, optimizer: torch.optim.Optimizer, steps: int = len(STEPS)) -> None:
    for step in range(steps):
        accumulate(model, step)
        optimizer.step()
        optimizer.zero_grad()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


@each_optimizer
@pytest.mark.parametrize("rank", [None, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["sliced", "additive"])
def test_foreign_groups_stay_bit_identical_with_their_state(name: str, rank: int | None, mode: str) -> None:
    model = tuned(rank, mode).train()
    optimizer = OPTIMIZERS[name](trainable(model))
    for step, pairs in enumerate(STEPS):
        old = state(model, optimizer)
        accumulate(model, step)
        optimizer.step()
        optimizer.zero_grad()
        new = state(model, optimizer)
        for delta in old:
            same = old[delta].keys() == new[delta].keys() and all(
                torch.equal(old[delta][key], new[delta][key]) for key in old[delta]
            )
            assert same is not bool(group_of(delta) & set(pairs)), (step, delta)
    assert all(len(kept) > 1 for kept in state(model, optimizer).values()), "the optimiser kept nothing"


@each_optimizer
@pytest.mark.parametrize("rank", [None, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_live_model_is_what_its_deltas_say(name: str, rank: int | None, training: bool) -> None:
    """Trained in train mode, or in eval mode all the time, with a look at the logits between the steps."""
    model = tuned(rank).train(training)
    assert modes(model) == "7 layers sliced"
    optimizer = OPTIMIZERS[name](trainable(model))
    seen = [logits(model)]
    for step in range(3):
        accumulate(model, step)
        optimizer.step()
        optimizer.zero_grad()
        found = logits(model)
        assert torch.equal(found, logits(fresh_with(model, rank))), step
        assert not torch.equal(found, seen[-1]), step
        seen.append(found)
    assert model.training is training
    held = [m._kept is not None for m in model.modules() if isinstance(m, NeuroglotLinear)]
    assert all(held), "nothing was kept in the weights, so nothing could be stale"


@each_optimizer
def test_a_look_between_backward_and_step(name: str) -> None:
    """No training forward and no change of mode lies between the look and the step: `refresh` is for that."""
    model = tuned().eval()
    optimizer = OPTIMIZERS[name](trainable(model))
    run(model, optimizer, 2)
    accumulate(model, 2)
    before = logits(model)
    optimizer.step()
    refresh(model)
    after = logits(model)
    assert not torch.equal(after, before)
    assert torch.equal(after, logits(fresh_with(model)))


@each_optimizer
def test_changed_deltas_reach_the_next_training_forward(name: str) -> None:
    """Two steps equal two steps of models made anew from the deltas in between."""
    model = tuned().train()
    optimizer = OPTIMIZERS[name](trainable(model))
    run(model, optimizer, 2)
    other = fresh_with(model).train()
    for one in (model, other):
        accumulate(one, 4)
    for key, parameter in deltas(model).items():
        assert (parameter.grad is None) is (deltas(other)[key].grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, deltas(other)[key].grad), key


@each_optimizer
@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_averaged_weights_swapped_in_through_data(name: str, training: bool) -> None:
    model = tuned().train(training)
    optimizer = OPTIMIZERS[name](trainable(model))
    average = {key: p.detach().clone() for key, p in deltas(model).items()}
    for step in range(3):
        accumulate(model, step)
        optimizer.step()
        optimizer.zero_grad()
        for key, p in deltas(model).items():
            average[key].lerp_(p.detach(), 0.3)
    last = logits(model)
    live = {key: p.detach().clone() for key, p in deltas(model).items()}

    def swap(values: dict[str, torch.Tensor]) -> torch.Tensor:
        for key, p in deltas(model).items():
            p.data = values[key].clone()
        refresh(model)
        return logits(model)

    averaged = swap(average)
    assert not torch.equal(averaged, last)
    assert torch.equal(averaged, logits(fresh_with(model)))
    assert torch.equal(swap(live), last)
