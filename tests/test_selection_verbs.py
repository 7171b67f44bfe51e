"""The verbs that look at selections and profiles: show, diff, export as rows, and choosing from a file."""

from __future__ import annotations

import json

import pytest
import torch

from neuroglot.selection import Selection


def test_show_tells_what_a_file_holds(cli, smoke_run):
    code, out, _ = cli("show", smoke_run / "selection.safetensors", "--json")
    shown, selection = json.loads(out), Selection.load(smoke_run / "selection.safetensors")
    assert code == 0
    assert (shown["kind"], shown["rows"], shown["method"]) == ("selection", len(selection), "mnaft")
    for table in ("parts", "groups", "kinds"):
        assert sum(entry["rows"] for entry in shown[table].values()) == len(selection)
    code, out, _ = cli("show", smoke_run / "profile.safetensors", "--json")
    shown = json.loads(out)
    assert (code, shown["kind"]) == (0, "profile")
    assert shown["conditions"]["image_translation:en-de"]["all"] > 0
    assert set(shown["parts"]) == {"vision", "connector", "language"}
    for name in ("selection.safetensors", "profile.safetensors"):
        code, out, _ = cli("show", smoke_run / name)
        assert code == 0
        assert "connector" in out
    code, _, err = cli("show", smoke_run / "scores.json")
    assert code == 2
    assert err.count("\n") == 1


def test_diff_compares_a_run_with_itself_and_with_a_part_of_it(cli, smoke_run, tmp_path):
    code, out, _ = cli("diff", smoke_run, smoke_run / "selection.safetensors", "--json")
    whole = json.loads(out)
    assert code == 0
    assert whole["rows"]["jaccard"] == 1
    assert whole["rows"]["chance"] < 1
    selection = Selection.load(smoke_run / "selection.safetensors")
    name = next(iter(selection.rows))
    Selection(selection.pairs, {name: selection.rows[name]}, selection.meta).save(tmp_path / "part.safetensors")
    code, out, _ = cli("diff", smoke_run, tmp_path / "part.safetensors")
    assert code == 0
    assert "only a" in out
    other = Selection(selection.pairs, selection.rows, {**selection.meta, "fingerprint": "0"})
    other.save(tmp_path / "other.safetensors")
    code, _, err = cli("diff", smoke_run, tmp_path / "other.safetensors")
    assert code == 2
    assert "of different models" in err
    code, _, err = cli("diff", smoke_run, tmp_path)
    assert code == 2
    assert "holds no selection" in err


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_rows_leave_as_text_and_come_back(cli, smoke_run, tmp_path, suffix):
    file = tmp_path / f"rows.{suffix}"
    code, out, _ = cli("export", smoke_run, file, "--format", "rows")
    assert (code, out.strip()) == (0, str(file))
    a, b = Selection.load(smoke_run / "selection.safetensors"), Selection.load(file)
    assert (a.pairs, a.meta, a.axes) == (b.pairs, b.meta, b.axes)
    assert a.rows.keys() == b.rows.keys()
    for name, groups in a.rows.items():
        assert groups.keys() == b.rows[name].keys()
        assert all(torch.equal(index, b.rows[name][group]) for group, index in groups.items())
    code, _, err = cli("export", smoke_run, file, "--format", "rows")
    assert code == 2  # it is there already
    assert err.count("\n") == 1


def test_a_recipe_trains_a_selection_from_a_file(cli, smoke_run, tmp_path):
    file = tmp_path / "rows.yaml"
    cli("export", smoke_run, file, "--format", "rows")
    same = ("name=given", "data.pairs=[en-de, en-fr]", f"select.file={file}")
    code, _, err = cli("select", "quickstart", *same, "--scale", "smoke")
    assert code == 0, err
    made = Selection.load("runs/given/selection.safetensors")
    assert len(made) == len(Selection.load(file))
    code, _, err = cli("select", "quickstart", *same, "--scale", "smoke")
    assert "select: unchanged" in err
    file.write_text(file.read_text(encoding="utf-8") + "# looked at\n", encoding="utf-8")
    code, _, err = cli("select", "quickstart", *same, "--scale", "smoke")
    assert "select: unchanged" not in err  # the file's content counts
    code, _, err = cli("select", "quickstart", "data.pairs=[en-de, en-es]", f"select.file={file}", "--scale", "smoke")
    assert code == 2
    assert "the recipe has en-es too" in err
    code, _, err = cli("select", "quickstart", "select.file=gone.yaml", "--scale", "smoke")
    assert code == 2
    assert "gone.yaml does not exist" in err
