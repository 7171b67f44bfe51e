"""What PEFT and transformers can do with an adapter, over every family of models, deltas at random in every layer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from families import FAMILIES, SIBLINGS, Inputs, build, selection
from peft import AutoPeftModel, PeftModel, get_peft_model
from tiny_llava import deltas, fill_deltas, group_of
from torch import Tensor, nn

from neuroglot.models.families import PARTS, family_of
from neuroglot.tuner import NeuroglotConfig, NeuroglotLinear, active_pair

DE, FR = "en-de", "en-fr"
TRIO = ("llava", "qwen2_5_vl", "gemma3")
"""A plain one, one with packed vision inputs, one with a bare matrix: what is heavy runs fast on these alone."""


LATER = (*SIBLINGS, "idefics3", "internvl")
"""Those that are like another one for an adapter (SmolVLM, LLaVA): in the slow tier alone."""

pytestmark = [pytest.mark.turns, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]
each_family = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow) if name in LATER else name for name in FAMILIES]
)
heavy = pytest.mark.parametrize(
    "family", [name if name in TRIO else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
State = dict[str, Tensor]


@functools.cache
def original(family: str) -> tuple[nn.Module, Inputs, Tensor]:
    """Return a family's base, its inputs and its logits, built once; nobody changes them."""
    model, inputs = build(family)
    return model, inputs, logits(model, inputs)


def base(family: str) -> nn.Module:
    return copy.deepcopy(original(family)[0])


def config(family: str, seed: int = 0) -> NeuroglotConfig:
    return NeuroglotConfig.from_selection(selection(original(family)[0], seed=seed, bare=True))


def fill(model: nn.Module, adapter: str = "default", seed: int = 1) -> nn.Module:
    """Draw an adapter's deltas; the change of mode is what makes an engine write them where it needs them."""
    model.train()
    fill_deltas(model, 0.2, adapter, seed)
    return model.eval()


def adapted(family: str, seed: int = 0, model: nn.Module | None = None) -> PeftModel:
    """Return a model with one adapter, its neurons and deltas drawn from the seed."""
    return fill(get_peft_model(base(family) if model is None else model, config(family, seed)), seed=seed + 1)


@torch.no_grad()
def logits(model: nn.Module, inputs: Inputs) -> Tensor:
    return model(**inputs).logits


def far(a: Tensor, b: Tensor) -> bool:
    return (a - b).abs().max().item() > 1e-3


def state(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def differing(before: State, after: State) -> set[str]:
    """Return the names of what is not the same bit for bit; both must hold the same names."""
    assert set(before) == set(after)
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def close(found: State, expected: State) -> None:
    """Compare by what is added up: entries are of about 0.1, and some are zero but for rounding (a key's bias)."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def train_pass(model: nn.Module, inputs: Inputs, pair: str = DE, run: nn.Module | None = None) -> State:
    """Run forward and backward in train mode; return the gradients. `run` is what to call, the model by default."""
    model.train()
    model.zero_grad(set_to_none=True)
    with active_pair(model, pair):
        (model if run is None else run)(**inputs).loss.backward()
    return gradients(model)


def gradients(model: nn.Module) -> State:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def part_of(model: nn.Module, name: str) -> str | None:
    """Return the part of a module or of an adapter's parameter."""
    module = name.removeprefix("base_model.model.").partition(".neuroglot_")[0]
    return family_of(model.get_base_model()).part_of(module)


# --- training


@each_family
def test_every_part_learns_and_only_the_active_pairs_groups_move(family: str) -> None:
    _, inputs, base_logits = original(family)
    model = adapted(family)
    assert far(logits(model, inputs), base_logits)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(trainable) == set(deltas(model))
    assert {part_of(model, name) for name in trainable} == set(PARTS)

    optimiser = torch.optim.AdamW(trainable.values(), lr=0.05, weight_decay=0.1)
    for pair in (FR, DE):  # the first step leaves momentum behind, which the second must not use
        before = state(model)
        grads = train_pass(model, inputs, pair)
        expected = {name for name in trainable if pair in group_of(name)}
        assert set(grads) == expected
        assert [name for name, grad in grads.items() if not (grad.isfinite().all() and grad.any())] == []
        optimiser.step()
        assert differing(before, state(model)) == expected


# --- saving


@each_family
def test_saving_and_loading_is_bit_exact(family: str, tmp_path: Path) -> None:
    _, inputs, base_logits = original(family)
    model = adapted(family)
    out, saved = logits(model, inputs), state(model)
    assert far(out, base_logits)
    model.save_pretrained(tmp_path)
    for low in (False, True):
        again = PeftModel.from_pretrained(base(family), tmp_path, low_cpu_mem_usage=low).eval()
        assert differing(saved, state(again)) == set()
        assert torch.equal(logits(again, inputs), out)


@heavy
def test_auto_peft_model_finds_the_base(family: str, tmp_path: Path) -> None:
    """PEFT has no AutoPeftModelForImageTextToText; AutoPeftModel takes the base's class from the adapter's JSON."""
    made, inputs, base_logits = original(family)
    made.save_pretrained(tmp_path / "base")
    model = adapted(family, model=type(made).from_pretrained(tmp_path / "base"))
    out = logits(model, inputs)
    assert far(out, base_logits)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModel.from_pretrained(tmp_path / "adapter").eval()
    assert type(again.get_base_model()) is type(made)
    assert torch.equal(logits(again, inputs), out)


# --- several adapters


@each_family
def test_adapters_switch_load_and_go(family: str, tmp_path: Path) -> None:
    _, inputs, base_logits = original(family)
    alone = adapted(family, seed=5)
    second = logits(alone, inputs)
    alone.save_pretrained(tmp_path)

    model = adapted(family)
    first = logits(model, inputs)
    assert far(first, second)
    assert far(first, base_logits)
    model.add_adapter("other", config(family, seed=5))
    fill(model, "other", seed=6)
    assert torch.equal(logits(model, inputs), first)
    model.set_adapter("other")
    assert torch.equal(logits(model, inputs), second)
    model.load_adapter(tmp_path, "loaded")
    model.eval()
    model.set_adapter("loaded")
    assert torch.equal(logits(model, inputs), second)
    model.set_adapter("default")
    assert torch.equal(logits(model, inputs), first)
    for name in ("other", "loaded"):
        model.delete_adapter(name)
        assert deltas(model, name) == {}
    assert torch.equal(logits(model, inputs), first)


@heavy
def test_transformers_own_adapter_methods(family: str, tmp_path: Path) -> None:
    plain, inputs, base_logits = original(family)
    alone = adapted(family)
    out = logits(alone, inputs)
    assert far(out, base_logits)
    alone.save_pretrained(tmp_path)

    model = base(family)
    model.add_adapter(config(family, seed=5), adapter_name="added")
    fill(model, "added", seed=6)
    added = logits(model, inputs)
    assert torch.equal(added, logits(adapted(family, seed=5), inputs))
    train_pass(model, inputs)
    model.eval()
    info = model.load_adapter(str(tmp_path), adapter_name="loaded")
    # the keys of other adapters are "missing" from every adapter's file, whatever the method; none may have moved
    assert {key for key in info.missing_keys if ".added" not in key} == set()
    assert (set(info.unexpected_keys), set(info.mismatched_keys)) == (set(), set())
    model.set_adapter("added")
    assert torch.equal(logits(model, inputs), added)
    model.set_adapter("loaded")
    assert torch.equal(logits(model, inputs), out)
    model.disable_adapters()
    assert torch.equal(logits(model, inputs), base_logits)
    model.enable_adapters()
    assert torch.equal(logits(model, inputs), out)
    model.delete_adapter("added")
    assert torch.equal(logits(model, inputs), out)
    model.delete_adapter("loaded")
    assert torch.equal(logits(model, inputs), base_logits)
    left = {name.replace(".base_layer.", "."): value for name, value in state(model).items()}
    assert differing(state(plain), left) == set()


# --- merging, disabling, unloading


@each_family
def test_disabling_merging_and_unmerging(family: str) -> None:
    _, inputs, base_logits = original(family)
    model = adapted(family)
    out, before = logits(model, inputs), state(model)
    assert far(out, base_logits)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), base_logits)
    assert torch.equal(logits(model, inputs), out)
    model.merge_adapter()
    wrapped = {name for name, m in model.named_modules() if isinstance(m, NeuroglotLinear)}
    assert {f"{name}.base_layer.weight" for name in wrapped} <= differing(before, state(model))
    torch.testing.assert_close(logits(model, inputs), out, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    assert differing(before, state(model)) == set()
    assert torch.equal(logits(model, inputs), out)


@each_family
def test_merging_for_good_and_unloading_leave_a_plain_model(family: str) -> None:
    plain, inputs, base_logits = original(family)
    model = adapted(family)
    out = logits(model, inputs)
    assert far(out, base_logits)
    for result, expected in (
        (copy.deepcopy(model).merge_and_unload(safe_merge=True), out),
        (model.unload(), base_logits),
    ):
        assert type(result) is type(plain)
        assert [type(m) for m in result.modules()] == [type(m) for m in plain.modules()]
        torch.testing.assert_close(logits(result, inputs), expected, rtol=1e-4, atol=1e-4)
    assert differing(state(plain), state(model.get_base_model())) == set()
    assert torch.equal(logits(result, inputs), base_logits)


@heavy
@pytest.mark.parametrize("which", ["first", "last"])
def test_safe_merge_refuses_nan_and_leaves_the_weights(family: str, which: str) -> None:
    model = adapted(family)
    values = list(deltas(model).values())
    with torch.no_grad():
        values[0 if which == "first" else -1].view(-1)[0] = float("nan")
    before = {name: value for name, value in state(model).items() if "neuroglot_" not in name}
    with pytest.raises(ValueError, match="NaN"):
        model.merge_adapter(safe_merge=True)
    assert differing(before, {name: value for name, value in state(model).items() if name in before}) == set()


# --- what a trainer turns on


def count_forwards(model: PeftModel, family: str) -> dict[str, int]:
    """Count, per tower, the runs of one layer inside a block."""
    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        part = part_of(model, name) if isinstance(module, NeuroglotLinear) else None
        if part in ("vision", "language") and part not in counts:
            counts[part] = 0

            def count(module: nn.Module, args: tuple, output: Tensor, part: str = part) -> None:
                counts[part] += 1

            module.register_forward_hook(count)
    return counts


@each_family
@pytest.mark.parametrize("reentrant", [False, pytest.param(True, marks=(pytest.mark.slow, pytest.mark.turns))])
def test_gradient_checkpointing_changes_no_gradient(family: str, reentrant: bool) -> None:
    _, inputs, base_logits = original(family)
    model = adapted(family)
    assert far(logits(model, inputs), base_logits)
    counts = count_forwards(model, family)
    plain = train_pass(model, inputs)
    assert counts == {"vision": 1, "language": 1}
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
        if family == "qwen3_vl":  # its vision class names no input embedding, so the line above passes it by
            patches = model.get_submodule("base_model.model.model.visual.patch_embed")
            patches.register_forward_hook(lambda module, args, out: out.requires_grad_())
    again = train_pass(model, inputs)
    assert counts == {"vision": 3, "language": 3}, "both towers ran again in backward"
    if reentrant:  # whose first forward has no gradients, where an engine may take another way to the same sum
        close(again, plain)
    else:
        assert differing(plain, again) == set()


@each_family
def test_autocast_in_bfloat16(family: str) -> None:
    plain, inputs, base_logits = original(family)
    with torch.autocast("cpu", torch.bfloat16):
        try:
            logits(plain, inputs)
        except RuntimeError as error:
            pytest.skip(f"transformers {transformers.__version__} itself cannot: {error}")
    model = adapted(family)
    exact = train_pass(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = logits(model.eval(), inputs)
        grads = train_pass(model, inputs)
    assert out.dtype == torch.bfloat16
    assert far(out.float(), base_logits)
    assert set(grads) == set(exact)
    assert {grad.dtype for grad in grads.values()} == {torch.float32}
    assert all(grad.isfinite().all() for grad in grads.values())
    # bfloat16 has eight bits; over all of them the direction must be that of float32
    a, b = (torch.cat([g[name].flatten() for name in exact]) for g in (exact, grads))
    assert torch.cosine_similarity(a, b, dim=0) > 0.99


def first_block(model: PeftModel) -> nn.Module:
    """Return the first block of the language model."""
    lists = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList))
    return next(m[0] for name, m in lists if part_of(model, name) == "language")


def compiled_equals_eager(family: str, compile_it: Callable[[PeftModel], nn.Module]) -> None:
    _, inputs, base_logits = original(family)
    model = adapted(family)
    out, grads = logits(model, inputs), train_pass(model, inputs)
    assert far(out, base_logits)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = compile_it(model)
    close(train_pass(model, inputs, run=run), grads)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    model.eval()
    torch.testing.assert_close(logits(run, inputs), out, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_compiled_block(family: str) -> None:
    """One block, as in compiling by regions: a whole model takes ten seconds and more to trace, adapter or not."""
    _, inputs, base_logits = original(family)
    model = adapted(family)
    assert far(logits(model, inputs), base_logits)
    grads = train_pass(model, inputs)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    first_block(model).compile(backend="aot_eager")
    close(train_pass(model, inputs), grads)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
def test_compiled_whole() -> None:
    compiled_equals_eager("llava", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.slow
def test_compiled_by_inductor() -> None:
    compiled_equals_eager("llava", functools.partial(torch.compile, backend="inductor"))
