"""Low-rank neurons that start along the gradient, with ranks where the gradient is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from tiny_llava import ALL, DE, FR, LANGUAGE, MODULES, batch, deltas, fill_deltas, logits, tiny_llava

from neuroglot.errors import UserError
from neuroglot.selection import Selection, group_name
from neuroglot.training import aligned, from_adapter
from neuroglot.training.aligned import Directions, allocate
from neuroglot.tuner import Adapter, NeuroglotConfig, active_pair, export_lora, keep_pairs, selection_of

COLUMNS = f"{LANGUAGE}.0.mlp.down_proj"
CONDITIONS = ("image_translation:en-de", "image_translation:en-fr", "image_translation:en-cs")


def selection() -> Selection:
    """Eight agnostic units and six German ones in every module; of one module columns."""
    rows = {module: {ALL: torch.arange(0, 16, 2), DE: torch.arange(1, 13, 2)} for module in MODULES}
    return Selection(tuple(sorted(ALL)), rows, axes={COLUMNS: 1})


def batches() -> list[tuple[dict[str, torch.Tensor], str]]:
    return [(batch(seed), condition) for seed, condition in enumerate(CONDITIONS)]


def made(parameters: int = 2000, model=None) -> Adapter:
    return aligned(tiny_llava() if model is None else model, selection(), batches(), parameters)


def weight_gradients(of: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Module -> gradient of its whole weight, by plain autograd, summed over the batches of some pairs."""
    model = tiny_llava()
    for inputs, condition in batches():
        if condition.partition(":")[2] in of:
            model(**inputs).loss.backward()
    return {module: model.get_submodule(module).weight.grad for module in MODULES}


def test_factors_point_along_the_gradient_of_the_pairs_that_train_them() -> None:
    adapter, chosen = made(), selection()
    seen = set()
    for group, pairs in ((ALL, tuple(ALL)), (DE, ("en-de",))):
        gradients = weight_gradients(pairs)
        for module, name, units in adapter:
            if name != group_name(group):
                continue
            whole = gradients[module].t() if module == COLUMNS else gradients[module]
            gradient = whole[chosen.rows[module][group]]
            _, values, right = torch.linalg.svd(gradient, full_matrices=False)
            if len(units.delta) == 1:
                continue
            down = units.delta[-1]
            cosine = (torch.nn.functional.normalize(down, dim=1) * right[: len(down)]).sum(1).abs()
            gaps = values[: len(down)] - torch.cat([values, values.new_zeros(1)])[1 : len(down) + 1]
            clear = gaps > 1e-3 * values[0]  # two equal singular values may turn into each other
            assert torch.allclose(cosine[clear], torch.ones(int(clear.sum())), atol=1e-3), (module, name)
            seen.add(name)
    assert seen == {group_name(ALL), group_name(DE)}


def test_the_model_is_as_it_was_and_the_adapter_starts_at_it() -> None:
    model = tiny_llava()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = aligned(model, selection(), batches(), 2000)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in model.parameters())
    assert all(not bool(units.dense.any()) for _, _, units in adapter)


@pytest.mark.parametrize("parameters", [300, 1000, 2000])
def test_as_many_parameters_are_trained_as_were_asked_for(parameters: int, tmp_path: Path) -> None:
    made(parameters).save(tmp_path / "start")
    model = from_adapter(tiny_llava(), tmp_path / "start")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert parameters - 80 <= trained <= parameters  # no group's next rank costs more than 48 + 8


def test_of_the_chosen_rows_those_with_the_largest_gradients_are_trained() -> None:
    adapter = aligned(tiny_llava(), selection(), batches(), 2000, rows=0.5)
    gradients, seen = weight_gradients(tuple(ALL)), 0
    for module, name, units in adapter:
        if name != group_name(ALL):
            continue
        whole = gradients[module].t() if module == COLUMNS else gradients[module]
        chosen = selection().rows[module][ALL]
        largest = whole[chosen].norm(dim=1).topk(4).indices
        assert units.rows.tolist() == sorted(chosen[largest].tolist())
        seen += 1
    assert seen > 3


def test_layers_with_a_larger_gradient_get_more() -> None:
    ranks: dict[str, int] = {}
    for module, _, units in made(1500):
        ranks[module] = ranks.get(module, 0) + units.delta[-1].shape[0]
    assert len(set(ranks.values())) > 1
    strength = {module: float(gradient.norm()) for module, gradient in weight_gradients(tuple(ALL)).items()}
    best, worst = (choose(ranks, key=ranks.__getitem__) for choose in (max, min))
    assert strength[best] > strength[worst]


def test_it_trains_saves_and_leaves_like_any_other(tmp_path: Path) -> None:
    made().save(tmp_path / "start")
    model = from_adapter(tiny_llava(), tmp_path / "start").train()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    start = logits(tiny_llava())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for inputs, condition in batches()[1:]:  # French and Czech: the German factors do not move
        before = {name: p.clone() for name, p in deltas(model).items()}
        with active_pair(model, condition.partition(":")[2]):
            model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        moved = {name for name, p in deltas(model).items() if not torch.equal(p, before[name])}
        assert moved
        assert all(f"pairs:{group_name(ALL)}" in name for name in moved)
    model.eval()
    assert (logits(model) - start).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "trained")
    read = PeftModel.from_pretrained(tiny_llava(), tmp_path / "trained")
    assert torch.equal(logits(read), logits(model))
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == set(frozen)

    fill_deltas(model, 0.2)
    model.train().eval()
    model.save_pretrained(tmp_path / "filled")
    export_lora(tmp_path / "filled", tmp_path / "lora", tiny_llava(), biases="everywhere")
    stock = PeftModel.from_pretrained(tiny_llava(), tmp_path / "lora")
    assert torch.allclose(logits(stock), logits(model), atol=1e-4)

    german = keep_pairs(Adapter.load(tmp_path / "filled"), ["en-de"])
    german.save(tmp_path / "german")
    kept = PeftModel.from_pretrained(tiny_llava(), tmp_path / "german")
    assert torch.allclose(logits(kept), logits(model), atol=1e-5)


def test_the_selection_of_the_adapter_is_the_part_that_got_ranks(tmp_path: Path) -> None:
    made(300).save(tmp_path / "start")
    found = selection_of(from_adapter(tiny_llava(), tmp_path / "start"))
    chosen = selection()
    assert 0 < len(found) < len(chosen)
    for module, group, index in found:
        assert torch.equal(index, chosen.rows[module][group])


def test_ranks_by_hand() -> None:
    wide = Directions(torch.tensor([3.0, 1.0]), torch.eye(2, 6), 4)  # 10 parameters a rank
    narrow = Directions(torch.tensor([2.0, 1.5, 0.0]), torch.eye(3, 3), 2)  # 5 parameters a rank
    found = {("a", FR): wide, ("b", FR): narrow}
    # worth per parameter: a .9, .1; b .8, .45
    assert allocate(found, 10) == {("a", FR): 1}
    assert allocate(found, 5) == {("b", FR): 1}
    assert allocate(found, 6) == {("b", FR): 2}  # dense from here on: 2 x 3 weights
    assert allocate(found, 15) == {("a", FR): 1, ("b", FR): 1}
    assert allocate(found, 26) == {("a", FR): 2, ("b", FR): 2}
    with pytest.raises(UserError, match=r"4 trained parameters do not suffice .* which takes 5"):
        allocate(found, 4)


SHAPES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5)


@given(SHAPES, st.integers(1, 200), st.randoms(use_true_random=False))
def test_ranks_never_cost_more_than_there_is(shapes, parameters, random) -> None:
    found = {}
    for number, (k, w) in enumerate(shapes):
        values = sorted((0.1 + random.random() for _ in range(min(k, w))), reverse=True)
        found[str(number), FR] = Directions(torch.tensor(values), torch.eye(min(k, w), w), k)
    try:
        ranks = allocate(found, parameters)
    except UserError:
        assert all(found[place].parameters(1) > parameters for place in found)
        return
    assert sum(found[place].parameters(rank) for place, rank in ranks.items()) <= parameters
    assert all(1 <= rank <= len(found[place].values) for place, rank in ranks.items())


def test_nothing_to_align_with() -> None:
    with pytest.raises(UserError, match="no batches to align"):
        aligned(tiny_llava(), selection(), [], 1000)


def test_ranks_of_a_configuration_are_checked() -> None:
    chosen = selection()
    good = NeuroglotConfig.from_selection(chosen, rank=2, ranks={COLUMNS: {group_name(DE): 3}})
    model = get_peft_model(tiny_llava(), good)
    shapes = {name: tuple(p.shape) for name, p in deltas(model).items() if COLUMNS in name and "_up" in name}
    assert sorted(shapes.values()) == [(6, 3), (8, 2)]
    for wrong in ({COLUMNS: {"en-fr": 3}}, {COLUMNS: {group_name(DE): 0}}, {"nowhere": {group_name(DE): 3}}):
        with pytest.raises(UserError, match="ranks holds"):
            NeuroglotConfig.from_selection(chosen, ranks=wrong)


@pytest.mark.parametrize("mode", ["sliced", "additive"])
def test_biases_stay_as_they_are_where_they_are_not_trained(mode: str, tmp_path: Path) -> None:
    config = NeuroglotConfig.from_selection(selection(), train_bias=False, mode=mode)
    model = get_peft_model(tiny_llava(bias=True), config).train()
    assert not any("neuroglot_bias" in name for name in deltas(model))
    biases = {name: p.clone() for name, p in model.named_parameters() if name.endswith("bias")}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for pair in ("en-de", "en-fr"):
        with active_pair(model, pair):
            model(**batch(3)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(p, biases[name]) for name, p in model.named_parameters() if name in biases)
    model.eval()
    model.save_pretrained(tmp_path / "a")
    read = PeftModel.from_pretrained(tiny_llava(bias=True), tmp_path / "a")
    assert torch.equal(logits(read), logits(model))
    adapter = Adapter.load(tmp_path / "a")
    assert all(units.bias is None for _, _, units in adapter)
    merged = read.merge_and_unload(safe_merge=True)
    assert torch.allclose(logits(merged), logits(model), atol=1e-5)
