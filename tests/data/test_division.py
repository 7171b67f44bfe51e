"""A run's own division: what shares an item, an image or a text is in one split, whatever the order of the records."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from neuroglot.data.corpus import DEV, TEST, TRAIN, divided, splits_of
from neuroglot.data.example import Example
from neuroglot.data.store import SPLITS, viewed

TASK = "image_translation"


def example(item, images=(), source=None, split=None, lang="de", task=TASK):
    return Example(tuple(map(Path, images)), source, f"{lang} {item}", "en", lang, task, item=item,
                   meta={"split": split} if split else {})  # fmt: skip


def division(examples, seed=0):
    return dict(zip((e.item for e in examples), divided(viewed(examples), seed).tolist(), strict=True))


def shares(split):
    return [round(float(np.mean(np.array(list(split)) == part)), 2) for part in (TRAIN, DEV, TEST)]


def crossing(examples, split, parts):
    """What stands in more than one split."""
    seen = {}
    for e in examples:
        for part in parts(e):
            seen.setdefault(part, set()).add(split[e.item])
    return [part for part, splits in seen.items() if len(splits) > 1]


def test_lines_of_one_photo_stay_together():
    examples = [example(f"{k}.png|{line}", [f"{k}.png"], f"text {k} {line}") for k in range(400) for line in "ab"]
    split = division(examples)
    assert crossing(examples, split, lambda e: e.images) == []
    assert shares(split.values()) == pytest.approx([0.8, 0.1, 0.1], abs=0.04)


def test_repeated_sentences_stay_together():
    examples = [example(str(k), (), ["Thank  you %d!", "thank you, %d"][k % 2] % (k // 3)) for k in range(900)]
    split = division(examples)
    assert crossing(examples, split, lambda e: [e.source.lower().replace(",", "").replace("!", "").split()[-1]]) == []
    assert shares(split.values()) == pytest.approx([0.8, 0.1, 0.1], abs=0.05)
    read = [example(str(k), [f"{k}.png"], None, task="ocr") for k in range(99)]
    twice = [Example(e.images, None, f"says {k // 2}", "en", "en", "ocr", item=e.item) for k, e in enumerate(read)]
    assert crossing(twice, division(twice), lambda e: [e.target]) == []


def test_a_chain_stays_together_by_every_image():
    """Each shares something else with the next: an item, an image that is not the first, a text."""
    examples = []
    for k in range(100):
        examples += [example(f"{k}a", [f"{k}-1"], f"first {k}"), example(f"{k}b", [f"{k}-2", f"{k}-1"]),
                     example(f"{k}c", [f"{k}-3", f"{k}-2"], f"last {k}"), example(f"{k}d", (), f"LAST {k}")
                     ]  # fmt: skip
    split = division(examples)
    assert crossing(examples, split, lambda e: [e.item[:-1]]) == []
    assert len(set(split.values())) == 3


def test_neither_order_nor_what_is_not_shared_decides():
    examples = [example(f"{k}", [f"{k // 2}.png"], f"text {k // 3}" if k % 2 else None) for k in range(300)]
    split = division(examples)
    turned = random.Random(0).sample(examples, len(examples))
    assert division(turned) == split
    assert division(examples, seed=1) != split
    assert division([*examples, *(example(f"new{k}", [f"new{k}.png"]) for k in range(50))]).items() >= split.items()


def test_nothing_connects_nothing():
    examples = [example(str(k), (), [None, "", "  "][k % 3]) for k in range(600)]
    assert shares(division(examples).values()) == pytest.approx([0.8, 0.1, 0.1], abs=0.05)
    blank = [example(str(k), ["blank.png"], f"text {k}") for k in range(600)]
    assert shares(division(blank).values()) == pytest.approx([0.8, 0.1, 0.1], abs=0.05)


@pytest.mark.parametrize("part", [0.4, 0.7])
def test_a_very_large_group_trains_and_the_others_fill_up(part):
    large = int(1000 * part)
    images = [[f"{k}.png", f"{k + 1}.png"] if k < large else [f"x{k}.png"] for k in range(1000)]
    split = division([example(str(k), images[k]) for k in range(1000)])
    assert {split[str(k)] for k in range(large)} == {TRAIN}
    assert shares(split.values()) == pytest.approx([0.8, 0.1, 0.1], abs=0.05)


def test_what_shares_with_a_marked_example_follows_it():
    marked = [example("t1", ["test.png"], "tested", "test"), example("d1", ["dev.png"], split="dev"),
              example("r1", ["train.png"], split="train"), example("r2", ["test.png"], split="train")]  # fmt: skip
    free = [example("t1", ["other.png"]), example("a", ["test.png"]), example("b", (), "TESTED"),
            example("c", ["dev.png"]), example("d", ["train.png"]), example("e", ["train.png", "dev.png"]),
            example("f", ["far.png"], "tested."), example("g", ["far.png"])]  # fmt: skip
    others = [example(f"o{k}", [f"o{k}.png"]) for k in range(200)]
    split = divided(viewed([*marked, *free, *others]), 0).tolist()
    assert split[:4] == [TEST, DEV, TRAIN, TRAIN], "what is marked stays as it is"
    assert split[4:8] == [TEST, TEST, TEST, DEV]
    assert split[8:10] == [DEV, DEV], "they hang together, and the later split counts"
    assert split[10:12] == [TEST, TEST]
    assert shares(split[12:]) == pytest.approx([0.8, 0.1, 0.1], abs=0.07)


def test_marked_examples_connect_nothing_by_themselves():
    """A text that both a marked training and a marked test example have takes no third one along."""
    marked = [example("r", ["a.png"], "menu", "train"), example("t", ["b.png"], "menu", "test")]
    free = [example(f"f{k}", ["a.png"], f"text {k}") for k in range(5)]
    assert set(divided(viewed([*marked, *free]), 0).tolist()[2:]) == {TRAIN}


def test_a_check_divides_as_a_run():
    examples = [example(str(k), [f"{k // 2}.png"], f"text {k}", lang=lang) for k in range(60) for lang in ("de", "fr")]
    examples += [example(f"r{k}", [f"{k}.png"], task="ocr") for k in range(60)]
    view = viewed(examples)
    split = splits_of(view, TASK, ["en-de"], 3)
    ours = view.where(np.array([e.task == TASK and e.target_lang == "de" for e in examples]))
    assert (split[ours.places] == divided(ours, 3)).all()
    assert {SPLITS[number] for number in split} == {"train", "dev", "test"}
