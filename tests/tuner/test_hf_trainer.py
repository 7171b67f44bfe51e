"""Under transformers' own Trainer, as those use it who have a training script already."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES, Inputs, build, selection
from peft import PeftModel, get_peft_model
from tiny_llava import ALL, batch, deltas, logits, tiny_llava, tiny_selection
from torch import nn
from transformers import Trainer, TrainingArguments

from neuroglot.tuner import NeuroglotConfig


def model_with(mode: str, rank: int | None) -> PeftModel:
    torch.manual_seed(0)
    selection = tiny_selection(groups=(ALL,), count=5)  # agnostic rows need no pair
    return get_peft_model(tiny_llava(), NeuroglotConfig.from_selection(selection, mode=mode, rank=rank))


def items(first: int, count: int) -> list[dict[str, torch.Tensor]]:
    return [{key: value[0] for key, value in batch(first + i, 1).items()} for i in range(count)]


def trainer(
    model: nn.Module, folder: Path, whole: dict[str, torch.Tensor] | None = None, **options: object
) -> Trainer:
    """Return a Trainer over single items, or over one whole batch again and again."""
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=2 if whole is None else 1,
        learning_rate=options.pop("lr", 1e-2),
        weight_decay=0.1,
        logging_steps=1,
        report_to="none",
        save_strategy="steps",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    if whole is not None:
        return Trainer(model, arguments, lambda batches: dict(batches[0]), train_dataset=[whole] * 8)
    return Trainer(model, arguments, train_dataset=items(0, 8), eval_dataset=items(50, 4))


@pytest.mark.parametrize(
    ("mode", "rank"),
    [("sliced", None), *(pytest.param(*c, marks=pytest.mark.slow) for c in (("additive", None), ("sliced", 2)))],
)
def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path: Path, mode: str, rank: int | None) -> None:
    whole = model_with(mode, rank)
    trainer(whole, tmp_path / "whole", max_steps=6, save_steps=3).train()
    again = model_with(mode, rank)
    assert not torch.equal(logits(again), logits(whole))
    trainer(again, tmp_path / "again", max_steps=6, save_steps=3).train(
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3")
    )
    for name, value in deltas(whole).items():
        assert torch.equal(deltas(again)[name], value), name
    assert torch.equal(logits(again), logits(whole))


@pytest.mark.parametrize("mode", ["sliced", "additive"])
def test_the_best_model_is_the_one_that_runs_at_the_end(tmp_path: Path, mode: str) -> None:
    """The highest loss counts as best here, so that it is not the last one."""
    model = model_with(mode, None)
    run = trainer(
        model, tmp_path, lr=0.3, max_steps=6, save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True,
    )  # fmt: skip
    run.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
    best = max(losses, key=losses.__getitem__)
    assert best != 6, "the last step counts as the best one, so nothing was loaded"
    assert run.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-6)
    loaded = PeftModel.from_pretrained(tiny_llava(), str(tmp_path / f"checkpoint-{best}"))
    assert torch.allclose(logits(model), logits(loaded), atol=1e-6)


@pytest.mark.parametrize(
    "family", [name if name == "qwen2_5_vl" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
@pytest.mark.turns
def test_every_family_resumes_where_it_was(tmp_path: Path, family: str) -> None:
    def fresh() -> tuple[PeftModel, Inputs]:
        base, inputs = build(family)
        config = NeuroglotConfig.from_selection(selection(base, pairs=("en-de",), bare=True))
        return get_peft_model(base, config), inputs

    whole, inputs = fresh()
    trainer(whole, tmp_path / "whole", inputs, max_steps=4, save_steps=2).train()
    again, _ = fresh()
    trainer(again, tmp_path / "again", inputs, max_steps=4, save_steps=2).train(
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2")
    )
    before = deltas(fresh()[0])
    assert all(not torch.equal(value, before[name]) for name, value in deltas(whole).items() if "k_proj" not in name)
    for name, value in deltas(whole).items():
        assert torch.equal(deltas(again)[name], value), name
