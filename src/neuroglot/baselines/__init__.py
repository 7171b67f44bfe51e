"""The multimodal translation systems that the papers compare with, small enough to train: one `train`, one `load`.

Notable: an encoder-decoder of transformers for every kind; a kind is only the way in which an image gets into it
(`network.py`). The image is what a frozen vision tower makes of it, computed once (`features.py`).
"""

from __future__ import annotations

from neuroglot.baselines.features import Features, TowerFeatures
from neuroglot.baselines.settings import KINDS, ClassicSettings
from neuroglot.baselines.system import ClassicSystem, load
from neuroglot.baselines.training import train

__all__ = ["KINDS", "ClassicSettings", "ClassicSystem", "Features", "TowerFeatures", "load", "train"]
