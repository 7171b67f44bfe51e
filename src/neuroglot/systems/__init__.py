"""What translates: anything with a name and `translate(examples)`."""

from neuroglot.systems.base import System, length_sorted_batches
from neuroglot.systems.cascade import Cascade
from neuroglot.systems.controls import Control, shuffled_image, without_image, without_text
from neuroglot.systems.hf import HFSystem

__all__ = [
    "Cascade",
    "Control",
    "HFSystem",
    "System",
    "length_sorted_batches",
    "shuffled_image",
    "without_image",
    "without_text",
]
