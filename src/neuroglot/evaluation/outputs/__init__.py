"""Outputs of any system, in files: read, scored, compared."""

from neuroglot.evaluation.outputs.files import read_outputs, read_texts
from neuroglot.evaluation.outputs.score import Options, score_outputs

__all__ = ["Options", "read_outputs", "read_texts", "score_outputs"]
