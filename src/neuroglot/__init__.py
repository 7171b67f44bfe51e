"""neuroglot: teach a multimodal LLM to translate what it sees by training only the neurons that do the work.

The names below are imported when they are first used, so that `import neuroglot` costs next to nothing. It is also
all that PEFT needs to know the method: its types are registered as soon as `peft` is imported, before or after this.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from neuroglot.registration import register

__version__ = "0.1.0"

_HOMES = {
    "profile": "neuroglot.neurons",
    "Profile": "neuroglot.neurons",
    "inventory": "neuroglot.neurons",
    "select": "neuroglot.neurons",
    "Selection": "neuroglot.selection",
    "NeuroglotConfig": "neuroglot.tuner",
    "active_pair": "neuroglot.tuner",
    "Example": "neuroglot.data.example",
    "Batch": "neuroglot.data.batch",
    "Batcher": "neuroglot.data.batch",
    "Pair": "neuroglot.pair",
    "Condition": "neuroglot.pair",
    "load_model": "neuroglot.models.load",
    "load_processor": "neuroglot.models.load",
}

__all__ = [*_HOMES, "__version__"]


register()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'neuroglot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
