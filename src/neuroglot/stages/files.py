"""The files of a run folder: each is there whole or not at all, and one process at a time writes them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from neuroglot.errors import UserError

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[str]) -> None:
        file.seek(2**30)  # a locked byte cannot be read, and the name of the holder has to be
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, and put what was written there in its place at the end.

    An exception inside leaves `path` as it was and nothing beside it.
    """
    temporary = path.with_name(f".{path.name}.part")
    remove(temporary)
    try:
        yield temporary
        if path.is_dir():
            remove(path)
        temporary.replace(path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left behind."""
    for path in folder.glob(".*"):
        if path.suffix in (".part", ".tmp"):
            remove(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with fresh(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder until the end of the block or of the process, however it ends.

    Raises:
        UserError: another process holds it, or nothing can be written there.
    """
    try:
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"run folder {folder} cannot be written to: {error.strerror}; choose another") from None
    with file:
        try:
            _take(file)
        except OSError:
            file.seek(0)
            raise UserError(
                f"run folder {folder} is in use by process {file.read().strip() or 'unknown'}; "
                "wait for it, or give this run another name"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
