"""A base module that does more than x W^T + b: the gradients of a dense model with the same hooks, or a refusal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune

from neuroglot.errors import UserError
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig, NeuroglotLinear, active_pair

PAIRS = ("en-de", "en-fr")
ALL, DE = frozenset(PAIRS), frozenset({"en-de"})
MODES = ("sliced", "additive")


class Scaled(nn.Linear):
    """A subclass with an arithmetic of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * F.linear(x**2, self.weight, self.bias)


class Rounded(nn.Linear):
    """A quantised layer whose kernel knows no backward."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight = nn.Parameter(self.weight.data.to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.detach(), self.weight.to(x.dtype), self.bias)


class Stack(nn.Module):
    def __init__(self, late: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.early, self.late = nn.Linear(5, 6), late(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(torch.tanh(self.early(x)))


def stack(late: Callable[[int, int], nn.Module] = nn.Linear) -> nn.Module:
    torch.manual_seed(0)
    return Stack(late)


def attach(model: nn.Module, mode: str = "auto") -> PeftModel:
    rows = {"early": {ALL: torch.tensor([1, 4])}, "late": {DE: torch.tensor([0]), ALL: torch.tensor([2, 3])}}
    made = get_peft_model(model, NeuroglotConfig.from_selection(Selection(PAIRS, rows), mode=mode)).train()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        if "neuroglot_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return made


def base_of(model: nn.Module) -> nn.Module:
    return model.late.base_layer if isinstance(model.late, NeuroglotLinear) else model.late


def bias_of(layer: NeuroglotLinear) -> torch.Tensor:
    """Return what the adapter adds to the bias."""
    deltas = layer.unit_deltas("default", list(layer.neuroglot_layout["default"].groups))[1]
    return deltas.new_zeros(layer.out_features).index_copy(0, layer.neuroglot_rows["default"].long(), deltas)


def change_input(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda module, args: (args[0] ** 2,))


def change_output(layer: nn.Module) -> None:
    def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        assert module is layer
        return torch.sin(output * 3)

    layer.register_forward_hook(hook)


def change_gradient(layer: nn.Module) -> None:
    layer.register_full_backward_hook(lambda module, given, got: (given[0] * 2,))
    layer.register_full_backward_pre_hook(lambda module, got: (got[0] * 3,))


def replace_forward(layer: nn.Module) -> None:
    layer.forward = partial(lambda forward, x: forward(x) ** 2, layer.forward)


def dispatch(layer: nn.Module) -> None:
    add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", io_same_device=True))


def everything(layer: nn.Module) -> None:
    change_output(layer)
    dispatch(layer)
    change_input(layer)


CASES: dict[str, tuple[Callable[[int, int], nn.Module], Callable[[nn.Module], object]]] = {
    "pre hook": (nn.Linear, change_input),
    "hook": (nn.Linear, change_output),
    "backward hooks": (nn.Linear, change_gradient),
    "replaced forward": (nn.Linear, replace_forward),
    "dispatched": (nn.Linear, dispatch),
    "all": (nn.Linear, everything),
    "subclass": (Scaled, lambda layer: None),
    "subclass with hooks": (Scaled, everything),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_the_merged_module(case: str, mode: str, when: str) -> None:
    kind, change = CASES[case]
    base = stack(kind).double()
    plain = copy.deepcopy(base)
    if when == "before":
        change(base.late)
    model = attach(base, mode)
    inner = model.base_model.model
    if when == "after":
        change(base_of(inner))
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    with active_pair(model, "en-de"):
        out = model(x)
        (out**2).sum().backward()
    found, dx, x.grad = {n: p.grad for n, p in inner.named_parameters() if "neuroglot_" in n}, x.grad, None
    added = {name: getattr(inner, name).get_delta_weight("default") for name in ("early", "late")}
    with torch.no_grad():
        for name, delta in added.items():
            getattr(plain, name).weight += delta
            getattr(plain, name).bias += bias_of(getattr(inner, name))
    change(plain.late)
    expected = plain(x)
    (expected**2).sum().backward()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(dx, x.grad)
    for name, grad in found.items():
        layer, what, _, group = name.split(".")
        owner = getattr(inner, layer)
        groups = list(owner.neuroglot_layout["default"].groups)
        sizes = list(owner.neuroglot_layout["default"].groups.values())
        rows = dict(zip(groups, owner.neuroglot_rows["default"].long().split(sizes), strict=True))
        full = getattr(plain, layer).bias if "bias" in what else getattr(plain, layer).weight
        torch.testing.assert_close(grad, full.grad[rows[group.removeprefix("pairs:")]])
    with torch.no_grad():  # what evaluation computes is the same
        torch.testing.assert_close(model.eval()(x), expected)
    with torch.no_grad(), model.disable_adapter():
        untouched = stack(kind).double()
        change(untouched.late)
        torch.testing.assert_close(model(x), untouched(x))


def test_a_hook_on_all_modules_counts_too() -> None:
    model, x = attach(stack()), torch.randn(2, 5)
    handle = register_module_forward_hook(
        lambda module, args, output: output * 3 if type(module) is nn.Linear else None
    )
    try:
        with active_pair(model, "en-de"):
            out = model(x)
            out.sum().backward()
        found = [p.grad for p in model.parameters() if p.grad is not None]
        merged = model.merge_and_unload().requires_grad_(True)
        expected = merged(x)
        expected.sum().backward()
    finally:
        handle.remove()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(found[0], merged.early.weight.grad[[1, 4]])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (parametrizations.weight_norm, r"remove_parametrizations\(module, 'weight'\)"),
        (parametrizations.spectral_norm, "remove_parametrizations"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 2), r"prune\.remove\(module, 'weight'\)"),
        (lambda layer: cpu_offload(layer, execution_device=torch.device("cpu")), "offloaded by accelerate"),
    ],
)
def test_a_weight_that_is_computed_or_elsewhere_is_refused_by_name(
    change: Callable[[nn.Module], object], message: str, when: str
) -> None:
    base, x = stack(), torch.randn(2, 5)
    if when == "before":
        change(base.late)
        with pytest.raises(UserError, match="^late: .*" + message):
            attach(base)
        assert not any(isinstance(module, NeuroglotLinear) for module in base.modules())
    else:
        model = attach(base)
        change(base_of(base))
        for grad in (True, False):
            with torch.set_grad_enabled(grad), active_pair(model, "en-de"), pytest.raises(UserError, match=message):
                model(x)


def test_a_pruned_layer_trains_once_the_pruning_is_made_permanent() -> None:
    base = stack()
    prune.l1_unstructured(base.late, "weight", 2)
    prune.remove(base.late, "weight")
    model = attach(base)
    with active_pair(model, "en-de"):
        model(torch.randn(2, 5)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_layer_that_gives_its_input_no_gradient_is_refused() -> None:
    model = attach(stack(Rounded))
    with active_pair(model, "en-de"), pytest.raises(UserError, match="late: a Rounded gives its input no gradient"):
        model(torch.randn(2, 5))
    with torch.no_grad():  # adding the rows' product is right where nothing trains
        out, merged = model(torch.ones(1, 5)), model.base_model.model
        layer, x = merged.late, torch.tanh(merged.early(torch.ones(1, 5)))
        weight = layer.base_layer.weight.float() + layer.get_delta_weight("default")
        torch.testing.assert_close(out, F.linear(x, weight, layer.base_layer.bias + bias_of(layer)))


def test_an_adapter_of_another_method_goes_around_ours_and_not_into_it() -> None:
    base = stack()
    attach(base)
    get_peft_model(base, LoraConfig(target_modules=["early"], init_lora_weights=False), "lora")
    x = torch.randn(2, 5)
    with active_pair(base, "en-de"):
        base(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in base.named_parameters() if "lora_" in n)
    base = stack()
    attach(base)
    inject_adapter_in_model(LoraConfig(target_modules=["base_layer"]), base.early, "lora")
    with pytest.raises(UserError, match="an adapter of peft.tuners.lora.* lies inside neuroglot's"):
        base(x)


@pytest.mark.parametrize("tie", ["same memory", "part of it"])
def test_weights_that_share_memory_are_refused(tie: str) -> None:
    base = stack()
    base.other = nn.Linear(6, 4 if tie == "same memory" else 2)
    base.other.weight = nn.Parameter(base.late.weight.data if tie == "same memory" else base.late.weight.data[1:3])
    with pytest.raises(UserError, match="late shares its weight with other"):
        attach(base)


def test_a_mixed_batch_is_refused_where_only_the_module_knows_its_arithmetic() -> None:
    model = attach(stack(Scaled))
    with active_pair(model, ["en-de", "en-fr"]), pytest.raises(UserError, match="late: a Scaled .* mixed batch"):
        model(torch.randn(2, 5))
