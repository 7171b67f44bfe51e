"""What is printed: no character from data, paths or servers acts on the terminal or makes a line of its own."""

from __future__ import annotations

import json
import logging
import unicodedata

import pytest
from rich.console import Console

from neuroglot.cli.app import bars, show_facts
from neuroglot.errors import LONGEST, UserError
from neuroglot.printing import plain, print_json, print_line

HOSTILE = "a\nneuroglot: all fine\r\x1b[2J\x1b]0;title\x07\x9b1m\u2028\u202eb\u2066\ud83d\x7f[red]c"
UNSAFE = [c for c in HOSTILE if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def assert_safe(text: str, lines: int = 1) -> None:
    assert text.count("\n") == lines - 1
    assert not set(text) & set(UNSAFE) - {"\n"}
    assert "[red]c" in text


def test_a_message_is_one_line_that_a_terminal_only_shows():
    message = str(UserError(f"file {HOSTILE} is wrong"))
    assert_safe(message)
    assert message.startswith(r"file a\nneuroglot: all fine\r\x1b[2J")
    assert str(UserError(UserError(HOSTILE))) == str(UserError(HOSTILE))
    assert str(UserError("Grüße, नमस्ते, مرحبا")) == "Grüße, नमस्ते, مرحبا"


@pytest.mark.parametrize("given", ["x" * 10**6, "\x1b" * 10**6])
def test_a_message_has_an_end(given):
    message = str(UserError(f"what is wrong: {given}; what to try"))
    assert len(message) <= LONGEST
    assert message.startswith("what is wrong: ")
    assert message.endswith("; what to try")


def test_lines_tables_and_log_messages(capfd):
    print_line(HOSTILE)
    show_facts({HOSTILE: HOSTILE, "table": {HOSTILE: {"column": HOSTILE}}}, as_json=False)
    with bars() as (track, say):
        track(HOSTILE, 3)(1)
        say(HOSTILE)
    out, err = capfd.readouterr()
    assert not set(out + err) & set(UNSAFE) - {"\n"}
    assert not any(line.startswith("neuroglot: all fine") for line in (out + err).splitlines())
    assert_safe(err.removesuffix("\n"))


def test_no_markup_and_no_wrapping_on_a_terminal(capfd):
    console = Console(force_terminal=True, width=20)
    console.print(plain(HOSTILE), soft_wrap=True)
    assert capfd.readouterr().out == r"a\nneuroglot: all fine\r\x1b[2J\x1b]0;title\x07\x9b1m\u2028\u202eb\u2066" + (
        r"\ud83d\x7f[red]c" + "\n"
    )


def test_json_stays_json(capfd):
    print_json({"text": HOSTILE})
    out = capfd.readouterr().out
    assert not set(out) & set(UNSAFE) - {"\n"}
    assert json.loads(out) == {"text": HOSTILE}


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", HOSTILE), (HOSTILE,), ("run", "quickstart", HOSTILE), ("run", HOSTILE), ("inspect", f"./{HOSTILE}"),
        ("run", "quickstart", f"--{HOSTILE}"), ("run", "quickstart", 'model.path="./a\\e[2J\\nneuroglot: all fine"'),
    ],
)  # fmt: skip
def test_what_is_typed(cli, arguments):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("neuroglot: ")
    assert err.count("\n") == 1
    assert not set(err) & set(UNSAFE) - {"\n"}


def test_a_log_message_is_one_line(cli, monkeypatch):
    monkeypatch.setattr(logging.getLogger("neuroglot"), "propagate", False)  # pytest's report takes no half characters
    monkeypatch.setattr(
        "neuroglot.pipeline.run.execute", lambda *_: logging.getLogger("neuroglot.data").warning(HOSTILE)
    )
    monkeypatch.setattr("neuroglot.cli.run.show_run", lambda *_, **__: None)
    code, _, err = cli("run", "quickstart")
    assert code == 0
    assert_safe(err.removesuffix("\n"))
