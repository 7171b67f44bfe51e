"""The statistics of a comparison, on data whose truth is known; its table, and its picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neuroglot.compare.figures import draw
from neuroglot.compare.grid import Contender
from neuroglot.compare.results import compare_all, figures_of, holm, interval, matched, p_value, summarise, wins
from neuroglot.compare.runner import Grid, Outcome, cell_folder
from neuroglot.compare.tables import (
    ablation_legend,
    against_lora,
    at_matched_quality,
    lora_title,
    markdown,
    quality,
    won,
)
from neuroglot.config.load import load_recipe
from neuroglot.evaluation.bootstrap import Draws, resample
from neuroglot.file_format import LOSSES, TRAINING, write_json


def crossed(rng, seeds=6, items=30, effect=0.0, spread=(0.2, 0.5, 0.3)):
    """Rows of two systems on the same items and seeds; b - a is `effect` and as noisy as seeds and items make it."""
    of_seed, of_item = (s * rng.standard_normal(n) for s, n in zip(spread, (seeds, items), strict=False))
    both = []
    for sign in (0, 1):
        shift = sign * (effect + of_seed[:, None] + of_item[None] + spread[2] * rng.standard_normal((seeds, items)))
        both.append(
            [
                [{"split": "s", "pair": "en-de", "item": str(i), "index": i, "reference": "x", "hypothesis": "",
                  "nll": 5 + float(shift[s, i])} for i in range(items)]
                for s in range(seeds)
            ]
        )  # fmt: skip
    return both


def test_p_values_keep_their_level_and_find_a_real_difference():
    rng = np.random.default_rng(1)
    rejected = {}
    for effect in (0.0, 0.6):
        hits = 0
        for trial in range(150):
            a, b = crossed(rng, effect=effect)
            draws = Draws.make(a[0], 6, 200, seed=trial)
            hits += p_value(resample(b, "nll", ["s"], draws) - resample(a, "nll", ["s"], draws), 6) < 0.05
        rejected[effect] = hits / 150
    assert rejected[0.0] <= 0.08
    assert rejected[0.6] >= 0.8


def test_no_p_value_comes_from_few_seeds():
    assert p_value(np.asarray([1.0, 2.0, 3.0]), 5) is None
    assert p_value(np.zeros(5), 6) == 1.0


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        ([0.04], [True]),
        ([0.04, 0.04], [False, False]),
        ([0.02, 0.04], [True, True]),
        ([0.001, 0.2, 0.012, 0.03], [True, False, True, False]),  # 0.03 > 0.05 / 2
        ([0.2, 0.001, None], [False, True, False]),
        ([], []),
    ],
)
def test_holm_steps_down(ps, expected):
    assert holm(ps) == expected


def test_marks_say_better_or_worse_whichever_way_a_figure_goes():
    good, bad = np.linspace(0.99, 1.01, 201), np.linspace(1.99, 2.01, 201)
    good[0], bad[0] = 1, 2
    values = {
        Contender("random", 0.1): {"nll": bad, "bleu": bad},
        Contender("mnaft", 0.1): {"nll": good, "bleu": good},
    }
    rng = np.random.default_rng(0)
    for figures in values.values():
        for name, x in figures.items():
            figures[name] = np.concatenate([x[:1], rng.permutation(x[1:])])
    found = {c["figure"]: c for c in compare_all(values, 6)}
    assert found["nll"]["survives"] == "better"
    assert found["bleu"]["survives"] == "worse"
    assert found["nll"]["difference"]["mean"] == -1
    assert {c["of"] for c in found.values()} == {"mnaft 10 %"}  # a reference is not compared with itself


def test_without_random_rows_random_layers_are_what_chance_does():
    draws = np.random.default_rng(0).normal(1, 0.1, 50)
    values = {Contender(method, 0.4): {"nll": draws} for method in ("random-layers", "neumt", "lora")}
    assert {(c["of"], c["to"]) for c in compare_all(values, 6)} == {
        ("neumt 40 %", "random-layers 40 %"), ("lora 40 %", "random-layers 40 %"),
        ("neumt 40 %", "lora 40 %"), ("random-layers 40 %", "lora 40 %"),
    }  # fmt: skip
    values[Contender("random", 0.4)] = {"nll": draws}
    assert {c["to"] for c in compare_all(values, 6)} == {"random 40 %", "lora 40 %"}


def test_the_difference_to_lora_is_a_table_of_its_own():
    rng = np.random.default_rng(0)
    values = {Contender("lora", 0.1): {"nll": 1 + rng.normal(0, 0.01, 400), "retention": 60 + rng.normal(0, 1, 400)}}
    values[Contender("mnaft", 0.1)] = {"nll": values[Contender("lora", 0.1)]["nll"] - 0.2,
                                       "retention": 60 + rng.normal(0, 1, 400)}  # fmt: skip
    values[Contender("random", 0.1)] = {"nll": 1.5 + rng.normal(0, 0.01, 400)}
    counts = {"lora 10 %": 1000, "mnaft 10 %": 1050, "random 10 %": 990}
    entries = [{"name": name, "cost": {"trainable_parameters": count}} for name, count in counts.items()]
    comparison = {"comparisons": compare_all(values, 6), "contenders": [*entries, {"name": "base", "cost": None}]}
    head, *rows = against_lora(comparison)
    of = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert of.keys() == {"mnaft 10 %", "random 10 %"}
    assert of["mnaft 10 %"]["nll"] == "-0.200 [-0.200, -0.200]▲"
    assert of["random 10 %"]["nll"].endswith("▼")
    assert not of["mnaft 10 %"]["kept, exact"].endswith(("▲", "▼"))
    assert of["random 10 %"]["kept, exact"] == ""
    assert [of[name]["parameters"] for name in of] == ["× 1.05", "× 0.99"]
    assert "as many parameters" in lora_title(comparison)
    entries[1]["cost"]["trainable_parameters"] = 1300
    assert "as many" not in lora_title(comparison)
    assert against_lora(comparison)[1][1] == "× 1.30"


def test_matched_quality_is_read_off_the_lines():
    base = {"nll": 2.0, "retention_nll": 0.1}
    entries = [
        {"name": "a", "budget": 0.1, "sweep": [{"rate": 1, "nll": 1.0, "retention_nll": 0.2},
                                               {"rate": 3, "nll": 0.5, "retention_nll": 0.6}]},
        {"name": "b", "budget": 0.1, "sweep": [{"rate": 1, "nll": 1.5, "retention_nll": 0.1},
                                               {"rate": 3, "nll": 1.2, "retention_nll": 0.3}]},
        {"name": "c", "budget": 0.4, "sweep": [{"rate": 1, "nll": 0.1, "retention_nll": 0.1}]},
    ]  # fmt: skip
    (at,) = [m for m in matched(entries, base) if m["budget"] == 0.1]
    assert at["nll"] == 1.2  # the best that b can do
    assert at["retention_nll"] == {"a": pytest.approx(0.18), "b": pytest.approx(0.3)}


@pytest.fixture
def finished(tmp_path):
    """A grid's files as the stages write them: two methods, three seeds, one of them better by construction."""
    recipe = load_recipe("quickstart", ["name=made"])
    entries = [Contender("base"), Contender("random", 0.1), Contender("mnaft", 0.1)]
    rng = np.random.default_rng(0)
    for contender in entries:
        for seed in range(3) if contender.trained else [None]:
            folder = cell_folder(tmp_path / "made", contender, 0.003 if contender.trained else None, seed)
            folder.mkdir(parents=True)
            right = {"base": 0.1, "random": 0.4, "mnaft": 0.7}[contender.method]
            rows = []
            for split in ("image_translation", "ocr"):
                for i in range(20):
                    reference = f"ein zwei drei vier {i}"
                    said = reference if rng.random() < right else "ein"
                    row = {"split": split, "pair": "en-de", "item": f"i{i}", "index": i, "reference": reference}
                    rows.append({**row, "hypothesis": said, "nll": 9 - 5 * right})
            (folder / "hypotheses.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            write_json(folder / "dev.json", LOSSES, {"nll": {"image_translation": 1.0, "ocr": 0.1}})
            facts = {"trainable_parameters": 1000, "seconds": 9, "peak_memory_bytes": 2**20, "saved_bytes": 4000}
            if contender.trained:
                write_json(folder / "training.json", TRAINING, facts)
    grid = Grid(recipe, tuple(entries), 3)
    tried = {0.001: {"image_translation": 0.9, "ocr": 0.2}, 0.003: {"image_translation": 0.5, "ocr": 0.3}}
    outcomes = [Outcome(c, tried if c.trained else {}, 0.003 if c.trained else None) for c in entries]
    return grid, tmp_path / "made", outcomes


def test_the_whole_summary(finished, tmp_path):
    found = summarise(*finished, draws=300)
    assert json.loads(json.dumps(found)) == found
    by_name = {e["name"]: e for e in found["contenders"]}
    assert by_name["base"]["cost"] is None
    assert by_name["base"]["seeds"] == 1
    assert by_name["mnaft 10 %"]["cost"]["saved_bytes"] == 4000
    assert by_name["mnaft 10 %"]["at_edge"]
    exact = by_name["mnaft 10 %"]["figures"]["exact"]
    assert exact["low"] <= exact["mean"] <= exact["high"]
    assert {w["figure"]: (w["won"], w["seeds"]) for w in found["wins"]}["nll"] == (3, 3)
    assert found["kept"] == ["ocr"]
    head, *rows = quality(found)
    assert head[2:] == ["BLEU", "chrF++", "exact", "nll", "kept, exact", "kept, nll"]
    assert [row[0] for row in rows] == ["base", "random 10 %", "mnaft 10 %"]
    assert won(found)[1][0] == "mnaft 10 %"
    assert len(at_matched_quality(found)) == 3
    text = markdown(found)
    assert "0.003*" in text
    for name, label in (("bleu", "BLEU"), ("chrf", "chrF++")):
        assert "version:" in found["signatures"][name]
        assert f"{label} `{found['signatures'][name]}`" in text
    assert found["signatures"]["bleu"] in ablation_legend(found | {"reference": "mnaft"})
    assert all(line.startswith("|") == line.endswith("|") for line in text.splitlines())
    draw(found, tmp_path / "a.svg")
    draw(found, tmp_path / "b.svg")
    svg = (tmp_path / "a.svg").read_bytes()
    assert svg == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in svg


def test_figures_that_recipes_and_references_ask_for_are_in_the_table():
    row = {"split": "s", "pair": "en-de", "item": "i", "index": 0, "reference": "ein\nzwei", "nll": 1.0}
    said = {0.2: ["zwei\nein"], 0.1: ["ein\nzwei"]}
    runs = {Contender("random", 0.1): [[{**row, "hypothesis": text}] for text in said[0.2]],
            Contender("mnaft", 0.1): [[{**row, "hypothesis": text}] for text in said[0.1]]}  # fmt: skip
    (rows,) = runs[Contender("random", 0.1)]
    plain = ["bleu", "chrf", "exact", "nll"]
    assert list(figures_of(rows, "s", moses=True)) == [*plain, "bleu_moses", "ter", "lines", "bleu_lines"]
    assert list(figures_of([{**row, "reference": "ein zwei"}], "s")) == plain  # nothing that only widens the table
    figures = figures_of(rows, "s")
    draws = Draws.make(rows, 1, 20)
    values = {c: {n: resample(own, m, splits, draws) for n, (m, splits) in figures.items()} for c, own in runs.items()}
    assert values[Contender("random", 0.1)]["lines"][0] == 100  # whatever their order
    assert values[Contender("random", 0.1)]["ter"][0] > values[Contender("mnaft", 0.1)]["ter"][0] == 0
    won_by = {entry["figure"]: entry["won"] for entry in wins(runs, figures)}
    assert (won_by["ter"], won_by["lines"], won_by["exact"]) == (1, 0, 1)  # of TER less is better


def test_an_interval_holds_the_data_and_the_draws():
    assert interval(np.asarray([5.0, *range(101)])) == {"mean": 5.0, "low": 2.5, "high": 97.5}
