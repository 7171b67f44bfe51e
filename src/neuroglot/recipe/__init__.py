"""What a run is: one typed recipe; a file for each of its sections."""

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
from neuroglot.recipe.sections.choose import SCORES, ProbeSection, ProfileSection, SelectSection
from neuroglot.recipe.sections.classic import ClassicSection
from neuroglot.recipe.sections.data import DataSection, ModelSection
from neuroglot.recipe.sections.evaluate import EvaluateSection, ReportSection
from neuroglot.recipe.sections.sweep import SweepSection
from neuroglot.recipe.sections.systems import SystemSettings
from neuroglot.recipe.sections.train import TrainSection

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
