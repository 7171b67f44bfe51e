"""Two processes against one: DDP with a pair of its own per rank, FSDP2 with one pair for all, the Trainer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import family_ranks
import pytest
import torch
from families import MAIN
from peft import PeftModel
from safetensors.torch import load_file
from tiny_llava import GROUPS, PAIRS, group_of, tiny_llava
from worker import ALIKE, ITEMS, MIXED, WORLD, Record, fit, state, tuned

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

HERE = Path(__file__).parent
OPTIMIZERS = ("adamw", "momentum")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left what they came to."""
    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(WORLD), "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(HERE / "worker.py"), str(folder)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def load(out: Path, scenario: str) -> list[dict[str, Any]]:
    return [torch.load(out / f"{scenario}-{rank}.pt") for rank in range(WORLD)]


def pairs_of(micros: Any) -> set[str]:
    return {pair for ranks in micros for pair in ranks}


def compare(record: Record, alone: Record, schedule: Any, **tolerance: float) -> None:
    """Check gradients and values against one process, and that groups without a pair in a step stay as they were."""
    assert len(record) == len(alone) == 2 * len(schedule)
    moved = set()
    for step, micros in enumerate(schedule):
        before, after, expected = record[2 * step], record[2 * step + 1], alone[2 * step + 1]
        for name, new in after.items():
            old = before[name]
            if not group_of(name) & pairs_of(micros):
                assert old["grad"] is None, (step, name)
                assert old.keys() == new.keys()
                assert all(old[key] is None or torch.equal(old[key], new[key]) for key in old), (step, name)
                continue
            assert old["grad"].abs().max() > 0, (step, name)
            assert not torch.equal(old["value"], new["value"]), (step, name)
            moved.add(group_of(name))
            torch.testing.assert_close(old["grad"], alone[2 * step][name]["grad"], **tolerance)
            torch.testing.assert_close(new["value"], expected[name]["value"], **tolerance)
    assert moved == {group for group in GROUPS if group & {pair for micros in schedule for pair in pairs_of(micros)}}
    assert any(group not in moved for group in GROUPS), "no group was to stay as it was"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ddp_with_a_pair_of_its_own_per_rank(out: Path, optimizer: str) -> None:
    ranks = load(out, f"ddp_{optimizer}")
    alone = tuned(dtype=torch.float64)
    expected = fit(alone, alone, MIXED, optimizer, dtype=torch.float64)
    for found in ranks:
        assert found["modes"] == "7 layers sliced"
        compare(found["record"], expected, MIXED, rtol=1e-9, atol=1e-12)
    for first, second in zip(*(found["record"] for found in ranks), strict=True):
        assert all(torch.equal(first[name]["value"], second[name]["value"]) for name in first), "the ranks part"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fsdp2_goes_additive_and_trains_as_one_process(out: Path, optimizer: str) -> None:
    alone = tuned()
    expected = fit(alone, alone, ALIKE, optimizer)
    for found in load(out, f"fsdp_{optimizer}"):
        assert found["sharded"]
        assert found["modes"] == "7 layers additive (its weight is sharded)"
        assert not found["held"], "units were written into a sharded weight"
        compare(found["record"], expected, ALIKE, rtol=1e-5, atol=1e-5)


def test_fsdp2_saves_the_adapter_of_one_process(out: Path, tmp_path: Path) -> None:
    alone = tuned()
    record = fit(alone, alone, ALIKE)
    alone.save_pretrained(tmp_path)
    name = "adapter_model.safetensors"
    gathered, expected = load_file(out / "adapter_adamw" / name), load_file(tmp_path / name)
    assert {key: (value.shape, value.dtype) for key, value in gathered.items()} == {
        key: (value.shape, value.dtype) for key, value in expected.items()
    }
    for key, value in expected.items():
        torch.testing.assert_close(gathered[key], value, rtol=1e-5, atol=1e-5)
    last = load(out, "fsdp_adamw")[0]["record"][-1]
    for key, value in last.items():  # what is saved is what was trained, to the bit
        assert torch.equal(gathered[key.replace(".default", "")], value["value"])
    assert len(last) == len(record[-1]) > 0
    assert (out / "adapter_adamw" / "adapter_config.json").read_text() == (
        tmp_path / "adapter_config.json"
    ).read_text()
    again = PeftModel.from_pretrained(tiny_llava(bias=True), out / "adapter_adamw")
    assert all(torch.equal(value["value"], last[key]["value"]) for key, value in state(again).items())


def test_fsdp2_refuses_ranks_with_different_pairs(out: Path) -> None:
    for rank, found in enumerate(load(out, "fsdp_pairs")):
        assert f"rank {rank} trains {('en-de', 'en-fr')[rank]}, another rank another pair" in found["error"]
        assert "OnePairBatchSampler(..., world=number of processes)" in found["error"]
        assert "another rank another pair" in found["mixture"]
        assert found["none"]
        assert found["same"]
        assert found["after"] == {name: "en-de" in group_of(name) for name in found["after"]}, "not usable afterwards"


def test_fsdp2_refuses_what_needs_whole_weights(out: Path) -> None:
    for found in load(out, "fsdp_sliced"):
        assert "mode sliced needs the whole weight on every process, but it is sharded" in found["error"]
        assert "expected mode auto or additive" in found["error"]
        assert "call neuroglot.tuner.park(model) before sharding it" in found["ran_before"]


def test_the_trainer_gives_all_ranks_one_pair(out: Path) -> None:
    first, second = load(out, "trainer")
    assert first["world"] == WORLD
    assert first["seen"] == second["seen"]
    assert len(first["seen"]) == 6 * 2
    assert set(first["seen"]) == {pair for _, pair in ITEMS} < set(PAIRS)
    moved = 0
    for name, value in first["after"].items():
        assert torch.equal(value["value"], second["after"][name]["value"]), name
        touched = bool(group_of(name) & set(first["seen"]))
        moved += touched
        assert torch.equal(value["value"], first["before"][name]["value"]) is not touched, name
    assert moved


# --- every family


def both(out: Path, family: str, scenario: str) -> list[dict[str, Any]]:
    """Return what the two ranks left of a family's scenario."""
    found = load(out, f"{family}-{scenario}")
    assert not [one["failed"] for one in found if "failed" in one]
    return found


def as_alone(found: list[dict[str, Any]], alone: family_ranks.Fit, schedule: Any) -> None:
    """Check two ranks against one process on the same samples, and that groups without a pair in a step kept still."""
    for rank, own in enumerate(family_ranks.Fit(**one["fit"]) for one in found):
        losses = [[step[rank]] for step in alone.losses]
        torch.testing.assert_close(torch.tensor(own.losses), torch.tensor(losses), rtol=1e-5, atol=1e-6)
        for step, pairs in enumerate(schedule):
            old, new = own.values[step], own.values[step + 1]
            for name, grad in own.grads[step].items():
                if not group_of(name) & set(pairs):
                    assert grad is None, (step, name)
                    assert torch.equal(new[name], old[name]), (step, name)
                    was = own.state[step - 1][name] if step else {}
                    assert was.keys() == own.state[step][name].keys(), (step, name)
                    assert all(torch.equal(value, was[key]) for key, value in own.state[step][name].items())
                    continue
                assert not torch.equal(new[name], old[name]), (step, name)
                torch.testing.assert_close(grad, alone.grads[step][name], rtol=1e-4, atol=1e-6)
                torch.testing.assert_close(new[name], alone.values[step + 1][name], rtol=1e-4, atol=1e-5)
    idle = [name for name, grad in alone.grads[1].items() if grad is None]
    assert idle, "no group was to stay as it was"
    assert all(alone.state[1][name] for name in idle), "momentum was to tempt it"


def loads(family: str, folder: Path, last: dict[str, torch.Tensor]) -> None:
    """Check that an adapter that one of two ranks saved holds what they trained, to the bit, on a model of its own."""
    model, inputs = family_ranks.base(family)
    with torch.no_grad():
        plain = model(**family_ranks.doubled(inputs)).logits
        again = PeftModel.from_pretrained(model, folder).eval()
        changed = again(**family_ranks.doubled(inputs)).logits
    found = {name: value["value"] for name, value in state(again).items()}
    assert found.keys() == last.keys()
    assert all(torch.equal(value, last[name]) for name, value in found.items())
    assert (changed - plain).abs().max() > 1e-3


@pytest.mark.parametrize("family", MAIN)
def test_ddp_of_every_family(out: Path, family: str) -> None:
    found = both(out, family, "ddp")
    model, inputs = family_ranks.tuned(family)
    as_alone(found, family_ranks.fit(model, model, inputs, family_ranks.MIXED), family_ranks.MIXED)
    for one in found:
        assert one["moved"] == [], "the base moved"
        assert "additive" not in one["modes"]
    first, second = (one["fit"]["values"][-1] for one in found)
    assert all(torch.equal(value, second[name]) for name, value in first.items()), "the ranks part"
    loads(family, out / f"{family}-ddp", first)


@pytest.mark.parametrize("family", MAIN)
def test_fsdp2_of_every_family(out: Path, family: str) -> None:
    found = both(out, family, "fsdp")
    model, inputs = family_ranks.tuned(family)
    as_alone(found, family_ranks.fit(model, model, inputs, family_ranks.ALIKE), family_ranks.ALIKE)
    for rank, one in enumerate(found):
        assert one["modes"].endswith("layers additive (its weight is sharded)")
        assert one["shards"] > 0
        assert one["moved"] == [], "the base moved"
        pair = family_ranks.MIXED[0][rank]
        assert f"rank {rank} trains {pair}, another rank another pair" in one["refused"]
    loads(family, out / f"{family}-fsdp", found[0]["fit"]["values"][-1])
