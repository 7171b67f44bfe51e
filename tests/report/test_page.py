"""The page: whole with every file and with scores alone, valid, self-contained, accessible."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from neuroglot.errors import UserError
from neuroglot.file_format import SCORES, with_checksum
from neuroglot.report import figures, page, report
from neuroglot.report.files import STAGES

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Checks nesting while it reads and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {names}"
        self.tags.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.tags if name == tag]


@pytest.fixture(scope="module")
def full(full_run) -> Page:
    path = report(full_run)
    assert path == full_run / "report.html"
    assert path.stat().st_size < 3_000_000
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Leave the drawing out where a test is about the sections: it is most of the time."""
    empty = '<svg viewBox="0 0 1 1" aria-hidden="true"></svg>'
    monkeypatch.setattr(page, "both", lambda name, draw: {"wide": empty, "narrow": empty})


@pytest.fixture
def bare(bare_run) -> Page:
    return Page(report(bare_run).read_text(encoding="utf-8"))


def check_self_contained(page: Page, source: str) -> None:
    for tag, attributes, _ in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "href", "srcset", "data", "xlink:href", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), f"{tag} {name}={value[:60]}"
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\((?!#)|https?:", source)


def check_accessible(page: Page) -> None:
    assert page.attributes("html") == [{"lang": "en"}]
    assert [tag for tag, _, _ in page.tags].count("h1") == 1
    for attributes in page.attributes("img"):
        assert attributes.get("alt")
    drawings = [a for a in page.attributes("div") if a.get("class") == "drawing"]
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 30 for a in drawings)
    assert len(page.attributes("svg")) == 2 * len(drawings), "each drawing is there wide and narrow"
    assert all(a["aria-hidden"] == "true" for a in page.attributes("svg"))
    assert all(a.get("scope") for a in page.attributes("th"))
    assert len(page.attributes("caption")) == len(page.attributes("table"))


def check_references(page: Page) -> None:
    ids = [attributes["id"] for _, attributes, _ in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for _, a, _ in page.tags if (a.get("href") or "").startswith("#")}
    targets |= {m for _, a, _ in page.tags for v in a.values() for m in re.findall(r"url\(#([^)]*)\)", v or "")}
    assert targets <= set(ids)


def check_colours(source: str) -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", source))
    light, _, dark = source.partition("@media (prefers-color-scheme: dark)")
    for scheme in (light, dark):
        assert used <= set(re.findall(r"--([\w-]+):", scheme))
    drawings = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)
    assert drawings
    assert not any(re.search(r"#[0-9a-f]{6}\b", drawing) for drawing in drawings), "a colour that no scheme can change"


@pytest.mark.parametrize("kind", [pytest.param("full", marks=pytest.mark.slow), "bare"])
def test_a_page_is_valid_self_contained_and_accessible(kind, request):
    page = request.getfixturevalue(kind)
    source = (request.getfixturevalue(f"{kind}_run") / "report.html").read_text(encoding="utf-8")
    assert source.startswith("<!doctype html>")
    check_self_contained(page, source)
    check_accessible(page)
    check_references(page)
    check_colours(source)


def test_the_headline(full):
    assert "Image translation: BLEU 4.4 before, 78.1 after training with mnaft" in full.text
    assert "2,856 parameters (1.9 % of the model): 168 neurons in 12 layers of 3 parts" in full.text
    assert "over 3 source items" in full.text


def test_every_section_is_there(made, full):
    assert "Not in this run" not in full.text
    drawings = [a for a in full.attributes("div") if a.get("class") == "drawing"]
    assert len(drawings) == 5
    for pair in made.pairs:
        assert full.text.count(pair) >= 4
    for word in ("sacreBLEU signatures", "tok:13a", "recipe.yaml", "method: mnaft # <neurons>", "estimator lora"):
        assert word in full.text, word


def test_what_is_not_scored_is_a_dash(full):
    cascade = [row for row in full.text.split("average")[1:] if "–" in row]
    assert cascade, "the cascade has no nll"


def test_the_gallery_says_right_and_wrong_in_words(made, full):
    images = full.attributes("img")
    assert len(images) == 2 * len(made.signs)
    assert images[0]["alt"] == "Test image 1; it reads: Open from Monday to Friday"
    assert full.text.count("✓ exact") == 4
    assert full.text.count("✗ differs") == 8
    assert "सोमवार से शुक्रवार तक खुला" in full.text
    assert {a.get("lang") for a in full.attributes("span")} >= {"en", "de", "hi"}
    assert "Price: 12.50 <euros> & more" in full.text, "texts are escaped"


def test_scores_alone_make_a_page_and_name_the_stages(bare):
    for file in ("training.json", "profile.safetensors", "train_log.jsonl", "gallery.jsonl", "recipe.yaml"):
        assert f"Not in this run: {file}, which the {STAGES[file]} stage makes." in bare.text
    assert "BLEU 4.4 before, 78.1 after" in bare.text
    assert "interval" not in bare.text
    drawings = [a for a in bare.attributes("div") if a.get("class") == "drawing"]
    assert len(drawings) == 2, "scores and retention"


@pytest.mark.parametrize("file", [file for file in STAGES if file != "scores.json"])
def test_any_one_file_may_be_missing(full_run, tmp_path, file, undrawn):
    folder = shutil.copytree(full_run, tmp_path / "run")
    (folder / file).unlink()
    got = Page(report(folder).read_text(encoding="utf-8"))
    optional = ("hypotheses.jsonl", "layers.json")  # an interval and a sentence, no section
    assert (f"Not in this run: {file}" in got.text) == (file not in optional)


def test_the_base_alone(made, tmp_path, undrawn):
    made.scores(tmp_path, systems=("base",))
    got = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "Image translation: scores of base" in got.text
    assert "No task besides the one that was taught" in got.text


def test_one_pair_has_no_dispersion_but_a_map(made, bare_run, undrawn):
    made.profile(made.layers(1), pairs=("en-de",)).save(bare_run / "profile.safetensors")
    got = Page(report(bare_run).read_text(encoding="utf-8"))
    assert "One pair was profiled" in got.text
    assert "Heat map" in " ".join(a.get("aria-label") or "" for a in got.attributes("div"))


def test_a_large_gallery_is_cut_and_counted(full_run, tmp_path, undrawn):
    folder = shutil.copytree(full_run, tmp_path / "run")
    row = json.loads((folder / "gallery.jsonl").read_text(encoding="utf-8").splitlines()[0])
    row["png_base64"] += "A" * (400_000 - len(row["png_base64"]) % 4)
    row["png_base64"] = row["png_base64"].replace("=", "A")
    row["png_base64"] = row["png_base64"][: len(row["png_base64"]) // 4 * 4]
    (folder / "gallery.jsonl").write_text((json.dumps(row) + "\n") * 8, encoding="utf-8")
    path = report(folder)
    got = Page(path.read_text(encoding="utf-8"))
    assert len(got.attributes("img")) == 3
    assert "5 more in gallery.jsonl" in got.text
    assert path.stat().st_size < 3_000_000


def test_an_existing_page_is_replaced_whole(bare_run, undrawn):
    first = report(bare_run).read_bytes()
    assert report(bare_run).read_bytes() == first
    assert sorted(path.name for path in bare_run.iterdir()) == ["report.html", "scores.json"]


def test_a_drawing_is_the_same_every_time():
    draw = figures.loss_curve([1, 2, 3, 4], [4.0, 3.0, 2.5, 2.0])
    first, second = figures.both("loss", draw), figures.both("loss", draw)
    assert first == second
    assert first["wide"] != first["narrow"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("scores.json", json.dumps(with_checksum(SCORES, {"systems": {}})), "holds no system's scores"),
        ("training.json", "[1]", "training.json holds a list, expected an object"),
        ("train_log.jsonl", '{"step": 1, "loss": 2}\n{"ste', "train_log.jsonl line 2 is not valid JSON"),
        ("gallery.jsonl", '{"png_base64": "\\"><script>", "source": "x", "pair": "en-de"}\n', "line 1 is not base64"),
        ("profile.safetensors", "x", "profile.safetensors"),
    ],
)
def test_damaged_files_are_named(bare_run, file, content, message, undrawn):
    (bare_run / file).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        report(bare_run)
    assert "\n" not in str(error.value)


def test_no_folder_and_no_scores(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        report(tmp_path / "nothing")
    with pytest.raises(UserError, match="run the evaluate stage first"):
        report(tmp_path)


def test_the_module_waits_with_matplotlib_and_torch():
    code = "import sys, neuroglot.report; sys.exit(bool({'matplotlib', 'torch', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
