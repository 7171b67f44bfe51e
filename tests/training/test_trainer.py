"""The loop end to end: who moves at which step, accumulation, clipping, resume, log, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llava import PAIRS, batch, deltas, group_of, tiny_llava, tiny_selection
from torch import nn

from neuroglot.config import TrainSection
from neuroglot.errors import UserError
from neuroglot.file_format import CHECKPOINT, MANIFEST, read_json, write_manifest
from neuroglot.training import PairTrainer, audit, changed, prepare, snapshot, train
from neuroglot.training.trainer import arguments, last_checkpoint

ITEMS = [(seed, PAIRS[seed % 3]) for seed in range(21)]
ITEM_PAIRS = [pair for _, pair in ITEMS]


def collate(items: list[tuple[int, str]]) -> dict[str, Any]:
    (pair,) = {pair for _, pair in items}
    parts = [batch(seed, size=1) for seed, _ in items]
    return {**{key: torch.cat([part[key] for part in parts]) for key in parts[0]}, "pair": pair}


def options(**changes: Any) -> TrainSection:
    return TrainSection(**{"steps": 8, "batch_size": 2, "lr": 1e-2, "log_steps": 1, "save_steps": 0, **changes})


def trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


class Recorder(PairTrainer):
    """Keeps, per optimiser step, its pairs and the trainable state before and after."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[str] = []
        self.steps: list[tuple[set[str], dict, dict]] = []

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        self.seen.append(inputs["pair"])
        return super().training_step(model, inputs, *args)

    def state_now(self) -> dict[str, dict[str, torch.Tensor]]:
        state = self.optimizer.state
        return {
            name: {"value": p.detach().clone(), **{k: torch.as_tensor(v).clone() for k, v in state.get(p, {}).items()}}
            for name, p in deltas(self.model).items()
        }

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args)
        before: dict[str, Any] = {}
        optimizer.register_step_pre_hook(lambda *_: before.update(self.state_now()))

        def after(*_: Any) -> None:
            self.steps.append((set(self.seen), dict(before), self.state_now()))
            self.seen.clear()

        optimizer.register_step_post_hook(after)
        return optimizer


@pytest.mark.parametrize(
    "optimizer",
    ["adamw_torch_fused", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adamw_torch", "sgd", "adafactor"))],
)
@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_every_step_moves_its_own_pairs_groups_only(tmp_path: Path, optimizer: str, accumulation: int) -> None:
    model = prepare(tiny_llava(bias=True), "neurons", tiny_selection())
    before = snapshot(model)
    chosen = options(
        optimizer=optimizer,
        accumulation=accumulation,
        weight_decay=0.1,
        max_grad_norm=0.05,
        warmup=0,
        scheduler="constant",
    )
    trainer = Recorder(
        model=model, args=arguments(chosen, tmp_path), train_dataset=ITEMS, data_collator=collate, pairs=ITEM_PAIRS
    )
    trainer.train()
    assert len(trainer.steps) == 8
    assert (max(len(pairs) for pairs, _, _ in trainer.steps) > 1) is (accumulation > 1)
    for pairs, old, new in trainer.steps:
        for name in old:
            equal = old[name].keys() == new[name].keys() and all(
                torch.equal(old[name][k], new[name][k]) for k in old[name]
            )
            assert equal is not bool(group_of(name) & pairs), (name, pairs)
    assert changed(before, model) == {}
    model.merge_adapter()
    report = audit(before, model, tiny_selection())
    assert (report.trained, report.outside) == (report.selected, {})


RESUMED = ("lora", "dora", "full", "connector", "prompt", "bitfit", "norms")


class PowerCutError(Exception):
    """Ends a run in the middle."""


@pytest.mark.parametrize("method", ["neurons", *(pytest.param(name, marks=pytest.mark.slow) for name in RESUMED)])
@pytest.mark.turns
def test_a_resumed_run_ends_bit_identical(tmp_path: Path, method: str) -> None:
    """Three epochs, accumulation, dropout; cut in the middle of the second epoch, after a checkpoint."""
    chosen = options(steps=14, accumulation=2, save_steps=3, weight_decay=0.1)

    def fresh() -> nn.Module:
        base = tiny_llava(dropout=0.2)
        return prepare(
            base, method, tiny_selection(), **({"dropout": 0.1, "r": 2} if method in ("lora", "dora") else {})
        )

    def cut(step: int, steps: int, loss: float | None) -> None:
        if step == 11:
            raise PowerCutError

    whole = fresh()
    train(whole, ITEMS, collate, chosen, tmp_path / "whole", pairs=ITEM_PAIRS)
    start = trainable(fresh())
    assert any(not torch.equal(p, start[n]) for n, p in trainable(whole).items())
    with pytest.raises(PowerCutError):
        train(fresh(), ITEMS, collate, chosen, tmp_path / "cut", pairs=ITEM_PAIRS, progress=cut)
    (tmp_path / "cut" / "checkpoint-99").mkdir()  # one that was being written
    assert last_checkpoint(tmp_path / "cut")[0] == tmp_path / "cut" / "checkpoint-9"
    resumed = fresh()
    result = train(resumed, ITEMS, collate, chosen, tmp_path / "cut", pairs=ITEM_PAIRS, resume=True)
    assert (result.resumed_from, result.steps) == (9, 14)
    for name, value in trainable(whole).items():
        assert torch.equal(dict(resumed.named_parameters())[name], value), name
    assert (tmp_path / "cut/train_log.jsonl").read_text() == (tmp_path / "whole/train_log.jsonl").read_text()


def made(folder: Path, **changes: Any) -> tuple[nn.Module, Any]:
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    chosen = options(save_steps=3, scheduler="constant", **changes)
    return model, train(model, ITEMS, collate, chosen, folder, pairs=ITEM_PAIRS, resume=True)


def test_a_finished_training_is_not_taken_further(tmp_path: Path) -> None:
    model, first = made(tmp_path)
    again, second = made(tmp_path)
    assert (first.steps, second.steps, second.resumed_from) == (8, 8, 8)
    assert all(torch.equal(value, trainable(again)[name]) for name, value in trainable(model).items())
    assert len(second.log.read_text().splitlines()) == 8
    assert second.seconds > first.seconds * 0.5, "the time that it took, not that of looking"


def test_seconds_are_those_of_the_whole_training(tmp_path: Path) -> None:
    made(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-8")
    manifest = read_json(tmp_path / "checkpoint-6" / MANIFEST, CHECKPOINT)
    write_manifest(tmp_path / "checkpoint-6", CHECKPOINT, {"step": 6, "seconds": 1000 + manifest["seconds"]})
    assert 1000 < made(tmp_path)[1].seconds < 2000


@pytest.mark.parametrize("file", ["adapter_model.safetensors", pytest.param("optimizer.pt", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, file: str) -> None:
    model, _ = made(tmp_path)
    path = tmp_path / "checkpoint-8" / file
    path.write_bytes(path.read_bytes()[:-20])
    again, result = made(tmp_path)
    assert (result.resumed_from, result.steps) == (6, 8)
    assert all(torch.equal(value, trainable(again)[name]) for name, value in trainable(model).items())


class Opened:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, file: str) -> None:
    """Not even one whose manifest was made to match."""
    made(tmp_path, steps=3)
    trace, checkpoint = tmp_path / "trace", tmp_path / "checkpoint-3"
    assert (checkpoint / file).exists()
    torch.save({"state": Opened(trace)}, checkpoint / file)
    write_manifest(checkpoint, CHECKPOINT, {"step": 3, "seconds": 1.0})
    if file == "training_args.bin":  # written by the Trainer, and never read
        made(tmp_path)
    else:
        with pytest.raises(UserError, match="checkpoint-3 holds more than tensors, which is not loaded; delete"):
            made(tmp_path)
    assert not trace.exists()
    torch.save({"state": Opened(trace)}, tmp_path / "harmful")
    torch.load(tmp_path / "harmful", weights_only=False)
    assert trace.exists(), "the file was harmless"


def test_log_progress_and_result(tmp_path: Path) -> None:
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    start = {pair: [] for pair in PAIRS}
    model.train()
    with torch.no_grad():
        for item in ITEMS:
            start[item[1]].append(model(**{k: v for k, v in collate([item]).items() if k != "pair"}).loss.item())
    calls: list[tuple[int, int, float | None]] = []
    result = train(
        model,
        ITEMS,
        collate,
        options(lr=1e-9, warmup=0.25),
        tmp_path,
        pairs=ITEM_PAIRS,
        progress=lambda *a: calls.append(a),
    )
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert set(lines[0]) == {"step", "loss", "lr", "grad_norm"}
    assert lines[1]["lr"] < lines[2]["lr"] > lines[-1]["lr"]
    low, high = min(map(min, start.values())), max(map(max, start.values()))
    assert all(low <= line["loss"] <= high for line in lines), "the loss is a mean over target tokens"
    assert [c[:2] for c in calls] == [(step, 8) for step in range(1, 9)]
    assert calls[-1][2] == lines[-2]["loss"]
    assert result.steps == 8
    assert result.resumed_from == 0
    assert result.trainable == sum(p.numel() for p in deltas(model).values())
    assert low <= result.loss <= high
    assert not list(tmp_path.glob("checkpoint-*"))
    train(model, ITEMS, collate, options(steps=2), tmp_path, pairs=ITEM_PAIRS, resume=True)
    assert len(result.log.read_text().splitlines()) == 2, "nothing to resume from: a new run, a new log"


def test_accumulation_weighs_every_target_token_the_same(tmp_path: Path) -> None:
    """Batches of different length: the gradient of an accumulated step is that of all its tokens together."""

    def ragged(items: list[tuple[int, str]]) -> dict[str, Any]:
        inputs = collate(items)
        inputs["labels"][items[0][0] % 2 :, : 7 + items[0][0] % 5] = -100
        return inputs

    class Once(PairTrainer):
        grads: dict[str, torch.Tensor]

        def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
            optimizer = super().create_optimizer(*args)
            optimizer.register_step_pre_hook(lambda *_: self.keep())
            return optimizer

        def keep(self) -> None:
            self.grads = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}

    grads = []
    for size, accumulation in ((6, 1), (2, 3)):
        model = prepare(tiny_llava(), "neurons", tiny_selection(groups=(frozenset({"en-de"}),)))
        chosen = options(steps=1, batch_size=size, accumulation=accumulation, max_grad_norm=0, scheduler="constant")
        items = [(seed, "en-de") for seed in range(6)]

        def by_item(items: list[tuple[int, str]]) -> dict[str, Any]:
            parts = [ragged([item]) for item in items]
            return {**{k: torch.cat([p[k] for p in parts]) for k in parts[0] if k != "pair"}, "pair": "en-de"}

        trainer = Once(
            model=model,
            args=arguments(chosen, tmp_path),
            train_dataset=items,
            data_collator=by_item,
            pairs=["en-de"] * 6,
        )
        trainer.train()
        grads.append(trainer.grads)
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("extra", [{"gradient_checkpointing": True}, {"bf16": True}])
@pytest.mark.parametrize("method", ["neurons", pytest.param("full", marks=pytest.mark.slow)])
def test_options_that_change_how_it_computes(tmp_path: Path, extra: dict, method: str) -> None:
    model = prepare(tiny_llava(), method, tiny_selection())
    before = trainable(model)
    train(model, ITEMS, collate, options(steps=4, **extra), tmp_path, pairs=ITEM_PAIRS)
    after = trainable(model)
    assert all(torch.isfinite(p).all() for p in after.values())
    assert sum(not torch.equal(before[n], after[n]) for n in before) > len(before) / 2
    assert all(p.dtype == torch.float32 for p in after.values())


def test_the_pair_of_an_item_is_its_own_by_default(tmp_path: Path) -> None:
    class Item(tuple):
        @property
        def pair(self) -> str:
            return self[1]

    items = [Item(item) for item in ITEMS]
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    assert train(model, items, collate, options(steps=2), tmp_path).steps == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "train.steps: must be greater than or equal to 1, got 0"),
        ({"lr": 0}, "train.lr: must be greater than 0, got 0"),
        ({"warmup": 3}, "train.warmup: must be less than 1, got 3"),
        ({"scheduler": "cosin"}, "train.scheduler: must be 'cosine', 'linear', .*, got 'cosin'"),
        ({"step": 5}, "unknown key train.step; did you mean"),
        ({"save_steps": -1}, "train.save_steps: must be greater than or equal to 0, got -1"),
    ],
)
def test_bad_options(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(**changes)


def test_an_optimiser_that_transformers_does_not_know(tmp_path: Path) -> None:
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    with pytest.raises(UserError, match="is not a valid"):
        train(model, ITEMS, collate, options(optimizer="adamm"), tmp_path, pairs=ITEM_PAIRS)


def test_bad_data(tmp_path: Path) -> None:
    def no_pair(items: list[tuple[int, str]]) -> dict[str, Any]:
        return {k: v for k, v in collate(items).items() if k != "pair"}

    model = prepare(tiny_llava(), "neurons", tiny_selection())
    with pytest.raises(UserError, match="2 pairs for 21 examples"):
        train(model, ITEMS, collate, options(), tmp_path, pairs=["en-de", "en-fr"])
    with pytest.raises(UserError, match="pair 'en-lv' is not one of the adapter's"):
        train(model, ITEMS, collate, options(), tmp_path, pairs=["en-lv"] * 21)
    with pytest.raises(UserError, match='the collator returned no "pair"'):
        train(model, ITEMS, no_pair, options(), tmp_path, pairs=ITEM_PAIRS)
    with pytest.raises(UserError, match="no parameter of the model is trainable"):
        train(tiny_llava().requires_grad_(False), ITEMS, collate, options(), tmp_path, pairs=ITEM_PAIRS)


def test_logits_are_computed_at_target_positions_only(tmp_path: Path) -> None:
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    widths: list[int] = []
    head = model.get_base_model().get_output_embeddings()
    head.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    train(model, ITEMS, collate, options(steps=2), tmp_path, pairs=ITEM_PAIRS)
    targets = collate(ITEMS[:1])["labels"]
    assert len(widths) == 2
    assert max(widths) <= int((targets[:, 1:] != -100).sum()) + 1 < targets.shape[1]
