"""The multimodal translation systems that the papers compare with, small enough to train: one `train`, one `load`.

Notable: an encoder-decoder of transformers for every kind; a kind is only the way in which an image gets into it
(`fusion.py`). The image is what a frozen vision tower makes of it, computed once (`vision.py`).
"""

from neuroglot.systems.classic.fitting import train
from neuroglot.systems.classic.settings import KINDS, Settings
from neuroglot.systems.classic.system import ClassicSystem, load
from neuroglot.systems.classic.vision import Features, TowerFeatures

__all__ = ["KINDS", "ClassicSystem", "Features", "Settings", "TowerFeatures", "load", "train"]
