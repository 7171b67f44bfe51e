"""A profile in pieces: of several processes, of several files, of a process that was killed; and what its size is."""

from __future__ import annotations

import multiprocessing
import signal

import profile_worker as worker
import pytest
import torch
from babel import Locale
from torch.utils.flop_counter import FlopCounterMode

from neuroglot.cli import main
from neuroglot.errors import UserError
from neuroglot.file_format import PROFILING, load_tensors
from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.profiling.merge import Checkpoint, merge, merge_all, shard
from neuroglot.neurons.profiling.profile import Profile

TASK = "image_translation"
KINDS = ("sums", "squares", "share_sums", "share_squares")


@pytest.fixture(scope="module")
def whole():
    return worker.whole()


def process(function, *arguments):
    """Run a function in a process of its own and return its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["profile_worker"])
    child = context.Process(target=function, args=arguments)
    child.start()
    child.join()
    return child.exitcode


def assert_same(found, expected, tolerance):
    assert found.conditions == expected.conditions
    assert torch.equal(found.counts, expected.counts)
    assert found.block_counts.keys() == expected.block_counts.keys()
    for name in expected.sums:
        for kind in KINDS:
            a, b = getattr(found, kind)[name], getattr(expected, kind)[name]
            torch.testing.assert_close(a, b, rtol=tolerance, atol=0 if tolerance == 0 else 1e-30)
    for task, blocks in expected.blocks.items():
        assert torch.equal(found.block_counts[task], expected.block_counts[task])
        for name, x in blocks.items():
            torch.testing.assert_close(found.blocks[task][name], x, rtol=tolerance, atol=0)


@pytest.mark.slow
def test_two_processes_give_the_profile_of_one(whole, tmp_path):
    files = [tmp_path / f"{rank}.safetensors" for rank in range(2)]
    assert [process(worker.part, rank, 2, str(file)) for rank, file in enumerate(files)] == [0, 0]
    parts = [Profile.load(file) for file in files]
    assert all(part.block_counts[TASK].tolist() == [4, 4] for part in parts)  # no block was torn apart
    assert_same(merge_all(parts), whole, 1e-6)

    out = tmp_path / "whole.safetensors"
    with pytest.raises(SystemExit) as ended:
        main(["merge-profiles", *map(str, files), str(out)])
    assert ended.value.code == 0
    assert_same(Profile.load(out), whole, 1e-6)


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_to_the_bit(whole, tmp_path):
    assert process(worker.killed, str(tmp_path), 7, torch.get_num_threads()) == -signal.SIGKILL
    _, head = load_tensors(tmp_path / "sums.safetensors", PROFILING)
    assert head["done"] == 6
    found, seen = worker.resumable(tmp_path)
    assert seen == [7, 8, 9, 10, 11, 12]
    assert_same(found, whole, 0)


@pytest.mark.slow
def test_a_checkpoint_of_something_else_is_not_gone_on_from(whole, kit, tmp_path):
    assert process(worker.killed, str(tmp_path), 7, torch.get_num_threads()) == -signal.SIGKILL
    path = tmp_path / "sums.safetensors"
    seen = []
    profile(kit.make_llava(), worker.batches(), ("gradient",), progress=seen.append,
            checkpoint=Checkpoint(path, 100, "key"))  # fmt: skip
    assert seen[0] == 1
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="sums.safetensors cannot be read as profiling: .* delete it"):
        profile(kit.make_llava(), worker.batches(), ("gradient",), checkpoint=Checkpoint(path, 100, "key"))


def test_every_shard_keeps_blocks_whole_and_nothing_is_lost(kit):
    everything = list(worker.batches())
    for world in (1, 2, 3, 5):
        parts = [list(shard(everything, rank, world)) for rank in range(world)]
        assert sorted(id(b[0]) for part in parts for b in part) == sorted(id(b[0]) for b in everything)
        for part in parts:
            items = [batch[2] for batch in part if len(batch) == 3]
            assert all(items.count(name) == 2 for name in items)
    with pytest.raises(UserError, match="rank must be from 0 to 1, one of 2 processes, got 2"):
        list(shard(everything, 2, 2))


@pytest.fixture
def stored(kit, tmp_path):
    """Two profiles of other data, one of another model, one of another score."""
    pairs = kit.conditions_of("de fr")
    means = {"l": torch.ones(2, 3)}
    one = kit.make_profile(means, pairs)
    other = kit.make_profile({"m": torch.ones(2, 3)}, pairs)
    scored = kit.make_profile(means, pairs, gradient=means)
    for name, made in {"a": one, "b": one, "other": other, "scored": scored}.items():
        made.save(tmp_path / f"{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "out"), "got 2 files; expected two or more profiles, then the file to write"),
        (("a", "other", "out"), "other.safetensors: profiles cannot be merged: their layers differ"),
        (("a", "scored", "out"), "scored.safetensors: profiles cannot be merged: their scores differ"),
        (("a", "b", "other"), "other.safetensors is there already and is not overwritten"),
        (("a", "none", "out"), "none.safetensors does not exist; run the profile stage first"),
    ],
)
def test_what_cannot_be_merged_is_one_line(stored, capsys, arguments, message):
    before = (stored / "other.safetensors").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["merge-profiles", *(str(stored / f"{name}.safetensors") for name in arguments)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert (stored / "other.safetensors").read_bytes() == before
    assert not (stored / "out.safetensors").exists()


def test_the_same_examples_are_not_counted_twice(kit):
    from dataclasses import replace

    made = replace(kit.make_profile({"l": torch.ones(2, 3)}, kit.conditions_of("de fr")), data="abc")
    with pytest.raises(UserError, match="both were measured on examples abc, which would count twice"):
        merge(made, made)
    both = merge(made, replace(made, data="def"))
    assert both.data == "abc+def"
    assert both.counts.tolist() == [[20], [20]]


def test_a_damaged_profile_is_refused_by_its_name(kit, tmp_path):
    path = tmp_path / "p.safetensors"
    kit.make_profile({"l": torch.ones(2, 300)}, kit.conditions_of("de fr")).save(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="p.safetensors cannot be read as profile: its content does not match"):
        Profile.load(path)
    path.write_bytes(content[:-200])
    with pytest.raises(UserError, match="p.safetensors cannot be read as profile"):
        Profile.load(path)


@pytest.mark.slow
@pytest.mark.turns
def test_cost_is_linear_in_languages_and_samples(kit, tmp_path):
    """Calls, floating point operations and bytes: two languages more always cost what two languages more cost."""
    model, inputs = kit.make_llava(), kit.collate(kit.make_samples(2))
    calls: list[int] = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    codes = [code for code in sorted(Locale("en").languages) if len(code) == 2 and code != "en"]
    cost = {}
    for languages in (2, 8, 32, 64):
        batches = [(inputs, f"{TASK}:en-{code}", ("x", "y")) for code in codes[:languages]]
        calls.clear()
        with FlopCounterMode(display=False) as counter:
            found = profile(model, batches, ("gradient",))
        held = sum(x.nbytes for kind in KINDS for x in getattr(found, kind).values()) + found.counts.nbytes
        blocks = sum(x.nbytes for x in found.blocks[TASK].values())
        cost[languages] = len(calls), counter.get_total_flops(), held
        assert blocks * languages * 4 == held - found.counts.nbytes  # one for the task, not one a language
    per_language = [value // 2 for value in cost[2]]
    assert per_language[0] == 1
    for languages, values in cost.items():
        assert list(values) == [value * languages for value in per_language]

    with FlopCounterMode(display=False) as counter:
        profile(model, [(inputs, f"{TASK}:en-de")] * 6, ("gradient",))
    assert counter.get_total_flops() == 6 * per_language[1]
