"""Selections as files: what was chosen comes back, and what is no selection is refused."""

from __future__ import annotations

import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroglot.errors import UserError
from neuroglot.file_format import SELECTION, save_tensors
from neuroglot.selection import Selection, group_name

PAIRS = ("en-de", "en-fr", "en-zh_Hans")
DE, FR, ALL = frozenset({"en-de"}), frozenset({"en-fr"}), frozenset(PAIRS)


def rows(*indices: int) -> torch.Tensor:
    return torch.tensor(indices, dtype=torch.int64)


def plain(selection: Selection):
    return {
        module: {group: index.tolist() for group, index in groups.items()} for module, groups in selection.rows.items()
    }


@pytest.fixture
def selection():
    return Selection(
        PAIRS,
        {
            "model.language_model.layers.0.mlp.down_proj": {ALL: rows(0, 3, 70_000), DE: rows(1)},
            "model.vision_tower.encoder.layers.1.mlp.fc1": {FR | DE: rows(5), FR: rows(2, 4)},
        },
        {"method": "mnaft", "budget": 0.02, "neurons": {"language": 100}, "note": "Ü"},
    )


def test_round_trip(selection, tmp_path):
    path = tmp_path / "selection.safetensors"
    selection.save(path)
    for again in (Selection.load(path), Selection.load(str(path))):
        assert again.pairs == selection.pairs
        assert plain(again) == plain(selection)
        assert again.meta == selection.meta
        assert all(index.dtype == torch.int64 for _, _, index in again)
        assert len(again) == len(selection) == 7
    selection.save(path)
    assert Selection.load(path).agnostic == ALL == selection.agnostic


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, 5), st.lists(st.sampled_from([DE, FR, ALL, DE | FR]), max_size=30), max_size=4))
def test_round_trip_of_anything(chosen):
    made = {}
    for number, groups in chosen.items():
        by_group: dict[frozenset[str], list[int]] = {}
        for row, group in enumerate(groups):
            by_group.setdefault(group, []).append(row)
        if by_group:
            made[f"a|b.{number}"] = {group: rows(*indices) for group, indices in by_group.items()}
    selection = Selection(PAIRS, made)
    with tempfile.TemporaryDirectory() as folder:
        selection.save(f"{folder}/s.safetensors")
        again = Selection.load(f"{folder}/s.safetensors")
    assert plain(again) == plain(selection)
    assert sorted((m, group_name(g), i.tolist()) for m, g, i in again) == sorted(
        (m, group_name(g), i.tolist()) for m, g, i in selection
    )


def test_group_names():
    assert group_name(ALL) == "en-de,en-fr,en-zh_Hans"
    assert group_name(DE) == "en-de"


def test_a_row_belongs_to_one_group(tmp_path):
    with pytest.raises(UserError, match="selection: a.b has a row in two groups"):
        Selection(PAIRS, {"a.b": {DE: rows(1, 2), FR: rows(2)}})
    with pytest.raises(UserError, match="has a row in two groups"):
        Selection(PAIRS, {"a.b": {DE: rows(1, 1)}})
    assert len(Selection(PAIRS, {"a": {DE: rows(1)}, "b": {FR: rows(1)}})) == 2
    # A file that was put together elsewhere is held to the same.
    path = tmp_path / "overlap.safetensors"
    save_tensors(path, SELECTION, {"a|en-de": rows(1), "a|en-fr": rows(1)}, {"pairs": ["en-de", "en-fr"], "meta": {}})
    with pytest.raises(UserError, match="has a row in two groups"):
        Selection.load(path)


def test_groups_hold_known_pairs():
    with pytest.raises(UserError, match="has a group with unknown pair en-tr; the selection's pairs are en-de, en-fr"):
        Selection(PAIRS, {"a": {frozenset({"en-tr", "en-de"}): rows(1)}})


def test_nothing_chosen(tmp_path):
    empty = Selection(PAIRS, {})
    assert len(empty) == 0
    assert list(empty) == []
    empty.save(tmp_path / "empty")
    assert Selection.load(tmp_path / "empty").pairs == PAIRS
