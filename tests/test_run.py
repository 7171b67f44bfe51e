"""The pipeline: what is done and unchanged is skipped, what is interrupted goes on, nothing is left half-written.

The walker is tested on the real table of stages with functions that only write files; the stages themselves run once
at smoke scale (`smoke_run`), and once a method.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import neuroglot.pipeline.run
from neuroglot.config import METHODS
from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError
from neuroglot.file_format import fresh
from neuroglot.neurons import Profile
from neuroglot.pipeline.run import METHODS_OWN, execute, stages
from neuroglot.selection import Selection

SETTINGS = ["name=smoke", "data.pairs=[en-de, en-fr]", "train.weight_decay=0.1", "train.optimizer=adamw_torch_fused"]
"""Of `smoke_run`."""
STAGES = ["profile", "select", "train", "evaluate", "report"]


def silent(label, total):
    return lambda done: None


def run(runs, *overrides, only=None, force=False, scale="smoke"):
    """Run the quickstart as in `smoke_run`, with changes; return which stages did something."""
    lines = []
    execute(load_recipe("quickstart", [*SETTINGS, *overrides], scale), runs, silent, lines.append, only, force)
    return [line.split(":")[0] for line in lines if line.endswith(" s")]


def files(folder):
    """Return path -> time of change of everything in a folder but the lock."""
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}


def leftovers(folder):
    return [p for p in folder.rglob("*") if p.suffix in (".part", ".tmp", ".begun") or p.name in (".train", ".probe")]


# ---- a finished run ---------------------------------------------------------------------------------------------


def test_every_file_is_there_with_its_documented_shape(smoke_run):
    expected = {"recipe.yaml", "profile.safetensors", "selection.safetensors", "adapter", "training.json",
                "train_log.jsonl", "scores.json", "hypotheses.jsonl", "gallery.jsonl", "report.html"}  # fmt: skip
    assert {p.name for p in smoke_run.iterdir() if not p.name.startswith(".")} == expected
    assert leftovers(smoke_run) == []

    recipe = load_recipe(smoke_run / "recipe.yaml")
    profile = Profile.load(smoke_run / "profile.safetensors")
    assert {str(c) for c in profile.conditions} == {
        "image_translation:en-de", "image_translation:en-fr", "ocr:en-en", "describe:en-en"}  # fmt: skip
    assert profile.scores == recipe.profile.scores
    selection = Selection.load(smoke_run / "selection.safetensors")
    assert selection.pairs == ("en-de", "en-fr")
    assert set(selection.meta["neurons"]) == {"vision", "connector", "language"}

    log = [json.loads(line) for line in (smoke_run / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, recipe.train.steps + 1))
    assert all(line["loss"] > 0 and line["lr"] >= 0 for line in log)

    scores = json.loads((smoke_run / "scores.json").read_text())
    assert scores["format"] == "neuroglot-scores-2"
    assert list(scores["systems"]) == ["base", "cascade", "mnaft"]
    translated = {"image_translation", "image_translation_heldout"}
    assert set(scores["systems"]["cascade"]) == translated
    for name in ("base", "mnaft"):
        assert set(scores["systems"][name]) == translated | {"ocr", "text_translation", "describe"}
    for splits in scores["systems"].values():
        for split, by_pair in splits.items():
            pairs = {"en-en"} if split in ("ocr", "describe") else {"en-de", "en-fr"}
            assert set(by_pair) == pairs | {"average"}
            assert all(set(row) >= {"bleu", "chrf", "exact", "nll"} for row in by_pair.values())
            for row in by_pair.values():
                assert 0 <= row["exact"] <= 100
                assert 0 <= row["bleu"] <= 100 if row["bleu"] is not None else "bleu" in row["reasons"]
    assert set(scores["signatures"]) == {"bleu", "chrf", "ter"}

    said = [json.loads(line) for line in (smoke_run / "hypotheses.jsonl").read_text().splitlines()]
    assert {row["system"] for row in said} == {"base", "cascade", "mnaft"}
    assert set(said[0]) == {
        "system", "split", "task", "pair", "item", "index", "source", "reference", "hypothesis", "nll"}  # fmt: skip
    shown = [json.loads(line) for line in (smoke_run / "gallery.jsonl").read_text().splitlines()]
    assert len(shown) == recipe.report.gallery
    assert set(shown[0]) == {"png_base64", "source", "pair", "reference", "alternatives", "before", "after"}
    page = (smoke_run / "report.html").read_text()
    assert "<svg" in page
    assert "mnaft" in page


def test_training_proof_holds_bit_for_bit(smoke_run):
    """With weight decay and the fused optimizer, base and merged model differ in selected rows only."""
    from peft import PeftModel

    import neuroglot.tuner  # noqa: F401
    from neuroglot.models.load import load_model

    facts = json.loads((smoke_run / "training.json").read_text())
    assert facts["audit"]["outside"] == []
    assert 0 < facts["audit"]["trained"] <= facts["audit"]["selected"]
    selection = Selection.load(smoke_run / "selection.safetensors")
    assert facts["audit"]["selected"] == len(selection)
    parts = facts["parts"]
    assert sum(part["neurons"] for part in parts.values()) == len(selection)
    assert sum(part["parameters"] for part in parts.values()) == facts["trainable_parameters"]

    base = load_model("embedded").state_dict()
    merged = PeftModel.from_pretrained(load_model("embedded"), str(smoke_run / "adapter")).merge_and_unload()
    changed = 0
    for name, after in merged.state_dict().items():
        before, module = base[name], name.rpartition(".")[0]
        bits = (before.view(torch.int32) != after.view(torch.int32)) if before.is_floating_point() else before != after
        rows = bits.reshape(len(before), -1).any(dim=1).nonzero().flatten() if before.dim() else bits.nonzero()
        groups = selection.rows.get(module, {})
        allowed = set(torch.cat(list(groups.values())).tolist()) if groups else set()
        assert set(rows.tolist()) <= allowed, f"{name}: a row outside the selection changed"
        changed += len(rows) if name.endswith("weight") else 0
    assert changed > 0.9 * facts["audit"]["trained"]


def test_running_again_skips_everything_and_changes_no_file(own_run):
    before = files(own_run)
    assert run(own_run.parent) == []
    assert files(own_run) == before


# ---- the walker -------------------------------------------------------------------------------------------------


@pytest.fixture
def hollow(monkeypatch):
    """Replace what the stages do: each writes its files, which depend on its recipe fields and on what it reads."""

    def table(recipe):
        return [replace(stage, function=writer(stage, recipe)) for stage in stages(recipe)]

    def writer(stage, recipe):
        def write(context):
            tree = recipe.model_dump(mode="json")
            content = "".join((context.folder / name).read_text() for name in stage.reads)
            for field in stage.fields:
                section, _, key = field.partition(".")
                content += json.dumps(tree[section][key] if key else tree[section])
            for name in stage.writes:
                with fresh(context.path(name)) as part:
                    part.write_text(f"{name} {hash(content)}")

        return write

    monkeypatch.setattr(neuroglot.pipeline.run, "stages", table)
    monkeypatch.setattr(neuroglot.pipeline.run.Context, "check", lambda self: None)


@pytest.mark.usefixtures("hollow")
@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("train.lr=0.002", ["train", "evaluate", "report"]),
        ("select.budget=0.1", ["select", "train", "evaluate", "report"]),
        ("profile.items=3", ["profile", "select", "train", "evaluate", "report"]),
        ("data.train=20", ["profile", "select", "train", "evaluate", "report"]),
        ("data.test=2", ["evaluate", "report"]),
        ("evaluate.beams=2", ["evaluate", "report"]),
        ("report.gallery=1", ["evaluate", "report"]),
        ("probe.steps=3", ["report"]),  # mnaft has no probe; the page shows the recipe
    ],
)
def test_a_change_redoes_what_depends_on_it(tmp_path, change, redone):
    assert run(tmp_path) == STAGES
    assert run(tmp_path) == []
    assert run(tmp_path, change) == redone
    assert run(tmp_path, change) == []
    assert change.split("=")[1] in (tmp_path / "smoke" / "recipe.yaml").read_text()


@pytest.mark.usefixtures("hollow")
def test_a_probe_does_not_depend_on_the_rate_of_the_training(tmp_path):
    assert run(tmp_path, "method=neumt") == ["profile", "probe", *STAGES[1:]]
    assert run(tmp_path, "method=neumt", "train.lr=0.002", "train.seed=1") == ["train", "evaluate", "report"]
    assert run(tmp_path, "method=neumt", "probe.steps=9")[0] == "probe"


@pytest.mark.usefixtures("hollow")
@pytest.mark.parametrize("stage", STAGES)
def test_a_deleted_file_redoes_its_stage(tmp_path, stage):
    run(tmp_path)
    writes = {s.name: s.writes for s in stages(load_recipe("quickstart"))}[stage]
    for name in writes:
        (tmp_path / "smoke" / name).unlink()
        assert run(tmp_path) == [stage]  # and nothing else: what was made is what was there


@pytest.mark.usefixtures("hollow")
def test_force_redoes_everything_or_one_stage(tmp_path):
    run(tmp_path)
    assert run(tmp_path, force=True) == STAGES
    assert run(tmp_path, only="select", force=True) == ["select"]
    assert run(tmp_path, only="select") == []


@pytest.mark.usefixtures("hollow")
def test_a_changed_model_or_data_file_redoes_what_reads_it(tmp_path):
    data = tmp_path / "my.jsonl"
    data.write_text("{}\n")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    settings = [f"data.source={data}", f"model.path={model}"]
    run(tmp_path, *settings)
    assert run(tmp_path, *settings) == []
    (model / "config.json").write_text('{"a": 1}')
    redone = run(tmp_path, *settings)
    assert redone == ["profile", "train", "evaluate", "report"]  # the same profile, so the same selection
    data.write_text("{}\n{}\n")
    assert run(tmp_path, *settings) == ["profile", "train", "evaluate"]


@pytest.mark.usefixtures("hollow")
def test_a_stage_alone_says_which_stage_to_run_first(tmp_path):
    for stage, missing in {
        "select": "profile.safetensors, which is not there; run the profile stage first",
        "train": "selection.safetensors, which is not there; run the select stage first",
        "evaluate": "adapter, which is not there; run the train stage first",
    }.items():
        with pytest.raises(UserError, match=missing):
            run(tmp_path, only=stage)
        assert not (tmp_path / "smoke").exists()  # nothing is left of a run that did not begin
    for stage in STAGES:
        assert run(tmp_path, only=stage) == [stage]
    with pytest.raises(UserError, match="method lora has no select stage; it has train, evaluate, report"):
        run(tmp_path, "method=lora", only="select")


@pytest.mark.usefixtures("hollow")
def test_a_stage_alone_says_so_when_what_it_reads_was_made_by_another_recipe(tmp_path):
    run(tmp_path)
    said = []
    recipe = load_recipe("quickstart", ["name=smoke", "profile.items=3"], "smoke")
    execute(recipe, tmp_path, silent, said.append, only="select")
    assert said[0] == "profile: not made by this recipe; used as it is"


@pytest.mark.usefixtures("hollow")
def test_another_method_in_the_same_folder_leaves_nothing_of_the_first(tmp_path):
    def own():
        return {p.name for p in (tmp_path / "smoke").iterdir()} & set(METHODS_OWN)

    made = {
        "neumt": {"profile.safetensors", "layers.json", "selection.safetensors", "adapter"},
        "mnaft": {"profile.safetensors", "selection.safetensors", "adapter"},
        "full": {"model"},
        "lora": {"adapter"},
    }
    for method in ("neumt", "mnaft", "full", "lora", "neumt"):
        run(tmp_path, f"method={method}")
        assert own() == made[method]


def test_every_method_has_stages_that_read_only_what_earlier_ones_write():
    own = set()
    scores = "profile.scores=[taylor_token, gradient, activation, activation_probability]"
    settings = [[f"method={method}", scores] for method in METHODS]
    for changes in (*settings, ["train.parameters=0.1"], ["select.score=movement"]):
        there = set()
        for stage in stages(load_recipe("quickstart", changes)):
            assert set(stage.reads) <= there
            assert not set(stage.replaces) & (there | set(stage.writes))
            there |= set(stage.writes)
        own |= there & set(METHODS_OWN)
    assert own == set(METHODS_OWN)


@pytest.mark.usefixtures("hollow")
def test_a_stage_that_fails_leaves_no_half_written_output(tmp_path, monkeypatch):
    run(tmp_path)
    folder = tmp_path / "smoke"
    before = {name: (folder / name).read_text() for name in ("adapter", "training.json", "scores.json")}

    def failing(context):
        with fresh(context.path("adapter")) as part:
            part.write_text("half")
            raise RuntimeError("the machine caught fire")

    table = neuroglot.pipeline.run.stages
    monkeypatch.setattr(
        neuroglot.pipeline.run,
        "stages",
        lambda recipe: [replace(s, function=failing) if s.name == "train" else s for s in table(recipe)],
    )
    with pytest.raises(RuntimeError, match="fire"):
        run(tmp_path, "train.lr=0.002")
    assert {name: (folder / name).read_text() for name in before} == before
    assert [p for p in leftovers(folder) if p.suffix != ".begun"] == []
    monkeypatch.setattr(neuroglot.pipeline.run, "stages", table)
    assert run(tmp_path, "train.lr=0.002") == ["train", "evaluate", "report"]


@pytest.mark.usefixtures("hollow")
def test_what_a_killed_process_left_is_swept_away(tmp_path):
    run(tmp_path)
    folder = tmp_path / "smoke"
    (folder / ".scores.json.4711.tmp").write_text("half")
    (folder / ".adapter.part").mkdir()
    (folder / ".adapter.part" / "weights").write_text("half")
    (folder / "scores.json").unlink()
    assert run(tmp_path) == ["evaluate"]
    assert leftovers(folder) == []


@pytest.mark.usefixtures("hollow")
def test_unfinished_work_is_kept_for_the_same_recipe_only(tmp_path, monkeypatch):
    seen = []
    table = neuroglot.pipeline.run.stages

    def stopping(context):
        work = context.path(".train")
        seen.append(work.exists())
        work.mkdir(exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(
        neuroglot.pipeline.run,
        "stages",
        lambda recipe: [replace(s, function=stopping) if s.name == "train" else s for s in table(recipe)],
    )
    for overrides, only, force in [
        ((), None, False),
        ((), "train", False),
        (("train.lr=0.5",), "train", False),
        (("train.lr=0.5",), "train", False),
        (("train.lr=0.5",), "train", True),
    ]:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, *overrides, only=only, force=force)
    assert seen == [False, True, False, True, False]


@pytest.mark.usefixtures("hollow")
def test_an_error_leaves_what_a_kill_leaves_where_a_stage_can_go_on(tmp_path, monkeypatch):
    seen, leaves = [], [False, True, True]
    table = neuroglot.pipeline.run.stages

    def failing(context):
        work = context.path(".profile")
        seen.append(work.exists())
        if leaves.pop(0):
            work.mkdir(exist_ok=True)
            (work / "half").write_text("")
        raise UserError("the disk is full")

    monkeypatch.setattr(
        neuroglot.pipeline.run,
        "stages",
        lambda recipe: [replace(s, function=failing) if s.name == "profile" else s for s in table(recipe)],
    )
    folder = tmp_path / "smoke"
    for there in (False, True, True):
        with pytest.raises(UserError, match="the disk is full"):
            run(tmp_path)
        assert folder.exists() is there, "a new folder with nothing to go on from is taken away"
        assert (folder / ".stages" / "profile.begun").exists() is there
    assert seen == [False, False, True]


def test_user_mistakes_leave_no_folder_behind(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"image": "a.png", "target": "x"\n')
    for overrides in (
        (f"data.source={bad}",),
        (f"data.source={tmp_path / 'none.jsonl'}",),
        (f"model.path={tmp_path / 'none'}",),
        ("train.optimizer=adamw_tocrh",),
        ("task=multimodal_translation",),
    ):
        with pytest.raises(UserError):
            run(tmp_path / "new" / "runs", *overrides)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl"]


def test_user_mistakes_leave_a_finished_run_as_it_was(own_run, tmp_path):
    before = files(own_run)
    with pytest.raises(UserError, match="does not exist"):
        run(own_run.parent, f"data.source={tmp_path / 'none.jsonl'}")
    with pytest.raises(UserError, match="adamw_tocrh"):
        run(own_run.parent, "train.optimizer=adamw_tocrh")
    assert files(own_run) == before


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="run folder .*smoke cannot be made"):
        run(tmp_path / "runs")
    (tmp_path / "smoke").write_text("")
    with pytest.raises(UserError, match="a file of this name is in the way"):
        run(tmp_path)


def test_a_second_run_in_one_folder_is_refused_with_the_number_of_the_first(own_run):
    code = (
        "import pathlib, sys; from neuroglot.pipeline.folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(own_run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(
            UserError, match=f"is in use by process {other.pid}; wait for it, or give this run another"
        ):
            run(own_run.parent)
        other.kill()
    assert run(own_run.parent) == []  # the lock died with its holder


# ---- every method, really ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        pytest.param("lora", (), id="lora", marks=pytest.mark.slow),
        pytest.param("random-layers", (), id="random-layers", marks=pytest.mark.slow),
        pytest.param("neumt", (), id="neumt", marks=pytest.mark.slow),
        pytest.param("neumt", ("probe.estimator=full",), id="neumt-full-probe", marks=pytest.mark.slow),
        pytest.param("neumt-paper", (), id="neumt-paper", marks=pytest.mark.slow),
        pytest.param("random", (), id="random", marks=pytest.mark.slow),
        pytest.param("random", ("select.like=neumt",), id="random-like-neumt", marks=pytest.mark.slow),
        pytest.param("gradient", (), id="gradient", marks=pytest.mark.slow),
        pytest.param("full", (), id="full", marks=pytest.mark.slow),
        pytest.param(
            "mnaft",
            ("train.bf16=true", "train.gradient_checkpointing=true", "train.accumulation=2", "model.dtype=bfloat16"),
            id="mnaft-bf16",
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.turns
def test_every_method_runs_from_data_to_page(tmp_path, method, overrides):
    recipe = load_recipe("quickstart", ["name=smoke", f"method={method}", *overrides], "smoke")
    done = run(tmp_path, f"method={method}", *overrides)
    assert done == [stage.name for stage in stages(recipe)]
    assert ("probe" in done) == recipe.needs_probe
    folder = tmp_path / "smoke"
    assert list(json.loads((folder / "scores.json").read_text())["systems"]) == ["base", "cascade", method]
    facts = json.loads((folder / "training.json").read_text())
    assert facts["method"] == method
    assert facts["steps"] == recipe.train.steps
    if recipe.uses_neurons:
        assert facts["audit"]["outside"] == []
    if recipe.needs_probe:
        layers = json.loads((folder / "layers.json").read_text())
        assert layers["cost"]["steps"] == recipe.probe.steps
        assert {pair for by_pair in layers["similarity"].values() for pair in by_pair} == {"en-de", "en-fr"}
    assert (folder / ("model" if method == "full" else "adapter")).is_dir()
    assert leftovers(folder) == []
    before = files(folder)
    assert run(tmp_path, f"method={method}", *overrides) == []
    assert files(folder) == before


# ---- interrupted and resumed ------------------------------------------------------------------------------------


def trained(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_training_stopped_between_its_last_checkpoint_and_its_end_takes_no_further_step(own_run, monkeypatch):
    import neuroglot.pipeline.training as stage

    constant = "train.scheduler=constant"  # with a rate of zero at the end a step too many would not show
    assert run(own_run.parent, constant, only="train") == ["train"]
    wanted = trained(own_run)

    def no_room(context, tuned, folder):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_save", no_room)
        with pytest.raises(OSError, match="No space left"):
            run(own_run.parent, constant, only="train", force=True)
    assert sorted(p.name for p in (own_run / ".train").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert same(trained(own_run), wanted)  # the old one is still there, whole
    (own_run / "adapter" / "adapter_model.safetensors").unlink()
    assert run(own_run.parent, constant, only="train") == ["train"]
    assert same(trained(own_run), wanted)
    assert json.loads((own_run / "training.json").read_text())["steps"] == 4
    assert len((own_run / "train_log.jsonl").read_text().splitlines()) == 4
    assert leftovers(own_run) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mnaft", "lora"])
def test_a_killed_training_goes_on_and_ends_bit_for_bit_the_same(own_run, tmp_path, method):
    changes = [f"method={method}", "train.steps=12", "train.accumulation=2", "train.scheduler=constant"]
    whole = Path(shutil.copytree(own_run, tmp_path / "whole" / "smoke"))
    assert run(whole.parent, *changes, only="train") == ["train"]

    before = trained(own_run)
    command = [sys.executable, "-m", "neuroglot", "train", "quickstart", "--scale", "smoke"]
    command += ["--runs", str(own_run.parent), *SETTINGS, *changes]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (own_run / ".train" / "checkpoint-2" / "trainer_state.json").exists():
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert same(trained(own_run), before)  # the old one is still there, whole

    assert run(own_run.parent, *changes, only="train") == ["train"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (own_run / "adapter" / name).read_bytes() == (whole / "adapter" / name).read_bytes()
    assert (own_run / "train_log.jsonl").read_text() == (whole / "train_log.jsonl").read_text()
    assert not same(trained(own_run), before)
    assert leftovers(own_run) == []


@pytest.mark.slow
def test_importance_along_a_full_fine_tuning(tmp_path, smoke_run):
    """The paper's own way: every item once, of a model that moves; what identifies the profile is the base."""
    run(tmp_path, "profile.importance_at=during", "probe.lr=1e-3", only="profile")
    moved, base = (Profile.load(folder / "profile.safetensors") for folder in (tmp_path / "smoke", smoke_run))
    assert (moved.fingerprint, moved.conditions, moved.data) == (base.fingerprint, base.conditions, base.data)
    assert torch.equal(moved.counts, base.counts)
    assert all(torch.equal(x, base.static["weight"][name]) for name, x in moved.static["weight"].items())
    assert {k: v.tolist() for k, v in moved.block_counts.items()} == {
        k: v.tolist() for k, v in base.block_counts.items()
    }
    shares = [moved.importance("taylor_token"), base.importance("taylor_token")]
    assert all(not torch.equal(x, shares[1][name]) for name, x in shares[0].items() if bool(x.any()))
    run(tmp_path, "profile.importance_at=during", "probe.lr=1e-12", only="profile")
    still = Profile.load(tmp_path / "smoke" / "profile.safetensors").importance("taylor_token")
    assert all(torch.allclose(x, shares[1][name], rtol=1e-2, atol=1e-9) for name, x in still.items())
    assert not (tmp_path / "smoke" / ".profile").exists()
