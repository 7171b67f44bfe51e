"""Feed-forward neurons as one object: found in every family, and trained as rows and columns of their matrices."""

from __future__ import annotations

import copy

import pytest
import torch
from families import FAMILIES, build
from peft import get_peft_model
from torch import nn

from neuroglot.errors import UserError
from neuroglot.neurons import feed_forwards, ffn_selection
from neuroglot.neurons.ffn import FeedForward
from neuroglot.selection import Selection
from neuroglot.training.verification import audit, snapshot
from neuroglot.tuner import NeuroglotConfig, active_pair, selection_of

PAIRS = ("en-de", "en-fr")
ALL, DE = frozenset(PAIRS), frozenset({"en-de"})


def chosen(model: nn.Module, count: int = 3) -> Selection:
    units = {block.name: {ALL: torch.arange(count), DE: torch.arange(10, 12)} for block in feed_forwards(model)}
    return ffn_selection(model, PAIRS, units)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_them_in_vision_and_language(family: str) -> None:
    model, _ = build(family)
    blocks = feed_forwards(model)
    assert {"vision", "language"} <= {block.part for block in blocks}
    for block in blocks:
        down = model.get_submodule(block.writes)
        assert down.in_features == block.units
        assert all(model.get_submodule(name).out_features == block.units for name in block.reads)
    gated = [block for block in blocks if any(name.endswith("gate_proj") for name in block.reads)]
    assert gated
    assert all(len(block.reads) == 2 for block in gated)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("mode", ["sliced", "additive"])
def test_a_step_moves_rows_of_gate_and_up_and_columns_of_down(family: str, mode: str) -> None:
    base, inputs = build(family)
    before = snapshot(base)
    selection = chosen(base)
    model = get_peft_model(copy.deepcopy(base), NeuroglotConfig.from_selection(selection, mode=mode)).train()
    assert selection_of(model).axes == selection.axes
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for pair in PAIRS:
        with active_pair(model, pair):
            model(**inputs).loss.backward()
    optimizer.step()
    model.base_model.merge_adapter()
    after = {name.replace(".base_layer", ""): p for name, p in model.base_model.model.named_parameters()}
    for block in feed_forwards(base):
        units = torch.tensor([0, 1, 2, 10, 11])
        for name in block.reads:
            moved = (after[f"{name}.weight"] != before[f"{name}.weight"]).any(dim=1).nonzero().flatten()
            assert torch.equal(moved, units), name
        moved = (after[f"{block.writes}.weight"] != before[f"{block.writes}.weight"]).any(dim=0).nonzero().flatten()
        assert torch.equal(moved, units), block.writes
    found = audit(before, model, selection)
    assert not found.outside
    assert found.trained == found.selected == len(selection)


def test_a_neuron_whose_rows_and_column_are_taken_away_is_silent() -> None:
    """The three pieces are one neuron: deltas of minus the weights do what zeroing its activation does."""
    base, inputs = build("llava")
    block = next(b for b in feed_forwards(base) if b.part == "language")
    expected = copy.deepcopy(base)
    with torch.no_grad():
        expected.get_submodule(block.writes).weight[:, 5] = 0
    model = get_peft_model(base, NeuroglotConfig.from_selection(
        ffn_selection(base, PAIRS, {block.name: {ALL: torch.tensor([5])}})))  # fmt: skip
    with torch.no_grad():
        for name in (*block.reads, block.writes):
            layer = model.get_submodule(f"base_model.model.{name}")
            weight = layer.base_layer.weight
            own = weight[:, 5] if name == block.writes else weight[5]
            layer.delta("default", "en-de,en-fr")[0].copy_(-own[None])
    assert torch.allclose(model(**inputs).logits, expected(**inputs).logits, atol=1e-5)


def test_a_fused_matrix_holds_two_rows_of_each_neuron() -> None:
    block = FeedForward("mlp", "language", 8, ("mlp.gate_up_proj",), "mlp.down_proj")
    assert block.rows("mlp.gate_up_proj", torch.tensor([1, 3])).tolist() == [1, 3, 9, 11]
    model, _ = build("llava")
    mlp = model.get_submodule("model.language_model.layers.0.mlp")
    mlp.gate_up_proj = nn.Linear(32, 96, bias=False)
    del mlp.gate_proj, mlp.up_proj
    found = next(b for b in feed_forwards(model) if b.name.endswith("language_model.layers.0.mlp"))
    selection = ffn_selection(model, PAIRS, {found.name: {ALL: torch.tensor([2])}})
    assert selection.rows[f"{found.name}.gate_up_proj"][ALL].tolist() == [2, 50]
    assert selection.axes == {f"{found.name}.down_proj": 1}


def test_mistakes_are_named() -> None:
    model, _ = build("llava")
    block = feed_forwards(model)[-1]
    with pytest.raises(UserError, match="no feed-forward block .*did you mean"):
        ffn_selection(model, PAIRS, {block.name + "x": {ALL: torch.tensor([0])}})
    with pytest.raises(UserError, match=f"unit {block.units} is out of range"):
        ffn_selection(model, PAIRS, {block.name: {ALL: torch.tensor([block.units])}})
