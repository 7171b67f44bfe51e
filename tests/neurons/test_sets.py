"""Selections joined and compared: against python's own sets, and against chance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroglot.errors import UserError
from neuroglot.neurons.selecting.sets import compare, difference, intersection, jaccard, union
from neuroglot.selection import Selection

PAIRS = ("en-de", "en-fr", "en-cs")
GROUPS = [frozenset(PAIRS), frozenset({"en-de"}), frozenset({"en-fr"}), frozenset({"en-de", "en-fr"})]
MODULES = ("a.q_proj", "b.q_proj", "b.up_proj")
SIZE = 20


def made(content, fingerprint="f", **meta):
    """A selection of (module, row) -> group."""
    rows: dict = {}
    for (module, row), group in content.items():
        rows.setdefault(module, {}).setdefault(group, []).append(row)
    tensors = {m: {g: torch.tensor(sorted(i)) for g, i in groups.items()} for m, groups in rows.items()}
    chosen = {m: {"part": "vision" if m.startswith("a") else "language", "neurons": SIZE} for m in tensors}
    whole = {"chosen": chosen, "neurons": {"vision": SIZE, "language": 2 * SIZE}, "fingerprint": fingerprint, **meta}
    return Selection(PAIRS, tensors, whole)


def content(selection):
    return {(module, row): group for module, group, index in selection for row in index.tolist()}


CONTENT = st.dictionaries(
    st.tuples(st.sampled_from(MODULES), st.integers(0, SIZE - 1)), st.sampled_from(GROUPS), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(CONTENT, CONTENT)
def test_set_operations_are_those_of_sets(x, y):
    a, b = made(x), made(y)
    both = x.keys() & y.keys()
    assert content(union(a, b)) == {key: x.get(key, frozenset()) | y.get(key, frozenset()) for key in {**x, **y}}
    assert content(intersection(a, b)) == {key: x[key] & y[key] for key in both if x[key] & y[key]}
    assert content(difference(a, b)) == {key: x[key] for key in x if key not in y}
    either = len({**x, **y})
    assert jaccard(a, b) == pytest.approx(len(both) / either if either else 1.0)
    found = compare(a, b)
    assert (found["rows"]["a"], found["rows"]["b"], found["rows"]["both"]) == (len(x), len(y), len(both))
    for kind in ("parts", "kinds"):
        assert sum(entry["both"] for entry in found[kind].values()) == len(both)
    assert sum(entry["both"] for entry in found["groups"].values()) == sum(x[key] == y[key] for key in both)


def test_chance_is_what_random_rows_come_to():
    g = torch.Generator().manual_seed(0)

    def draw():
        return {
            (m, r): GROUPS[0]
            for m, n in zip(MODULES, (5, 10, 4), strict=True)
            for r in torch.randperm(SIZE, generator=g)[:n].tolist()
        }

    overlaps = []
    for _ in range(300):
        found = compare(made(draw()), made(draw()))["rows"]
        overlaps.append(found["both"])
    expected = (25 + 100 + 16) / SIZE
    assert abs(sum(overlaps) / 300 - expected) < 0.4
    assert found["chance"] == pytest.approx(expected / (38 - expected))
    anywhere = 19 * 19 / 60
    assert found["chance_anywhere"] == pytest.approx(anywhere / (38 - anywhere))


def test_a_comparison_names_layers_and_what_only_one_has():
    a = made({("a.q_proj", 1): GROUPS[0], ("b.q_proj", 2): GROUPS[1], ("b.q_proj", 3): GROUPS[0]})
    b = made({("b.q_proj", 2): GROUPS[2]})
    found = compare(a, b)
    assert found["layers"] == {"a": 2, "b": 1, "both": 1, "jaccard": 0.5}
    assert found["only_a"] == {"a.q_proj": 1, "b.q_proj": 1}
    assert found["only_b"] == {}
    assert found["rows"]["jaccard"] == pytest.approx(1 / 3)
    assert found["groups"]["en-de"]["both"] == 0
    assert found["parts"]["vision"] == {"a": 1, "b": 0, "both": 0, "jaccard": 0.0, "chance": 0.0}


def test_selections_of_two_models_or_two_axes_are_refused():
    a, b = made({("a.q_proj", 1): GROUPS[0]}), made({("a.q_proj", 1): GROUPS[0]}, "g", model="other")
    for function in (union, intersection, difference, jaccard, compare):
        with pytest.raises(UserError, match=r"of different models, a model \(f\) and other \(g\)") as error:
            function(a, b)
        assert "\n" not in str(error.value)
    columns = Selection(PAIRS, a.rows, a.meta, {"a.q_proj": 1})
    with pytest.raises(UserError, match="rows of a.q_proj in the one and columns in the other"):
        union(a, columns)
    by_hand = Selection(PAIRS, a.rows)  # says nothing of its model
    assert jaccard(a, by_hand) == 1
    assert compare(by_hand, by_hand)["rows"]["chance"] is None
