"""What a run is: one typed recipe; a file for each of its sections."""

from neuroglot.recipe.choose import SCORES, ProbeSection, ProfileSection, SelectSection
from neuroglot.recipe.classic import ClassicSection
from neuroglot.recipe.data import DataSection, ModelSection
from neuroglot.recipe.evaluate import EvaluateSection, ReportSection
from neuroglot.recipe.methods import (
    CLASSIC,
    CONTROLS,
    FACTORS,
    METHODS,
    NEURON_METHODS,
    PRESETS,
    SMALL,
    UNBUDGETED,
    WHOLE,
    YARDSTICKS,
)
from neuroglot.recipe.recipe import Recipe, check, dump
from neuroglot.recipe.sweep import SweepSection
from neuroglot.recipe.systems import SystemSettings
from neuroglot.recipe.train import TrainSection

__all__ = [
    "CLASSIC",
    "CONTROLS",
    "FACTORS",
    "METHODS",
    "NEURON_METHODS",
    "PRESETS",
    "SCORES",
    "SMALL",
    "UNBUDGETED",
    "WHOLE",
    "YARDSTICKS",
    "ClassicSection",
    "DataSection",
    "EvaluateSection",
    "ModelSection",
    "ProbeSection",
    "ProfileSection",
    "Recipe",
    "ReportSection",
    "SelectSection",
    "SweepSection",
    "SystemSettings",
    "TrainSection",
    "check",
    "dump",
]
