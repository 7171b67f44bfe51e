"""Checks before training: what a run would refuse, what would make its scores wrong, and what to inspect."""

from __future__ import annotations

from neuroglot.validation.check import Read, Record, Report, check
from neuroglot.validation.findings import KINDS, LEFT_OUT, SEVERITIES, Finding, Plan

__all__ = ["KINDS", "LEFT_OUT", "SEVERITIES", "Finding", "Plan", "Read", "Record", "Report", "check"]
