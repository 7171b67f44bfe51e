"""The command line: thin verbs over the library. Nothing heavy is imported until a verb runs."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from neuroglot.cli.app import app
from neuroglot.errors import UserError
from neuroglot.printing import OneLine

# isort: off
# in the order of the help
from neuroglot.cli import work, data, look, judge, inspect, files, leave  # noqa: F401
# isort: on

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM."""


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from neuroglot import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_FULL_IN_TORCH = ("inline_container.cc", "iostream error")
"""All that torch says when it cannot write a file."""


class _Terminated(BaseException):
    """SIGTERM: like Ctrl-C, it unwinds whatever is half done."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # only there may signals be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _safe_output() -> Iterator[None]:
    """Show log messages as single lines, and escape what the terminal's encoding cannot write."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logger = logging.getLogger("neuroglot")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


_UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""Of the parser: an unknown verb or option, a missing argument."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: a user's mistake is one line on stderr and exit code 2."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with an image is said in our own words
    try:
        with _ended_by_sigterm(), _safe_output():
            code = app(args=arguments, prog_name="neuroglot", standalone_mode=False)
    except _Terminated:
        code = TERMINATED
    except UserError as error:
        code = _refuse(error)
    except _UsageError as error:
        verb = error.ctx.command_path if error.ctx else "neuroglot"
        code = _refuse(f"{' '.join(error.format_message().split()).rstrip('.')}; see {verb} --help")
    except typer.Abort:  # what older versions of typer make of Ctrl-C
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        why = " ".join(str(error).split())
        if any(words in why for words in _FULL_IN_TORCH):
            why = f"a checkpoint cannot be written, most likely: {_FULL[0]} (torch says {why!r})"
        if not any(words in why for words in _FULL):
            raise
        code = _refuse(f"{why}; make room, then run it again")
    if code in (INTERRUPTED, TERMINATED):
        what = "interrupted" if code == INTERRUPTED else "terminated"
        print(f"neuroglot: {what}; the same command goes on from here", file=sys.stderr)
    sys.exit(code or 0)


def _refuse(why: Any) -> int:
    print(f"neuroglot: {UserError(why)}", file=sys.stderr)
    return 2
