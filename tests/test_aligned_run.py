"""A run whose neurons are trained at low rank along the gradient: the stage between choosing and training."""

from __future__ import annotations

import json

import pytest

from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError
from neuroglot.file_format import TRAINING, read_json
from neuroglot.models.load import load_model
from neuroglot.neurons import inventory
from neuroglot.pipeline.run import execute
from neuroglot.selection import Selection
from neuroglot.tuner import Adapter


def run(folder, *changes):
    said = []
    recipe = load_recipe(folder / "recipe.yaml", changes)
    execute(recipe, folder.parent, lambda label, total: lambda done: None, said.append)
    return said


@pytest.mark.slow
def test_from_a_finished_dense_run_only_what_follows_is_done_again(own_run):
    dense = Adapter.load(own_run / "adapter")
    chosen = (own_run / "selection.safetensors").read_bytes()
    said = run(own_run, "train.parameters=0.03")
    assert (own_run / "selection.safetensors").read_bytes() == chosen
    assert any(line.startswith("align") for line in said)
    assert not any(line.startswith(("profile: ", "select: ")) and "unchanged" not in line for line in said), said

    start, trained = Adapter.load(own_run / "start"), Adapter.load(own_run / "adapter")
    weights = sum(x.neurons * (x.inputs + x.bias) for x in inventory(load_model("embedded")))
    entries = sum(v.numel() for _, _, u in trained for v in (*u.delta, *(() if u.bias is None else (u.bias,))))
    assert 0.9 * 0.03 * weights < entries <= 0.03 * weights + 1
    facts = read_json(own_run / "training.json", TRAINING)
    assert facts["trainable_parameters"] == entries
    assert sum(part["parameters"] for part in facts["parts"].values()) == entries
    assert facts["audit"]["outside"] == []
    assert any(len(units.delta) == 2 for _, _, units in trained)
    assert all(len(units.delta) == 1 for _, _, units in dense)
    selection = Selection.load(own_run / "selection.safetensors")
    for module, group, units in trained:
        rows = selection.rows[module][frozenset(group.split(","))]
        assert set(units.rows.tolist()) <= set(rows.tolist())
        assert units.delta[-1].shape == start.units[module][group].delta[-1].shape
    assert all(not bool(units.dense.any()) for _, _, units in start)
    assert any(bool(units.dense.any()) for _, _, units in trained)

    before = {name: (own_run / name).read_bytes() for name in ("start/adapter_model.safetensors", "scores.json")}
    run(own_run, "train.parameters=0.03")
    assert before == {name: (own_run / name).read_bytes() for name in before}
    assert json.loads(before["scores.json"])["systems"]


def test_one_rank_for_all_and_one_for_each_exclude_each_other():
    with pytest.raises(UserError, match=r"train\.parameters .* and train\.neuron_rank .*; give one of them"):
        load_recipe("quickstart", ["train.parameters=0.1", "train.neuron_rank=4"])
