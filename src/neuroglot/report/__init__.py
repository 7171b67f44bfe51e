"""One page, and tables for the terminal, from the files of a run."""

from __future__ import annotations

from neuroglot.report.files import RunFiles, read_run
from neuroglot.report.page import report
from neuroglot.report.tables import show, show_tables

__all__ = ["RunFiles", "read_run", "report", "show", "show_tables"]
