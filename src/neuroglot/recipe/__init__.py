"""What a run is: one typed recipe; a file for each of its sections."""

from neuroglot.recipe.choose import SCORES, ProbeSection, ProfileSection, SelectSection
from neuroglot.recipe.data import DataSection, ModelSection
from neuroglot.recipe.evaluate import EvaluateSection, ReportSection
from neuroglot.recipe.methods import CONTROLS, METHODS, NEURON_METHODS, PRESETS
from neuroglot.recipe.recipe import Recipe, check, dump
from neuroglot.recipe.train import TrainSection

__all__ = [
    "CONTROLS",
    "METHODS",
    "NEURON_METHODS",
    "PRESETS",
    "SCORES",
    "DataSection",
    "EvaluateSection",
    "ModelSection",
    "ProbeSection",
    "ProfileSection",
    "Recipe",
    "ReportSection",
    "SelectSection",
    "TrainSection",
    "check",
    "dump",
]
