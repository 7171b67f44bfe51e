"""A run with a user's own retention files, and one that is watched while it trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from neuroglot.config.load import load_recipe
from neuroglot.data.example import instruction
from neuroglot.errors import UserError
from neuroglot.evaluation import paired_bootstrap, retention, score_rows
from neuroglot.evaluation.retention_data import identity, read_retention
from neuroglot.pipeline.run import execute
from neuroglot.report import report, show

FIXTURES = Path(__file__).parent / "data" / "fixtures"
SETTINGS = ["name=smoke", "data.pairs=[en-de, en-fr]", "train.weight_decay=0.1", "train.optimizer=adamw_torch_fused"]

ASKED = [
    {"instruction": "What is the opposite of open?", "target": "closed"},
    {"instruction": "Which day is named?", "source": "Closed on Monday", "target": "Monday", "item": "day"},
]
TRANSLATED = {"source": "Open", "target": "Offen", "source_lang": "en", "target_lang": "de"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions_and_any_task_are_read(tmp_path):
    found = read_retention([str(write(tmp_path / "mine.jsonl", [*ASKED, TRANSLATED]))])
    assert list(found) == ["file:mine instruct", "file:mine text_translation"]
    first, second = found["file:mine instruct"]
    assert (instruction(first), first.target, str(first.pair)) == (ASKED[0]["instruction"], "closed", "en-en")
    assert instruction(second) == "Closed on Monday\nWhich day is named?"
    assert second.item == "day"
    assert list(read_retention([str(write(tmp_path / "one.jsonl", ASKED))], items=1)["file:one"]) == [
        read_retention([str(tmp_path / "one.jsonl")])["file:one"][0]
    ]


def test_images_outside_of_the_bound_are_refused(tmp_path):
    inside = tmp_path / "images"
    inside.mkdir()
    for folder in (inside, tmp_path):
        Image.new("RGB", (20, 20)).save(folder / "a.png")
    rows = [{"image": str(inside / "a.png"), "instruction": "What is it?", "target": "black"}]
    assert read_retention([str(write(tmp_path / "in.jsonl", rows))], root=inside)
    with pytest.raises(UserError, match=r"line 1: image .* lies outside of data\.root"):
        read_retention([str(write(tmp_path / "out.jsonl", [{**rows[0], "image": "a.png"}]))], root=inside)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ASKED[0], {"instruction": "Why?"}], "line 2: field 'target' is missing or empty"),
        ([{"instruction": " ", "target": "a"}], "line 1: field 'instruction' is empty"),
        ([{"task": "instruct", "target": "a"}], "line 1: field 'instruction' is missing or empty"),
        ([{**ASKED[0], "task": "ocr"}], "line 1: task ocr has instructions of its own"),
        ([], "holds no examples"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_clear_line(tmp_path, rows, words):
    with pytest.raises(UserError, match=words) as error:
        read_retention([str(write(tmp_path / "mine.jsonl", rows))])
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_there_twice(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_retention([str(tmp_path / "absent.jsonl")])
    (tmp_path / "deep").mkdir()
    paths = [str(write(folder / "mine.jsonl", ASKED)) for folder in (tmp_path, tmp_path / "deep")]
    with pytest.raises(UserError, match="two sources called mine"):
        read_retention(paths)


def test_a_corpus_can_stand_there_too_its_test_split_in_the_runs_pairs(tmp_path):
    corpus = shutil.copytree(FIXTURES / "commute", tmp_path / "commute")
    (split,) = read_retention([str(corpus)], pairs=["en-de", "en-cs"]).items()
    name, found = split
    assert name == "file:commute"
    assert {str(e.pair) for e in found} == {"en-de"}
    assert all(e.task == "multimodal_translation" and len(e.alternatives) == 1 for e in found)
    every = read_retention([str(corpus)])["file:commute"]
    assert len(every) > len(found)
    assert {e.meta.get("split") for e in every} == {"test"}  # en-fr_dev is left out
    with pytest.raises(UserError, match="no examples to test.* in en-cs"):
        read_retention([str(corpus)], pairs=["en-cs"])
    before = identity([str(corpus)])
    with (corpus / "en-de" / "correct.de").open("a") as file:
        file.write("\n")
    assert identity([str(corpus)]) != before


def test_only_what_is_used_is_looked_at(tmp_path):
    """Neither a photograph nor a line of other splits and pairs; of the rest file and line are named."""
    from neuroglot.data.image import image_size

    def fits(example):
        return [image_size(image) for image in example.images]

    corpus = shutil.copytree(FIXTURES / "commute", tmp_path / "commute")
    order = (corpus / "en-de/img.order").read_text().split()
    for folder in ("en-fr", "en-fr_dev"):
        (corpus / folder / "correct.fr").write_text("\n\n")
        for name in (corpus / folder / "img.order").read_text().split():
            if name not in order:
                (corpus / "images" / name).unlink(missing_ok=True)
    (found,) = read_retention([str(corpus)], 1, fits, ["en-de"]).values()
    (corpus / "images" / order[-1]).unlink()
    assert read_retention([str(corpus)], 1, fits, ["en-de"]) == {"file:commute": found}
    with pytest.raises(UserError, match=rf"en-de/img\.order line {len(order)}: .*{order[-1]}"):
        read_retention([str(corpus)], 0, fits, ["en-de"])


def test_contrastive_is_kept_or_lost_like_any_figure():
    def rows(system, right):
        fixed = {"split": "file:commute", "pair": "en-de", "source": "s", "reference": "r", "hypothesis": "h"}
        costs = [{"nll": 1.0, "alternative_nll": [2.0 if i < right else 0.5]} for i in range(8)]
        tokens = {"tokens": 2, "alternative_tokens": [2]}
        return [{"system": system, "item": str(i), "index": i, **fixed, **tokens, **costs[i]} for i in range(8)]

    said = {"base": rows("base", 6), "mnaft": rows("mnaft", 4)}
    scores = {name: {"file:commute": score_rows(found)} for name, found in said.items()}
    found = retention(scores, "base", "mnaft", [*said["base"], *said["mnaft"]])
    (row,) = [r for r in found if r["metric"] == "contrastive"]
    assert (row["before"], row["after"], row["difference"]) == (75.0, 50.0, -25.0)
    assert row["low"] < -25 < row["high"] <= 0


def test_the_identity_follows_the_content_and_the_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    path = write(tmp_path / "mine.jsonl", [{**ASKED[0], "image": "a.png"}])
    found = [identity([str(path)])]
    (tmp_path / "a.png").write_bytes(b"12")
    found.append(identity([str(path)]))
    write(path, [{**ASKED[1], "image": "a.png"}])
    found.append(identity([str(path)]))
    assert len(set(map(repr, found))) == 3


def silent(label, total):
    return lambda done: None


def train_again(runs, *changes, only):
    recipe = load_recipe("quickstart", [*SETTINGS, *changes], "smoke")
    return execute(recipe, runs, silent, lambda text: None, only)


@pytest.mark.slow
def test_own_files_are_scored_before_and_after_and_shown(own_run, tmp_path, cli):
    path = write(tmp_path / "mine.jsonl", [*ASKED, TRANSLATED])
    folder = train_again(own_run.parent, f"evaluate.retention=[{path}]", only="evaluate")
    rows = [json.loads(line) for line in (folder / "hypotheses.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["split"] == "file:mine instruct"]
    assert {row["system"] for row in own} == {"base", "mnaft"}
    assert len(own) == 4
    kept = {(row["split"], row["metric"]): row for row in show(folder)["retention"]}
    assert {"ocr", "text_translation", "describe", "file:mine instruct", "file:mine text_translation"} == {
        split for split, _ in kept
    }
    for (split, metric), row in kept.items():
        before, after = ([r for r in rows if (r["system"], r["split"]) == (s, split)] for s in ("base", "mnaft"))
        expected = paired_bootstrap(before, after, metric)
        assert row["difference"] == pytest.approx(expected.value)
        assert (row["low"], row["high"]) == (expected.low, expected.high)
    page = report(folder).read_text(encoding="utf-8")
    assert "mine instruct" in page
    code, out, _ = cli("show", folder)
    assert code == 0
    assert "mine instruct" in out
    assert "95\u00a0% interval" in out
    # A change of the file is noticed, and a bad record is refused before anything is done.
    assert len((folder / ".stages" / "evaluate.json").read_text()) > 0
    write(path, [{"instruction": "Why?"}])
    with pytest.raises(UserError, match="line 1: field 'target' is"):
        train_again(own_run.parent, f"evaluate.retention=[{path}]", only="evaluate")


@pytest.mark.slow
def test_a_training_that_is_watched_is_the_same_training(smoke_run, own_run):
    from neuroglot.data.corpus import first_items
    from neuroglot.pipeline.context import Context
    from neuroglot.pipeline.evaluation import load_trained
    from neuroglot.systems import HFSystem

    changes = ("evaluate.every=2", "evaluate.items=3", "evaluate.max_new_tokens=8")
    folder = train_again(own_run.parent, *changes, only="train")
    name = "adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (smoke_run / name).read_bytes()
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    plain = [json.loads(line) for line in (smoke_run / "train_log.jsonl").read_text().splitlines()]
    assert [line for line in lines if "dev" not in line] == plain
    looks = [line for line in lines if "dev" in line]
    assert [line["step"] for line in looks] == [2, 4]

    context = Context(load_recipe("quickstart", [*SETTINGS, *changes], "smoke"), folder, silent, print)
    examples = first_items(context.corpus.dev, 3)
    model = load_trained(context.recipe.model, folder)
    said = HFSystem(model, context.batcher, "dev", context.recipe.evaluate.batch_size, 8).translate(examples)
    rows = [{"pair": str(e.pair), "reference": e.target, "hypothesis": s} for e, s in zip(examples, said, strict=True)]
    last = score_rows(rows)["average"]
    assert looks[-1]["dev"] == {name: pytest.approx(last[name]) for name in ("bleu", "chrf", "exact", "n")}
    assert looks[-1]["dev"]["n"] == 6
    page = report(folder).read_text(encoding="utf-8")
    assert "On dev items, chrF++" in page
    assert "dev items translated during training" in page
