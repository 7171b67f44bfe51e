"""The dial: weights between the base's and the trained ones, scored on dev, and a merged model at a scale."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from neuroglot.file_format import read_json
from neuroglot.models.load import load_model
from neuroglot.pipeline.dial import DIAL, difference, scale_


def done(result):
    assert result[0] == 0, result[2]
    return result[1]


def test_weights_between_base_and_trained(cli, own_run, tmp_path):
    for scale in ("0", "0.25", "1"):
        done(cli("merge", own_run, tmp_path / scale, "--scale", scale))
    done(cli("merge", own_run, tmp_path / "plain"))
    read = {name: dict(AutoModelForImageTextToText.from_pretrained(tmp_path / name).named_parameters())
            for name in ("0", "0.25", "1", "plain")}  # fmt: skip
    base = dict(load_model("embedded").named_parameters())
    assert all(torch.equal(read["0"][name], value) for name, value in base.items()), "nothing is the base, bit for bit"
    assert all(torch.equal(read["1"][name], value) for name, value in read["plain"].items()), "and all is as merged"
    moved = [name for name, value in base.items() if not torch.equal(value, read["1"][name])]
    assert moved
    for name, value in base.items():
        expected = value + 0.25 * (read["1"][name] - value)
        torch.testing.assert_close(read["0.25"][name], expected, rtol=1e-5, atol=1e-7)
        assert name in moved or torch.equal(read["0.25"][name], value)
    assert "of whose changes 0.25 is merged" in (tmp_path / "0.25" / "README.md").read_text()


def test_a_dialled_model_goes_back_to_either_end():
    model, other = load_model("embedded"), load_model("embedded")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    base = difference({name: p.detach() for name, p in other.named_parameters()}, model)
    for scale in (0.5, 1.0, 0.0, 1.0):
        scale_(model, base, scale, trained)
    assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters())
    scale_(model, base, 0.0, trained)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.slow
def test_the_verb_scores_every_scale_and_chooses(cli, own_run):
    made = json.loads(done(cli("dial", own_run, "--scales", "0.5", "--retain", "0.9", "--json")))
    assert [point["scale"] for point in made["points"]] == [0, 0.5, 1]
    assert made["points"][0]["kept"] == dict.fromkeys(made["points"][0]["kept"], 1.0)
    fit = [p for p in made["points"] if all(s is None or s >= 0.9 for s in p["kept"].values())]
    assert made["chosen"] in [point["scale"] for point in fit]
    best = max(point["scores"][made["task"]]["chrf"] for point in fit)
    assert next(p for p in fit if p["scale"] == made["chosen"])["scores"][made["task"]]["chrf"] == best
    assert read_json(own_run / "dial.json", DIAL)["chosen"] == made["chosen"]
    assert (own_run / "dial.svg").read_text().count("<svg") == 1
    text = done(cli("dial", own_run, "--scales", "1"))
    assert "neuroglot merge" in text
    assert "--scale" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scales", "0,half"), "--scales '0,half' must be numbers with commas between them, such as 0,0.5,1"),
        (("--scales", "2"), "scale must be in [0, 1], got 2; 0 is the base, and 1 all that was trained"),
        (("--retain", "95"), "--retain must be in [0, 1], got 95; it is a share of the base's figure"),
    ],
)
def test_mistakes(cli, own_run, arguments, message):
    code, _, error = cli("dial", own_run, *arguments)
    assert (code, message in error) == (2, True), error
    assert not (own_run / "dial.json").exists()


def test_what_is_no_run(cli, tmp_path):
    code, _, error = cli("dial", tmp_path)
    assert code == 2
    assert "is not a run folder (it has no recipe.yaml); expected one such as runs/demo" in error
    code, _, error = cli("merge", tmp_path, tmp_path / "out", "--scale", "1.5")
    assert code == 2
    assert "scale must be in [0, 1], got 1.5" in error
