"""Selections as text: what is written comes back exactly, what is written by hand is understood or refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroglot.errors import UserError
from neuroglot.pipeline.export import export
from neuroglot.selection import Selection, indices, ranges

PAIRS = ("en-de", "en-zh_Hans")
HAND = """
format: neuroglot-rows-1
pairs: [en-de, en-fr]
axes: {m.down_proj: 1}
rows:
  m.up_proj:
    agnostic: 0-3,7
    en-de: [8, 10-11]
  m.down_proj: {"en-fr,en-de": 5}
"""


@given(st.sets(st.integers(0, 5000), max_size=200))
def test_ranges_and_indices_are_inverse(numbers):
    index = torch.tensor(sorted(numbers), dtype=torch.long)
    assert indices(ranges(index)).tolist() == index.tolist()


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_selection_survives_as_text(tmp_path, suffix):
    rows = {
        "model.layers.0.up_proj": {
            frozenset(PAIRS): torch.arange(300),
            frozenset({"en-de"}): torch.tensor([300, 302]),
        },
        "model.layers.0.down_proj": {frozenset({"en-zh_Hans"}): torch.tensor([7])},
    }
    meta = {"method": "mnaft", "note": "Ü", "chosen": {"model.layers.0.up_proj": {"part": "language", "neurons": 400}}}
    selection = Selection(PAIRS, rows, meta, {"model.layers.0.down_proj": 1})
    path = tmp_path / f"rows{suffix}"
    selection.save(path)
    again = Selection.load(path)
    assert (again.pairs, again.meta, again.axes) == (selection.pairs, selection.meta, selection.axes)
    plain = lambda s: {m: {g: i.tolist() for g, i in groups.items()} for m, groups in s.rows.items()}  # noqa: E731
    assert plain(again) == plain(selection)
    assert all(index.dtype == torch.int64 for _, _, index in again)
    text = path.read_text(encoding="utf-8")
    assert "0-299" in text
    assert "weight[:, i]" in text  # it explains itself
    if suffix == ".json":
        assert json.loads(text)["rows"]["model.layers.0.down_proj"] == {"en-zh_Hans": 7}


def test_a_selection_by_hand(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(HAND, encoding="utf-8")
    found = Selection.load(path)
    assert found.rows["m.up_proj"][found.agnostic].tolist() == [0, 1, 2, 3, 7]
    assert found.rows["m.up_proj"][frozenset({"en-de"})].tolist() == [8, 10, 11]
    assert found.rows["m.down_proj"][found.agnostic].tolist() == [5]
    assert found.axes == {"m.down_proj": 1}
    assert found.meta == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0-3,7", "3-0", "rows.m.up_proj.agnostic: range 3-0 ends before it begins"),
        ("0-3,7", "some", "'some' is no row and no range; expected numbers such as 0-3,7"),
        ("0-3,7", "0-9", "m.up_proj has a row in two groups"),
        ("en-de: [8", "en-tr: [8", "m.up_proj has a group with unknown pair en-tr"),
        ("en-de: [8", "english: [8", "pair 'english' is malformed"),
        ("rows-1", "rows-9", "its format is 'neuroglot-rows-9', expected 'neuroglot-rows-1'"),
        ("axes: {m.down_proj: 1}", "axes: {m.gone: 1}", "axes holds m.gone"),
        ("axes:", "axis:", "key 'axis' is not known; did you mean axes"),
        ("pairs: [en-de, en-fr]", "pairs: en-de", "pairs must be a list, got 'en-de'"),
        ("pairs:", "[", "cannot be read: .*; expected YAML or JSON"),
    ],
)
def test_what_is_wrong_in_a_selection_by_hand_is_one_line(tmp_path, old, new, message):
    path = tmp_path / "mine.yaml"
    path.write_text(HAND.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        Selection.load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_suffixes_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="must end in .yaml or .json, got suffix '.txt'"):
        export(tmp_path, tmp_path / "rows.txt", "rows")
    with pytest.raises(UserError, match="does not exist; expected a selection"):
        Selection.load(tmp_path / "none.yaml")
