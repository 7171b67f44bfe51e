"""Making PEFT know our types as soon as it is there, without importing it, or torch, before anyone needs it."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Any


class _AfterPeft:
    """A finder that has the import of `peft` followed by that of `neuroglot.tuner`, which registers our types."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return what the other finders find for `peft`, with a loader that registers; None for everything else."""
        if name != "peft":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((result for result in others if result is not None), None)
        loader: Any = getattr(spec, "loader", None)
        if not hasattr(loader, "exec_module"):
            return spec
        load = loader.exec_module

        def load_and_register(module: Any) -> None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            load(module)
            try:
                import_module("neuroglot.tuner")
            except Exception as error:  # whatever is wrong with our installation, PEFT must stay usable
                warnings.warn(f"neuroglot is not registered with PEFT: {error}", stacklevel=2)

        loader.exec_module = load_and_register
        return spec


def register() -> None:
    """Register our types with PEFT now if it has been imported, otherwise right after it will be."""
    if "peft" in sys.modules:
        import_module("neuroglot.tuner")
    else:
        sys.meta_path.insert(0, _AfterPeft())
