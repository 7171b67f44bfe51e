"""What each method makes trainable."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from tiny_llava import deltas, logits, tiny_llava, tiny_selection
from torch import nn

from neuroglot.errors import UserError
from neuroglot.training import prepare
from neuroglot.training.methods import linear_names


def test_full_trains_everything_in_float32() -> None:
    model = prepare(tiny_llava().to(torch.bfloat16), "full")
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_neurons_trains_the_rows_of_the_selection() -> None:
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(deltas(model))


def test_neurons_of_a_rank_train_two_factors_a_group_and_start_at_the_base() -> None:
    before = logits(tiny_llava())
    models = [prepare(tiny_llava(), "neurons", tiny_selection(), rank=2, seed=seed) for seed in (1, 1, 2)]
    names = {name.rpartition(".neuroglot_")[2].split(".")[0] for name in deltas(models[0])}
    assert names == {"up", "down", "bias"}
    assert all(torch.equal(logits(model), before) for model in models)
    downs = [next(p for name, p in deltas(model).items() if "_down" in name) for model in models]
    assert torch.equal(downs[0], downs[1])
    assert not torch.equal(downs[0], downs[2])


def test_lora_trains_factors_in_every_linear_but_the_head() -> None:
    base = tiny_llava()
    names = set(linear_names(base))
    assert names == {n for n, m in base.named_modules() if isinstance(m, nn.Linear)} - {"lm_head"}
    before = logits(base)
    model = prepare(base, "lora", r=4)
    assert isinstance(model, PeftModel)
    assert set(model.base_model.targeted_module_names) == names
    assert torch.equal(logits(model), before)
    assert all(("lora_" in n) == p.requires_grad for n, p in model.named_parameters())
    layer = model.get_base_model().get_submodule(min(names))
    assert (layer.r["default"], layer.scaling["default"]) == (4, 1.0)


def test_lora_on_named_modules_with_a_seed() -> None:
    name = "model.language_model.layers.1.mlp.up_proj"
    torch.manual_seed(5)
    state = torch.get_rng_state()
    models = [prepare(tiny_llava(), "lora", r=2, alpha=8, modules=[name], seed=seed) for seed in (1, 1, 2)]
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)
    factors = [m.get_base_model().get_submodule(name).lora_A["default"].weight for m in models]
    assert torch.equal(factors[0], factors[1])
    assert not torch.equal(factors[0], factors[2])
    assert models[0].base_model.targeted_module_names == [name]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("neuron", {}, "did you mean neurons"),
        ("neurons", {}, "needs a selection"),
        ("lora", {"rank": 4}, "has no option 'rank'"),
        ("full", {"r": 4}, "training method full has no option 'r'; .*modules"),
        ("norms", {"r": 4}, "it takes none"),
        ("lora", {"r": 0}, "r must be 1 or more, got 0"),
        ("lora", {"modules": ["up_proj"]}, "not matched by its exact name"),
    ],
)
def test_mistakes(method: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(tiny_llava(), method, **options)
