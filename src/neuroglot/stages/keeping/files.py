"""A run folder: one process at a time writes there, and what a killed one left behind is swept up."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from neuroglot.artefact import remove
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


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left behind."""
    for place in (folder, folder / ".stages"):
        for path in place.glob(".*"):
            if path.suffix in (".part", ".tmp"):
                remove(path)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder until the end of the block or of the process, however it ends.

    Raises:
        UserError: another process holds it, nothing can be written there, the file system has no locks, or this is one
            of several processes that a launcher started.
    """
    if (started := os.environ.get("WORLD_SIZE", "1")) not in ("", "1"):
        raise UserError(
            f"WORLD_SIZE is {started} and RANK is {os.environ.get('RANK', 'not set')}, so a launcher such as torchrun "
            "started several processes, and a run in several processes is not supported yet; start neuroglot by itself"
        )
    try:
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"run folder {folder} cannot be written to: {error.strerror}; choose another") from None
    with file:
        try:
            _take(file)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):  # the last two are Windows'
                raise UserError(
                    f"run folder {folder} cannot be locked ({error.strerror}): its file system has no locks, without "
                    "which two processes could write there at once; put the runs on another with --runs"
                ) from None
            file.seek(0)
            raise UserError(
                f"run folder {folder} is in use by process {file.read().strip() or 'unknown'}; "
                "wait for it, or give this run another name"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # nobody holds it any more
