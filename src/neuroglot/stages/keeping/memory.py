"""How much memory a piece of work took at most: on the accelerator as torch counts it, else of the whole process."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch() -> Callable[[], int]:
    """Start counting; the function returned says how many bytes the peak since then lies above the start.

    On a CPU the peak is that of the process's resident memory. Linux can forget an earlier, higher peak; elsewhere a
    peak below one of before counts as nothing, so there one measurement needs a process of its own.
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
