"""Looks at a model while it trains: when, into which line, and without a trace in what is trained."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_llava import PAIRS, batch, tiny_llava, tiny_selection

from neuroglot.config import TrainSection
from neuroglot.training import prepare, train

ITEMS = [(seed, PAIRS[seed % 3]) for seed in range(12)]
OPTIONS = TrainSection(steps=7, batch_size=2, lr=1e-2, log_steps=2, save_steps=2)


def collate(items):
    parts = [batch(seed, size=1) for seed, _ in items]
    return {**{key: torch.cat([part[key] for part in parts]) for key in parts[0]}, "pair": items[0][1]}


def trained(folder, look=None, resume=False):
    model = prepare(tiny_llava(), "neurons", tiny_selection())
    pairs = [pair for _, pair in ITEMS]
    result = train(model, ITEMS, collate, OPTIONS, folder, pairs=pairs, look=look, resume=resume)
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return weights, [json.loads(line) for line in result.log.read_text().splitlines()]


def norm(model):
    """A figure that follows the trained weights; found in evaluation mode and without autograd, as a system would."""
    model.eval()
    with torch.inference_mode():
        found = sum(float(p.norm()) for p in model.parameters() if p.requires_grad)
    model.train()
    return {"norm": found}


def test_looks_are_in_the_log_and_nowhere_else(tmp_path):
    plain, lines = trained(tmp_path / "plain")
    seen, watched = trained(tmp_path / "seen", (3, norm))
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    looks = [line for line in watched if "dev" in line]
    assert [line["step"] for line in looks] == [3, 6, 7], "every third step, and the last"
    assert [line for line in watched if "dev" not in line] == lines
    assert looks[0]["dev"]["norm"] < looks[1]["dev"]["norm"] < looks[2]["dev"]["norm"]


def test_a_resumed_training_has_each_look_once(tmp_path):
    _, whole = trained(tmp_path / "whole", (3, norm))

    class KilledError(Exception):
        """The sixth step ended it."""

    def dies(model):
        dies.looks += 1
        if dies.looks == 2:
            raise KilledError
        return norm(model)

    dies.looks = 0
    with pytest.raises(KilledError):
        trained(tmp_path / "cut", (3, dies))
    _, resumed = trained(tmp_path / "cut", (3, norm), resume=True)
    assert resumed == whole
