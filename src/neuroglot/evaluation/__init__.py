"""Scores of what a System says; what was kept; whether a difference is real."""

from __future__ import annotations

from neuroglot.evaluation.evaluate import (
    Partial,
    Scores,
    average_nll,
    evaluate,
    read_scores,
    score_domains,
    score_rows,
    write_hypotheses,
    write_scores,
)
from neuroglot.evaluation.metrics import METRICS, average, is_exact, score, signatures
from neuroglot.evaluation.significance import Difference, paired_bootstrap, retention

__all__ = [
    "METRICS",
    "Difference",
    "Partial",
    "Scores",
    "average",
    "average_nll",
    "evaluate",
    "is_exact",
    "paired_bootstrap",
    "read_scores",
    "retention",
    "score",
    "score_domains",
    "score_rows",
    "signatures",
    "write_hypotheses",
    "write_scores",
]
