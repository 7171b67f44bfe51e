"""What is tested is never replayed: not by its item, nor by any of its images, nor by its text, in whatever task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuroglot.data.corpus import Sizes, load_corpus
from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.validation import Plan, Record, check

TASK = "image_translation"
SIZES = Sizes(train=500, dev=0, test=100, heldout=0, retention=0)


def shown(k, split=None, images=None, source=None, lang="de"):
    return Example(tuple(map(Path, images or [f"{k}.png"])), source or f"Say {k}.", f"{lang} {k}", "en", lang, TASK,
                   item=f"image|{k}", meta={"split": split} if split else {})  # fmt: skip


def told(source, target="Ziel", split="train", item=None):
    return Example((), source, target, "en", "de", "text_translation", item=item or f"|{source}",
                   meta={"split": split} if split else {})  # fmt: skip


def read(target, image, split="train"):
    return Example((Path(image),), None, target, "en", "en", "ocr", item=f"{image}|", meta={"split": split})


MAIN = [shown(k, "test" if k < 4 else "train") for k in range(12)]


def replay_of(examples, kept=(), sizes=SIZES):
    return load_corpus("f.jsonl", TASK, [], sizes, 0, False, examples, replays=True, kept=lambda pairs: kept).replay


def test_sentences_of_tested_images_are_not_replayed_as_texts():
    same = [told(e.source.upper().rstrip("."), e.target) for e in MAIN]
    assert {e.source for e in replay_of([*MAIN, *same])["text_translation"]} == {f"SAY {k}" for k in range(4, 12)}
    drawn = [shown(k) for k in range(200)]  # which the run divides itself
    corpus = load_corpus(
        "f.jsonl", TASK, [], SIZES, 0, False, [*drawn, *(told(e.source) for e in drawn)], replays=True
    )
    tested = {e.source for e in (*corpus.splits[TASK], *corpus.dev)}
    assert len(tested) > 10
    assert not tested & {e.source for e in corpus.replay["text_translation"]}


def test_what_a_reading_says_is_a_text_too():
    other = [read("say 2", "elsewhere.png"), read("Say 20", "fresh.png")]
    assert [e.target for e in replay_of([*MAIN, *other])["ocr"]] == ["Say 20"]
    texts = [told(f"Say {k}", split="test" if k < 4 else "train") for k in range(12)]
    own = [*texts, read("SAY 1", "1.png"), read("Say 5", "5.png")]
    replay = load_corpus("f.jsonl", "text_translation", [], SIZES, 0, False, own, replays=True).replay
    assert [e.target for e in replay["ocr"]] == ["Say 5"]


def test_any_image_counts():
    several = [shown("a", "test", ["first.png", "second.png"]), shown("b", "train", ["third.png", "fourth.png"])]
    other = [read("x", "second.png"), read("y", "fourth.png"), read("z", "first.png")]
    assert [e.target for e in replay_of([*MAIN, *several, *other])["ocr"]] == ["y"]
    assert [e.target for e in replay_of([*MAIN, *several, *other[:2]])["ocr"]] == ["y"]
    pair = Example(
        (Path("new.png"), Path("first.png")), None, "w", "en", "en", "ocr", item="w", meta={"split": "train"}
    )
    assert [e.target for e in replay_of([*MAIN, *several, *other, pair])["ocr"]] == ["y"]


def test_what_a_recipe_names_to_be_kept_is_not_replayed():
    texts = [told(f"Kept {k}", item=f"k{k}") for k in range(50)]
    with pytest.raises(UserError, match="all its examples of other tasks are tested"):
        replay_of([*MAIN, *texts], texts)
    assert len(replay_of([*MAIN, *texts], texts[:20])["text_translation"]) == 30
    with pytest.raises(UserError, match="its training items share what they show or say with what is tested"):
        replay_of(MAIN, MAIN)
    again = replay_of(MAIN, [told("say 7")])
    assert {e.item for part in again.values() for e in part} == {f"image|{k}" for k in range(4, 12) if k != 7}


def test_embedded_signs_that_are_kept_elsewhere_are_not_replayed():
    def replay(*kept):
        sizes = Sizes(6, 0, 2, 0, 0)
        return load_corpus("signs", TASK, ["en-de"], sizes, 0, False, replays=True, kept=lambda pairs: kept).replay

    plain = replay()
    one = plain["text_translation"][0]
    fewer = replay(told(one.source))
    for task, part in plain.items():
        assert len(part) - len(fewer[task]) >= 1
        assert one.source not in {e.source or e.target for e in fewer[task]}
    with pytest.raises(UserError, match="every embedded sign is tested by evaluate.retention"):
        replay(*plain["text_translation"])


def test_a_run_replays_nothing_of_its_retention_sources(tmp_path):
    from neuroglot.config.load import load_recipe
    from neuroglot.pipeline.context import Context
    from neuroglot.pipeline.run import stages

    texts = [{"source": f"Kept {k}", "target": f"Ziel {k}", "source_lang": "en", "target_lang": "de", "item": f"t{k}"}
             for k in range(6)]  # fmt: skip
    signs = load_corpus("signs", TASK, ["en-de"], Sizes(4, 0, 2, 0, 0), 0, False)
    own = [{"source": e.source, "target": e.target, "source_lang": "en", "target_lang": "de", "item": e.item,
            "task": TASK, "split": split}
           for split, part in (("train", signs.train), ("test", signs.splits[TASK])) for e in part]  # fmt: skip
    rows = [*own, *({**t, "split": "train"} for t in texts)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "kept.jsonl").write_text("\n".join(map(json.dumps, texts[:4])), encoding="utf-8")
    settings = [f"data.source={tmp_path / 'own.jsonl'}", "data.pairs=[en-de]", "data.render={width: 120}",
                f"evaluate.retention=[{tmp_path / 'kept.jsonl'}]", "data.replay=0.2", "data.retention=0"]  # fmt: skip
    recipe = load_recipe("quickstart", settings, "full")
    context = Context(recipe, tmp_path, lambda label, total: lambda done: None, lambda line: None)
    assert [e.source for e in context.corpus.replay["text_translation"]] == ["Kept 4", "Kept 5"]
    assert context.kept["file:kept"] is context.kept["file:kept"], "read once"
    (train,) = (stage for stage in stages(recipe) if stage.name == "train")
    assert {"evaluate.retention", "evaluate.retention_items", "data.retention"} <= set(train.fields)


def test_a_reading_trains_every_pair_of_its_language_in_turn():
    examples = [shown(k, "test" if k < 3 else "train", lang=lang) for k in range(33) for lang in ("de", "fr", "cs")]
    part = replay_of(examples)["ocr"]
    assert [part.pairs.count(pair) for pair in ("en-de", "en-fr", "en-cs")] == [10, 10, 10]
    assert len({e.item for e in part}) == 30


@pytest.mark.parametrize("replays", [True, False])
def test_a_check_compares_what_is_replayed_with_what_is_tested(replays):
    from neuroglot.data.example import RenderSpec

    def pictured(e):
        return Example((RenderSpec(e.source, 1, 1),), e.source, e.target, "en", "de", TASK, item=e.item)

    records = [Record(n, pictured(e), e.meta["split"]) for n, e in enumerate(MAIN, start=1)]
    for n, e in enumerate((told("SAY 1"), told("say 6"), told("new"), told("Other", item="image|2")), start=20):
        records.append(Record(n, e, "train"))
    findings = check(lambda: iter(records), Plan("x", TASK, replays=replays)).findings
    found = [f for f in findings if f.kind == "leaked_replay"]
    assert [(f.severity, f.count, f.total) for f in found] == ([("warning", 2, 4)] if replays else [])
    if replays:
        places = [(e["position"], e["like"]["position"]) for e in found[0].examples]
        assert places == [(20, 2), (23, 3)]
