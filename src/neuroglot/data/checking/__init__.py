"""Checks before training: what a run would refuse, what would make its scores wrong, and what is worth a look."""

from neuroglot.data.checking.check import Read, Record, Report, check
from neuroglot.data.checking.conclusions import Plan
from neuroglot.data.checking.findings import KINDS, LEFT_OUT, SEVERITIES, Finding

__all__ = ["KINDS", "LEFT_OUT", "SEVERITIES", "Finding", "Plan", "Read", "Record", "Report", "check"]
