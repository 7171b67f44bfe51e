"""The names of the methods that a recipe may ask for, what kind each is, and the learning rate it starts from."""

from __future__ import annotations

PRESETS = ("mnaft", "mnaft-raw", "neumt", "neumt-paper")
RENAMED = {"mnaft-paper": "mnaft-raw"}
"""Earlier name of a method -> its name."""
CONTROLS = ("random", "gradient", "activation", "weight", "lape", "least", "random-layers")
NEURON_METHODS = (*PRESETS, *CONTROLS)
WHOLE = ("full", "vision", "connector", "language")
"""Full fine-tuning, of all or of one part: what they save is a model."""
FACTORS = ("lora", "dora")
SMALL = ("prompt", "bitfit", "norms")
METHODS = (*NEURON_METHODS, *WHOLE, *FACTORS, *SMALL)
BASELINES = ("base", "cascade")
"""The model before training, and its own transcription put through its own text translation."""
CLASSIC = ("text-transformer", "gated-fusion", "gated-fusion-wu", "concatenation", "lvp-m3")
"""Multimodal translation systems from scratch: contenders of `compare` without the recipe's model."""
UNBUDGETED = (*WHOLE, *SMALL)
"""What they train follows from the model, or from a setting of their own, and not from a budget."""

LEARNING_RATES = {
    "full": 2e-4, "vision": 2e-4, "language": 2e-4, "connector": 1e-3, "prompt": 3e-2, "bitfit": 1e-2, "norms": 1e-2,
}  # fmt: skip
"""Where nothing is said: 1e-3 for the others. Few parameters want high rates."""
