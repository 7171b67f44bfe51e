"""`neuroglot data check`: exit codes, the JSON, the page, and a recipe's own file from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def corpus(tmp_path):
    """A recipe with sixty training and twenty test examples of its own, all different and in order."""
    folder = tmp_path / "own"
    folder.mkdir()
    records = []
    for n in range(80):
        image = Image.effect_noise((30, 30), 60 + n % 7).convert("RGB")
        image.save(folder / f"{n}.png")
        split = "train" if n < 60 else "test"
        records.append({"image": f"{n}.png", "source": f"Way {n}", "target": f"Weg {n}", "source_lang": "en",
                        "target_lang": "de", "split": split, "item": f"w{n}"})  # fmt: skip
    (folder / "own.yaml").write_text("name: own\ndata: {source: own.jsonl, train: 60, dev: 0}\n", encoding="utf-8")

    def write(change=lambda records: None):
        change(records)
        text = "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records)
        (folder / "own.jsonl").write_text(text, encoding="utf-8")
        return folder / "own.yaml"

    return write


def test_a_corpus_in_order(cli, corpus):
    code, out, err = cli("data", "check", corpus(), "--out", "page.html")
    assert code == 0, err
    assert "no errors, no warnings" in out
    assert "page.html" in out
    page = Path("page.html").read_text(encoding="utf-8")
    assert "80 examples: no errors, no warnings" in page
    assert page.count('<p class="chips"') == 12
    assert page.count("data:image/png;base64,") == 12


def test_faults_make_an_exit_code_and_json(cli, corpus):
    def change(records):
        records[3]["image"] = "gone.png"
        records[4]["target"] = "```Weg 4```"
        records[5] = "{broken\n"
        records[70]["image"] = "7.png"

    recipe = corpus(change)
    code, out, _ = cli("data", "check", recipe, "--json")
    report = json.loads(out)
    assert code == 1
    assert {f["kind"]: (f["severity"], f["count"]) for f in report["findings"]} == {
        "bad_record": ("error", 1), "bad_image": ("error", 1), "leaked_input": ("error", 1),
        "code_fence": ("warning", 1),
    }  # fmt: skip
    assert (report["records"], report["examples"], report["errors"], report["warnings"]) == (80, 78, 3, 1)
    assert sum(report["lengths"]["tokens"]["bins"]) == report["measured"] == 78
    by_kind = {f["kind"]: f for f in report["findings"]}
    assert by_kind["bad_record"]["examples"][0]["position"] == 6
    leak = by_kind["leaked_input"]["examples"][0]
    assert (leak["position"], leak["like"]["position"]) == (71, 8)
    code, out, _ = cli("data", "check", recipe, "data.max_bad=2", "--no-model")
    assert code == 1  # the leak is left
    assert out.count("error ") == 1
    assert "warning" in out


@pytest.mark.parametrize("recipe", ["quickstart", pytest.param("quickstart-multimodal", marks=pytest.mark.slow)])
def test_an_embedded_corpus_has_no_error(cli, recipe):
    code, out, err = cli("data", "check", recipe, "--scale", "smoke", "--json")
    report = json.loads(out)
    assert (code, report["errors"]) == (0, 0), err
    assert {row["split"] for row in report["counts"]} == {"train", "dev", "test", "heldout"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("own.yaml",), "recipe own.yaml does not exist"),
        (("quickstart", "data.source=gone.jsonl"), "gone.jsonl does not exist"),
        (("quickstart", "--out", "no/where.html"), "no is no folder"),
        (("quickstart", "--sample", "-1"), "--sample"),
        (("quickstart", "task=multimodal_translation"), "the embedded signs have no task"),
    ],
)
def test_mistakes_are_one_line(cli, arguments, says):
    code, out, err = cli("data", "check", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_the_group_alone_says_what_it_has(cli):
    code, out, _ = cli("data")
    assert code == 0
    assert "check" in out


def test_data_without_a_recipe(cli, corpus):
    """A file or a folder; the model is not known, and the task is that of the data."""
    recipe = corpus(lambda records: records[3].update(image="gone.png"))
    data = recipe.parent / "own.jsonl"
    code, out, err = cli("data", "check", data, "--json")
    report = json.loads(out)
    assert (code, err) == (1, "")
    assert {f["kind"] for f in report["findings"]} == {"bad_image"}
    assert {row["task"] for row in report["counts"]} == {"image_translation"}
    code, out, _ = cli("data", "check", data, "data.max_bad=1", "--json")
    assert code == 0
    fixtures = Path(__file__).parent / "data" / "fixtures"
    _, out, _ = cli("data", "check", fixtures / "commute", "data.pairs=[en-de]", "--json")
    assert {row["task"] for row in json.loads(out)["counts"]} == {"multimodal_translation"}
    _, out, _ = cli("data", "check", fixtures / "mit-10m-sample")
    assert "target '```Guichet```' became 'Guichet'" in out
    assert "the record says 'train' and its file is test" in out
    code, _, err = cli("run", data)
    assert code == 2
    assert f"is data, not a recipe; write a recipe with: neuroglot init --data {data}" in err


def test_data_that_are_not_there(cli):
    code, _, err = cli("data", "check", "gone.jsonl")
    assert code == 2
    assert "gone.jsonl does not exist; give a JSONL file" in err
