"""Evidence: how much to believe of a run's choice of neurons. Each kind has numbers, intervals and a figure."""

from neuroglot.evidence.run import gather

__all__ = ["gather"]
