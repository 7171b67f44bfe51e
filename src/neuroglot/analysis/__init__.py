"""Analysis: how much to believe of a run's choice of neurons. Each kind has numbers, intervals and a figure."""

from __future__ import annotations

from neuroglot.analysis.run import analyse

__all__ = ["analyse"]
