"""Ablations: what the variants are, how they are compared, the figure, and a whole one by the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neuroglot.cli import main
from neuroglot.compare.figures import draw_ablation
from neuroglot.compare.grid import Cell, Contender, variants
from neuroglot.compare.results import compare_all
from neuroglot.compare.runner import make_sweep
from neuroglot.compare.tables import ablation_markdown
from neuroglot.config.load import load_recipe, shipped
from neuroglot.config.sections import slug
from neuroglot.errors import UserError

SHIPPED = ("ablation-layers", "ablation-ratio", "ablation-sets")


def recipes(name):
    """The recipe of every variant, by its name."""
    from neuroglot.compare.grid import recipe_of

    recipe = load_recipe(name)
    found = [c for c in variants(recipe, recipe.sweep) if c.variant is not None]
    return {c.variant: recipe_of(Cell(c, 0.003, 2), recipe, [(64, 64)]) for c in found}


def test_the_shipped_ablations_vary_what_the_paper_varied():
    layers = recipes("ablation-layers")
    assert [r.select.layers for r in layers.values()] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(r.needs_probe and r.select.specific is None for r in layers.values())  # 1 : 9 by default
    ratio = recipes("ablation-ratio")
    assert [round(10 * r.select.specific) for r in ratio.values()] == list(range(11))
    assert list(ratio)[::10] == ["0:10", "10:0"]
    sets = recipes("ablation-sets")
    assert [(r.method, r.select.sets) for r in sets.values()] == [
        ("neumt", None), ("neumt", "agnostic"), ("neumt", "specific"), ("random", "agnostic"), ("random", "specific"),
    ]  # fmt: skip
    for made in (*ratio.values(), *sets.values()):
        assert made.select.layers == 1.0
    for made in (*layers.values(), *ratio.values(), *sets.values()):
        assert (made.train.lr, made.train.seed, made.sweep) == (0.003, 2, None)
    assert sets["specific, at random"].select.seed == 2  # drawn anew for each seed
    assert all(f"neuroglot sweep {name}" in shipped()[name].read_text() for name in SHIPPED)


def test_every_variant_has_a_folder_of_its_own():
    for name in SHIPPED:
        recipe = load_recipe(name)
        found = variants(recipe, recipe.sweep)
        assert len({Cell(c, 1e-3, 0).name for c in found}) == len(found) == len(set(found))
    assert Cell(Contender("neumt", None, "20 %", '{"select.layers": 0.2}'), 0.01, 1).name == "neumt-20-0.01-1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["sweep={}"], "nothing is varied"),
        (["sweep={over: select.layers, values: [0.5]}"], "expected two or more different ones"),
        (["sweep={over: data.train, values: [10, 20]}"], "changes data.train; expected method, select.X or train.X"),
        (["sweep={over: train.lr, values: [0.1, 0.2]}"], "which a sweep chooses itself"),
        (["sweep={over: select.layers, values: [0.1, 0.2], names: [a]}"], "names has 1 entries for 2 values"),
        (["sweep={variants: {a: {}, b: {}}, reference: c}"], "reference 'c' is no variant"),
        (["sweep={variants: {a: {method: mnatf}}}"], "did you mean mnaft"),
        (["sweep={variants: {a b: {}, a_b: {}}}"], "called the same"),
        (["sweep={variants: {a: {}, b: {}}, beside: [lora]}"], "'lora' cannot stand beside variants"),
        (["sweep={variants: {a: {}, b: {select.layer: 0.5}}}"], "unknown key select.layer; did you mean layers"),
        (["sweep={over: select.layers, values: [0.5, 2]}"], "sweep, variant 2"),
        (["data.dev=0"], "data.dev is 0"),
    ],
)
def test_a_wrong_sweep_is_refused(changes, message):
    with pytest.raises(UserError) as error:
        make_sweep(load_recipe("ablation-layers", changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_without_a_sweep_is_refused():
    with pytest.raises(UserError, match="quickstart has no sweep section"):
        make_sweep(load_recipe("quickstart"))


def test_smoke_makes_a_sweep_small():
    grid = make_sweep(load_recipe("ablation-layers", None, "smoke"))
    assert (grid.seeds, grid.rates) == (1, (1e-3,))
    assert make_sweep(load_recipe("ablation-layers"), seeds=6, rates=[0.1]).seeds == 6
    assert load_recipe("quickstart", None, "smoke").sweep is None


def test_variants_are_compared_with_the_reference_alone():
    rng = np.random.default_rng(0)
    a, b = (Contender("neumt", None, name, json.dumps({"select.layers": x})) for name, x in (("a", 0.2), ("b", 1.0)))
    values = {c: {"nll": rng.normal(mean, 0.01, 200)} for c, mean in ((a, 1.0), (b, 2.0), (Contender("full"), 0.5))}
    found = {(c["of"], c["to"]): c["survives"] for c in compare_all(values, 6, reference=b)}
    assert found == {("a", "b"): "better", ("full", "b"): "better"}


def entry(name, variant, bleu, kept):
    figures = {"bleu": {"mean": bleu, "low": bleu - 1, "high": bleu + 1},
               "retention": {"mean": kept, "low": kept - 2, "high": kept + 2}}  # fmt: skip
    return {"name": name, "variant": variant, "method": "neumt", "rate": None if variant is None else 1e-3,
            "at_edge": False, "figures": figures, "cost": None}  # fmt: skip


def test_figure_and_table_show_every_variant(tmp_path):
    contenders = [entry("base", None, 5, 60), *(entry(n, n, 10 + i, 50 - i) for i, n in enumerate(("20 %", "100 %")))]
    found = {"contenders": contenders, "comparisons": [], "places": [0.2, 1.0], "label": "share of layers trained",
             "seeds": 3, "kept": ["ocr"], "reference": "100 %"}  # fmt: skip
    draw_ablation(found, tmp_path / "a.svg")
    draw_ablation(found, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<?xml")
    assert text == (tmp_path / "b.svg").read_text()
    assert text.count('<g id="axes_') == 2  # no panel for a figure that there is not
    lines = ablation_markdown(found).splitlines()
    assert lines[0].startswith("| share of layers trained | rate | BLEU | kept, exact |")
    assert "| 20 % | 0.001 | 10.0 [9.0, 11.0] | 50.0 [48.0, 52.0] |" in lines
    assert any("worse than '100 %'" in line for line in lines)


def test_slugs_are_parts_of_folder_names():
    assert [slug(x) for x in ("0:10", "20 %", "specific, at random", "%")] == [
        "0_10", "20", "specific_at_random", "variant",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.turns
def test_an_ablation_runs_and_goes_on(tmp_path, capsys, name):
    def run():
        with pytest.raises(SystemExit) as end:
            main(["sweep", name, "data.pairs=[en-de, en-fr]", "--scale", "smoke", "--jobs", "2", "--json",
                  "--runs", str(tmp_path)])  # fmt: skip
        assert end.value.code == 0
        return json.loads(capsys.readouterr().out)

    found = run()
    folder = tmp_path / name
    recipe = load_recipe(name)
    assert [e["name"] for e in found["contenders"]] == ["base", *recipe.sweep.settings]
    assert {p.name for p in folder.glob("ablation.*")} == {"ablation.json", "ablation.md", "ablation.svg"}
    assert all("bleu" in e["figures"] and "retention_nll" in e["figures"] for e in found["contenders"])
    trained = {e["name"]: e["cost"]["trainable_parameters"] for e in found["contenders"][1:]}
    if name == "ablation-layers":
        assert sorted(trained.values()) == list(trained.values())  # more layers, more parameters
        assert len(set(trained.values())) == 5
    elif name == "ablation-ratio":
        assert len(set(trained.values())) == 1  # the same neurons, dealt otherwise
    else:
        assert trained["agnostic only"] + trained["specific only"] == trained["standard"]
        assert trained["specific, at random"] == trained["specific only"]
    times = {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/.stages/*.json")}
    assert run() == found
    assert times == {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/.stages/*.json")}
