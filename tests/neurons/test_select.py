"""Selections from made-up profiles with a known answer, and from a real one."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroglot.errors import UserError
from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.selecting.rows import dispersion, quotas, ranked
from neuroglot.neurons.selecting.select import CONTROLS, METHODS, select
from neuroglot.selection import Selection

SIX = "fr cs de lv hi tr"
PARTS = {"v0": "vision", "v1": "vision", "c0": "connector", "c1": "connector"}


def random_profile(kit, seed=0, conditions=None, sizes=None, **extra):
    g = torch.Generator().manual_seed(seed)
    sizes = sizes or {"v0": 30, "v1": 17, "c0": 24, "c1": 13, "l0": 40, "l1": 64, "l2": 25, "l3": 40, "l4": 80}
    conditions = conditions or kit.conditions_of(SIX)

    def draw():
        return {n: torch.rand(len(conditions), size, generator=g) + 0.01 for n, size in sizes.items()}

    return kit.make_profile(
        draw(), conditions, PARTS, gradient=draw(), activation=draw(), activation_probability=draw(), **extra
    )


def planted(kit, pairs=6, neurons=600, specific=60, seed=0):
    """Importance whose scale differs 1000-fold between neurons, and some that one pair uses thrice as much."""
    g = torch.Generator().manual_seed(seed)
    scale = 10 ** (3 * torch.rand(neurons, generator=g) - 3)
    x = scale * (1 + 0.1 * torch.randn(pairs, neurons, generator=g)).clamp(min=0.3)
    rows = torch.randperm(neurons, generator=g)[:specific]
    owner = torch.randint(0, pairs, (specific,), generator=g)
    x[owner, rows] *= 3
    return x, rows, owner


def groups(selection, layer):
    return {tuple(sorted(g)): index.tolist() for g, index in selection.rows[layer].items()}


def specific_rows(selection, layer):
    return {row: g for g, index in selection.rows[layer].items() if g != selection.agnostic for row in index.tolist()}


def test_planted_neurons_are_found_and_go_to_their_pair(kit):
    x, rows, owner = planted(kit)
    made = kit.make_profile({"l0": x}, kit.conditions_of(SIX))
    targets = SIX.split()
    found = specific_rows(select(made, "neumt", layers=1.0, ranking="relevance", floor=0.0), "l0")
    assert len(found) == 60
    hits = [i for i, row in enumerate(rows.tolist()) if row in found]
    assert len(hits) >= 59
    assert all(found[rows[i].item()] == {f"en-{targets[owner[i]]}"} for i in hits)
    literal = specific_rows(select(made, "neumt-paper", layers=1.0, ranking="relevance"), "l0")
    assert len(literal) == 60
    assert len(set(literal) & set(rows.tolist())) < 40  # raw variance follows the mean


def test_mnaft_finds_the_planted_neurons_among_its_candidates(kit):
    x, rows, _owner = planted(kit, specific=30)
    made = kit.make_profile({"l0": x}, kit.conditions_of(SIX))
    found = select(made, "mnaft", layers=1.0, budget=0.3, specific=0.1)
    assert len(found) == 180
    chosen = specific_rows(found, "l0")
    best = ranked(x.amax(0))[:360].tolist()
    assert len(chosen) == 18
    assert set(chosen) <= set(best)
    assert len(set(chosen) & set(rows.tolist())) >= 17
    agnostic = set(found.rows["l0"][found.agnostic].tolist())
    mean = (x / x.sum(1, keepdim=True)).mean(0)
    rest = [row for row in ranked(mean).tolist() if row in best and row not in chosen][:162]
    assert agnostic == set(rest)


def test_only_a_candidate_can_be_specific(kit):
    x = torch.full((2, 10), 1.0)
    x[:, :4] = torch.tensor([8.0, 7.0, 6.0, 5.0])
    x[0, 3] = 4.0
    x[0, 9] = 0.2  # the most dispersed, but not among the four with the highest importance
    made = kit.make_profile({"l0": x}, kit.conditions_of("de fr"))
    found = select(made, "mnaft", layers=1.0, budget=0.2, specific=0.5, normalise="none")
    assert groups(found, "l0") == {("en-fr",): [3], ("en-de", "en-fr"): [0]}


@pytest.mark.parametrize("method", [*METHODS])
@pytest.mark.parametrize("like", ["mnaft", "neumt"])
def test_every_selection_is_disjoint_counted_and_repeatable(kit, method, like, tmp_path):
    made = random_profile(kit)
    options = {"ranking": "relevance"} | ({"like": like} if method in CONTROLS else {})
    found = select(made, method, **options)
    neumt = "neumt" in (like if method in CONTROLS else method)
    eligible = {"connector": 37, "language": 249} | ({} if neumt else {"vision": 47})
    assert found.meta["neurons"] == eligible
    sizes = {layer.name: layer.neurons for layer in made.layers}
    for layer, by_group in found.rows.items():
        index = torch.cat(list(by_group.values()))
        assert len(index.unique()) == len(index) <= sizes[layer]
        assert 0 <= int(index.min()) <= int(index.max()) < sizes[layer]
        assert all(torch.equal(x, x.sort().values) and x.dtype == torch.int64 and len(x) for x in by_group.values())
        if neumt:  # no neuron of a kept layer is frozen
            assert len(index) == sizes[layer]
    if not neumt:
        kept = sum(sizes[layer] for layer in found.rows)
        assert len(found) == min(round(0.4 * 333), kept)
    assert list(found.rows) == list(found.meta["chosen"])
    again = select(made, method, **options)
    assert all(groups(found, layer) == groups(again, layer) for layer in found.rows)
    path = tmp_path / "s.safetensors"
    found.save(path)
    read = Selection.load(path)
    assert all(groups(found, layer) == groups(read, layer) for layer in found.rows)
    assert read.meta == json.loads(json.dumps(found.meta)) == found.meta


@pytest.mark.parametrize("control", [name for name in CONTROLS if name != "random-layers"])
@pytest.mark.parametrize("like", ["mnaft", "neumt", "neumt-paper"])
def test_a_control_of_rows_has_the_counts_of_its_reference(kit, control, like):
    made = random_profile(kit)
    options = {"ranking": "relevance", "layers": 0.5, "specific": 0.3}
    reference, found = select(made, like, **options), select(made, control, like=like, **options)
    assert list(found.rows) == list(reference.rows)
    for layer in reference.rows:
        assert {g: len(x) for g, x in found.rows[layer].items()} == {
            g: len(x) for g, x in reference.rows[layer].items()
        }
    assert any(groups(found, layer) != groups(reference, layer) for layer in reference.rows)


def test_random_layers_are_as_many_of_each_shape_and_their_rows_are_chosen_as_ever(kit):
    sizes = {**{f"l{i}": 40 for i in range(8)}, **{f"m{i}": 24 for i in range(4)}, "v0": 30, "v1": 30, "c0": 24}
    made = random_profile(kit, sizes=sizes)
    size = {layer.name: (layer.part, layer.neurons) for layer in made.layers}
    options = {"layers": {"vision": 0.5, "connector": 1.0, "language": 0.5}, "budget": 0.25}
    reference = select(made, "mnaft", **options)
    draws = set()
    for seed in range(6):
        found = select(made, "random-layers", seed=seed, **options)
        assert sorted(size[name] for name in found.rows) == sorted(size[name] for name in reference.rows)
        assert len(found) == len(reference)
        assert "c0" in found.rows  # the only one of its kind
        for name in found.rows.keys() & reference.rows.keys():
            mine, theirs = (torch.cat(list(s.rows[name].values())).tolist() for s in (found, reference))
            assert abs(len(mine) - len(theirs)) <= 1
            assert set(mine) <= set(theirs) or set(theirs) <= set(mine)
        draws.add(tuple(found.rows))
    assert len(draws) > 3
    again = select(made, "random-layers", seed=0, **options)
    assert list(again.rows) == list(select(made, "random-layers", seed=0, **options).rows)
    assert again.meta["options"]["like"] == "mnaft"


def test_controls_rank_by_what_they_are_named_after(kit):
    made = random_profile(kit)
    reference = select(made, "mnaft")
    weight, gradient, least = (select(made, name) for name in ("weight", "gradient", "least"))
    for layer, by_group in reference.rows.items():
        count = sum(len(x) for x in by_group.values())
        rows = lambda s: set(torch.cat(list(s.rows[layer].values())).tolist())  # noqa: B023, E731
        assert rows(weight) == set(range(count))  # the made-up norms fall with the index
        assert rows(gradient) == set(ranked(made.importance("gradient")[layer].mean(0))[:count].tolist())
        assert rows(least) == set(ranked(-made.importance("taylor_token")[layer].mean(0))[:count].tolist())


def test_random_follows_its_seed_and_nothing_else(kit):
    made = random_profile(kit)
    torch.manual_seed(1)
    a = select(made, "random", seed=0)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    b, c = select(made, "random", seed=0), select(made, "random", seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(groups(a, layer) == groups(b, layer) for layer in a.rows)
    assert all(groups(a, layer) != groups(c, layer) for layer in a.rows if a.meta["chosen"][layer]["neurons"] > 20)
    # Equal layers get rows of their own: the seed is not used over again.
    full = select(made, "random", seed=0, layers=1.0, budget=0.5, specific=0)
    assert groups(full, "l0") != groups(full, "l3")


def test_random_is_uniform_over_rows(kit):
    made = random_profile(kit, sizes={"l0": 10})
    hits = torch.zeros(10)
    for seed in range(400):
        found = select(made, "random", seed=seed, layers=1.0, budget=0.3, specific=0)
        hits[found.rows["l0"][found.agnostic]] += 1
    assert int(hits.sum()) == 1200
    assert float(hits.min()) > 85  # 120 expected, standard deviation 9
    assert float(hits.max()) < 155


def test_a_pair_with_larger_gradients_does_not_win_everything(kit):
    g = torch.Generator().manual_seed(0)
    x = 1 + 0.3 * torch.rand(6, 500, generator=g)
    x[2] *= 2
    made = kit.make_profile({"l0": x}, kit.conditions_of(SIX))
    count = lambda s: len(s.rows["l0"].get(frozenset({"en-de"}), []))  # noqa: E731
    fair = select(made, "neumt", layers=1.0, ranking="relevance", specific=1.0, floor=0.0)
    assert 40 < count(fair) < 130
    raw = select(made, "neumt", layers=1.0, ranking="relevance", specific=1.0, floor=0.0, normalise="none")
    assert count(raw) > 490


def test_contrast_subtracts_what_reading_needs(kit):
    translating = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    reading = torch.tensor([[8.0, 1.0, 0.5, 0.5]])
    conditions = [*kit.conditions_of("de fr"), "ocr:en-en"]
    made = kit.make_profile({"l0": torch.cat([translating, reading])}, conditions)
    options = {"layers": 1.0, "budget": 0.25, "specific": 0}
    assert groups(select(made, "mnaft", **options), "l0") == {("en-de", "en-fr"): [1]}  # .4 .3 .2 .1 - .8 .1 .05 .05
    assert groups(select(made, "mnaft", **options, contrast="none"), "l0") == {("en-de", "en-fr"): [0]}
    # Below zero counts as zero: row 0 serves one pair well (.4 and -.3), row 1 both a little (.1 and .2).
    x = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.0, 0.3, 0.3, 0.4], [0.3, 0.1, 0.3, 0.3]])
    uneven = kit.make_profile({"l0": x}, conditions)
    assert groups(select(uneven, "mnaft", **options), "l0") == {("en-de", "en-fr"): [0]}
    without = kit.make_profile({"l0": translating}, conditions[:2])
    assert groups(select(without, "mnaft", **options), "l0") == {("en-de", "en-fr"): [0]}
    with pytest.raises(UserError, match="contrast=subtract needs conditions of ocr or describe"):
        select(without, "mnaft", contrast="subtract")
    # Where the contrast leaves nothing, the importance without it decides, not the index.
    flat = kit.make_profile(
        {"l0": torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])}, ["image_translation:en-de", "ocr:en-en"]
    )
    assert groups(select(flat, "mnaft", **options), "l0") == {("en-de",): [3]}


def test_contrast_compares_with_reading_the_same_script(kit):
    conditions = ["image_translation:en-de", "image_translation:ja-de", "ocr:en-en", "ocr:ja-ja"]
    x = torch.tensor([[5.0, 5.0], [5.0, 5.0], [9.0, 1.0], [1.0, 9.0]])
    made = kit.make_profile({"l0": x}, conditions)
    whole = groups(select(made, "mnaft", layers=1.0, budget=1.0, specific=1.0), "l0")
    assert whole == {("en-de", "ja-de"): [0, 1]}  # language neurons go to the target, and there is but one
    assert groups(select(made, "mnaft", layers=1.0, budget=1.0, specific=1.0, specific_to="pair"), "l0") == {
        ("en-de",): [1], ("ja-de",): [0],
    }  # fmt: skip


def test_vision_neurons_go_to_the_source_and_language_neurons_to_the_target(kit):
    conditions = kit.conditions_of("de fr", sources="en ja")
    x = torch.ones(4, 8)
    x[0:2, 0] = 9  # row 0 serves English whatever the target
    x[[1, 3], 1] = 9  # row 1 serves French whatever the source
    made = kit.make_profile({"v0": x, "c0": x, "l0": x}, conditions, {"v0": "vision", "c0": "connector"})
    found = select(made, "mnaft", layers=1.0, budget=1.0, specific=1 / 8)
    assert groups(found, "v0")[("en-de", "en-fr")] == [0]
    assert groups(found, "l0")[("en-fr", "ja-fr")] == [1]
    assert set(groups(found, "c0")) - {("en-de", "en-fr", "ja-de", "ja-fr")} == {("en-de",)}
    everywhere = select(made, "mnaft", layers=1.0, budget=1.0, specific=1 / 8, specific_to={"vision": "target"})
    assert groups(everywhere, "v0")[("en-fr", "ja-fr")] == [1]


def test_one_source_language_has_no_source_side(kit):
    found = select(random_profile(kit), "mnaft", layers=1.0)
    for layer in ("v0", "v1"):
        assert set(found.rows[layer]) == {found.agnostic}
        assert len(found.rows[layer][found.agnostic]) == round(0.4 * found.meta["chosen"][layer]["neurons"])
    assert all(len(found.rows[layer]) > 1 for layer in ("c0", "l0"))
    single = select(random_profile(kit, conditions=kit.conditions_of("de")), "mnaft")
    assert all(set(by_group) == {single.agnostic} for by_group in single.rows.values())


def test_share_lets_a_neuron_serve_every_pair_near_its_best(kit):
    x = torch.tensor([[1.0, 1, 1, 1], [1.0, 0.95, 1, 1], [0.1, 0.1, 1, 1]]).repeat(1, 1) * 1.0
    made = kit.make_profile({"l0": x}, kit.conditions_of("de fr cs"))
    options = {"layers": 1.0, "ranking": "relevance", "specific": 0.5, "normalise": "none"}
    assert groups(select(made, "neumt", **options), "l0") == {("en-de",): [0, 1], ("en-cs", "en-de", "en-fr"): [2, 3]}
    shared = groups(select(made, "neumt", **options, share=0.9), "l0")
    assert shared == {("en-de", "en-fr"): [0, 1], ("en-cs", "en-de", "en-fr"): [2, 3]}
    assert groups(select(made, "neumt", **options, share=0.97), "l0")[("en-de",)] == [1]


def test_nearly_dead_neurons_are_not_specific(kit):
    x = torch.ones(3, 20)
    x[0, 5] = 2.0
    x[:, 6] = torch.tensor([1e-6, 0, 0])  # as dispersed as can be, and of no use
    x[:, 7] = 0
    made = kit.make_profile({"l0": x}, kit.conditions_of("de fr cs"))
    options = {"layers": 1.0, "ranking": "relevance", "specific": 0.05}
    assert groups(select(made, "neumt", **options), "l0")[("en-de",)] == [5]
    assert groups(select(made, "neumt", **options, floor=0), "l0")[("en-de",)] == [6]
    assert 7 not in specific_rows(select(made, "neumt", **{**options, "specific": 1.0}, floor=0), "l0")


def test_similarity_keeps_the_layers_that_moved(kit):
    made = random_profile(kit)
    similarities = {layer.name: {"en-de": 0.9, "en-fr": 0.99} for layer in made.layers}
    similarities["l3"] = {"en-de": 0.2, "en-fr": 0.9}
    similarities["l1"] = {"en-de": 0.9, "en-fr": 0.5}
    similarities["c1"] = {"en-de": 0.9, "en-fr": 0.9}
    found = select(made, "neumt", similarities=similarities)
    assert list(found.rows) == ["c1", "l1", "l3"]
    assert list(select(made, "mnaft", ranking="similarity", similarities=similarities, layers=0.4).rows)[1:] == [
        "c1",
        "l1",
        "l3",
    ]
    json.dumps(found.meta)
    with pytest.raises(
        UserError, match="ranks layers by similarity, but no similarities were given.*ranking=relevance"
    ):
        select(made, "neumt")


def test_a_budget_sets_the_layer_share_of_neumt(kit):
    made = random_profile(kit)
    by_budget = select(made, "neumt", ranking="relevance", budget=0.8)
    by_layers = select(made, "neumt", ranking="relevance", layers=0.8)
    assert list(by_budget.rows) == list(by_layers.rows)
    assert len(by_budget) == len(by_layers)
    with pytest.raises(UserError, match="budget sets the share of layers; got budget=0.4 and layers=0.8"):
        select(made, "neumt", ranking="relevance", budget=0.4, layers=0.8)


def test_layers_per_part_and_parts(kit):
    made = random_profile(kit)
    found = select(made, "mnaft", layers={"vision": 0, "connector": 1.0, "language": 0.2})
    assert found.meta["neurons"] == {"connector": 37, "language": 249}
    assert len(found) == min(round(0.4 * 286), sum(x["neurons"] for x in found.meta["chosen"].values()))
    assert {"c0", "c1"} <= set(found.rows)
    assert set(select(made, "mnaft", parts=("vision",)).rows) <= {"v0", "v1"}


def test_the_task_is_the_first_translation_task(kit):
    conditions = ["ocr:en-en", "text_translation:en-de", "image_translation:en-fr", "image_translation:en-cs"]
    made = random_profile(kit, conditions=conditions)
    assert select(made, "mnaft").pairs == ("en-fr", "en-cs")
    assert select(made, "mnaft", task="text_translation").pairs == ("en-de",)
    with pytest.raises(
        UserError, match="no condition of task 'multimodal_translation', only of image_translation, ocr"
    ):
        select(made, "mnaft", task="multimodal_translation")
    with pytest.raises(UserError, match="no condition of task 'image_translation', only of ocr"):
        select(random_profile(kit, conditions=["ocr:en-en"]), "mnaft")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mnatf", {}, "method 'mnatf' is not known; did you mean mnaft"),
        ("mnaft", {"bugdet": 0.4}, "option 'bugdet' of select is not known; did you mean budget"),
        ("mnaft", {"budget": 0}, "select.budget: must be greater than 0, got 0"),
        ("mnaft", {"budget": 40}, "select.budget: must be less than or equal to 1, got 40"),
        ("mnaft", {"specific": -0.1}, "select.specific: must be greater than or equal to 0, got -0.1"),
        ("mnaft", {"share": 1.2}, "select.share: must be less than or equal to 1, got 1.2"),
        ("mnaft", {"dispersion": "std"}, "select.dispersion: must be 'cv' or 'variance', got 'std'"),
        ("mnaft", {"normalise": "l1"}, "select.normalise: must be 'pair' or 'none'"),
        ("mnaft", {"ranking": "best"}, "select.ranking: must be 'relevance' or 'similarity'"),
        ("mnaft", {"specific_to": "language"}, "select.specific_to: must be 'pair', .* got 'language'"),
        ("mnaft", {"parts": ("visions",)}, "select.parts.0: must be 'vision'"),
        ("mnaft", {"layers": 0}, "nothing to select from"),
        ("mnaft", {"layers": {"vision": 1, "connector": 1}}, "no share for the language part"),
        ("mnaft", {"score": "fisher"}, "score 'fisher' is not in the profile"),
        ("neumt", {"ranking": "relevance", "layers": {"vision": 1, "connector": 1, "language": 1}},
         "layers gives the vision part a share, but neumt selects from connector, language"),
        ("random", {"like": "random"}, "like must be a method that is no control, got 'random'"),
        ("random", {"like": "mnatf"}, "did you mean mnaft"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(kit, method, options, message):
    with pytest.raises(UserError, match=message) as error:
        select(random_profile(kit), method, **options)
    assert "\n" not in str(error.value)


def test_a_requested_part_that_is_not_in_the_profile_is_an_error(kit):
    made = random_profile(kit, sizes={"c0": 10, "l0": 10})
    with pytest.raises(UserError, match="part vision is not in the profile, which holds connector, language"):
        select(made, "mnaft", parts=("vision", "language"))
    assert set(select(made, "mnaft").meta["neurons"]) == {"connector", "language"}  # the method's own default


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.integers(0, 20000),
    st.one_of(st.none(), st.floats(1e-4, 1)),
)  # fmt: skip
def test_quotas_meet_the_budget(sizes, others, budget):
    eligible = sum(sizes) + others
    taken = quotas(sizes, eligible, budget)
    total = sum(sizes) if budget is None else min(sum(sizes), int(budget * eligible + 0.5))
    assert sum(taken) == total
    assert all(0 <= t <= s for t, s in zip(taken, sizes, strict=True))
    assert all(abs(t - total * s / sum(sizes)) < 1 for t, s in zip(taken, sizes, strict=True))


def test_quotas_give_what_is_left_to_the_largest_remainders():
    assert quotas([7, 5, 3], 15, 0.5) == [4, 3, 1]  # 8 rows: 3.73, 2.67, 1.6
    assert quotas([4, 4, 4], 12, 0.34) == [2, 1, 1]


def test_ranked_breaks_ties_by_the_next_key_then_the_index():
    assert ranked(torch.tensor([1, 2, 2, 1, 2]), torch.tensor([0, 0, 1, 0, 0])).tolist() == [2, 1, 4, 0, 3]


def test_dispersion_is_free_of_scale_and_zero_for_dead_neurons():
    x = torch.tensor([[1.0, 100, 0], [3.0, 300, 0]])
    assert dispersion(x, "cv").tolist() == pytest.approx([0.5, 0.5, 0])
    assert dispersion(x, "variance").tolist() == pytest.approx([1, 1e4, 0])


def test_a_real_profile_goes_all_the_way(kit):
    model = kit.make_llava()
    samples = kit.make_samples(4)
    batches = [(kit.collate(samples[i : i + 2]), c) for i, c in enumerate(kit.conditions_of("de fr cs"))]
    found = profile(model, batches, ("taylor_token", "gradient", "activation", "activation_probability"))
    for method in METHODS:
        chosen = select(found, method, ranking="relevance")
        for module, _, index in chosen:
            assert int(index.max()) < model.get_submodule(module).out_features
        assert chosen.meta["model"] == "LlavaForConditionalGeneration"
        assert chosen.meta["fingerprint"] == found.fingerprint
        assert chosen.pairs == ("en-de", "en-fr", "en-cs")
