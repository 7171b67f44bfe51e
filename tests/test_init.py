"""A recipe for the user's own files: photographs and screenshots that `neuroglot.synthetic.render` had no part in.

They prove the wiring: at 120 pixels a side nobody claims that the embedded model can read them.
"""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from neuroglot.cli import main
from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError
from neuroglot.pipeline.context import Context
from neuroglot.pipeline.run import stages
from neuroglot.pipeline.scaffold import write_recipe

FIXTURES = Path(__file__).parent / "data" / "fixtures"

WORDS = {
    "Monday": ("Montag", "lundi"),
    "Tuesday": ("Dienstag", "mardi"),
    "Friday": ("Freitag", "vendredi"),
    "Sunday": ("Sonntag", "dimanche"),
    "January": ("Januar", "janvier"),
    "March": ("März", "mars"),
    "August": ("August", "août"),
    "5 days": ("5 Tage", "5 jours"),
    "9 hours": ("9 Stunden", "9 heures"),
    "Italy": ("Italien", "Italie"),
}


def photograph(text, rng):
    """A board that is lit from one side, turned a little, out of focus, with grain."""
    width, height = rng.randrange(90, 400), rng.randrange(61, 300)
    light = np.linspace(rng.randrange(60, 120), rng.randrange(160, 250), width)[None, :, None]
    grain = np.random.default_rng(rng.randrange(99)).normal(0, 6, (height, width, 3))
    image = Image.fromarray((light + grain).clip(0, 255).astype(np.uint8))
    board = Image.new("RGB", (width * 3 // 4, height // 2), (30, 60, 30 + rng.randrange(90)))
    ImageDraw.Draw(board).text((8, 8), text, "white", ImageFont.load_default(rng.randrange(14, 30)))
    turned = board.convert("RGBA").rotate(rng.uniform(-9, 9), expand=True)
    image.paste(turned, (width // 9, height // 7), turned)
    return image.filter(ImageFilter.GaussianBlur(rng.random()))


def screenshot(text, rng):
    """A window with a title bar and two buttons."""
    image = Image.new("RGBA", (rng.randrange(120, 500), 180), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((4, 4, image.width - 5, 175), 12, (245, 245, 245, 255), (90, 90, 90, 255))
    draw.rectangle((4, 16, image.width - 5, 34), (40, 90, 200, 255))
    draw.text((16, 60), text, (0, 0, 0, 255), ImageFont.load_default(22))
    for left in (16, 76):
        draw.rectangle((left, 130, left + 50, 155), (200, 200, 200, 255))
    return image


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of mixed files and the JSONL that names them, each with a German and a French target."""
    folder = tmp_path_factory.mktemp("my data")
    (folder / "photos").mkdir()
    rng = random.Random(0)
    lines = []
    for number, (source, targets) in enumerate(WORDS.items()):
        name = f"photos/{number}.{('jpg', 'png', 'jpg', 'png')[number % 4]}"
        image = screenshot(source, rng) if number % 4 == 3 else photograph(source, rng)
        if number == 1:
            image = image.convert("L")
        image.save(folder / name, **({"quality": 60} if name.endswith("jpg") else {}))
        modes = {Image.open(folder / name).mode}
        assert modes <= {"RGB", "RGBA", "L"}
        for language, target in zip(("de", "fr"), targets, strict=True):
            line = {"image": name, "target": target, "source_lang": "en", "target_lang": language,
                    "split": "test" if number > 6 else "train"}  # fmt: skip
            lines.append(line | ({"source": source} if number % 2 else {}))
    (folder / "my.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return folder / "my.jsonl"


def neuroglot(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.mark.slow
def test_init_writes_a_recipe_that_runs_on_files_of_any_make(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert neuroglot("init", "--data", data, "--out", "mine.yaml") == 0
    found = "wrote mine.yaml: 20 image_translation examples of 10 items in 2 pairs; neuroglot run mine.yaml\n"
    assert capsys.readouterr().out == found

    text = (tmp_path / "mine.yaml").read_text()
    for part in ("vision: 24 layers", "connector: 2 layers", "language: 28 layers"):
        assert part in text
    assert "# Examples found: en-de (10), en-fr (10); 10 items." in text
    recipe = load_recipe("mine.yaml")
    assert recipe.data.source == str(data)
    assert recipe.data.pairs == ("en-de", "en-fr")
    assert recipe.name == "mine"

    assert neuroglot("run", "mine.yaml", "--scale", "smoke") == 0
    folder = tmp_path / "runs" / "mine"
    for stage in stages(recipe):
        assert all((folder / name).exists() for name in stage.writes)
    scores = json.loads((folder / "scores.json").read_text())
    tried = scores["systems"]["mnaft"]
    assert {pair: tried["image_translation"][pair]["n"] for pair in ("en-de", "en-fr")} == {"en-de": 3, "en-fr": 3}
    assert set(tried) == {"image_translation", "ocr", "text_translation", "describe"}
    assert json.loads((folder / "training.json").read_text())["audit"]["outside"] == []
    capsys.readouterr()
    assert neuroglot("translate", data.parent / "photos", "--to", "fr", "--run", folder, "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_init_writes_over_nothing_unless_told(data, tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    assert neuroglot("init", "--data", data, "--out", out) == 2
    assert out.read_text() == "mine"
    assert capsys.readouterr().err.endswith("exists; choose another with --out, or write over it with --force\n")
    assert neuroglot("init", "--data", data, "--out", out, "--force") == 0
    assert load_recipe(out).method == "mnaft"


@pytest.mark.parametrize("name", ["my recipe.yaml", "été.yaml", "_.yaml", "a: b #1.yaml"])
def test_any_file_name_gives_a_recipe_that_loads(data, tmp_path, name):
    odd = tmp_path / "it's #1: data.jsonl"
    odd.write_text(data.read_text().replace("photos/", f"{data.parent}/photos/"))
    write_recipe("embedded", odd, tmp_path / name)
    assert load_recipe(tmp_path / name).data.source == str(odd)


@pytest.mark.parametrize(
    ("source", "options", "examples", "pairs"),
    [
        ("m3-multi30k", {"pairs": ["en-de", "en-fr"]}, 20, ("en-de", "en-fr")),
        ("m3-ambigcaps", {"pairs": ["en-tr"], "layout": "ambigcaps"}, 8, ("en-tr",)),
        ("mit-10m", {"pairs": ["en-de"]}, 9, ("en-de",)),
        ("sharegpt/signs.json", {"pairs": ["en-de"]}, 2, ("en-de",)),
    ],
)
def test_data_in_any_layout(tmp_path, source, options, examples, pairs):
    out = tmp_path / "30.yaml"
    said = write_recipe("embedded", FIXTURES / source, out, **options)
    assert f"{examples} {options.get('task', 'image_translation')} examples" in said
    recipe = load_recipe(out)
    assert (recipe.name, set(recipe.data.pairs), recipe.data.format) == (
        "30",
        set(pairs),
        options.get("layout", "auto"),
    )
    corpus = Context(recipe, tmp_path, lambda label, total: lambda done: None, print).corpus
    assert {e.task for e in corpus.train} == {recipe.task}
    assert {str(e.pair) for e in corpus.train} == set(pairs)


@pytest.mark.parametrize(
    ("source", "options", "count"),
    [
        ("m3-multi30k", {"pairs": ["en-de"], "splits": {"test": "test_2016_flickr"}, "task": "multimodal_translation",
                         "images": FIXTURES / "m3-multi30k" / "images"}, 10),
        ("iwslt-2017", {"pairs": ["en-de"], "splits": {"test": "tst2015"}}, 10),
        ("commute", {"pairs": ["en-fr"], "splits": {"train": "dev", "test": "test"}}, 4),
        ("mit-10m-sample/test.jsonl", {"splits": {"train": "test", "test": "test"}, "max_bad": 1}, None),
        ("ocrmt30k", {"max_bad": 6, "images": FIXTURES / "ocrmt30k" / "whole_image_v2"}, None),
        ("swift/signs.jsonl", {"pairs": ["en-de"]}, 2),
        ("jsonl/pictograms.jsonl", {"columns": {"source_lang": "=en", "task": "=multimodal_translation"},
                                    "pairs": ["en-de"]}, 3),
    ],
)  # fmt: skip
def test_what_a_layout_needs_can_be_said(tmp_path, source, options, count):
    """The settings of the data stand in the recipe; where a fixture is too small or not of this model, it says why."""
    out = tmp_path / "mine.yaml"
    if count is None:
        with pytest.raises(UserError, match="split is empty|no token for|holds no examples") as caught:
            write_recipe("embedded", FIXTURES / source, out, **options)
        assert "data." not in str(caught.value).replace(str(FIXTURES), "")
        return
    assert f"wrote {out}: {count} " in write_recipe("embedded", FIXTURES / source, out, **options)
    data = load_recipe(out).data
    assert data.columns == options.get("columns", {})
    assert data.splits == options.get("splits", {})
    assert data.images == str(options.get("images", ""))
    Context(load_recipe(out), tmp_path, lambda label, total: lambda done: None, print).corpus  # noqa: B018


def test_imperfect_data_have_a_way_in(data, tmp_path, capsys):
    """All that is wrong is listed; the recipe leaves it out where its user says so."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for number in (1, 5, 8):
        rows[number]["image"] = f"gone-{number}.png"
    mine = data.parent / "bad.jsonl"
    mine.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "mine.yaml"
    assert neuroglot("init", "--data", mine, "--out", out) == 2
    *listed, last = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in listed] == [f"{mine} line {n}" for n in (2, 6, 9)]
    assert last.endswith("3 of 20 records are bad and --max-bad allows 0; this is the first; repair them, or leave "
                         "them out with --max-bad 3")  # fmt: skip
    assert not out.exists()
    assert neuroglot("init", "--data", mine, "--out", out, "--max-bad", 3) == 0
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert load_recipe(out).data.max_bad == 3
    assert len(Context(load_recipe(out), tmp_path, lambda label, total: lambda done: None, print).examples) == 17


def test_columns_of_other_names_are_proposed_so_that_they_can_be_pasted(data, tmp_path, capsys):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    lines = [f"{r['image']},{n} way,{r['target']}" for n, r in enumerate(rows) if r["target_lang"] == "de"]
    mine = data.parent / "other.csv"
    mine.write_text("\n".join(["file,english,german", *lines]))
    assert neuroglot("init", "--data", mine, "--out", tmp_path / "mine.yaml") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    _, _, option = said.partition("such as ")
    (option,) = shlex.split(option.partition("; ")[0])
    assert option.startswith("--columns={image: file, source: english")
    assert neuroglot("init", "--data", mine, "--out", tmp_path / "mine.yaml", option) == 0
    assert load_recipe(tmp_path / "mine.yaml").data.columns["target_lang"] == "=de"


def test_what_it_is_asked_for_has_to_be_there(tmp_path):
    refused = {
        "task 'ocr' cannot be trained": {"task": "ocr"},
        "has no ja, which pair en-ja needs": {"pairs": ["en-ja"]},
        "format 'multi3k' is not known; did you mean multi30k": {"layout": "multi3k"},
    }
    for words, options in refused.items():
        with pytest.raises(UserError, match=words):
            write_recipe("embedded", FIXTURES / "m3-multi30k", tmp_path / "a.yaml", **options)
    with pytest.raises(UserError, match="the train split is empty"):
        write_recipe("embedded", FIXTURES / "commute", tmp_path / "a.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_beside_its_data_names_it_relatively(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    near = data.parent / "near.yaml"
    write_recipe("embedded", data, near)
    assert "source: my.jsonl\n" in near.read_text()
    assert load_recipe(near).data.source == str(data)


def test_a_model_in_a_folder_is_found_from_anywhere(data, tmp_path, monkeypatch):
    from neuroglot.models.load import resolve

    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(resolve("embedded"))
    (tmp_path / "below").mkdir()
    write_recipe("weights", data, tmp_path / "below" / "mine.yaml")
    recipe = load_recipe(tmp_path / "below" / "mine.yaml")
    assert recipe.model.path == resolve("embedded")
    assert recipe.model.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"target": "x", "source_lang": "en", "target_lang": "de", "source": "y"}, "has no image_translation or"),
        ({"image": "none.png", "target": "x", "source_lang": "en", "target_lang": "de"}, "none.png does not exist"),
        ({"image": "a.png", "target": "x", "source_lang": "en", "target_lang": "xq"}, "line 1.*'xq' is not known"),
        ({"image": "a.png", "target": "出口", "source_lang": "en", "target_lang": "de"}, "line 1.* no token for '出'"),
        ({"image": "a.png", "target": "x", "source_lang": "en", "target_lang": "de"}, "the test split is empty"),
    ],
)
def test_data_that_cannot_be_used_is_refused_and_nothing_written(tmp_path, line, expected):
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    (tmp_path / "my.jsonl").write_text(json.dumps(line | ({} if "test split" not in expected else {"split": "train"})))
    with pytest.raises(UserError, match=expected) as caught:
        write_recipe("embedded", tmp_path / "my.jsonl", tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "my.jsonl"]


def test_places_that_cannot_be_written_and_models_that_are_none_are_named(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="mine.yaml cannot be written: .*; choose another with --out"):
        write_recipe("embedded", data, tmp_path / "file" / "mine.yaml")
    with pytest.raises(UserError, match="cannot be written"):
        write_recipe("embedded", data, tmp_path / "none" / "mine.yaml")
    with pytest.raises(UserError, match="file has no config.json|does not exist"):
        write_recipe(str(tmp_path / "file"), data, tmp_path / "mine.yaml")


def test_other_tasks_in_the_data_are_replayed(data, tmp_path):
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    write_recipe("embedded", data, tmp_path / "plain.yaml")
    assert "replay" not in (tmp_path / "plain.yaml").read_text(encoding="utf-8")
    texts = [{"source": f"Word {k}", "target": f"Wort {k}", "source_lang": "en", "target_lang": "de",
              "task": "text_translation", "split": "train"} for k in range(12)]  # fmt: skip
    reads = [{"image": row["image"], "target": f"read {k}", "source_lang": "en", "target_lang": "en", "task": "ocr",
              "item": f"read {k}"} for k, row in enumerate(rows[:1])]  # fmt: skip
    mixed = data.with_name("mixed.jsonl")
    mixed.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*rows, *texts, *reads)))
    write_recipe("embedded", mixed, tmp_path / "mixed.yaml")
    recipe = load_recipe(tmp_path / "mixed.yaml")
    assert recipe.data.replay == 0.3
    context = Context(recipe, tmp_path, lambda label, total: lambda done: None, print)
    assert context.training.replayed["text_translation"] > 0
    assert "against forgetting: " in (tmp_path / "mixed.yaml").read_text(encoding="utf-8")
