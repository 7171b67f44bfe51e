"""What the neurons of a model do for each language pair, and which of them to train. No training code.

Read in this order: `inventory` (which layers and neurons there are), `importance` (one pass over data), `profile`
(its result), `layers` (which layers), `select` (which neurons, for which pairs).
"""

from __future__ import annotations

from neuroglot.neurons.ffn import FeedForward, feed_forwards, ffn_selection
from neuroglot.neurons.inventory import Layer, inventory
from neuroglot.neurons.layers import activation_similarity, keep, mean_similarity, relevance
from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.profiling.merge import shard
from neuroglot.neurons.profiling.positions import CLASSES
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.neurons.profiling.scores import SCORES
from neuroglot.neurons.selecting.options import PRESETS, Options
from neuroglot.neurons.selecting.select import METHODS, select

__all__ = [
    "CLASSES",
    "METHODS",
    "PRESETS",
    "SCORES",
    "FeedForward",
    "Layer",
    "Options",
    "Profile",
    "activation_similarity",
    "feed_forwards",
    "ffn_selection",
    "inventory",
    "keep",
    "mean_similarity",
    "profile",
    "relevance",
    "select",
    "shard",
]
