"""Training vectors of a model, its biases or the gains of its norms, as deltas beside unchanged modules.

PEFT's own methods do not fit: LN tuning trains copies in the base's dtype, where bfloat16 rounds most steps away, and
BEFT gives every Linear a bias, which cannot be merged where there is none, and does not support norms. Here a float32
delta that starts at zero is trained, for any module, and merging writes base + delta and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from torch.func import functional_call

from neuroglot.errors import UserError
from neuroglot.tuner.config import OwnType, StrictConfig, with_card
from neuroglot.tuner.prompt import ByName


@dataclass
class VectorsConfig(StrictConfig):
    """Which vectors an adapter trains.

    Args:
        layout: module (exact full name) -> names of its own parameters.
        pairs: the pairs that it is trained for, in text form.
        trained_on: what it was trained on, for the JSON and the model card.
    """

    layout: dict[str, list[str]] = field(default_factory=dict, metadata={"help": "Parameters by module."})
    pairs: list[str] = field(default_factory=list, metadata={"help": "The pairs that it is trained for."})
    trained_on: dict[str, Any] | None = field(default=None, metadata={"help": "What it was trained on."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = VECTORS

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The modules' exact full names; a tuple, because PEFT shortens lists and sets to suffixes."""
        return tuple(self.layout)

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the JSON, and into the model card how to load the adapter."""
        super().save_pretrained(save_directory, **kwargs)
        what = f"{sum(map(len, self.layout.values())):,} vectors (biases, or gains of norms)"
        with_card(self, save_directory, what, mergeable=True)


VECTORS = OwnType("NEUROGLOT_VECTORS")


class VectorLayer(nn.Module, BaseTunerLayer):
    """Wraps any module; its chosen parameters are taken to be base + delta.

    Args:
        base_layer: the wrapped module.
    """

    adapter_layer_names = ("neuroglot_vectors",)
    other_param_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.neuroglot_vectors = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._before: dict[str, torch.Tensor] = {}

    def update_layer(self, adapter: str, names: list[str]) -> None:
        """Add an adapter's deltas, of zero."""
        parameters = {name: self.base_layer.get_parameter(name) for name in names}
        deltas = {name: torch.zeros(p.shape, dtype=torch.float32, device=p.device) for name, p in parameters.items()}
        self.neuroglot_vectors[adapter] = nn.ParameterDict(deltas)
        self.set_adapter(self.active_adapters if self.neuroglot_vectors.keys() > {adapter} else [adapter])

    def _current(self, adapters: list[str]) -> dict[str, torch.Tensor]:
        """Return the chosen parameters with the deltas added in float32, in the base's dtype."""
        summed: dict[str, torch.Tensor] = {}
        for adapter in adapters:
            if adapter in self.neuroglot_vectors:
                for name, delta in self.neuroglot_vectors[adapter].items():  # type: ignore[operator]
                    summed[name] = summed.get(name, self.base_layer.get_parameter(name).float()) + delta
        return {name: value.to(self.base_layer.get_parameter(name).dtype) for name, value in summed.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module with its current vectors."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(*args, **kwargs)
        return functional_call(self.base_layer, self._current(self.active_adapters), args, kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write base + delta into the parameters.

        Raises:
            ValueError: `safe_merge`, and a value is not finite.
        """
        adapters = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.neuroglot_vectors]
        if not adapters:
            return
        if self.merged:
            raise ValueError(f"adapter {self.merged_adapters[0]} is merged already; unmerge it first")
        current = self._current(adapters)
        if safe_merge and not all(value.isfinite().all() for value in current.values()):
            raise ValueError(f"adapter {adapters[0]} holds NaN or infinity; it seems to be broken")
        self._before = {name: self.base_layer.get_parameter(name).detach().clone() for name in current}
        for name, value in current.items():
            self.base_layer.get_parameter(name).data.copy_(value)
        self.merged_adapters += adapters

    def unmerge(self) -> None:
        """Put the base's own values back, bit for bit."""
        for name, value in self._before.items():
            self.base_layer.get_parameter(name).data.copy_(value)
        self._before = {}
        self.merged_adapters.clear()


class VectorsModel(ByName):
    """A model whose chosen vectors can be trained; made by `peft.get_peft_model` from a `VectorsConfig`."""

    prefix = "neuroglot_vectors"
    tuner_layer_cls = VectorLayer

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Check the configuration against the model.

        Raises:
            UserError: the model lacks a module or a parameter.
        """
        modules = dict(model.named_modules())
        layout: dict[str, list[str]] = peft_config.layout  # type: ignore[attr-defined]
        for module, names in layout.items():
            target = modules.get(module)
            target = target.base_layer if isinstance(target, VectorLayer) else target
            parameters = {} if target is None else dict(target.named_parameters(recurse=False))
            for name in names:
                if name not in parameters:
                    raise UserError(
                        f"the model has no parameter {module}.{name}, which the adapter trains; use the base model "
                        "that it was made for"
                    )

    def _fill(self, layer: Any, config: Any, adapter: str, name: str) -> None:
        layer.update_layer(adapter, list(config.layout[name]))
