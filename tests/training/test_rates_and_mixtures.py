"""Separate learning rates, batches of several pairs, and whose gradients the clipping sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llava import ALL, PAIRS, batch, deltas, fill_deltas, group_of, tiny_llava, tiny_selection, tuned
from torch import nn

from neuroglot.config import TrainSection, check
from neuroglot.errors import UserError
from neuroglot.training import PairTrainer, parameter_groups, prepare, train
from neuroglot.training.trainer import arguments
from neuroglot.tuner import active_pair

ITEMS = [(seed, PAIRS[seed % 3]) for seed in range(12)]
ITEM_PAIRS = [pair for _, pair in ITEMS]


def collate(items: list[tuple[int, str]]) -> dict[str, Any]:
    parts = [batch(seed, size=1) for seed, _ in items]
    return {**{key: torch.cat([part[key] for part in parts]) for key in parts[0]}, "pair": items[0][1]}


def options(**changes: Any) -> TrainSection:
    chosen = {"steps": 4, "batch_size": 2, "lr": 1e-3, "log_steps": 1, "warmup": 0, "scheduler": "constant"}
    return TrainSection(**{**chosen, **changes})


class Watched(PairTrainer):
    """Keeps each micro-step's inputs, and each step's gradients as the optimiser sees them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.inputs: list[dict[str, Any]] = []
        self.grads: list[dict[str, torch.Tensor]] = []

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        self.inputs.append(inputs)
        return super().training_step(model, inputs, *args)

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args)
        optimizer.register_step_pre_hook(lambda *_: self.grads.append(gradients(self.model)))
        return optimizer


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}


def norm(values: dict[str, torch.Tensor]) -> float:
    return torch.cat([value.flatten() for value in values.values()]).norm().item()


def fitted(folder: Path, collator: Any = collate, **changes: Any) -> tuple[nn.Module, Watched]:
    model = prepare(tiny_llava(bias=True), "neurons", tiny_selection())
    fill_deltas(model, 0.1)
    chosen = options(**changes)
    trainer = Watched(
        model=model, args=arguments(chosen, folder), train_dataset=ITEMS, data_collator=collator, pairs=ITEM_PAIRS,
        specific_lr=chosen.specific_lr,
    )  # fmt: skip
    trainer.train()
    return model, trainer


# --- rates


def test_parameter_groups_part_agnostic_from_specific() -> None:
    model = tuned(bias=True)
    agnostic, specific = parameter_groups(model, 1e-3, 5e-3)
    assert (agnostic["lr"], specific["lr"]) == (1e-3, 5e-3)
    names = {id(p): name for name, p in deltas(model).items()}
    assert {group_of(names[id(p)]) for p in agnostic["params"]} == {ALL}
    assert ALL not in {group_of(names[id(p)]) for p in specific["params"]}
    assert len(agnostic["params"]) + len(specific["params"]) == len(names)
    assert [group["lr"] for group in parameter_groups(model, 1e-3)] == [1e-3, 1e-3]
    torch.optim.AdamW(parameter_groups(model, 1e-3, 5e-3))


def test_parameter_groups_of_other_models() -> None:
    (only,) = parameter_groups(tuned(selection=tiny_selection(groups=(ALL,))), 1e-3, 1.0)
    assert only["lr"] == 1e-3
    base = tiny_llava()
    (only,) = parameter_groups(base, 1e-3, 1.0)
    assert len(only["params"]) == len(list(base.parameters()))
    with pytest.raises(UserError, match="no parameter is trainable"):
        parameter_groups(base.requires_grad_(False), 1e-3)
    with pytest.raises(UserError, match="specific_lr must be above 0, got 0"):
        parameter_groups(base, 1e-3, 0)


def test_the_trainer_uses_both_rates(tmp_path: Path) -> None:
    """A first step of Adam without decay moves every entry by its rate."""
    start = tuned(bias=True)
    fill_deltas(start, 0.1)
    before = {name: p.detach() for name, p in deltas(start).items()}
    model, trainer = fitted(tmp_path, steps=1, specific_lr=4e-3, accumulation=6, batch_size=2)
    assert set(trainer.inputs[0]) >= {"pair"}
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {1e-3, 4e-3}
    for name, parameter in deltas(model).items():
        expected = 1e-3 if group_of(name) == ALL else 4e-3
        step = (parameter.detach() - before[name]).abs()
        assert step.max().item() == pytest.approx(expected, rel=0.1), name


@pytest.mark.parametrize("changes", [{"weight_decay": 0.1, "scheduler": "cosine", "accumulation": 2}])
def test_a_specific_rate_equal_to_the_other_changes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    one, _ = fitted(tmp_path, **changes)
    other, _ = fitted(tmp_path, specific_lr=1e-3, **changes)
    assert all(torch.equal(p, deltas(other)[name]) for name, p in deltas(one).items())


def test_resuming_keeps_both_rates(tmp_path: Path) -> None:
    def fresh() -> nn.Module:
        return prepare(tiny_llava(), "neurons", tiny_selection())

    chosen = options(steps=6, save_steps=3, specific_lr=7e-3, scheduler="cosine")
    whole = fresh()
    train(whole, ITEMS, collate, chosen, tmp_path / "whole", pairs=ITEM_PAIRS)
    (tmp_path / "whole" / "checkpoint-6").rename(tmp_path / "aside")
    again = fresh()
    result = train(again, ITEMS, collate, chosen, tmp_path / "whole", pairs=ITEM_PAIRS, resume=True)
    assert result.resumed_from == 3
    assert all(torch.equal(p, deltas(again)[name]) for name, p in deltas(whole).items())


def test_the_recipe_key() -> None:
    data = {"pairs": ["en-de"]}
    assert check({"data": data}, "test").train.specific_lr is None
    assert check({"data": data, "train": {"specific_lr": 2e-3}}, "test").train.specific_lr == 2e-3
    with pytest.raises(UserError, match="train.specific_lr: must be greater than 0"):
        check({"data": data, "train": {"specific_lr": 0}}, "test")
    with pytest.raises(UserError, match="train.specific_lr: must be greater than 0, got -1"):
        options(specific_lr=-1)


# --- clipping


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_the_clipped_norm_is_that_of_the_trainable_gradients(tmp_path: Path, limit: float) -> None:
    _, trainer = fitted(tmp_path, steps=1, max_grad_norm=limit)
    fresh = tuned(bias=True)
    fill_deltas(fresh, 0.1)
    fresh.train()
    (inputs,) = trainer.inputs
    with active_pair(fresh, inputs["pair"]):
        fresh(**{key: value for key, value in inputs.items() if key != "pair"}).loss.backward()
    own = gradients(fresh)
    assert own
    assert set(own) == set(trainer.grads[0]) == {n for n in deltas(fresh) if inputs["pair"] in group_of(n)}
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(norm(own), rel=1e-4)
    assert norm(trainer.grads[0]) == pytest.approx(min(limit, norm(own)), rel=1e-3)


# --- mixtures


def mixed(items: list[tuple[int, str]]) -> dict[str, Any]:
    """A collator that mixes: the pairs of its samples are its own affair."""
    found = collate(items)
    pairs = [PAIRS[seed % 3] if place else "en-de" for place, (seed, _) in enumerate(items)]
    return {**found, "pair": pairs, "images": [1] * len(items)}


def test_a_collator_may_mix_pairs(tmp_path: Path) -> None:
    _, trainer = fitted(tmp_path, mixed, steps=1, batch_size=4, max_grad_norm=0)
    (inputs,) = trainer.inputs
    assert len(set(inputs["pair"])) > 1
    fresh = tuned(bias=True)
    fill_deltas(fresh, 0.1)
    fresh.train()
    for place, pair in enumerate(inputs["pair"]):
        sample = {k: v[place : place + 1] for k, v in inputs.items() if torch.is_tensor(v)}
        with active_pair(fresh, pair):
            (fresh(**sample).loss / len(inputs["pair"])).backward()
    own = gradients(fresh)
    assert own.keys() == trainer.grads[0].keys()
    for name, grad in own.items():
        torch.testing.assert_close(trainer.grads[0][name], grad, rtol=1e-4, atol=1e-7)


def test_wrong_numbers_of_images_are_refused(tmp_path: Path) -> None:
    def wrong(items: list[tuple[int, str]]) -> dict[str, Any]:
        return {**mixed(items), "images": torch.tensor([1, 2, 1])}

    with pytest.raises(UserError, match="4 pairs, images of 3 samples"):
        fitted(tmp_path, wrong, batch_size=4)


def test_ddp_looks_for_parameters_without_a_gradient(tmp_path: Path) -> None:
    made = arguments(options(), tmp_path)
    made.ddp_find_unused_parameters = None
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    routed = PairTrainer(model=model, args=made, train_dataset=ITEMS, data_collator=collate, pairs=ITEM_PAIRS)
    assert routed.args.ddp_find_unused_parameters is True
