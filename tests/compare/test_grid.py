"""What the cells are, and which learning rate is tried next."""

from __future__ import annotations

import math

import pytest

from neuroglot.compare.grid import (
    MOST_RATES,
    Cell,
    Contender,
    Estimate,
    best_of,
    contenders,
    equal_rank,
    first_steps,
    next_steps,
    rate,
    recipe_of,
)
from neuroglot.compare.results import summarise
from neuroglot.compare.runner import Outcome, _Sweeps, make_grid
from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError
from neuroglot.file_format import LOSSES, write_json

QUICK = load_recipe("quickstart")


def search(loss, start):
    """Run the search for a rate on a known curve."""
    tried = {step: loss(step) for step in start}
    while more := next_steps(tried):
        tried |= {step: loss(step) for step in more}
    return tried


@pytest.mark.parametrize("valley", range(-3, 5))
def test_the_search_walks_to_the_valley_and_brackets_it(valley):
    tried = search(lambda step: (step - valley) ** 2, [-1, 0, 1])
    assert best_of(tried) == valley
    assert {valley - 1, valley + 1} <= set(tried) or len(tried) == MOST_RATES
    assert sorted(tried) == list(range(min(tried), max(tried) + 1))


def test_a_diverged_rate_is_never_the_best_and_the_search_ends():
    tried = search(lambda step: math.inf if step > 0 else 1.0 - step, [-1, 0, 1])
    assert best_of(tried) == 0
    assert set(tried) == {-1, 0, 1}
    assert best_of({0: math.nan, 1: 2.0}) == 1
    assert len(search(lambda step: -step, [0, 1, 2])) == MOST_RATES  # better and better: the search gives up


def test_the_ladder_has_two_steps_a_decade_and_their_names_survive():
    rates = [rate(step) for step in range(-4, 5)]
    assert rates == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
    assert [round(2 * math.log10(lr * 1e3)) for lr in rates] == list(range(-4, 5))
    cells = [
        Cell(Contender("mnaft", budget), lr, seed).name for budget in (0.01, 0.4) for lr in rates for seed in (0, 1)
    ]
    assert len(set(cells)) == len(cells)
    assert Cell(Contender("mnaft", 0.05), 0.003, 2).name == "mnaft-0.05-0.003-2"
    assert Cell(Contender("base")).name == "base"


def test_contenders_are_methods_at_budgets():
    found = contenders(["lora", "base", "full", "mnaft"], [0.1, 0.4])
    assert [c.name for c in found] == ["base", "lora 10 %", "lora 40 %", "full", "mnaft 10 %", "mnaft 40 %"]
    assert first_steps(Contender("mnaft", 0.01)) > first_steps(Contender("mnaft", 0.4))


def test_cells_differ_from_the_recipe_in_what_they_must():
    widths = [(64, 64), (64, 256)]
    random = recipe_of(Cell(Contender("random", 0.05), 0.01, 3), QUICK, widths)
    assert (random.method, random.select.budget, random.select.seed, random.select.like) == (
        "random",
        0.05,
        3,
        "mnaft",
    )
    assert (random.train.seed, random.train.lr, random.name) == (3, 0.01, "random-0.05-0.01-3")
    assert (random.data, random.profile, random.train.steps) == (QUICK.data, QUICK.profile, QUICK.train.steps)
    assert recipe_of(Cell(Contender("base")), QUICK, widths).method == QUICK.method

    neumt = load_recipe("quickstart", ["method=neumt"])
    layers = recipe_of(Cell(Contender("random-layers", 0.1), 0.01, 0), neumt, widths)
    scenes = load_recipe("quickstart-multimodal")  # which names the share of layers that the budget now is
    assert scenes.select.layers
    assert recipe_of(Cell(Contender("neumt", 0.1), 0.01, 0), scenes, widths).select.layers is None
    assert layers.select.like == "neumt"  # a control is like the recipe's own method
    assert layers.needs_probe

    lora = recipe_of(Cell(Contender("lora", 0.5), 0.01, 0), QUICK, widths)
    trained = lora.train.rank * sum(a + b for a, b in widths)
    assert trained == pytest.approx(0.5 * sum(a * b for a, b in widths), rel=0.05)
    assert equal_rank(1e-6, widths) == 1

    low = load_recipe("quickstart", ["train.parameters=0.5", "select.budget=0.4"])
    for method in ("mnaft", "random"):  # at the budget as many parameters as LoRA, among the recipe's share of rows
        own = recipe_of(Cell(Contender(method, 0.3), 0.01, 0), low, widths)
        lora = recipe_of(Cell(Contender("lora", 0.3), 0.01, 0), low, widths)
        assert own.select.budget == 0.4
        assert own.train.parameters == pytest.approx(
            lora.train.rank * sum(a + b for a, b in widths) / sum(a * b for a, b in widths)
        )


def test_dora_has_as_many_parameters_as_lora_its_lengths_counted():
    widths = [(64, 64), (128, 256), (257, 64)]
    lengths, sides = sum(o for _, o in widths), sum(i + o for i, o in widths)
    for budget in (0.1, 0.3, 0.7):
        wanted = budget * sum(i * o for i, o in widths)
        lora, dora = (
            recipe_of(Cell(Contender(m, budget), 0.01, 0), QUICK, widths).train.rank for m in ("lora", "dora")
        )
        assert abs(lora * sides - wanted) <= sides / 2
        assert abs(dora * sides + lengths - wanted) <= sides / 2
    assert recipe_of(Cell(Contender("dora", 1e-6), 0.01, 0), QUICK, widths).train.rank == 1


def test_what_has_no_budget_needs_none_and_few_parameters_begin_high():
    methods = ["base", "full", "vision", "connector", "language", "prompt", "bitfit", "norms"]
    found = contenders(methods, [])
    assert [(c.method, c.budget) for c in found] == [(method, None) for method in methods]
    first = {c.method: first_steps(c) for c in (*found, Contender("lora", 0.1), Contender("dora", 0.1))}
    assert first["prompt"] > first["bitfit"] == first["norms"] > first["lora"] == first["dora"] > first["full"]
    assert first["full"] == first["vision"] == first["language"] < first["connector"]
    own = {m: recipe_of(Cell(Contender(m), 0.01, 4), QUICK, [(64, 64)]) for m in methods[1:]}
    assert all((r.method, r.train.lr, r.train.seed) == (m, 0.01, 4) for m, r in own.items())
    defaults = {
        m: load_recipe("quickstart", [f"method={m}", "train.lr=null"]).learning_rate for m in (*methods[1:], "dora")
    }
    assert defaults["full"] == defaults["vision"] < defaults["dora"] < defaults["bitfit"] < defaults["prompt"]


def test_a_control_takes_as_many_rows_as_the_gradient_leaves():
    by_part = "{vision: 0.2, connector: 1.0, language: 0.8}"
    for given, expected in (("0.8", 0.4), (by_part, {"vision": 0.1, "language": 0.4})):
        recipe = load_recipe("quickstart", ["train.parameters=0.5", "train.rows=0.5", f"select.budget={given}"])
        own = recipe_of(Cell(Contender("random", 0.3), 0.01, 0), recipe, [(64, 64)])
        assert own.train.rows == 1
        found = own.select.budget
        assert found == expected if isinstance(found, float) else expected.items() <= found.items()
        assert recipe_of(Cell(Contender("mnaft", 0.3), 0.01, 0), recipe, [(64, 64)]).train.rows == 0.5


def test_a_rate_that_forgets_too_much_is_not_chosen(tmp_path):
    grid = make_grid(QUICK, ["mnaft"], [0.1], 2, True, [1e-3, 3e-3, 1e-2], retain=0.1)
    sweeps = _Sweeps(grid, tmp_path, [(64, 64)], Estimate([], 1), lambda line: None)
    contender = grid.contenders[0]
    found = {1e-3: (0.9, 0.05), 3e-3: (0.8, 0.09), 1e-2: (0.7, 0.2)}
    sweeps.tried[contender], sweeps.wanted[contender] = {}, list(found)
    for lr, (task, kept) in found.items():
        name = Cell(contender, lr, 0).name
        (tmp_path / "cells" / name).mkdir(parents=True)
        losses = {"image_translation": task, "ocr": kept, "text_translation": kept}
        write_json(tmp_path / "cells" / name / "dev.json", LOSSES, {"nll": losses})
        more = sweeps._follow(sweeps._task(Cell(contender, lr, 0), False), 1.0)
    assert sweeps.chosen[contender] == 3e-3
    assert [task.recipe.train.lr for task in more] == [3e-3, 3e-3]


@pytest.mark.parametrize(
    ("losses", "again", "chosen", "then"),
    [
        ({1e-3: 0.9, 3e-3: 0.8, 1e-2: None}, None, 3e-3, 3e-3),
        ({1e-3: 0.9, 3e-3: 0.8, 1e-2: None}, 1, 3e-3, 1e-3),
        ({1e-3: None, 3e-3: None, 1e-2: None}, None, None, None),
    ],
    ids=["one rate", "another seed of the best one", "every rate"],
)
def test_a_rate_that_diverges_loses_and_ends_nothing(tmp_path, losses, again, chosen, then):
    """What a cell that diverged leaves is no loss; so does another seed of the rate that the first one chose."""
    grid = make_grid(QUICK, ["mnaft"], [0.1], 2, True, [1e-3, 3e-3, 1e-2])
    sweeps = _Sweeps(grid, tmp_path, [(64, 64)], Estimate([], 1), lambda line: None)
    (contender,) = grid.contenders
    sweeps.tried[contender], sweeps.wanted[contender] = {}, list(losses)

    def done(lr, seed, loss, examined):
        folder = tmp_path / "cells" / Cell(contender, lr, seed).name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "dev.json", LOSSES, {"nll": {"image_translation": loss}})
        return sweeps._follow(sweeps._task(Cell(contender, lr, seed), examined), 1.0)

    for lr, loss in losses.items():
        more = done(lr, 0, loss, False)
    assert sweeps.chosen[contender] == chosen
    assert [task.recipe.train.lr for task in more] == [chosen, chosen] if chosen else more == []
    if again is not None:
        assert done(chosen, 0, losses[chosen], True) == []
        assert [task.recipe.train.lr for task in done(chosen, again, None, True)] == [then, then]
        assert sweeps.chosen[contender] == then
    if chosen is None:
        with pytest.raises(UserError, match="diverged at every rate that was tried of mnaft 10 %"):
            summarise(grid, tmp_path, [Outcome(contender, sweeps.tried[contender], None)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["mnatf"]}, "'mnatf' is not known; did you mean mnaft?"),
        ({"methods": ["mnaft", "mnaft"]}, "named twice"),
        ({"budgets": []}, "mnaft needs --budgets"),
        ({"budgets": [40.0]}, "must be in (0, 1], got 40"),
        ({"seeds": 0}, "seeds must be 1 or more, got 0"),
        ({"rates": [-1.0]}, "must be above 0, got -1"),
        ({"rates": [1e-3], "sweep": False}, "leave one of them out"),
        ({"recipe": load_recipe("quickstart", ["data.dev=0"])}, "data.dev is 0"),
        ({"retain": -0.1}, "got -0.1; expected a number above 0"),
        ({"retain": 0.1, "sweep": False}, "expected a number above 0, a sweep"),
    ],
)
def test_a_wrong_grid_is_refused(change, message):
    given = {"recipe": QUICK, "methods": ["base", "mnaft"], "budgets": [0.1], "seeds": 2, "sweep": True, "rates": []}
    with pytest.raises(UserError) as error:
        make_grid(**(given | change))
    assert message in str(error.value)
