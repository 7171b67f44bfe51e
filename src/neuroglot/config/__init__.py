"""What a run is: one typed recipe; a file for each of its sections."""

from __future__ import annotations

from neuroglot.config.methods import (
    BASELINES,
    CLASSIC,
    CONTROLS,
    FACTORS,
    METHODS,
    NEURON_METHODS,
    PRESETS,
    SMALL,
    UNBUDGETED,
    WHOLE,
)
from neuroglot.config.recipe import Recipe, check, dump
from neuroglot.config.sections import (
    SCORES,
    ClassicSection,
    DataSection,
    EvaluateSection,
    ModelSection,
    ProbeSection,
    ProfileSection,
    ReportSection,
    SelectSection,
    SweepSection,
    TrainSection,
)
from neuroglot.config.systems import SystemSettings

__all__ = [
    "BASELINES",
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
