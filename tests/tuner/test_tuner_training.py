"""A step moves the rows whose group holds its pair, and nothing else moves: not by momentum, nor by weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_llava import ALL, GROUPS, MODULES, PAIRS, batch, deltas, group_of, tiny_llava, tiny_selection, tuned
from transformers.optimization import Adafactor

from neuroglot.training.verification import audit, changed, snapshot
from neuroglot.tuner import NeuroglotConfig, active_pair

OPTIMIZERS: dict[str, Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw_torch": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw_torch_foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, foreach=True),
    "adamw_torch_fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9, weight_decay=0.1),
    "adafactor": lambda p: Adafactor(p, lr=1e-2, relative_step=False, scale_parameter=False, weight_decay=0.1),
}


def bits(value: object) -> object:
    return value.detach().clone() if torch.is_tensor(value) else value


def state_of(model: PeftModel, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, object]]:
    """Copy every delta together with what the optimiser keeps about it."""
    return {
        name: {"value": bits(p), **{key: bits(value) for key, value in optimizer.state.get(p, {}).items()}}
        for name, p in deltas(model).items()
    }


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key] for key in a
    )


def run_step(model: PeftModel, optimizer: torch.optim.Optimizer, pairs: tuple[str, ...], seed: int) -> None:
    """One step, accumulated over the pairs, clipped."""
    for offset, pair in enumerate(pairs):
        with active_pair(model, pair):
            (model(**batch(seed + offset)).loss / len(pairs)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_move_their_own_groups_and_nothing_else(name: str, bias: bool) -> None:
    model = tuned(bias).train()
    before = snapshot(model)
    optimizer = OPTIMIZERS[name](p for p in model.parameters() if p.requires_grad)
    steps = [("en-de",), ("en-fr",), ("en-cs", "en-fr"), ("en-cs",), ("en-de", "en-de"), ("en-fr",)]
    for seed, pairs in enumerate(steps):
        old = state_of(model, optimizer)
        run_step(model, optimizer, pairs, seed * 10)
        new = state_of(model, optimizer)
        for delta in old:
            touched = bool(group_of(delta) & set(pairs))
            assert same(old[delta], new[delta]) is not touched, (name, pairs, delta)
    assert changed(before, model) == {}, "the base weights moved"
    model.merge_adapter()
    report = audit(before, model, tiny_selection())
    assert report.outside == {}
    assert report.trained == report.selected == len(tiny_selection())
    assert "84 of 84 selected rows trained, 0 other rows changed" in str(report)


@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_reach_every_part_and_only_the_pairs_groups(pair: str) -> None:
    model = tuned(bias=True).train()
    with active_pair(model, pair):
        model(**batch(1)).loss.backward()
    found = deltas(model)
    assert {group_of(name) for name in found} == set(GROUPS)
    for name, parameter in found.items():
        if pair in group_of(name):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    for module in MODULES:
        assert any(module in name for name in found)
    others = [
        n for n, p in model.named_parameters() if "neuroglot_" not in n and (p.requires_grad or p.grad is not None)
    ]
    assert others == []


def test_every_group_takes_part_in_the_output_whatever_the_pair() -> None:
    model = tuned(fill=0.3).train()
    losses = set()
    for pair in PAIRS:
        with active_pair(model, pair):
            losses.add(round(model(**batch(3)).loss.item(), 5))
    assert len(losses) == 1


def test_gradient_is_that_of_the_dense_weight() -> None:
    selection = tiny_selection()
    model = tuned(bias=True, selection=selection).train()
    with active_pair(model, "en-de"):
        model(**batch(2)).loss.backward()
    dense = tiny_llava(bias=True)
    dense(**batch(2)).loss.backward()
    for module, group, index in selection:
        layer = model.get_base_model().get_submodule(module)
        key = "pairs:" + ",".join(sorted(group))
        if "en-de" in group:
            expected = dense.get_submodule(module)
            torch.testing.assert_close(layer.neuroglot_delta["default"][key].grad, expected.weight.grad[index])
            torch.testing.assert_close(layer.neuroglot_bias["default"][key].grad, expected.bias.grad[index])


@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_equals_dense_training_with_masks(bias: bool) -> None:
    """Twenty steps of AdamW with decay and clipping against dense weights whose rows are moved group by group."""
    selection = tiny_selection()
    model = tuned(bias, selection).double().train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1
    )
    dense = tiny_llava(bias).double().train()
    names = [n for n, _ in dense.named_parameters() if n.rpartition(".")[0] in selection.rows]
    start = {name: dense.get_parameter(name).detach().clone() for name in names}
    moments: dict[tuple[str, frozenset[str]], list] = {}
    for step in range(20):
        pair = PAIRS[step % 3]
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in batch(100 + step).items()}
        with active_pair(model, pair):
            model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()

        dense.zero_grad()
        dense(**inputs).loss.backward()
        touched = [(n, g, i) for n in names for g, i in selection.rows[n.rpartition(".")[0]].items() if pair in g]
        norm = torch.stack([dense.get_parameter(n).grad[i].square().sum() for n, _, i in touched]).sum().sqrt()
        scale = min(1.0, 0.5 / (norm.item() + 1e-6))
        with torch.no_grad():
            for name, group, index in touched:
                parameter = dense.get_parameter(name)
                grad = parameter.grad[index] * scale
                m, v, t = moments.setdefault((name, group), [torch.zeros_like(grad), torch.zeros_like(grad), 0])
                m, v, t = 0.9 * m + 0.1 * grad, 0.95 * v + 0.05 * grad**2, t + 1
                moments[name, group] = [m, v, t]
                delta = (parameter[index] - start[name][index]) * (1 - 3e-3 * 0.1)
                delta -= 3e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
                parameter[index] = start[name][index] + delta
    merged = model.merge_and_unload()
    moved = 0.0
    for name in names:
        torch.testing.assert_close(merged.get_parameter(name), dense.get_parameter(name), rtol=0, atol=1e-7)
        moved = max(moved, (merged.get_parameter(name) - start[name]).abs().max().item())
    assert moved > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_deltas_stay_float32_on_a_half_precision_base(dtype: torch.dtype) -> None:
    model = get_peft_model(tiny_llava().to(dtype), NeuroglotConfig.from_selection(tiny_selection())).train()
    assert {p.dtype for p in deltas(model).values()} == {torch.float32}
    inputs = batch(1)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    with active_pair(model, "en-de"):
        model(**inputs).loss.backward()
    optimizer.step()
    for name, parameter in deltas(model).items():
        if "en-de" in group_of(name):
            assert (parameter != 0).float().mean() > 0.9, "a step below the base's resolution was lost"
    assert model.eval()(**inputs).logits.dtype == dtype


def test_autocast() -> None:
    model = tuned(fill=0.1).train()
    with active_pair(model, "en-fr"), torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch(1)).loss
        loss.backward()
    grads = [p.grad for p in deltas(model).values() if p.grad is not None]
    assert grads
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in grads)


def test_agnostic_only_adapters_need_no_pair() -> None:
    model = tuned(selection=tiny_selection(groups=(ALL,))).train()
    model(**batch(1)).loss.backward()
    assert all(p.grad is not None for p in deltas(model).values())
