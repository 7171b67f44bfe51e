"""The names of the methods that a recipe may ask for."""

from __future__ import annotations

PRESETS = ("mnaft", "neumt", "neumt-paper")
CONTROLS = ("random", "gradient", "activation", "weight", "lape", "least", "random-layers")
NEURON_METHODS = (*PRESETS, *CONTROLS)
METHODS = (*NEURON_METHODS, "full", "lora")
