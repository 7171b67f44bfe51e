"""What a run is: one typed recipe; a file for each of its sections."""

from __future__ import annotations

from neuroglot.config.methods import (
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
