"""What translates: anything with a name and `translate(examples)`."""

from __future__ import annotations

from neuroglot.systems.base import (
    Control,
    System,
    close,
    length_sorted_batches,
    shuffled_image,
    without_image,
    without_text,
)
from neuroglot.systems.build import Builder, Lazy
from neuroglot.systems.cascade import Cascade
from neuroglot.systems.hf import HFSystem

__all__ = [
    "Builder",
    "Cascade",
    "Control",
    "HFSystem",
    "Lazy",
    "System",
    "close",
    "length_sorted_batches",
    "shuffled_image",
    "without_image",
    "without_text",
]
