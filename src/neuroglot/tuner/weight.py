"""What a layer's weight holds: the base's units, an adapter's or merged ones; and how to restore it, bit for bit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import nn
from torch.func import functional_call

from neuroglot.errors import UserError
from neuroglot.tuner.deltas import UnitLayer
from neuroglot.tuner.routing import Mixture

# ---- Quantised layers -----------------------------------------------------------------------------------------------


def readable(layer: nn.Module) -> nn.Module:
    """Return a layer whose weight can be dequantised: the layer itself or, of a packed 4-bit one, an unpacked copy.

    On a CPU, bitsandbytes packs a 4-bit weight anew for a faster kernel in its first forward of eval mode, and its
    dequantiser, which PEFT calls, does not account for that. Reading the layer's state undoes it, except for the order
    of the blocks' scales. This happens in a copy, because it also rounds scales that are quantised themselves.
    """
    if not getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
        return layer
    layer = copy.deepcopy(layer)
    weight: Any = layer.weight
    weight.quant_state.original_nested = False
    layer.state_dict()
    if weight.quant_state.absmax.dim() == 2:  # [blocks of a row, rows]
        weight.quant_state.absmax = weight.quant_state.absmax.T.reshape(-1).float()
    return layer


class Quantised:
    """A quantised layer's weight and the other state that it computes with.

    An 8-bit layer moves the scales from the weight to a separate state in its first forward.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._weight: Any = layer.weight
        self._others = {
            name: copy.copy(getattr(layer, name)) for name in ("state", "quant_state") if name in vars(layer)
        }

    def restored(self) -> nn.Module:
        """Return the layer as it was."""
        self._layer.weight = self._weight
        for name, value in self._others.items():
            setattr(self._layer, name, value)
        return self._layer


# ---- The weight -----------------------------------------------------------------------------------------------------
# An adapter's units are written into the weight before every training forward, because a parameter's version counter
# does not show that a fused optimiser has moved it; afterwards they are written once, when the mode changes, an
# adapter is loaded or switched, a parameter's version moves, or `refresh` asks for it. The original units are
# stored beside it until then. Reading the model's state, moving it or converting it puts them back first.


def why_not_sliced(layer: nn.Module, name: str = "weight") -> str | None:
    """Return why a layer's weight cannot hold the current units; None when it can."""
    weight = getattr(layer, name)
    if hasattr(weight, "ds_id"):
        return "its weight is sharded by ZeRO-3"
    if type(weight) is not nn.Parameter or type(weight.data) is not torch.Tensor:
        return f"its weight is a {type(weight).__name__}, which cannot be written row by row"
    if not weight.is_floating_point() or weight.element_size() == 1:  # the eight-bit floats have scales of their own
        return f"its weight is quantised ({weight.dtype})"
    return None


@dataclass(frozen=True)
class _Kept:
    """The original units, which an adapter's units replace in the weight."""

    adapter: str
    weight: torch.Tensor
    units: torch.Tensor
    original: torch.Tensor  # [K, w]
    original_bias: torch.Tensor | None  # [K]


class WeightLayer(UnitLayer):
    """A layer that writes units into its weight and takes them out again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._replaced: list[tuple[Any, ...]] = []
        self._kept: _Kept | None = None
        self._written: tuple[int, ...] | None = None
        self._enclosed = False
        self.register_state_dict_pre_hook(WeightLayer._before_state_dict)
        self.train(self.base_layer.training)

    @property
    def sharded(self) -> bool:
        """Whether the weight is one that FSDP or ZeRO-3 gathers for each forward."""
        return self.router.sharded or hasattr(getattr(self.base_layer, self.weight_name, None), "ds_id")

    def call_base(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the base module's output; without its hooks where this call is already inside them."""
        base: Any = self.base_layer
        return type(base).forward(base, *args, **kwargs) if self._enclosed else base(*args, **kwargs)

    @property
    def holds(self) -> bool:
        """Whether the weight can hold an adapter's units in this forward."""
        weight = getattr(self.base_layer, self.weight_name)
        if torch.compiler.is_compiling() or self.router.sharded or weight.requires_grad:
            return False  # compiled code, sharded or trained weights: written units would be lost, or not seen
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
        """Put the original units back into the weight."""
        self.hold(None)

    def _target(self, axis: int) -> torch.Tensor:
        """The stored weight, without autograd, units first."""
        weight = getattr(self.base_layer, self.weight_name).data
        return weight.t() if axis else weight

    @torch.no_grad()
    def hold(self, adapter: str | None, write: bool = True) -> None:
        """Make the weight hold the current units of an adapter, or for None the original ones.

        They are written through `.data`: autograd keeps the weight for the backward of other layers' inputs, and its
        version check would report this write as an error.

        Args:
            adapter: whose units.
            write: write them even if they are there already; a fused optimiser does not change a parameter's version.
        """
        held, weight = self._kept, getattr(self.base_layer, self.weight_name)
        if held is not None and (held.adapter != adapter or held.weight is not weight):
            if held.weight is not weight and self.router.sharded:
                raise UserError(
                    f"{self.module_name}: the model was sharded while its weight held the units of adapter "
                    f"{held.adapter!r}; expected its own; call neuroglot.tuner.park(model) before sharding it"
                )
            if held.weight is weight:
                self._write(held, held.original, held.original_bias)
            held = self._kept = None
        if adapter is None:
            return
        layout = self.neuroglot_layout[adapter]
        if held is None:
            units = self._indices(adapter).long()
            bias = self.bias if self.trains_bias(adapter) else None
            original = self._target(layout.axis).index_select(0, units)
            held = _Kept(adapter, weight, units, original, None if bias is None else bias.data[units])
            self._kept = held
        elif not write:
            return
        delta, bias_delta = self.unit_deltas(adapter, list(layout.groups))
        self._write(held, *_sums(held.original, delta, held.original_bias, bias_delta))
        self._written = None

    def _write(self, held: _Kept, values_Kw: torch.Tensor, bias_K: torch.Tensor | None) -> None:
        self._target(self.neuroglot_layout[held.adapter].axis).index_copy_(0, held.units, values_Kw)
        if bias_K is not None:
            self.bias.data.index_copy_(0, held.units, bias_K)

    def _through(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the base module with its weight replaced by the sum of the weight and the deltas.

        Autograd then differentiates whatever the module does with it; this costs a full dW and a copy of the weight.
        """
        names, x = self.adapters_at_work, next(v for v in (*args, *kwargs.values()) if torch.is_tensor(v))
        if isinstance(self.router.pair, Mixture) and torch.is_grad_enabled() and names:
            raise UserError(
                f"{self.module_name}: a {type(self.base_layer).__name__} with a forward of its own cannot tell the "
                "samples of a mixed batch apart; expected batches of one pair; make such batches, or leave this layer "
                "out of the selection"
            )
        self.park()
        if self.router.adapters is None:
            return self._run_with(names, x, args, kwargs)
        out = self._run_with([], x, args, kwargs)
        for name, samples in self.router.samples_by_adapter(len(x), x.device).items():
            if name in names:
                out = out.index_copy(0, samples, self._run_with([name], x, args, kwargs).index_select(0, samples))
        return out

    def _run_with(self, names: Sequence[str], x: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the base module with a weight to which some adapters' deltas were added."""
        weight, bias = getattr(self.base_layer, self.weight_name), self.bias
        if not names and torch.is_grad_enabled():
            weight = weight.clone()  # another forward may write into the weight before backward
        for name in names:
            route = self._route(name, x)
            parts, biases = [], []
            for group in (*route.trained, *route.frozen):
                trained = group in route.trained
                delta = [factor if trained else factor.detach() for factor in self.delta(name, group)]
                parts.append(delta[0] if len(delta) == 1 else delta[0] @ delta[1])
                if (added := self.bias_delta(name, group)) is not None:
                    biases.append(added if trained else added.detach())
            axis, units = self.neuroglot_layout[name].axis, torch.cat(parts)
            weight = _added(weight, axis, route.units, units.t() if axis else units)
            bias = _added(bias, 0, route.units, torch.cat(biases)) if biases else bias
        values = {self.weight_name: weight} if bias is self.bias else {self.weight_name: weight, "bias": bias}
        return functional_call(self.base_layer, values, args, kwargs)

    def settle(self, adapter: str | None) -> None:
        """Hold an adapter's units for forwards that train nothing; written only when they may have changed.

        In train mode, and while a gradient waits for an optimiser, they may have changed at any time.
        """
        parameters = [] if adapter is None else list(self._parameters_of(adapter))
        now = tuple(0 if p.is_inference() else p._version for p in parameters)
        if (self._kept.adapter if self._kept else None) != adapter or self._written is None or self._written != now:
            self.hold(adapter)
            waiting = self.training or any(p.grad is not None for p in parameters)
            self._written = None if waiting and adapter is not None else now

    def refresh(self) -> None:
        """Write the units again before the next forward."""
        self._written = None

    def train(self, mode: bool = True) -> WeightLayer:
        """Switch the mode; units trained in between are written before the next forward."""
        self._written = None
        return super().train(mode)

    @staticmethod
    def _before_state_dict(module: nn.Module, *args: Any) -> None:
        cast(WeightLayer, module).hold(None)

    def _apply(self, fn: Any, recurse: bool = True) -> WeightLayer:
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

        A quantised weight is dequantised, changed and quantised again as PEFT does it, which rounds all its
        values; the complete original weight is stored.

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
        """Raise a ValueError when an adapter's deltas would make this layer's weight infinite or NaN."""
        if adapter not in self.neuroglot_layout:
            return
        self.hold(None)
        layout = self.neuroglot_layout[adapter]
        values = self.unit_deltas(adapter, list(layout.groups))
        if why_not_sliced(self.base_layer, self.weight_name) is None:  # a half-precision weight may overflow
            units = self._indices(adapter).long()
            before = self._target(layout.axis).index_select(0, units)
            values = _sums(before, values[0], None if values[1] is None else self.bias.data[units], values[1])
        if not all(torch.isfinite(value).all() for value in values if value is not None):
            raise ValueError(f"{self.module_name}: merging adapter {adapter!r} gives NaN or infinity; nothing merged")

    def get_base_weight(self) -> torch.Tensor:
        """Return the base's weight as floating values; a quantised one is dequantised."""
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
        quantised = Quantised(self.base_layer) if backend is not None else None
        target.index_copy_(0, units, new)
        if new_bias is not None:
            bias.data.index_copy_(0, units, new_bias)
        if backend is not None:
            self.set_base_weight(stored)
        self._replaced.append((layout.axis, units, before, bias_before, quantised))

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the replaced units back, bit for bit, last merged first."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            self.merged_adapters.pop()
            axis, units, before, bias_before, quantised = self._replaced.pop()
            if quantised is not None:
                self.base_layer = quantised.restored()
            else:
                target = self._target(axis)
                target.index_copy_(0, units.to(target.device), before.to(target))
            if bias_before is not None:
                bias = self.bias.data
                bias.index_copy_(0, units.to(bias.device), bias_before.to(bias))


def _added(base: torch.Tensor, axis: int, units_K: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    """Return a copy of a weight or bias with deltas added to some entries of an axis, rounded once."""
    sums = base.index_select(axis, units_K) + deltas
    return base.index_copy(axis, units_K, sums.to(base.dtype))


def _sums(
    base_Kw: torch.Tensor, delta_Kw: torch.Tensor, bias_K: torch.Tensor | None, bias_delta_K: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Add deltas to units in the wider type, float32 or float64, and round once to the base's."""
    units = (base_Kw + delta_Kw.to(base_Kw.device)).to(base_Kw.dtype)
    if bias_K is None or bias_delta_K is None:
        return units, None
    return units, (bias_K + bias_delta_K.to(bias_K.device)).to(bias_K.dtype)
