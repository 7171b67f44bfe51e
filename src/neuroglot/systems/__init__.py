"""What translates: anything with a name and `translate(examples)`."""

from neuroglot.systems.base import System, length_sorted_batches
from neuroglot.systems.cascade import Cascade
from neuroglot.systems.hf import HFSystem

__all__ = ["Cascade", "HFSystem", "System", "length_sorted_batches"]
