"""The folder of a run: one process at a time writes there; and how much memory a stage took at most."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from neuroglot.errors import UserError
from neuroglot.file_format import remove

# ---- The lock -------------------------------------------------------------------------------------------------------

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
    for position in (folder, folder / ".stages"):
        for path in position.glob(".*"):
            if path.suffix in (".part", ".tmp"):
                remove(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
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


# ---- Memory ---------------------------------------------------------------------------------------------------------

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch() -> Callable[[], int]:
    """Start counting; the function returned says how many bytes the peak since then lies above the start.

    On a CPU the peak is that of the process's resident memory. Linux can forget an earlier, higher peak; elsewhere a
    peak below one of before counts as nothing, so there each measurement needs a separate process.
    """
    if torch.accelerator.is_available():
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        return lambda: int(torch.accelerator.max_memory_allocated() - before)
    _hand_back()
    try:
        _CLEAR.write_text("5")  # see proc_pid_clear_refs(5): resets the high-water mark
    except OSError:
        start = _peak()
        return lambda: max(0, _peak() - start)
    start = _status("VmRSS")
    return lambda: max(0, _status("VmHWM") - start)


def release() -> None:
    """Let go of what earlier work of this process still holds, models in cycles of references included."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    _hand_back()


def _hand_back() -> None:
    """Give the system what earlier work has freed: used again, it would not raise the peak and so not be counted."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _peak() -> int:
    if sys.platform == "win32":
        return 0  # not known there without another dependency
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
