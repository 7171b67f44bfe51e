"""How many rows of which layers, and what the newer options do, from made-up profiles with a known answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neuroglot.errors import UserError
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.selecting.select import select

PARTS = {"v0": "vision", "v1": "vision", "c0": "connector"}
SIZES = {"v0": 30, "v1": 30, "c0": 20, "l0": 40, "l1": 40, "l2": 60}


def drawn(kit, seed=0, conditions=None, **extra):
    g = torch.Generator().manual_seed(seed)
    conditions = conditions or kit.conditions_of("de fr cs")
    means = {n: torch.rand(len(conditions), size, generator=g) + 0.01 for n, size in SIZES.items()}
    return kit.make_profile(means, conditions, PARTS, **extra)


def counts(selection):
    return {name: sum(map(len, groups.values())) for name, groups in selection.rows.items()}


def rows(selection, layer):
    return sorted(torch.cat(list(selection.rows[layer].values())).tolist())


def of_group(selection, *pairs):
    return {
        name: groups[frozenset(pairs)].tolist()
        for name, groups in selection.rows.items()
        if frozenset(pairs) in groups
    }


@pytest.mark.parametrize("rank", ["per-layer", "per-part"])
def test_every_part_has_its_own_budget(kit, rank):
    budget = {"vision": 0.1, "connector": 0.5, "language": 0.3}
    found = select(drawn(kit), "mnaft", budget=budget, rank=rank, layers=1.0)
    taken = counts(found)
    assert taken.get("v0", 0) + taken.get("v1", 0) == 6
    assert taken["c0"] == 10
    assert sum(taken.get(layer, 0) for layer in ("l0", "l1", "l2")) == 42
    assert found.meta["options"]["budget"] == budget


def test_a_global_ranking_takes_the_best_rows_wherever_they_are(kit):
    made = drawn(kit)
    whole = made.mean("taylor_token")
    total = sum(x.sum(1, keepdim=True) for x in whole.values())
    key = torch.cat([(x / total).mean(0) for x in whole.values()])
    home = [n for n, x in whole.items() for _ in range(x.shape[1])]
    best = [home[i] for i in key.argsort(descending=True)[:44].tolist()]
    found = select(made, "mnaft", rank="global", budget=0.2, specific=0)
    assert counts(found) == {n: best.count(n) for n in SIZES if n in best}
    by_part = select(made, "mnaft", rank="per-part", budget=0.2, specific=0)
    assert counts(by_part)["c0"] == 4


def test_cost_prefers_short_rows_and_a_budget_of_weights_is_kept_to(kit):
    made = drawn(kit)
    long = tuple(replace(x, inputs=400) if x.name == "l2" else x for x in made.layers)
    made = replace(made, layers=long)
    plain = select(made, "mnaft", rank="global", budget=0.2)
    cheap = select(made, "mnaft", rank="global", budget=0.2, cost="weights")
    assert counts(plain)["l2"] > 0
    assert "l2" not in counts(cheap)
    size = {x.name: x.inputs for x in made.layers}
    weights = sum(x.inputs * x.neurons for x in made.layers)
    for rank in ("global", "per-layer"):
        found = select(made, "mnaft", rank=rank, budget=0.1, budget_of="weights", layers=1.0)
        spent = sum(size[name] * count for name, count in counts(found).items())
        assert 0.9 * 0.1 * weights < spent <= 1.05 * 0.1 * weights


@pytest.mark.parametrize("rank", ["per-part", "global"])
def test_controls_keep_what_a_ranking_over_layers_gave(kit, rank):
    made = drawn(kit)
    options = {"rank": rank, "budget": 0.2, "specific": 0.3}
    reference = select(made, "mnaft", **options)
    same = select(made, "random", **options)
    assert counts(same) == counts(reference)
    assert any(rows(same, n) != rows(reference, n) for n in reference.rows)
    shape = {n: (PARTS.get(n, "language"), size) for n, size in SIZES.items()}
    seen = set()
    for seed in range(8):
        other = select(made, "random-layers", seed=seed, **options)
        assert sorted((shape[n], c) for n, c in counts(other).items()) == sorted(
            (shape[n], c) for n, c in counts(reference).items()
        )
        seen.add(tuple(counts(other).items()))
    assert len(seen) > 1


def test_dead_rows_do_not_use_up_the_budget(kit):
    x = torch.ones(2, 10)
    x[:, :6] = 0
    made = kit.make_profile({"l0": x, "l1": torch.ones(2, 10)}, kit.conditions_of("de fr"))
    found = select(made, "mnaft", layers=1.0, budget=0.7, specific=0)
    assert rows(found, "l0") == [6, 7, 8, 9]
    assert len(found) == 14
    assert len(select(made, "mnaft", layers=1.0, budget=1.0, specific=0)) == 14
    assert len(select(made, "neumt", layers=1.0, ranking="relevance")) == 20  # which trains every row


def test_what_must_be_kept_holds_importance_down(kit):
    conditions = [*kit.conditions_of("de fr"), "ocr:en-en", "text_translation:en-de"]
    x = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0], [9.0, 0.1, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0]])
    made = kit.make_profile({"l0": x}, conditions)
    options = {"layers": 1.0, "budget": 0.5, "specific": 0}
    assert rows(select(made, "mnaft", **options, contrast="none"), "l0") == [0, 1]
    assert rows(select(made, "mnaft", **options, keep=("ocr",)), "l0") == [1, 2]
    # A task that never reaches the part has no say in it.
    assert rows(select(made, "mnaft", **options, keep=("text_translation",)), "l0") == [0, 1]
    assert rows(select(made, "mnaft", **options, keep=("ocr", "text_translation")), "l0") == [1, 2]


def test_every_pair_may_have_a_share_of_its_own(kit):
    x = torch.ones(3, 40)
    for k, owned in enumerate((range(8), range(8, 16), range(16, 24))):
        for step, row in enumerate(owned):
            x[k, row] = 3 + 0.1 * step
    made = kit.make_profile({"l0": x}, kit.conditions_of("de fr cs"))
    shares = {"en-de": 0.1, "en-cs": 0.05}
    with pytest.raises(UserError, match="specific gives no share for en-fr; expected one for every pair; use 0"):
        select(made, "mnaft", layers=1.0, specific=shares)
    shares["en-fr"] = 0
    found = select(made, "mnaft", layers=1.0, budget=1.0, specific=shares, contrast="none")
    assert of_group(found, "en-de") == {"l0": [4, 5, 6, 7]}
    assert of_group(found, "en-cs") == {"l0": [22, 23]}
    assert of_group(found, "en-fr") == {}
    assert len(found) == 40


def test_lape_takes_the_rows_that_few_languages_activate(kit):
    probability = torch.full((3, 8), 0.5)
    probability[:, 2] = torch.tensor([0.9, 0.0, 0.0])
    probability[:, 5] = torch.tensor([0.0, 0.8, 0.1])
    probability[:, 6] = torch.tensor([1e-4, 0.0, 0.0])  # hardly ever active
    means = {"l0": torch.rand(3, 8, generator=torch.Generator().manual_seed(0)) + 0.1}
    made = kit.make_profile(means, kit.conditions_of("de fr cs"), activation_probability={"l0": probability})
    assert rows(select(made, "lape", layers=1.0, budget=0.25), "l0") == [2, 5]


def test_feed_forward_units_become_rows_and_columns(kit):
    made = drawn(kit)
    block = Layer("m.mlp", "language", 40, 12, False, reads=("m.mlp.gate_up_proj",), writes="m.mlp.down_proj")
    units = replace(made, layers=(block,), **{
        kind: {"m.mlp": getattr(made, kind)["l0"]} for kind in ("sums", "squares", "share_sums", "share_squares")
    })  # fmt: skip
    found = select(units, "mnaft", budget=0.25, layers=1.0)
    assert found.axes == {"m.mlp.down_proj": 1}
    chosen = rows(found, "m.mlp.down_proj")
    assert len(chosen) == 10
    assert rows(found, "m.mlp.gate_up_proj") == sorted([*chosen, *(40 + unit for unit in chosen)])
    assert found.meta["chosen"]["m.mlp.gate_up_proj"] == {"part": "language", "neurons": 80}
    assert found.meta["neurons"] == {"language": 40}
    assert counts(select(units, "random", budget=0.25, layers=1.0)) == counts(found)
    with pytest.raises(UserError, match="the profile holds no neuron=ffn; profile them too, or say neuron=rows"):
        select(made, "mnaft", neuron="ffn")


def test_a_bare_matrix_keeps_its_axis(kit):
    made = drawn(kit)
    made = replace(made, layers=tuple(replace(x, axis=1) if x.name == "c0" else x for x in made.layers))
    assert select(made, "mnaft", layers=1.0).axes == {"c0": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": {"vision": 0.1}, "layers": 1.0}, "budget gives no share for the connector part"),
        ({"budget": {"vision": 2.0, "connector": 1, "language": 1}}, "budget.vision: must be less than or"),
        ({"budget": {"visoin": 0.1}}, "select.budget.visoin: must be 'vision', .* got 'visoin'"),
        ({"budget": {"vision": 0.1, "connector": 0.1, "language": 0.1}, "rank": "global"}, "one number, or say rank"),
        ({"rank": "global", "budget": None}, "rank=global needs a budget"),
        ({"rank": "layer"}, "select.rank: must be 'per-layer', 'per-part' or 'global', got 'layer'"),
        ({"cost": "weights"}, "cost only counts where rows are ranked over layers"),
        ({"keep": ("ocr",)}, "keep names 'ocr', of which the profile holds no condition, only of image_translation"),
        ({"keep": ("image_translation",)}, "which is the task to learn"),
        ({"keep": ("ocr",), "contrast": "subtract"}, "two answers to one question"),
        ({"specific": "some"}, "select.specific: must be .*'auto'.*got 'some'"),
        ({"specific": {"en-tr": 0.1}}, "specific names pair en-tr, which the profile lacks"),
        ({"specific": {"en-de": -0.1}}, "select.specific.en-de: must be greater than or equal to 0, got -0.1"),
        ({"specific": {"en-de": 0.7, "en-fr": 0.6}}, "specific gives pairs 1.3 of the rows in all"),
        ({"specific": {"en-de": 0.1}, "share": 0.9}, "excludes share"),
        ({"specific": {"en-de": 0.1}, "specific_to": "target"}, "excludes specific_to"),
        ({"effect": 0.3}, "effect is for specific=auto, got specific=0.1"),
        ({"effect": -1, "specific": "auto"}, "select.effect: must be greater than or equal to 0, got -1"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_explained(kit, options, message):
    with pytest.raises(UserError, match=message) as error:
        select(drawn(kit), "mnaft", **options)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_a_method_or_the_data_is_explained(kit):
    with pytest.raises(UserError, match="neumt trains every row of the layers it keeps; rank=global is for mnaft"):
        select(drawn(kit), "neumt", ranking="relevance", rank="global")
    with pytest.raises(UserError, match="has 1 sample of token class all; expected 2 or more"):
        select(drawn(kit, samples=1), "mnaft", specific="auto")
