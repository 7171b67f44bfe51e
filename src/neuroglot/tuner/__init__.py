"""PEFT methods: chosen rows, vectors, a prompt. Importing this package registers their types with PEFT."""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from neuroglot.tuner.adapter import Adapter
from neuroglot.tuner.config import NEUROGLOT, NeuroglotConfig
from neuroglot.tuner.export import export_lora
from neuroglot.tuner.grow import drop_pairs, grow, keep_pairs, without_trained
from neuroglot.tuner.layer import NeuroglotLinear
from neuroglot.tuner.model import NeuroglotModel, modes, park, refresh, selection_of, trained_entries
from neuroglot.tuner.prompt import PROMPT, PromptConfig, PromptModel
from neuroglot.tuner.routing import active_pair, has_router
from neuroglot.tuner.vectors import VECTORS, VectorsConfig, VectorsModel

# PEFT dispatches by look-up in these three dictionaries; its own register function accepts only members of its enum.
for _type, _config, _model in (
    (NEUROGLOT, NeuroglotConfig, NeuroglotModel),
    (PROMPT, PromptConfig, PromptModel),
    (VECTORS, VectorsConfig, VectorsModel),
):
    PEFT_TYPE_TO_CONFIG_MAPPING[_type] = _config  # type: ignore[index]
    PEFT_TYPE_TO_TUNER_MAPPING[_type] = _model  # type: ignore[index]
    PEFT_TYPE_TO_PREFIX_MAPPING[_type] = _model.prefix  # type: ignore[index]

__all__ = [
    "NEUROGLOT",
    "PROMPT",
    "VECTORS",
    "Adapter",
    "NeuroglotConfig",
    "NeuroglotLinear",
    "NeuroglotModel",
    "PromptConfig",
    "VectorsConfig",
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
    "without_trained",
]
