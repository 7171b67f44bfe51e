"""What the README and the docs promise: commands that run, targets and files that exist, snippets that print that."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuroglot.cli import app, main
from neuroglot.config.load import load_recipe, shipped

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *ROOT.glob("C*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
SCALED = ("run", "profile", "probe", "select", "train", "evaluate", "report", "demo")
OTHERS = ("pip", "python", "git", "cd", "export", "vllm", "transformers")
"""Programs that a page may call and that are not run here."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str


def blocks(page):
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [Block(*found) for found in fence.findall(page.read_text(encoding="utf-8"))]


def command_lines(page):
    """Return the words of every command in a page's bash blocks, comments left out."""
    lines = []
    for block in blocks(page):
        if block.language in ("bash", "sh", "shell", "console"):
            text = block.text.replace("\\\n", " ")
            lines += [shlex.split(line.removeprefix("$ "), comments=True) for line in text.splitlines()]
    return [words for words in lines if words]


def make_targets():
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_readme_opens_with_the_two_commands_that_matter():
    assert command_lines(README)[:2] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_names_something_that_exists(page):
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    verbs |= {group.name for group in app.registered_groups}
    for program, *arguments in command_lines(page):
        assert program in ("neuroglot", "make", *OTHERS)
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= make_targets()
        if program == "neuroglot" and not arguments[0].startswith("-"):
            assert arguments[0] in verbs
            if arguments[0] in SCALED and arguments[1:] and arguments[1] in shipped():
                load_recipe(arguments[1], [word for word in arguments[2:] if "=" in word and word[0] != "-"])
    for target in re.findall(r"`make ([\w-]+)`", page.read_text(encoding="utf-8")):
        assert target in make_targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            place = (page.parent / file).resolve() if file else page
            assert place.exists(), f"{page.name} links to {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.slow
def test_every_neuroglot_command_of_the_readme_runs(tmp_path, monkeypatch):
    """In the order of the page, in one folder, at smoke scale; of the sweep one training a variant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ran = 0
    for program, *arguments in command_lines(README):
        if program == "neuroglot":
            less = ["--scale", "smoke"] if arguments[0] in SCALED and "--scale" not in arguments else []
            if arguments[0] == "sweep":
                less = ["--seeds", "1", "--rates", "1e-3"]
            with pytest.raises(SystemExit) as ended:
                main([*arguments, *less])
            assert ended.value.code == 0, " ".join(arguments)
            ran += 1
    assert ran > 5


@pytest.mark.parametrize("page", [README, ROOT / "docs/api/index.md"], ids=lambda page: page.name)
def test_the_snippets_run_and_print_what_stands_below_them(page, tmp_path, monkeypatch):
    """One after the other in one namespace; a text block after a snippet is what it prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    every = blocks(page)
    names = {}
    for block, after in zip(every, [*every[1:], Block("", "")], strict=True):
        if block.language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, page.name, "exec"), names)
            if after.language == "text":
                assert printed.getvalue().split() == after.text.split()
    assert names
