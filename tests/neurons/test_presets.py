"""One set of the chosen neurons alone, and what the printed formulas choose where ours choose otherwise."""

from __future__ import annotations

import pytest
import torch

from neuroglot.errors import UserError
from neuroglot.neurons.selecting.select import select


def test_a_set_alone_is_what_it_is_in_both(kit):
    g = torch.Generator().manual_seed(3)
    conditions = kit.conditions_of("fr de cs")
    made = kit.make_profile({name: torch.rand(3, 40, generator=g) for name in ("l0", "l1")}, conditions)
    for method in ("neumt", "random"):
        chosen = {
            s: select(
                made,
                method,
                layers=1.0,
                ranking="relevance",
                specific=0.2,
                sets=s,
                **({"like": "neumt"} if method == "random" else {}),
            )
            for s in ("both", "agnostic", "specific")
        }
        both = chosen["both"]
        assert len(chosen["agnostic"]) + len(chosen["specific"]) == len(both) == 80
        for name in ("l0", "l1"):
            for group, index in both.rows[name].items():
                alone = chosen["agnostic" if group == both.agnostic else "specific"]
                assert torch.equal(alone.rows[name][group], index)
        assert all(group == both.agnostic for groups in chosen["agnostic"].rows.values() for group in groups)
        assert all(group != both.agnostic for groups in chosen["specific"].rows.values() for group in groups)
    with pytest.raises(UserError, match="sets=specific: neumt chose no specific neuron"):
        select(made, "neumt", layers=1.0, ranking="relevance", specific=0.0, sets="specific")
    with pytest.raises(UserError, match="select.sets: must be 'both', 'agnostic' or 'specific'"):
        select(made, "neumt", layers=1.0, ranking="relevance", sets="none")


def test_raw_importance_follows_the_loud_pair_and_the_strong_neurons(kit):
    """Nothing normalised, as papers print it: the loudest pair wins every neuron, and a planted quiet one is lost."""
    g = torch.Generator().manual_seed(5)
    x = 1 + 0.05 * torch.rand(3, 200, generator=g)
    x[:, 100:] *= 20 * (1 + 0.2 * torch.rand(3, 100, generator=g))  # strong neurons, of no pair
    quiet = torch.arange(0, 100, 10)
    x[1, quiet] *= 4  # weak ones that one pair uses
    x[0] *= 10  # a pair whose gradients are larger
    made = kit.make_profile({"l0": x}, kit.conditions_of("fr de cs"))
    shape = {"layers": 1.0, "budget": 0.5, "specific": 0.1, "specific_to": "pair"}
    own, printed = (select(made, method, **shape) for method in ("mnaft", "mnaft-raw"))
    assert len(own) == len(printed) == 100

    def specific(found):
        return {
            row: group for group, rows in found.rows["l0"].items() if group != found.agnostic for row in rows.tolist()
        }

    assert set(specific(printed).values()) == {frozenset({"en-fr"})}
    assert not set(specific(printed)) & set(quiet.tolist())
    assert set(specific(own)) == set(quiet.tolist())
    assert set(specific(own).values()) == {frozenset({"en-de"})}
    assert printed.meta["options"]["specific_to"] == dict.fromkeys(("vision", "connector", "language"), "pair")
    whole = select(made, "mnaft-raw", layers=1.0)  # by default to the pair, not to the target's or source's side
    assert whole.meta["options"]["contrast"] == "none"


@pytest.mark.parametrize("method", ["neumt-paper", "neumt", "mnaft"])
def test_epsilon_divides_specific_from_agnostic_as_equation_8(kit, method):
    """Agnostic are the neurons whose dispersion is at most epsilon; the others go to their best pair (Eq. 7)."""
    x = torch.tensor([[1, 1, 3, 1, 9], [1, 2, 1, 1, 1], [1, 1, 1, 1.5, 1]]).double()
    made = kit.make_profile({"l0": x}, kit.conditions_of("fr de cs"))
    options = {"layers": 1.0, "ranking": "relevance", "normalise": "none", "floor": 0.0}
    options |= {"budget": 1.0, "contrast": "none", "specific_to": "pair"} if method == "mnaft" else {}
    spread = x.var(0, correction=0) if method == "neumt-paper" else x.std(0, correction=0) / x.mean(0)
    for epsilon in (0.0, float(spread[1]), 100.0):
        found = select(made, method, epsilon=epsilon, **options)
        agnostic = (spread <= epsilon).nonzero().squeeze(1).tolist()
        best = {f"en-{t}": [n for n in range(5) if n not in agnostic and x[:, n].argmax() == k]
                for k, t in enumerate(("fr", "de", "cs"))}  # fmt: skip
        rows = {group: index.tolist() for group, index in found.rows["l0"].items() if len(index)}
        assert rows == {
            **{frozenset([pair]): own for pair, own in best.items() if own},
            **({found.agnostic: agnostic} if agnostic else {}),
        }
    with pytest.raises(UserError, match="epsilon says which neurons are specific, and so does specific=0.2"):
        select(made, method, epsilon=0.1, specific=0.2, **options)
    with pytest.raises(UserError, match="budget_of=weights says what a budget is a share of, and neumt has none"):
        select(made, "neumt", layers=1.0, ranking="relevance", budget_of="weights")
