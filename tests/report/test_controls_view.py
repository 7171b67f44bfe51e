"""A run of the second task on the page and in the terminal: controls, domains, ceilings, the other reading."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from neuroglot.data.example import Example
from neuroglot.evaluation import evaluate, write_hypotheses, write_scores
from neuroglot.report import read_run, report, show, show_tables
from neuroglot.report.tables import figures

TASK = "multimodal_translation"
WORDS = {
    ("bat", "lexical"): ("Fledermaus", "Schläger"),
    ("nail", "lexical"): ("Fingernagel", "Stahlnagel"),
    ("sheep", "number"): ("Schaf", "Schafe"),
}


class Seer:
    """Sees which reading is meant, or takes every word in its first one."""

    def __init__(self, name, sees):
        self.name, self.sees = name, sees

    def translate(self, examples):
        return [one.target if self.sees else WORDS[one.source, one.meta["domain"]][0] for one in examples]

    def nll(self, examples):
        first = [one.target == WORDS[one.source, one.meta["domain"]][0] for one in examples]
        wanted = [one.target == one.meta["reading"] for one in examples] if self.sees else first
        return [1.0 if right else 2.0 for right in wanted]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("second")
    split = [
        Example((), word, reading, "en", "de", TASK, tuple(r for r in readings if r != reading), f"{word}-{reading}",
                {"domain": domain, "reading": reading})
        for (word, domain), readings in WORDS.items() for reading in readings
    ]  # fmt: skip
    systems = [Seer("base", False), Seer("neumt", True), Seer("neumt (no image)", False)]
    scores, rows = {}, []
    for system in systems:
        scores[system.name], own = evaluate(system, {TASK: split})
        rows += own
    write_hypotheses(place / "hypotheses.jsonl", rows)
    write_scores(place / "scores.json", scores, ceilings={TASK: {"text alone": 50.0}})
    gallery = [
        {"png_base64": None, "source": "bat", "pair": "en-de", "reference": "Schläger",
         "alternatives": ["Fledermaus"], "before": "Fledermaus", "after": "Schläger"},
    ]  # fmt: skip
    (place / "gallery.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gallery))
    return place


def test_controls_stand_apart_from_the_systems(folder):
    told = show(folder)
    assert (told["method"], told["split"]) == ("neumt", TASK)
    assert told["headline"]["after"]["contrastive"] == 100.0
    assert told["headline"]["before"]["contrastive"] == told["headline"]["before"]["exact"] == 50.0
    assert list(told["domains"]) == ["lexical", "number"]
    assert set(told["domains"]["lexical"]) == {"base", "neumt"}
    assert told["domains"]["lexical"]["base"]["n"] == 4
    assert told["ceilings"] == {TASK: {"text alone": 50.0}}


def test_tables(folder):
    output = io.StringIO()
    show_tables(folder, Console(file=output, width=100))
    text = output.getvalue()
    for expected in (
        r"neumt \(no image\) .* 50\.0 .* 50\.0",
        r"at most, text alone .* 50\.0",
        r"lexical +│ +4 +│ +50\.0",
    ):
        assert re.search(expected, text), expected


def test_page(folder):
    page = report(folder).read_text(encoding="utf-8")
    controls = page.split("What the answers rest on")[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', controls) == ["base", "neumt", "neumt (no image)",
                                                                    "at most, text alone"]  # fmt: skip
    assert "Right reading likelier" in page
    card = page.split('<ul class="cards">')[1]
    assert "other reading" in card
    assert card.index("✗ the other reading") < card.index("✓ exact")
    assert "<img" not in card, "an example without an image has none to show"


def test_image_translation_shows_no_empty_column(full_run, folder):
    assert [key for key, _ in figures(read_run(full_run), "image_translation")] == ["bleu", "chrf", "exact", "nll"]
    assert [key for key, _ in figures(read_run(folder), TASK)][-1] == "contrastive"
