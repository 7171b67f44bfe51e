"""What the heat map and the curves show, against values worked out from the profile's own sums."""

from __future__ import annotations

import numpy as np
import pytest

from neuroglot.report.importance import CURVE_POINTS, group_counts, importance_view


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    layers = made.layers(2)
    made.profile(layers).save(folder / "profile.safetensors")
    made.selection(layers).save(folder / "selection.safetensors")
    return folder


def view_of(folder, selection=True, task="image_translation"):
    return importance_view(
        folder / "profile.safetensors", folder / "selection.safetensors" if selection else None, task
    )


def test_importance_is_relative_to_the_average_neuron_of_the_part(made, folder):
    layers = made.layers(2)
    sums = {name: value[:6, 0, 0].numpy() for name, value in made.profile(layers).sums.items()}
    vision = [layer for layer in layers if layer.part == "vision"]
    everything = np.concatenate([sums[layer.name] for layer in vision], axis=1)
    view = view_of(folder)
    assert view.pairs == made.pairs
    assert view.unit == "layer"
    expected = sums[vision[3].name].mean(axis=1) / everything.mean(axis=1)
    assert view.rows[3].label == "0 out_proj"
    assert view.rows[3].values == pytest.approx(expected)


def test_curves_are_the_coefficient_of_variation_by_rank(made, folder):
    layers = made.layers(2)
    profile = made.profile(layers)
    view = view_of(folder)
    curve = next(curve for curve in view.curves if curve.part == "connector")
    share = profile.importance("taylor_token", "all", profile.of_task("image_translation"))[curve.layer].numpy()
    ranked = np.sort(share.std(axis=0) / share.mean(axis=0))[::-1]
    assert len(curve.values) == CURVE_POINTS
    assert (curve.values[0], curve.values[-1]) == pytest.approx((ranked[0], ranked[-1]))
    assert (np.diff(curve.values) <= 1e-12).all()


def test_only_kept_layers_have_curves_and_unused_ones_no_row(made, folder):
    kept = set(made.selection(made.layers(2)).rows)
    view = view_of(folder)
    assert {curve.layer for curve in view.curves} == {name for name in kept if not name.endswith("unused")}
    assert [row.kept for row in view.rows] == [layer.name in kept for layer in made.layers(2)[:-1]]
    assert len(view_of(folder, selection=False).curves) == len(view.rows)


def test_a_task_that_was_not_profiled_falls_back(folder):
    assert view_of(folder, task="describe").task == "image_translation"
    assert view_of(folder, task="ocr").pairs == ("en-en",)


def test_many_layers_become_blocks(made, tmp_path):
    layers = made.layers(12)
    made.profile(layers).save(tmp_path / "profile.safetensors")
    view = importance_view(tmp_path / "profile.safetensors", None, "image_translation")
    assert (view.unit, view.layers) == ("block", 122)
    assert [row.label for row in view.rows if row.part == "vision"] == [str(block) for block in range(12)]
    assert len(view.rows) == 12 + 2 + 12


def test_group_counts(made, folder):
    counts = group_counts(folder / "selection.safetensors")
    assert list(counts) == ["vision", "connector", "language"]
    layers = sum(layer.part == "language" for layer in made.layers(2)[::2])
    assert counts["language"] == {"agnostic": 8 * layers, **dict.fromkeys(made.pairs, layers)}
