"""A step, a weight or an input that is not finite is named where it arises, and gets into nothing that is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import ITEM_PAIRS, ITEMS, collate, options, trainable
from tiny_llava import tiny_llava, tiny_selection

from neuroglot.errors import UserError
from neuroglot.finite import DivergedError, check_weights
from neuroglot.training import aligned, prepare, train
from neuroglot.training.trainer import last_checkpoint


def broken(every: int, count: list[int]) -> Any:
    """Return a collator that puts an infinity into the image of every so many batches."""

    def made(items: list[tuple[int, str]]) -> dict[str, Any]:
        inputs = {**collate(items), "items": [f"item {seed}" for seed, _ in items]}
        count.append(len(count))
        if len(count) % every == 0:
            inputs["pixel_values"] = inputs["pixel_values"].clone().fill_(math.inf)
        return inputs

    return made


def fit(model: Any, folder: Path, collator: Any = collate, **changes: Any) -> Any:
    return train(model, ITEMS, collator, options(**changes), folder, pairs=ITEM_PAIRS)


@pytest.mark.parametrize(
    "method",
    [
        "neurons",
        "lora",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("dora", "full", "prompt", "bitfit", "norms")),
    ],
)
def test_a_rate_at_which_training_diverges_ends_it_with_one_line(tmp_path: Path, method: str) -> None:
    model = prepare(tiny_llava(bias=True), method, tiny_selection() if method == "neurons" else None)
    with pytest.raises(DivergedError, match=r"training diverged (at|by) step \d+.*; lower train.lr \(1e\+30\)"):
        fit(model, tmp_path, lr=1e30, warmup=0, max_grad_norm=0.0, steps=6)
    log = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0 for line in log), "no loss is made up"


def test_what_is_no_longer_finite_gets_into_no_checkpoint_and_no_result(tmp_path: Path) -> None:
    """The last step's own result is looked at too: no loss comes after it."""
    for changes in ({"steps": 1}, {"steps": 6, "save_steps": 1}):
        model = prepare(tiny_llava(), "neurons", tiny_selection())
        with pytest.raises(DivergedError, match=r"diverged by step 1: of what is trained, .*neuroglot_delta.*e\+30"):
            fit(model, tmp_path, lr=1e30, warmup=0, **changes)
        assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_that_is_not_finite_is_left_out_whole(tmp_path: Path, accumulation: int) -> None:
    model, count = prepare(tiny_llava(), "neurons", tiny_selection()), []
    found = fit(
        model, tmp_path, broken(3, count), non_finite="skip", max_skipped=9, accumulation=accumulation, steps=6
    )
    lines = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if "skipped" in line]
    assert found.skipped == len(skipped) == len({k // accumulation for k in range(2, 6 * accumulation, 3)})
    assert "the loss is nan; they come in with the input pixel_values" in skipped[0]["skipped"]
    assert ", items item " in skipped[0]["skipped"]
    assert all(math.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert all(torch.isfinite(value).all() for value in trainable(model).values())


def test_a_step_that_is_left_out_changes_nothing(tmp_path: Path) -> None:
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    before = trainable(model)
    fit(model, tmp_path, broken(1, []), non_finite="skip", weight_decay=0.1, steps=3)
    assert all(torch.equal(value, before[name]) for name, value in trainable(model).items())
    for most, step in ((0, 1), (2, 3)):
        with pytest.raises(DivergedError, match=rf"more than train.max_skipped \({most}\) steps .* at step {step} "):
            fit(model, tmp_path / str(most), broken(1, []), non_finite="skip", max_skipped=most, steps=5)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_weight_that_cannot_be_computed_with_is_named(tmp_path: Path, value: float) -> None:
    model = tiny_llava()
    layer = "model.language_model.layers.1.mlp.down_proj"
    model.get_submodule(layer).weight.data[3, 5] = value
    with pytest.raises(UserError, match=rf"model tiny has a weight .*: {layer}.weight \("):
        check_weights(model, "tiny")
    check_weights(tiny_llava().bfloat16(), "tiny")
    if math.isfinite(value):
        return
    with pytest.raises(UserError, match=rf"they arise first in what (base_model.model.)?{layer} puts out"):
        aligned(model, tiny_selection(), [(collate(ITEMS[:1]), f"image_translation:{ITEMS[0][1]}")], 1000)
