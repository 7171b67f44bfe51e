"""The command line: thin verbs over the library. Nothing heavy is imported until a verb runs."""

from __future__ import annotations

import errno
import io
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from neuroglot.cli import data, export, neurons, results, run  # noqa: F401
from neuroglot.cli.app import app
from neuroglot.errors import UserError, ran_out, visible
from neuroglot.printing import OneLine

# isort: off
# in the order of the help
# isort: on

REFUSED, DEFECT, INTERRUPTED, TERMINATED = 2, 70, 130, 143
"""Exit codes: a mistake that the user can mend, a defect of neuroglot, Ctrl-C, SIGTERM."""


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
    """Show warnings and log messages as single lines, and escape what the terminal's encoding cannot write."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logger = logging.getLogger("neuroglot")
    logger.addHandler(handler)
    before, warnings.formatwarning = warnings.formatwarning, lambda message, *_, **__: f"warning: {visible(message)}\n"
    try:
        yield
    finally:
        logger.removeHandler(handler)
        warnings.formatwarning = before


_UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""Of the parser: an unknown verb or option, a missing argument."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: a user's mistake is one line on stderr and exit code 2.

    Whatever nothing else has caught is one line too, which names a file with the traceback; exit code 70.
    """
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
    except (typer.Abort, KeyboardInterrupt):  # the first is what older versions of typer make of Ctrl-C
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        code = _unexpected(error, sys.argv[1:] if arguments is None else arguments)
    if code in (INTERRUPTED, TERMINATED):
        what = "interrupted" if code == INTERRUPTED else "terminated"
        print(f"neuroglot: {what}; run the same command again to resume", file=sys.stderr)
    sys.exit(code or 0)


def _refuse(why: Any, code: int = REFUSED) -> int:
    print(f"neuroglot: {UserError(why)}", file=sys.stderr)
    return code


def _unexpected(error: Exception, arguments: list[str]) -> int:
    """Say in one line what nothing else has caught: what the machine lacks, or else a defect; return the exit code."""
    why = " ".join(str(error).split())
    if any(words in why for words in _FULL_IN_TORCH):
        why = f"a checkpoint cannot be written, most likely: {_FULL[0]} (torch says {why!r})"
    if any(words in why for words in _FULL):
        return _refuse(f"{why}; make room, then run it again")
    if ran_out(error):
        return _refuse(f"memory ran out ({why or 'nothing more was said'}); try a smaller batch size")
    file = _keep_traceback(error, arguments)
    if isinstance(error, OSError) and error.strerror:  # of the file system or the network
        position = "" if error.filename is None else f"{error.filename}: "
        return _refuse(f"{position}{error.strerror}; see {file} for where that happened")
    what = f"{type(error).__name__}: {why}" if why else type(error).__name__
    return _refuse(f"this is a defect of neuroglot, please report it with {file} ({what:.300})", DEFECT)


def _keep_traceback(error: Exception, arguments: list[str]) -> str:
    """Write a traceback, and what was asked for, into a file in the folder for temporary files; return its name."""
    from neuroglot import __version__

    about = f"neuroglot {__version__}, Python {sys.version}, {sys.platform}\nneuroglot {shlex.join(arguments)}\n\n"
    text = about + "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="neuroglot-", suffix=".txt", delete=False, encoding="utf-8",
                                         errors="backslashreplace") as file:  # fmt: skip
            file.write(text)
            return file.name
    except OSError:  # there is no such folder, or no room in it
        print(text, file=sys.stderr)
        return "the lines above"
