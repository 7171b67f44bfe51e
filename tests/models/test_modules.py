"""`select.modules`: which matrices of each family are attention or feed-forward; methods train only those."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "tuner"))
from families import FAMILIES, SIBLINGS, build

from neuroglot import profile, select
from neuroglot.config import check
from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError
from neuroglot.file_format import TRAINING, read_json
from neuroglot.models.modules import KINDS, in_modules, of_modules
from neuroglot.neurons import inventory
from neuroglot.training import prepare


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in SIBLINGS])
def test_every_matrix_of_a_block_has_one_kind(family):
    layers = inventory(build(family)[0])
    single = ("qkv", "out", "gate_up", "down")
    for layer in layers:
        kinds = [kind for kind in single if in_modules(layer, (kind,))]
        assert len(kinds) == (layer.part != "connector"), (layer.name, kinds)
        assert in_modules(layer, ("attention",)) == bool(set(kinds) & {"qkv", "out"})
        assert in_modules(layer, ("mlp",)) == bool(set(kinds) & {"gate_up", "down"})
        assert in_modules(layer, ())
        assert in_modules(layer, (layer.name,))
    for kind in KINDS:
        assert {layer.part for layer in of_modules(layers, (kind,))} == {"vision", "language"}


def test_a_name_is_an_end_at_a_dot():
    layers = inventory(build("llava")[0])
    assert {layer.name.rpartition(".")[2] for layer in of_modules(layers, ("k_proj", "fc1"))} == {"k_proj", "fc1"}
    with pytest.raises(UserError, match="no matrix to train is called 'proj'; did you mean"):
        of_modules(layers, ("proj",))
    with pytest.raises(UserError, match="no matrix to train is called 'atention'; did you mean attention"):
        of_modules(layers, ("attention", "atention"))


@pytest.fixture(scope="module")
def measured():
    model, inputs = build("llava")
    pairs = ("en-de", "en-fr")
    return profile(model, [(inputs, f"image_translation:{pair}") for pair in pairs], scores=("taylor_token",))


@pytest.mark.parametrize("method", ["mnaft", "random", "random-layers"])
def test_a_selection_and_its_controls_choose_of_these_modules_alone(measured, method):
    made = select(measured, method, modules=("qkv",), budget=0.5)
    assert made.rows
    assert all(name.endswith(("q_proj", "k_proj", "v_proj")) for name in made.rows)
    eligible = sum(layer.neurons for layer in measured.layers if in_modules(layer, ("qkv",)))
    assert sum(made.meta["neurons"].values()) == eligible
    assert len(made) == pytest.approx(0.5 * eligible, rel=0.1)
    assert list(made.meta["options"]["modules"]) == ["qkv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ("qvk",)}, "no matrix to train is called 'qvk'; did you mean qkv"),
        ({"modules": "qkv"}, "select.modules: must be a list"),
        ({"modules": ("qkv",), "parts": ("connector", "language")}, "part connector has none of the modules qkv"),
        ({"modules": ("qkv",), "neuron": "ffn"}, "neuron=ffn trains whole feed-forward blocks; leave one out"),
    ],
)
def test_mistakes(measured, options, message):
    with pytest.raises(UserError, match=message):
        select(measured, "mnaft", **options)


def test_a_method_without_matrices_refuses_modules():
    with pytest.raises(UserError, match=r"select.modules chooses matrices, and bitfit trains none; leave it out"):
        check({"method": "bitfit", "data": {"pairs": ["en-de"]}, "select": {"modules": ["qkv"]}}, "test")


def test_full_and_parts_train_the_named_modules():
    model = build("llava")[0]
    names = [layer.name for layer in of_modules(inventory(model), ("down",))]
    trained = {name for name, p in prepare(model, "full", modules=names).named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[0] for name in trained} == set(names)
    trained = {name for name, p in prepare(model, "language", modules=names).named_parameters() if p.requires_grad}
    assert trained
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in trained} == {"down_proj"}
    with pytest.raises(UserError, match="none of the modules is in the connector part"):
        prepare(model, "connector", modules=names)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mnaft", "lora", "full", "language"])
def test_a_run_changes_these_modules_alone(method, tmp_path):
    from neuroglot.models.load import load_model
    from neuroglot.pipeline.evaluation import load_trained
    from neuroglot.pipeline.run import execute
    from neuroglot.training import changed, snapshot

    settings = [f"method={method}", "data.pairs=[en-de]", "select.modules=[qkv]", "train.lr=1e-2"]
    recipe = load_recipe("quickstart", settings, "smoke")
    for stage in ("profile", "select", "train") if recipe.uses_neurons else ("train",):
        execute(recipe, tmp_path, lambda label, total: lambda done: None, lambda line: None, only=stage)
    folder = tmp_path / recipe.name
    facts = read_json(folder / "training.json", TRAINING)
    assert facts["parts"]["connector"]["parameters"] == 0 < facts["parts"]["language"]["parameters"]
    tuned = load_trained(recipe.model, folder)
    tuned = tuned.merge_and_unload() if hasattr(tuned, "merge_and_unload") else tuned
    different = changed(snapshot(load_model("embedded")), tuned)
    assert different
    assert all(name.rpartition(".")[0].endswith(("q_proj", "k_proj", "v_proj")) for name in different)
    assert torch.isfinite(torch.stack([p.abs().sum() for p in tuned.parameters()])).all()
