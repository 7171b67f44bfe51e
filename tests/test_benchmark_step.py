"""benchmarks/step.py at toy size: every record is there, and what it counts is what arithmetic says; no times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
METHODS = ["full", "mask", "compose", "lora", "shira", "additive", "sliced", "sliced-lowrank"]
WHOLE = ("full", "mask")
TOKENS = 48
SHAPES = [(64, 64)] * 4 + [(160, 64)] * 2 + [(64, 160)]  # outputs, inputs: one block of the small decoder
BLOCKS = {"all": 5, "top40": 2}
BLOCK = sum(outputs * inputs for outputs, inputs in SHAPES)
HEAD = 128 * 64


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What one run printed, and its records."""
    file = tmp_path_factory.mktemp("step") / "made" / "step.json"
    command = [sys.executable, ROOT / "benchmarks/step.py", "--json", file, "--model", "decoder", "--size", "small"]
    command += ["--tokens", TOKENS, "--rounds", 2, "--threads", 1]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


@pytest.fixture(scope="module")
def records(outcome):
    return {(r["layers"], r["rows"], r["method"]): r for r in outcome[1]}


def settings(records):
    return dict.fromkeys((layers, rows) for layers, rows, _ in records)


def chosen(rows, outputs):
    return max(1, round(rows * outputs))


def entries(layers, rows):
    """Entries of the chosen rows."""
    return BLOCKS[layers] * sum(chosen(rows, outputs) * inputs for outputs, inputs in SHAPES)


def factored(layers, rows, rank):
    """Entries of the chosen rows as products of a rank; a layer of no more rows than that keeps them dense."""
    sizes = [(chosen(rows, outputs), inputs) for outputs, inputs in SHAPES]
    return BLOCKS[layers] * sum(k * width if k <= rank else rank * (k + width) for k, width in sizes)


def test_a_record_for_every_method_and_setting_in_order(outcome):
    _, records = outcome
    expected = [(layers, rows, m) for layers in ("all", "top40") for rows in (0.01, 0.1, 0.4) for m in METHODS]
    assert [(r["layers"], r["rows"], r["method"]) for r in records] == expected
    for record in records:
        assert (record["model"], record["dtype"], record["device"]) == ("decoder", "float32", "cpu")
        for name in ("flops", "saved_bytes", "grad_bytes", "optimizer_bytes", "trainable_parameters", "step_s"):
            assert record[name] > 0, (record["method"], name)
        for name in ("adapter_bytes", "backup_bytes", "resident_bytes", "step_s_spread"):
            assert record[name] >= 0, (record["method"], name)
        assert record["step_s_ratio_to_full"] > 0
        assert record["step_s_ratio_to_lora"] > 0
        assert record["step_s_ratio_to_additive"] > 0


def test_the_promises_are_printed_with_their_bounds(outcome):
    text, _ = outcome
    assert "Must show" in text
    assert "met" in text.split("Must show")[1]


def test_flops_are_those_of_the_shapes(records):
    matmul = 2 * TOKENS
    for layers, rows in settings(records):
        of = {m: records[layers, rows, m]["flops"] for m in METHODS}
        trained = BLOCKS[layers] * BLOCK
        forward = 5 * BLOCK + HEAD
        back = trained - 3 * 64 * 64 + HEAD  # the lowest trained q, k and v pass nothing on
        full = matmul * (forward + back + trained)
        assert of["full"] == of["mask"] == of["compose"] == of["shira"] == full
        assert of["sliced"] < full
        least = matmul * (forward + back + entries(layers, rows))
        assert records[layers, rows, "sliced"]["flops_least"] == least
        assert least <= of["sliced"] <= 1.02 * least


def test_parameters_are_those_of_the_rows_and_of_the_nearest_rank(records):
    for layers, rows in settings(records):
        of = {m: records[layers, rows, m] for m in METHODS}
        rows_only = {of[m]["trainable_parameters"] for m in ("compose", "additive", "sliced")}
        assert rows_only == {entries(layers, rows)}
        assert {of[m]["trainable_parameters"] for m in WHOLE} == {BLOCKS[layers] * BLOCK}
        rank = BLOCKS[layers] * sum(outputs + inputs for outputs, inputs in SHAPES)
        lora = of["lora"]["trainable_parameters"]
        assert lora == of["shira"]["trainable_parameters"] == of["lora"]["rank"] * rank
        assert lora == rank or abs(lora - entries(layers, rows)) <= rank / 2
        low = of["sliced-lowrank"]
        counts = {r: factored(layers, rows, r) for r in range(1, max(2, chosen(rows, 64)))}
        assert low["trainable_parameters"] == counts[low["rank"]]
        assert abs(low["trainable_parameters"] - lora) == min(abs(count - lora) for count in counts.values())


def test_gradients_and_adam_hold_four_and_eight_bytes_an_entry(records):
    for (layers, _, method), record in records.items():
        trained = record["trainable_parameters"]
        assert record["grad_bytes"] == 4 * trained
        assert record["adapter_bytes"] == (0 if method in WHOLE else 4 * trained)
        counters = record["optimizer_bytes"] - 8 * trained  # one float32 step count a tensor
        matrices = BLOCKS[layers] * len(SHAPES)
        if method == "sliced-lowrank":  # two factors, or one delta
            assert 4 * matrices <= counters <= 8 * matrices
        else:
            assert counters == 4 * matrices * (2 if method == "lora" else 1)


def test_what_is_held_between_steps(records):
    for layers, rows in settings(records):
        of = {m: records[layers, rows, m] for m in METHODS}
        for record in of.values():
            held = record["adapter_bytes"] + record["optimizer_bytes"] + record["backup_bytes"]
            assert record["resident_bytes"] == held
        assert of["full"]["backup_bytes"] == of["lora"]["backup_bytes"] == 0
        assert of["mask"]["backup_bytes"] == 4 * BLOCKS[layers] * sum(outputs for outputs, _ in SHAPES)
        assert of["shira"]["backup_bytes"] == 2 * 4 * of["shira"]["trainable_parameters"]  # row and column of each
        assert of["sliced"]["backup_bytes"] >= 4 * entries(layers, rows)  # the rows as they were


def test_what_is_saved_for_backward(records):
    for layers, rows in settings(records):
        of = {m: records[layers, rows, m]["saved_bytes"] for m in METHODS}
        assert of["mask"] == of["full"]
        copies = BLOCKS[layers] * BLOCK - 3 * 64 * 64  # of each weight, for dX; the lowest q, k and v need none
        assert of["compose"] == of["full"] + 4 * copies
        assert of["sliced"] <= of["full"]
        assert of["sliced"] <= of["lora"]
