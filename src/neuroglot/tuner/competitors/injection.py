"""What the competitors' tuners share: modules by their exact full names, each wrapped in one kind of layer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from peft import PeftConfig
from torch import nn

from neuroglot.tuner.strict import StrictTuner


class ByName(StrictTuner):
    """Wraps each of a configuration's `target_modules` in a `tuner_layer_cls`, which `_fill` gives its adapter."""

    @abstractmethod
    def _fill(self, layer: Any, config: Any, adapter: str, name: str) -> None:
        """Add an adapter to the layer of a module."""

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> bool:
        return key in (peft_config.target_modules or ())  # type: ignore[attr-defined]

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        kind: Any = self.tuner_layer_cls
        layer = target if isinstance(target, kind) else kind(target).train(target.training)
        self._fill(layer, peft_config, adapter_name, current_key)
        if layer is not target:
            setattr(parent, target_name, layer)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own looks for a `weight`
