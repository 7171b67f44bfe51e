"""The PEFT method that trains chosen rows; importing this package is what makes PEFT know the type NEUROGLOT."""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from neuroglot.tuner.config import NEUROGLOT, NeuroglotConfig
from neuroglot.tuner.formats.adapter import Adapter
from neuroglot.tuner.formats.grow import drop_pairs, grow, keep_pairs, without_held
from neuroglot.tuner.formats.lora import export_lora
from neuroglot.tuner.layer import NeuroglotLinear
from neuroglot.tuner.model import NeuroglotModel, modes, park, refresh, selection_of, trained_entries
from neuroglot.tuner.routing import active_pair, has_router

# PEFT dispatches by look-up in these three dictionaries; its own register function accepts only members of its enum.
PEFT_TYPE_TO_CONFIG_MAPPING[NEUROGLOT] = NeuroglotConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[NEUROGLOT] = NeuroglotModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[NEUROGLOT] = NeuroglotModel.prefix  # type: ignore[index]

__all__ = [
    "NEUROGLOT",
    "Adapter",
    "NeuroglotConfig",
    "NeuroglotLinear",
    "NeuroglotModel",
    "active_pair",
    "drop_pairs",
    "export_lora",
    "grow",
    "has_router",
    "keep_pairs",
    "modes",
    "park",
    "refresh",
    "selection_of",
    "trained_entries",
    "without_held",
]
