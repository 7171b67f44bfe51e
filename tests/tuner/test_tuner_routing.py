"""The pair of a step: missing, unknown, left too early, changed in between, and with layers run again in backward."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from tiny_llava import batch, deltas, tiny_llava, tuned

from neuroglot.errors import UserError
from neuroglot.pair import Pair
from neuroglot.tuner import active_pair, has_router


def checkpointed(model: PeftModel, reentrant: bool) -> PeftModel:
    base = model.get_base_model()
    enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})
    base.enable_input_require_grads()
    return model


def gradients(model: PeftModel) -> dict[str, torch.Tensor | None]:
    return {name: p.grad for name, p in deltas(model).items()}


def test_a_training_forward_without_a_pair_is_an_error() -> None:
    model = tuned().train()
    with pytest.raises(UserError, match=r'with active_pair\(model, "en-cs"\)'):
        model(**batch(1))


def test_no_pair_is_needed_without_gradients_or_in_eval_mode() -> None:
    model = tuned(fill=0.1).train()
    with torch.no_grad():
        model(**batch(1))
    model.eval()
    loss = model(**batch(1)).loss
    assert not loss.requires_grad, "in eval mode nothing is trained unless a pair says what"
    with active_pair(model, "en-de"):
        model(**batch(1)).loss.backward()
    assert any(p.grad is not None for p in deltas(model).values())


def test_frozen_and_disabled_adapters_need_no_pair() -> None:
    model = tuned().train()
    with model.disable_adapter():
        model(**batch(1))
    model.set_requires_grad("default", False)
    model(**batch(1))


def test_unknown_pairs_and_models_without_adapter() -> None:
    model = tuned()
    with pytest.raises(UserError, match="did you mean .*en-de"), active_pair(model, "enxde"):
        pass
    with pytest.raises(UserError, match="no neuroglot adapter"), active_pair(tiny_llava(), "en-de"):
        pass
    assert has_router(model)
    assert not has_router(tiny_llava())


def test_contexts_nest_and_end_with_an_exception() -> None:
    model = tuned()
    router = model.base_model.router
    with active_pair(model, Pair("en", "de")):
        with active_pair(model, "en-fr"):
            assert router.pair == "en-fr"
        assert router.pair == "en-de"
        with pytest.raises(ZeroDivisionError), active_pair(model, "en-cs"):
            1 / 0  # noqa: B018
        assert router.pair == "en-de"
    assert router.pair is None


def test_a_copied_model_has_a_pair_of_its_own() -> None:
    model = tuned().train()
    twin = copy.deepcopy(model)
    with active_pair(twin, "en-de"):
        assert model.base_model.router.pair is None
        twin(**batch(1)).loss.backward()
    assert any(p.grad is not None for p in deltas(twin).values())
    assert all(p.grad is None for p in deltas(model).values())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("pair", ["en-de", "en-fr"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_gives_the_same_gradients(reentrant: bool, pair: str) -> None:
    plain, model = tuned(fill=0.1).train(), checkpointed(tuned(fill=0.1).train(), reentrant)
    for m in (plain, model):
        with active_pair(m, pair):
            m(**batch(1)).loss.backward()
    expected, got = gradients(plain), gradients(model)
    assert any(g is not None for g in expected.values())
    for name, grad in expected.items():
        assert (got[name] is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(got[name], grad)


@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_backward_outside_the_context_is_an_error(checkpointing: str) -> None:
    model = tuned(fill=0.1).train()
    if checkpointing != "none":
        checkpointed(model, checkpointing == "reentrant")
    with active_pair(model, "en-de"):
        loss = model(**batch(1)).loss
    with pytest.raises(UserError, match="outside of any active_pair"):
        loss.backward()
    with active_pair(model, "en-de"):
        loss = model(**batch(1)).loss
    with active_pair(model, "en-fr"), pytest.raises(UserError, match="forward for pair en-de runs for pair en-fr"):
        loss.backward()
    assert all(g is None for g in gradients(model).values()), "gradient went somewhere before the error"


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_loss_made_from_the_backbone_is_watched_too() -> None:
    model = checkpointed(tuned(fill=0.1).train(), reentrant=True)
    base = model.get_base_model()
    inputs = {k: v for k, v in batch(1).items() if k != "labels"}
    with active_pair(model, "en-de"):
        loss = base.lm_head(base.model(**inputs).last_hidden_state).square().mean()
    with active_pair(model, "en-fr"), pytest.raises(UserError, match="forward for pair en-de"):
        loss.backward()


def test_unloading_stops_watching() -> None:
    model = tuned(fill=0.1)
    base = model.unload().train().requires_grad_(True)
    assert not any(m._forward_hooks for m in base.modules())
    base(**batch(1)).loss.backward()
