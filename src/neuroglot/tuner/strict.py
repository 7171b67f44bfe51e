"""What our tuners share: arguments that PEFT would take and ignore are honoured or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from neuroglot.errors import UserError, nearest


class StrictTuner(BaseTuner):
    """A tuner that checks the arguments of PEFT's functions."""

    tuner_layer_cls: type[BaseTunerLayer]
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter.

        Raises:
            UserError: its name cannot be part of a parameter's name.
        """
        if not adapter_name or "." in adapter_name:
            raise UserError(f"adapter name {adapter_name!r} is empty or holds a dot; expected a name such as 'de'")
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Keep what is trained in float32, or take the base's dtype if the caller insists."""
        if autocast_adapter_dtype:
            super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
            return
        for layer in self.model.modules():
            if not isinstance(layer, self.tuner_layer_cls):
                continue
            dtypes = {p.dtype for p in layer.get_base_layer().parameters()}
            dtype = next((d for d in dtypes if d.is_floating_point and d.itemsize > 1), None)
            for name in layer.adapter_layer_names:
                held = getattr(layer, name)
                if dtype is None or adapter_name not in held:
                    continue
                found = held[adapter_name]
                for parameter in [found] if isinstance(found, nn.Parameter) else found.parameters():
                    parameter.data = parameter.data.to(dtype)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse what PEFT takes off a forward's or generate's keywords, whether the method knows it or not."""
        self._refuse_keywords(kwargs, "adapter_names", "alora_offsets")
        yield

    @staticmethod
    def _refuse_keywords(given: Mapping[str, Any], *names: str) -> None:
        for name in names:
            if given.get(name) is not None:
                raise UserError(
                    f"{name} is not known to this kind of adapter; leave it out, and choose the adapter of a batch "
                    "with model.set_adapter(name)"
                )

    def _check_names(self, adapter_names: Sequence[str] | None) -> None:
        if isinstance(adapter_names, str):
            raise UserError(f"adapter_names must be a list of names, got {adapter_names!r}; use [{adapter_names!r}]")
        for name in adapter_names or ():
            if name not in self.peft_config:
                raise UserError(f"adapter {name!r} is not in the model; {nearest(str(name), self.peft_config)}")

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters into the base's parameters.

        Raises:
            UserError: the model has no such adapter.
        """
        self._check_names(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """Return the plain model with adapters merged.

        Raises:
            UserError: the model has no such adapter.
        """
        self._check_names(adapter_names)
        return super().merge_and_unload(progressbar, safe_merge, adapter_names)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: it is LoRA's.

        Raises:
            UserError: always.
        """
        raise UserError(
            "add_weighted_adapter exists for LoRA only; several adapters add up when they are active together: "
            "model.base_model.set_adapter([...])"
        )
