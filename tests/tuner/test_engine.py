"""The engine against autograd on a plain dense model: losses, gradients, and what it computes and keeps for them."""

from __future__ import annotations

import copy
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from tiny_llava import DE, FR, MODULES, PAIRS, batch, deltas, fill_deltas, logits, tiny_llava, tiny_selection
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from neuroglot.errors import UserError
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig, active_pair, modes, park
from neuroglot.tuner.layer import unit_gradients

ONE = ("en-de",)
OWN = frozenset(ONE)
MODES = ("sliced", "additive")


class Stack(nn.Module):
    """Two layers and a use of the first one twice."""

    def __init__(self, inputs: int, outputs: int, bias: bool, conv: bool = False) -> None:
        super().__init__()
        self.a = Conv1D(outputs, inputs) if conv else nn.Linear(inputs, outputs, bias=bias)
        self.b = nn.Linear(outputs, inputs, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(torch.tanh(self.b(torch.tanh(self.a(x)))))))


def attach(model: nn.Module, mode: str, rows: dict, pairs: tuple[str, ...] = ONE, **options: object) -> PeftModel:
    axes = options.pop("axes", {})
    return get_peft_model(
        model, NeuroglotConfig.from_selection(Selection(pairs, rows, axes=axes), mode=mode, **options)
    )


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in deltas(model).items()}


# --- fifty steps


class DenseReference:
    """A plain model and AdamW by hand, with moments, step count and gradient kept per (layer, group)."""

    def __init__(self, model: nn.Module, selection: Selection, lr: float) -> None:
        self.model, self.selection, self.lr = model.requires_grad_(True), selection, lr
        self.parameters = dict(model.named_parameters())
        self.state: dict[tuple[str, frozenset[str]], tuple[torch.Tensor, torch.Tensor, int]] = {}

    def step(self, micro: list[tuple[str, dict[str, torch.Tensor]]], clip: float) -> list[float]:
        sums: dict[tuple[str, frozenset[str]], torch.Tensor] = defaultdict(lambda: torch.zeros(()).double())
        losses = []
        for pair, inputs in micro:
            self.model.zero_grad()
            loss = self.model(**inputs).loss / len(micro)
            loss.backward()
            losses.append(loss.item())
            for module, group, rows in self.selection:
                if pair in group:
                    for name in (f"{module}.weight", f"{module}.bias"):
                        if name in self.parameters:
                            sums[name, group] = sums[name, group] + self.parameters[name].grad[rows]
        norm = torch.sqrt(sum((grad**2).sum() for grad in sums.values()))
        scale = min(1.0, clip / (norm.item() + 1e-6))
        with torch.no_grad():
            for module, group, rows in self.selection:
                for name in (f"{module}.weight", f"{module}.bias"):
                    if (name, group) in sums:
                        grad = sums[name, group] * scale
                        m, v, t = self.state.get((name, group), (torch.zeros_like(grad), torch.zeros_like(grad), 0))
                        m, v, t = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2, t + 1
                        self.state[name, group] = m, v, t
                        step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                        self.parameters[name][rows] -= self.lr * step
        return losses


@pytest.mark.parametrize(
    ("bias", "steps"), [(True, 10), *(pytest.param(bias, 50, marks=pytest.mark.slow) for bias in (False, True))]
)
def test_sliced_additive_and_a_dense_reference_give_the_same_losses(bias: bool, steps: int) -> None:
    selection = tiny_selection()
    reference = DenseReference(tiny_llava(bias).double(), selection, lr=3e-3)
    tuned = {
        mode: get_peft_model(tiny_llava(bias).double(), NeuroglotConfig.from_selection(selection, mode=mode)).train()
        for mode in MODES
    }
    optimizers = {
        mode: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)
        for mode, model in tuned.items()
    }
    first = last = 0.0
    for step in range(steps):
        micro = []
        for k in range(2):
            inputs = batch((2 * step + k) % 7)
            inputs["pixel_values"] = inputs["pixel_values"].double()
            micro.append((PAIRS[(step + k) % 3], inputs))
        expected = reference.step(micro, clip=0.5)
        for mode, model in tuned.items():
            found = []
            for pair, inputs in micro:
                with active_pair(model, pair):
                    loss = model(**inputs).loss / len(micro)
                    loss.backward()
                found.append(loss.item())
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.5)
            optimizers[mode].step()
            optimizers[mode].zero_grad()
            assert found == pytest.approx(expected, abs=1e-6, rel=0), (mode, step)
        first, last = first or sum(expected), sum(expected)
    assert abs(first - last) > 1e-2, "nothing was learned, so nothing was compared"
    assert {p.dtype for p in deltas(tuned["sliced"]).values()} == {torch.float64}


# --- one layer, every shape


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    tokens=st.integers(1, 5),
    size=st.integers(1, 3),
    bias=st.booleans(),
    columns=st.booleans(),
    conv=st.booleans(),
    share=st.sampled_from(["one", "half", "all"]),
    rank=st.sampled_from([None, 1, 2]),
    frozen_input=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_both_modes_give_the_gradients_of_autograd(
    inputs: int,
    outputs: int,
    tokens: int,
    size: int,
    bias: bool,
    columns: bool,
    conv: bool,
    share: str,
    rank: int | None,
    frozen_input: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    base = Stack(inputs, outputs, bias, conv).double()
    axis = int(columns != conv)
    units = inputs if columns else outputs
    chosen = torch.randperm(units)[: {"one": 1, "half": -(-units // 2), "all": units}[share]]
    cut = len(chosen) // 2
    rows = {"a": {frozenset(PAIRS): chosen[cut:], DE: chosen[:cut]}}  # the second may be empty
    x = torch.randn(size, tokens, inputs, dtype=torch.float64, requires_grad=not frozen_input)
    found = []
    for mode in MODES:
        model = attach(copy.deepcopy(base), mode, rows, PAIRS, axes={"a": axis}, rank=rank).train()
        fill_deltas(model, 0.5)
        x.grad = None
        with active_pair(model, "en-de"):
            out = model(x)
            (out**2).sum().backward()
        found.append((out, x.grad, gradients(model)))
    layer = model.base_model.model.a
    added = layer.get_delta_weight("default")
    bias_added = torch.zeros(outputs, dtype=torch.float64)
    if (bias or conv) and not columns:
        index = layer.neuroglot_rows["default"].long()
        bias_added[index] = layer.unit_deltas("default", list(layer.neuroglot_layout["default"].groups))[1]
    plain = copy.deepcopy(base)
    with torch.no_grad():
        plain.a.weight += added
        if plain.a.bias is not None:
            plain.a.bias += bias_added
    x.grad = None
    expected = plain(x)
    (expected**2).sum().backward()
    full = plain.a.weight.grad.t() if axis else plain.a.weight.grad
    for out, dx, grads in found:
        assert torch.allclose(out, expected, atol=1e-10)
        assert (dx is None) if frozen_input else torch.allclose(dx, x.grad, atol=1e-9)
        for group, index in (("en-cs,en-de,en-fr", chosen[cut:].sort().values), ("en-de", chosen[:cut].sort().values)):
            own = {
                name.split("neuroglot_")[1].split(".")[0]: g for name, g in grads.items() if name.endswith(":" + group)
            }
            if not len(index):
                assert not own
            elif "delta" in own:
                assert torch.allclose(own["delta"], full[index], atol=1e-9)
            else:
                up, down = layer.delta("default", group)
                assert torch.allclose(own["up"], full[index] @ down.T, atol=1e-9)
                assert torch.allclose(own["down"], up.T @ full[index], atol=1e-9)
            if "bias" in own:
                assert torch.allclose(own["bias"], plain.a.bias.grad[index], atol=1e-9)


@pytest.mark.parametrize("tokens", [3, 300])
def test_both_backward_paths_of_low_rank_units_agree(tokens: int) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(tokens, 40).double(), torch.randn(tokens, 30).double()
    up, down = torch.randn(40, 4).double(), torch.randn(4, 30).double()
    dense = left.T @ right
    with FlopCounterMode(display=False) as counter:
        d_up, d_down = unit_gradients(left, right, (up, down))
    assert torch.allclose(d_up, dense @ down.T)
    assert torch.allclose(d_down, up.T @ dense)
    through, around = 2 * tokens * 40 * 30 + 4 * 40 * 4 * 30, 4 * tokens * 4 * (40 + 30)
    assert counter.get_total_flops() == min(through, around)


# --- what is computed and kept


class Sizes(TorchDispatchMode):
    """Collects the operators that make a tensor of indices."""

    def __init__(self) -> None:
        super().__init__()
        self.index_makers: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        if torch.is_tensor(out) and out.dtype == torch.long and "detach" not in str(function):
            self.index_makers.append(str(function))
        return out


def linear_model(mode: str, rank: int | None = None) -> PeftModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64), nn.Linear(64, 80))
    rows = {"1": {OWN: torch.arange(6)}, "2": {frozenset(["en-de", "en-fr"]): torch.arange(8)}}
    return attach(model, mode, rows, ("en-de", "en-fr"), rank=rank).train()


def test_a_step_computes_two_matmuls_and_the_chosen_part_of_the_third() -> None:
    model, tokens = linear_model("sliced"), 50
    x = torch.randn(tokens, 64)
    with FlopCounterMode(display=False) as counter, active_pair(model, "en-de"):
        model(x).sum().backward()
    forward = 2 * tokens * (64 * 96 + 96 * 64 + 64 * 80)
    dx = 2 * tokens * 64 * 80  # the lowest trainable layer needs none, and nothing below it
    dw = 2 * tokens * (6 * 96 + 8 * 64)
    assert counter.get_total_flops() == forward + dx + dw


def test_nothing_is_kept_where_no_unit_trains_and_no_index_is_made() -> None:
    model = linear_model("sliced")
    x = torch.randn(50, 64)
    for pair, expected in (("en-de", [(50, 96), (50, 64)]), ("en-fr", [(50, 64)])):
        for _ in range(2):  # the second time the routes are known
            kept: list[tuple[int, ...]] = []
            own = {p.data_ptr() for p in model.parameters()}

            def pack(tensor: torch.Tensor, kept: list = kept, own: set = own) -> torch.Tensor:
                if tensor.data_ptr() not in own:
                    kept.append(tuple(tensor.shape))
                return tensor

            with Sizes() as sizes, active_pair(model, pair):
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                    out = model(x)
                out.sum().backward()
        assert kept == expected
        assert not sizes.index_makers


def test_columns_keep_their_slice_of_the_input() -> None:
    model = attach(nn.Sequential(nn.Linear(64, 32)), "sliced", {"0": {OWN: torch.arange(5)}}, axes={"0": 1}).train()
    kept = []
    with (
        active_pair(model, "en-de"),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t),
    ):
        model(torch.randn(7, 64)).sum().backward()
    assert kept == [(7, 5)]


def test_inference_costs_what_the_base_costs_merged_or_not() -> None:
    plain, x = linear_model("sliced").unload().eval(), torch.randn(50, 64)

    def flops(model: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        return counter.get_total_flops()

    live, merged = linear_model("sliced").eval(), linear_model("additive").eval().merge_and_unload()
    assert flops(live) == flops(merged) == flops(plain) < flops(linear_model("additive").eval())
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]


# --- the weight is what each forward and backward needs


def test_a_disabled_forward_between_forward_and_backward_changes_nothing() -> None:
    """Preference losses run the policy, then the reference with adapters disabled, then the policy's backward."""
    model = get_peft_model(tiny_llava(), NeuroglotConfig.from_selection(tiny_selection())).train()
    fill_deltas(model, 0.3)
    with active_pair(model, "en-de"):
        model(**batch(1)).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    with active_pair(model, "en-de"):
        policy = model(**batch(1)).loss
        with model.disable_adapter():
            reference = model(**batch(1)).loss
        policy.backward()
    assert abs(reference.item() - policy.item()) > 1e-3
    for name, grad in gradients(model).items():
        assert (grad is None) == (expected[name] is None)
        assert grad is None or torch.equal(grad, expected[name]), name


def test_two_adapters_in_one_graph_keep_their_gradients() -> None:
    """A layer's weight holds one adapter at a time; each backward finds the one of its forward."""
    base = Stack(6, 8, True).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    rows = {"a": {OWN: torch.arange(4)}, "b": {OWN: torch.arange(3)}}
    model = attach(base, "sliced", rows)
    model.add_adapter("other", NeuroglotConfig.from_selection(Selection(ONE, rows)))
    fill_deltas(model, 0.5)
    fill_deltas(model, 0.5, "other", seed=2)
    alone = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        x.grad = None
        (model(x) ** 2).sum().backward()
        alone[name] = x.grad.clone()
    x.grad = None
    model.set_adapter("default")
    first = (model(x) ** 2).sum()
    model.set_adapter("other")
    second = (model(x) ** 2).sum()
    with model.disable_adapter():
        third = (model(x) ** 2).sum()
    (first + second + third).backward()
    x_joint = x.grad.clone()
    x.grad = None
    (model.unload()(x) ** 2).sum().backward()
    assert torch.allclose(x_joint, alone["default"] + alone["other"] + x.grad, atol=1e-9)


def test_reading_the_state_shows_the_base_and_the_weight_shows_what_runs() -> None:
    model = get_peft_model(tiny_llava(), NeuroglotConfig.from_selection(tiny_selection()))
    fill_deltas(model, 0.3)
    plain = tiny_llava().state_dict()
    out = logits(model)
    layer = model.get_submodule(f"base_model.model.{MODULES[0]}")
    held = layer.base_layer.weight.clone()
    assert not torch.equal(held, plain[f"{MODULES[0]}.weight"])
    state = model.base_model.model.state_dict()
    for name, value in plain.items():
        module, _, leaf = name.rpartition(".")
        found = state.get(name, state.get(f"{module}.base_layer.{leaf}"))
        assert torch.equal(found, value), name
    assert torch.equal(logits(model), out)
    assert torch.equal(layer.base_layer.weight, held)
    park(model)
    assert torch.equal(layer.base_layer.weight, plain[f"{MODULES[0]}.weight"])
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied), out)
    assert torch.equal(logits(model.to(torch.float64).to(torch.float32)), out)
    merged = model.merge_and_unload()
    assert torch.equal(merged.get_submodule(MODULES[0]).weight, held), "merged is what the live weight held"
    assert torch.equal(logits(merged), out)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_what_a_fused_optimiser_moves_between_two_forwards_is_seen(mode: str) -> None:
    """Accumulated over two pairs, the second has no rows in the lowest layer and wrote it before the step."""
    rows = {"0": {FR: torch.arange(3)}, "1": {OWN: torch.arange(3)}}
    model = attach(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)), "sliced", rows, ("en-de", "en-fr"))
    model.train(mode == "train")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    x = torch.randn(5, 6)
    for _ in range(2):
        for pair in ("en-fr", "en-de"):
            with active_pair(model, pair):
                (model(x) ** 2).sum().backward()
        with torch.no_grad():
            model(x)
        optimizer.step()
        optimizer.zero_grad()
        with active_pair(model, "en-de"):
            seen = model(x).detach()
        with torch.no_grad():
            again = model(x)
        park(model)
        plain = copy.deepcopy(model).merge_and_unload()
        assert torch.equal(seen, plain(x))
        assert torch.equal(again, seen)


def test_a_base_weight_that_trains_too_gets_its_gradient() -> None:
    model = attach(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4)), "auto", {"0": {OWN: torch.arange(2)}}).train()
    model.base_model.model[0].base_layer.weight.requires_grad_(True)
    model(torch.randn(3, 5)).sum().backward()
    assert model.base_model.model[0].base_layer.weight.grad.abs().sum() > 0


def test_modes_say_which_and_why() -> None:
    model = attach(nn.Sequential(nn.Linear(5, 6)), "additive", {"0": {OWN: torch.arange(2)}})
    assert modes(model) == "1 layers additive (asked for)"
    model = attach(nn.Sequential(nn.Linear(5, 6)), "auto", {"0": {OWN: torch.arange(2)}})
    assert modes(model) == "1 layers sliced"
    with pytest.raises(UserError, match="mode 'slided' is not known; did you mean sliced"):
        NeuroglotConfig(mode="slided")
    with pytest.raises(UserError, match="rank must be a whole number >= 1"):
        NeuroglotConfig(rank=0)


# --- batches of several pairs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", [None, 2])
def test_a_mixed_batch_gives_the_sum_of_its_pairs(mode: str, rank: int | None) -> None:
    config = NeuroglotConfig.from_selection(tiny_selection(), mode=mode, rank=rank)
    model = get_peft_model(tiny_llava().double(), config).train()
    fill_deltas(model, 0.3)
    parts = [(pair, batch(seed, 1)) for seed, pair in enumerate(("en-fr", "en-cs", "en-fr"))]
    for _, inputs in parts:
        inputs["pixel_values"] = inputs["pixel_values"].double()
    for pair, inputs in parts:
        with active_pair(model, pair):
            model(**inputs).loss.div(3).backward()
    expected = gradients(model)
    model.zero_grad()
    joint = {key: torch.cat([inputs[key] for _, inputs in parts]) for key in parts[0][1]}
    with active_pair(model, [pair for pair, _ in parts]):
        model(**joint).loss.backward()  # equally many targets in each sample, so the mean is the mean of means
    found = gradients(model)
    assert any(grad is None for grad in expected.values()), "some group has no sample in the batch"
    for name, grad in expected.items():
        assert (found[name] is None) == (grad is None), name
        assert grad is None or torch.allclose(found[name], grad, atol=1e-9), name


def test_a_mixed_batch_with_several_images_says_whose_they_are() -> None:
    model = get_peft_model(tiny_llava(), NeuroglotConfig.from_selection(tiny_selection())).train()
    one, two = batch(0, 1), batch(1, 1)
    two["input_ids"][0, :8] = one["input_ids"][0, 0]  # two images
    joint = {key: torch.cat([one[key], two[key]]) for key in ("input_ids", "attention_mask", "labels")}
    joint["pixel_values"] = torch.cat([one["pixel_values"], two["pixel_values"], one["pixel_values"]])
    with pytest.raises(UserError, match="images each sample brought"), active_pair(model, ["en-de", "en-fr"]):
        model(**joint)
    with active_pair(model, ["en-de", "en-fr"], images=[1, 2]):
        model(**joint).loss.backward()
    own = {name: grad for name, grad in gradients(model).items() if grad is not None}
    assert any(name.endswith(":en-fr") and "vision" in name for name in own)
    with pytest.raises(UserError, match="as many"), active_pair(model, ["en-de", "en-fr"], images=[1]):
        pass


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_mixed_batch_under_checkpointing(reentrant: bool) -> None:
    model = get_peft_model(tiny_llava(), NeuroglotConfig.from_selection(tiny_selection())).train()
    fill_deltas(model, 0.3)
    mixture = ["en-de", "en-fr"]
    with active_pair(model, mixture):
        model(**batch(3)).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    with active_pair(model, mixture):
        model(**batch(3)).loss.backward()
    for name, grad in gradients(model).items():
        assert (grad is None) == (expected[name] is None)
        assert grad is None or torch.allclose(grad, expected[name], atol=1e-6), name
    with active_pair(model, mixture):
        loss = model(**batch(3)).loss
    with pytest.raises(UserError, match="expected the same pair"), active_pair(model, ["en-fr", "en-de"]):
        loss.backward()


def test_groups_must_not_overlap() -> None:
    with pytest.raises(UserError, match="a row twice"):
        NeuroglotConfig(pairs=["en-de"], layout={"0": {"en-de": 2}}, rows={"0": [1, 1]})
    with pytest.raises(UserError, match="in two groups"):
        Selection(("en-de", "en-fr"), {"0": {DE: torch.tensor([1]), FR: torch.tensor([1])}})
