"""Recipes: what is shipped parses, what is wrong is refused in a line that says where, what is written loads."""

from __future__ import annotations

import pytest
import yaml
from pydantic import BaseModel

from neuroglot.config import METHODS, NEURON_METHODS, SCORES, Recipe, SelectSection, check, dump
from neuroglot.config.load import SMOKE, load_recipe, shipped
from neuroglot.config.strict_yaml import read_yaml, write_yaml
from neuroglot.errors import UserError
from neuroglot.neurons.profiling.scores import SCORES as MEASURED
from neuroglot.neurons.selecting.options import Options
from neuroglot.neurons.selecting.select import METHODS as SELECTIONS


def test_every_shipped_recipe_parses_and_says_how_it_is_run(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path))  # where little corpora are made for smoke scale
    assert "quickstart" in shipped()
    for name, path in shipped().items():
        for scale in ("full", "smoke"):
            assert load_recipe(name, scale=scale).name == name
        comment = path.read_text(encoding="utf-8").split("\nname:")[0]
        verb = "run" if load_recipe(name).sweep is None else "sweep"
        assert f"neuroglot {verb} {name}" in comment


def test_every_field_of_a_section_has_a_default():
    assert check({"data": {"pairs": ["en-de"]}}, "here").method == "mnaft"


def test_every_field_of_every_section_says_what_it_is():
    """The page of recipe fields is made of this."""
    schema = Recipe.model_json_schema()
    silent = {
        f"{title}.{name}"
        for title, section in {"Recipe": schema, **schema["$defs"]}.items()
        for name, field in section["properties"].items()
        if name != "kind" and not field.keys() & {"description", "$ref"}
    }
    assert silent == set()


def test_names_here_and_in_the_other_rooms_agree():
    assert set(NEURON_METHODS) == set(SELECTIONS)
    assert set(SCORES) == set(MEASURED)
    assert set(SelectSection.model_fields) - {"file"} <= set(Options.__dataclass_fields__)


def wrong(*overrides, source="quickstart"):
    with pytest.raises(UserError) as caught:
        load_recipe(source, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def sections(model=Recipe, path=()):
    """Yield the path of every section."""
    yield path, model
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation, (*path, name))


@pytest.mark.parametrize(("path", "model"), sections(), ids=lambda v: ".".join(v) if isinstance(v, tuple) else "")
def test_unknown_key_at_every_depth_is_refused_with_path_and_nearest_name(path, model):
    known = next(iter(model.model_fields))
    typo = known[:-1] + "q"
    message = wrong(f"{'.'.join((*path, typo))}=1")
    assert f"unknown key {'.'.join((*path, typo))}; did you mean" in message
    assert known in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lr=fast", "train.lr: must be a valid number"),
        ("train.lr=0", "train.lr: must be greater than 0, got 0"),
        ("train.lr=.inf", "train.lr: must be a finite number, got inf"),
        ("train.steps=1.5", "train.steps: must be a valid integer"),
        ("train=5", "train: must be a section of keys, got 5"),
        ("data.pairs=en-de", "data.pairs: must be a list, such as [a, b], got 'en-de'"),
        ("data.pairs=[en-german]", "data.pairs: language code 'german' is malformed"),
        ("data.pairs=[en]", "data.pairs: pair 'en' is malformed; expected source-target such as en-de"),
        ("data.pairs=[en-de, en-de]", "data.pairs: pair en-de is named twice"),
        ("data.pairs=[]", "data.pairs is empty; an embedded corpus needs pairs such as [en-fr, en-de]"),
        ("select.layers={visoin: 0.4}", "select.layers.visoin: must be 'vision', 'connector' or 'language'"),
        ("select.layers={vision: 3}", "select.layers.vision: must be less than or equal to 1, got 3"),
        ("select.layers=2", "select.layers: must be less than or equal to 1, got 2"),
        ("select.parts=[vision, eye]", "select.parts.1: must be 'vision', 'connector' or 'language', got 'eye'"),
        ("select.score=gradeint", "select.score 'gradeint' cannot choose neurons; did you mean gradient"),
        ("select.score=row_gradient", "profile.scores has no 'row_gradient', which select needs"),
        (
            "select.score=integrated_gradients",
            "integrated_gradients is not for recipes: it is measured of single, named",
        ),
        ("profile.scores=[integrated_gradients]", "integrated_gradients is not for recipes: it is measured of single"),
        (
            "method=mnaft-paper",
            "method: method mnaft-paper is now called mnaft-raw, for no formula of MNAFT is public",
        ),
        ("train.rows=0.5", "train.rows is a share of the rows that train.parameters divides; set that too"),
        ("train.non_finite=ignore", "train.non_finite: must be 'stop' or 'skip', got 'ignore'"),
        ("profile.scores=[gradeint]", "profile.scores: score 'gradeint' cannot be profiled; did you mean gradient"),
        ("select.budget=1.5", "select.budget: must be less than or equal to 1, got 1.5"),
        ("select.budget={vision: 0}", "select.budget.vision: must be greater than 0, got 0"),
        ("select.specific={en-de: 2}", "select.specific.en-de: must be less than or equal to 1, got 2"),
        ("select.rank=layer", "select.rank: must be 'per-layer', 'per-part' or 'global', got 'layer'"),
        ("select.keep=[text_translation]", "profile.contrast has no 'text_translation', which select.keep names"),
        ("select.neuron=ffn", "select.neuron is ffn and profile.neurons only rows; make the latter both"),
        ("method=lape", "profile.scores has no 'activation_probability', which select needs"),
        ("profile.contrast=[orc]", "profile.contrast: task 'orc' is not known; did you mean ocr?"),
        ("method=mnatf", "method: method 'mnatf' is not known; did you mean mnaft?"),
        ("name=../up", "name: a run's name is letters, digits, dots, hyphens and underscores, got '../up'"),
        ("train.scheduler=cos", "train.scheduler: must be 'cosine', 'linear'"),
        ("train.steps", "override 'train.steps' is malformed; expected key.path=value"),
        ("train..steps=1", "override 'train..steps=1' is malformed"),
        ("train.steps=[1", "override 'train.steps=[1': the value is not YAML"),
        ("data.source.file=1", "data.source.file: source is a value, not a section"),
    ],
)
def test_wrong_value_is_refused_with_its_path(override, expected):
    assert expected in wrong(override)


def test_options_that_contradict_each_other_are_refused_before_anything_runs():
    assert "give one of them" in wrong("method=neumt", "select.budget=0.2", "select.layers=0.5")
    assert "give one of them" in wrong("method=random", "select.like=neumt", "select.budget=0.2", "select.layers=0.5")
    assert "profile.scores has no 'gradient'" in wrong("method=gradient", "profile.scores=[taylor_token]")
    load_recipe("quickstart", ["method=lora", "profile.scores=[activation]"])  # nothing is selected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "must be a mapping of sections, got list"),
        ("name: [\n", "is not YAML"),
        ("trian: {steps: 1}\n", "unknown key trian; did you mean train?"),
    ],
)
def test_wrong_file_is_refused_by_name(tmp_path, text, expected):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    message = wrong(source=file)
    assert str(file) in message
    assert expected in message


def test_bad_bytes_and_missing_files_are_refused(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe\n")
    assert "is not YAML" in wrong(source=tmp_path / "bytes.yaml")
    assert "did you mean quickstart?" in wrong(source="quickstrat")
    assert "is data, not a recipe; write a recipe with: neuroglot init --data" in wrong(source=tmp_path)
    with pytest.raises(UserError, match="scale must be full or smoke, got 'tiny'"):
        load_recipe("quickstart", scale="tiny")


def test_overrides_are_yaml_and_later_ones_win():
    recipe = load_recipe(
        "quickstart",
        [
            "train.lr=5e-4",
            "train.lr=1e-3",
            "probe.lr=2E-05",
            "data.pairs=[en-de, en-fr]",
            "select.layers={vision: 0.4, language: 1}",
            "select.budget=null",
            "profile.contrast=[]",
            "train.bf16=true",
            "method=lora",
            "name=a-b",
        ],
    )
    assert recipe.train.lr == 1e-3
    assert recipe.probe.lr == 2e-5
    assert recipe.data.pairs == ("en-de", "en-fr")
    assert recipe.select.layers == {"vision": 0.4, "language": 1}
    assert recipe.select.budget is None
    assert recipe.profile.contrast == ()
    assert recipe.train.bf16 is True
    assert (recipe.method, recipe.name) == ("lora", "a-b")


def test_values_are_what_they_look_like():
    """As in YAML 1.2: no Norway, no sexagesimal numbers, no octal ones, no dates; what is written reads the same."""
    text = "a: [no, yes, on, 12:30, 2024-01-01, 0x1f, 1_000]\nb: [010, 1e-3, .5, -3, true, null, ~, .inf]\nc: '010'\n"
    found = read_yaml(text)
    assert found == {
        "a": ["no", "yes", "on", "12:30", "2024-01-01", "0x1f", "1_000"],
        "b": [10, 0.001, 0.5, -3, True, None, None, float("inf")],
        "c": "010",
    }
    for value in (found, {"x": ["1e3", ".5", "010", "yes", "~", "12:30", 1e-5, 1e22, None]}):
        assert read_yaml(write_yaml(value)) == value


def test_a_section_left_empty_is_one_left_out(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {pairs: [en-de]}\ntrain:\n  # steps: 100\nevaluate:\n")
    assert load_recipe(file) == check({"data": {"pairs": ["en-de"]}}, "here")


def test_pairs_are_put_in_one_spelling():
    assert load_recipe("quickstart", ["data.pairs=[en-pt_br, EN-zh_hans]"]).data.pairs == ("en-pt_BR", "en-zh_Hans")


def test_smoke_scale_shrinks_every_size_and_overrides_still_win():
    smoke = load_recipe("quickstart", ["train.steps=7"], scale="smoke")
    full = load_recipe("quickstart")
    assert smoke.train.steps == 7
    assert smoke.data.pairs == full.data.pairs
    assert (smoke.method, smoke.select) == (full.method, full.select)
    for key, value in SMOKE.items():
        section, name = key.split(".")
        assert value <= getattr(getattr(full, section), name)
        if key != "train.steps":
            assert getattr(getattr(smoke, section), name) == value


@pytest.mark.parametrize("method", METHODS)
def test_dump_and_load_are_inverse(tmp_path, method):
    overrides = [f"method={method}", "train.lr=1e-5", "select.layers={vision: 0.25}", "select.seed=3"]
    if method == "lape":
        overrides.append("profile.scores=[taylor_token, activation_probability]")
    recipe = load_recipe("quickstart", overrides)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(recipe), encoding="utf-8")
    assert load_recipe(file) == recipe
    assert dump(load_recipe(file)) == dump(recipe)
    assert list(yaml.safe_load(dump(recipe))) == list(Recipe.model_fields)


def test_a_path_in_a_file_is_relative_to_the_file_and_in_an_override_to_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "project" / "weights").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = tmp_path / "project" / "mine.yaml"
    file.write_text("data: {source: my.jsonl}\nmodel: {path: weights}\n")

    recipe = load_recipe(file)
    assert recipe.data.source == str(tmp_path / "project" / "my.jsonl")
    assert recipe.model.path == str(tmp_path / "project" / "weights")
    assert load_recipe(file, ["data.source=other.jsonl"]).data.source == str(tmp_path / "elsewhere" / "other.jsonl")
    assert load_recipe("quickstart", ["data.source=x.jsonl"]).data.source == str(tmp_path / "elsewhere" / "x.jsonl")
    assert load_recipe(file, ["model.path=owner/name"]).model.path == "owner/name"  # no such folder: a hub name
    assert load_recipe(file, ["model.path=./none"]).model.path == str(tmp_path / "elsewhere" / "none")
    assert load_recipe("quickstart").data.source == "signs"
    assert load_recipe("quickstart").model.path == "embedded"

    # What is written into a run's folder means the same from anywhere.
    (tmp_path / "runs").mkdir()
    written = tmp_path / "runs" / "recipe.yaml"
    written.write_text(dump(recipe))
    monkeypatch.chdir(tmp_path)
    assert load_recipe(written) == recipe


def test_methods_know_whether_they_need_a_probe_and_their_learning_rate():
    def recipe(*overrides):
        return load_recipe("quickstart", ["train.lr=null", *overrides])

    assert recipe("method=neumt").needs_probe
    literal = recipe("method=neumt-paper")
    assert literal.needs_probe
    assert (literal.probe.estimator, literal.profile.importance_at) == ("full", "during"), "as the paper has it"
    cheap = recipe("method=neumt-paper", "probe.estimator=lora", "profile.importance_at=base")
    assert (cheap.probe.estimator, cheap.profile.importance_at) == ("lora", "base")
    assert (recipe("method=neumt").probe.estimator, recipe().profile.importance_at) == ("lora", "base")
    assert recipe("method=random", "select.like=neumt").needs_probe
    assert recipe("select.ranking=similarity").needs_probe
    assert not recipe("method=neumt", "select.ranking=relevance").needs_probe
    assert not recipe("method=mnaft").needs_probe
    assert not recipe("method=lora", "select.ranking=similarity").needs_probe
    assert recipe("method=full").learning_rate < recipe("method=lora").learning_rate == 1e-3
    assert recipe("method=full", "train.lr=3e-4").learning_rate == 3e-4


def test_a_selection_that_is_made_already_lies_beside_the_recipe_and_has_no_options(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {pairs: [en-de]}\nselect: {file: rows.yaml}\n", encoding="utf-8")
    recipe = load_recipe(file)
    assert recipe.select.file == str((tmp_path / "rows.yaml").resolve())
    assert not load_recipe(file, ["method=neumt"]).needs_probe
    message = wrong("select.file=rows.yaml", "select.budget=0.2")
    assert "file is a selection made already, to which budget says nothing; leave one of them out" in message


def test_shares_may_differ_by_part_and_by_pair():
    changes = ["select.budget={vision: 0.1, connector: 0.5, language: 0.4}", "select.specific={en-de: 0.2}"]
    recipe = load_recipe("quickstart", [*changes, "select.rank=per-part", "select.keep=[ocr]"])
    assert recipe.select.budget == {"vision": 0.1, "connector": 0.5, "language": 0.4}
    assert recipe.select.specific == {"en-de": 0.2}
    assert load_recipe("quickstart", ["select.specific=auto", "select.effect=0.3"]).select.specific == "auto"
