"""What a layer's weight holds: its own units, an adapter's current ones or merged ones; and the way back to the bit.

An adapter's units are written into the weight before every training forward, because a parameter's version counter
does not show that a fused optimiser has moved it; afterwards they are written once, when the mode changes, an adapter
is loaded or switched, a parameter's version moves, or `refresh` asks for it. The original units are kept beside it
meanwhile. Reading the model's state, moving it or converting it puts them back first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import nn

from neuroglot.errors import UserError
from neuroglot.tuner.engines.deltas import UnitLayer
from neuroglot.tuner.engines.quantised import Quantised, readable


def why_not_sliced(layer: nn.Module, name: str = "weight") -> str | None:
    """Say why a layer's weight cannot hold the current units; None when it can."""
    weight = getattr(layer, name)
    if hasattr(weight, "ds_id"):
        return "its weight is sharded by ZeRO-3"
    if type(weight) is not nn.Parameter or type(weight.data) is not torch.Tensor:
        return f"its weight is a {type(weight).__name__}, which cannot be written row by row"
    if not weight.is_floating_point():
        return f"its weight is quantised ({weight.dtype})"
    return None


@dataclass(frozen=True)
class _Kept:
    """The original units that an adapter's have taken the place of in the weight."""

    adapter: str
    weight: torch.Tensor
    units: torch.Tensor
    original: torch.Tensor  # [K, w]
    original_bias: torch.Tensor | None  # [K]


class HeldWeight(UnitLayer):
    """A layer that writes units into its weight and takes them out again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._replaced: list[tuple[Any, ...]] = []
        self._kept: _Kept | None = None
        self._written: tuple[int, ...] | None = None
        self.register_state_dict_pre_hook(HeldWeight._before_state_dict)
        self.train(self.base_layer.training)

    @property
    def holds(self) -> bool:
        """Whether the weight can hold an adapter's units in this forward."""
        weight = getattr(self.base_layer, self.weight_name)
        if torch.compiler.is_compiling() or self.router.sharded or weight.requires_grad:
            return False  # compiled code, sharded or trained weights: what is written would be lost, or not seen
        return why_not_sliced(self.base_layer, self.weight_name) is None

    def sliced(self, adapters: Sequence[str]) -> bool:
        """Whether a forward keeps the adapters' current units in the weight.

        Raises:
            UserError: an adapter insists on it, and the weight is sharded.
        """
        modes = [self.neuroglot_layout[adapter].mode for adapter in adapters]
        if self.router.sharded and "sliced" in modes:
            raise UserError(
                f"{self.module_name}: mode sliced needs the whole weight on every process, but it is sharded; "
                "expected mode auto or additive; make or load the adapter with mode='auto'"
            )
        return self.holds and "additive" not in modes

    @torch.compiler.disable
    def park(self) -> None:
        """Put the weight's own units back."""
        self.hold(None)

    def _target(self, axis: int) -> torch.Tensor:
        """The stored weight, past autograd's sight, units first."""
        weight = getattr(self.base_layer, self.weight_name).data
        return weight.t() if axis else weight

    @torch.no_grad()
    def hold(self, adapter: str | None, write: bool = True) -> None:
        """Make the weight hold the current units of an adapter; its original ones come back for None.

        They are written through `.data`: autograd keeps the weight for the backward of other layers' inputs, and its
        version check would take the writing of values that backward needs for a mistake.

        Args:
            adapter: whose units.
            write: write them although they are there already; a fused optimiser moves a parameter behind its version.
        """
        kept, weight = self._kept, getattr(self.base_layer, self.weight_name)
        if kept is not None and (kept.adapter != adapter or kept.weight is not weight):
            if kept.weight is not weight and self.router.sharded:
                raise UserError(
                    f"{self.module_name}: the model was sharded while its weight held the units of adapter "
                    f"{kept.adapter!r}; expected its own; call neuroglot.tuner.park(model) before sharding it"
                )
            if kept.weight is weight:
                self._write(kept, kept.original, kept.original_bias)
            kept = self._kept = None
        if adapter is None:
            return
        layout = self.neuroglot_layout[adapter]
        if kept is None:
            units = self._indices(adapter).long()
            bias = self.bias if self.trains_bias(adapter) else None
            original = self._target(layout.axis).index_select(0, units)
            kept = _Kept(adapter, weight, units, original, None if bias is None else bias.data[units])
            self._kept = kept
        elif not write:
            return
        delta, bias_delta = self.unit_deltas(adapter, list(layout.groups))
        self._write(kept, *_sums(kept.original, delta, kept.original_bias, bias_delta))
        self._written = None

    def _write(self, kept: _Kept, values_Kw: torch.Tensor, bias_K: torch.Tensor | None) -> None:
        self._target(self.neuroglot_layout[kept.adapter].axis).index_copy_(0, kept.units, values_Kw)
        if bias_K is not None:
            self.bias.data.index_copy_(0, kept.units, bias_K)

    def settle(self, adapter: str | None) -> None:
        """Hold an adapter's units for forwards that train nothing; written only when they may have changed.

        In train mode, and as long as a gradient waits for an optimiser, they may always have.
        """
        names = self.adapter_layer_names if adapter is not None else ()
        parameters = [p for name in names for p in getattr(self, name)[adapter].parameters()]
        now = tuple(0 if p.is_inference() else p._version for p in parameters)
        if (self._kept.adapter if self._kept else None) != adapter or self._written is None or self._written != now:
            self.hold(adapter)
            waiting = self.training or any(p.grad is not None for p in parameters)
            self._written = None if waiting and adapter is not None else now

    def refresh(self) -> None:
        """Write the units again before the next forward."""
        self._written = None

    def train(self, mode: bool = True) -> HeldWeight:
        """Switch the mode; what was trained meanwhile is written before the next forward."""
        self._written = None
        return super().train(mode)

    @staticmethod
    def _before_state_dict(module: nn.Module, *args: Any) -> None:
        cast(HeldWeight, module).hold(None)

    def _apply(self, fn: Any, recurse: bool = True) -> HeldWeight:
        self.hold(None)
        self.forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.hold(None)
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter from this layer, and its units from the weight."""
        self.hold(None)
        super().delete_adapter(adapter_name)

    # --- merging

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the deltas to the base weight's chosen units, keeping the units that they replace.

        A quantised weight is dequantised, changed and quantised again as PEFT does it, which rounds every value of
        it; the weight that it replaces is kept whole.

        Args:
            safe_merge: refuse to write units that are not finite.
            adapter_names: which adapters; the active ones by default.

        Raises:
            ValueError: with `safe_merge`, an adapter holds NaN or infinity.
            UserError: the base weight is quantised in a way that cannot be undone, or sharded.
        """
        self.hold(None)
        for adapter in check_adapters_to_merge(self, adapter_names) or ():
            if adapter in self.neuroglot_layout:
                if safe_merge:
                    self.check_merge(adapter)
                self._merge_one(adapter)
                self.merged_adapters.append(adapter)

    def check_merge(self, adapter: str) -> None:
        """Raise a ValueError when an adapter's deltas would make this layer's weight infinite or no number."""
        if adapter not in self.neuroglot_layout:
            return
        self.hold(None)
        layout = self.neuroglot_layout[adapter]
        found = self.unit_deltas(adapter, list(layout.groups))
        if why_not_sliced(self.base_layer, self.weight_name) is None:  # a half-precision weight may overflow
            units = self._indices(adapter).long()
            before = self._target(layout.axis).index_select(0, units)
            found = _sums(before, found[0], None if found[1] is None else self.bias.data[units], found[1])
        if not all(torch.isfinite(value).all() for value in found if value is not None):
            raise ValueError(f"{self.module_name}: merging adapter {adapter!r} gives NaN or infinity; nothing merged")

    def get_base_weight(self) -> torch.Tensor:
        """Return the base's weight as floating values; of a quantised one, what its numbers stand for."""
        if self.quantization_backend is None:
            return super().get_base_weight()
        return self.quantization_backend.get_base_weight(readable(self.get_base_layer()))

    @torch.no_grad()
    def _merge_one(self, adapter: str) -> None:
        layout = self.neuroglot_layout[adapter]
        backend, reason = self.quantization_backend, why_not_sliced(self.base_layer, self.weight_name)
        if reason is not None and (backend is None or not backend.supports_merge):
            raise UserError(
                f"{self.module_name}: cannot merge, {reason}; expected a dense floating weight or one that PEFT can "
                "dequantise; merge into the base model loaded without quantisation"
            )
        stored = self.get_base_weight().clone() if backend is not None else self._target(0)
        target, bias = stored.t() if layout.axis else stored, self.bias
        units = self._indices(adapter).long().to(target.device)
        delta, bias_delta = self.unit_deltas(adapter, list(layout.groups))
        before = target.index_select(0, units)
        bias_before = bias.data[units] if bias is not None and bias_delta is not None else None
        new, new_bias = _sums(before, delta, bias_before, bias_delta)
        whole = Quantised(self.base_layer) if backend is not None else None
        target.index_copy_(0, units, new)
        if new_bias is not None:
            bias.data.index_copy_(0, units, new_bias)
        if backend is not None:
            self.set_base_weight(stored)
        self._replaced.append((layout.axis, units, before, bias_before, whole))

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the replaced units back, bit for bit, last merged first."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            self.merged_adapters.pop()
            axis, units, before, bias_before, whole = self._replaced.pop()
            if whole is not None:
                self.base_layer = whole.restored()
            else:
                target = self._target(axis)
                target.index_copy_(0, units.to(target.device), before.to(target))
            if bias_before is not None:
                bias = self.bias.data
                bias.index_copy_(0, units.to(bias.device), bias_before.to(bias))


def _sums(
    base_Kw: torch.Tensor, delta_Kw: torch.Tensor, bias_K: torch.Tensor | None, bias_delta_K: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Add deltas to units in the wider type, float32 or float64, and round once to the base's."""
    units = (base_Kw + delta_Kw.to(base_Kw.device)).to(base_Kw.dtype)
    if bias_K is None or bias_delta_K is None:
        return units, None
    return units, (bias_K + bias_delta_K.to(bias_K.device)).to(bias_K.dtype)
