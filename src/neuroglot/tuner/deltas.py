"""The parameters of a layer's adapters: which units each trains, and their deltas, one or two parameters per group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import resolve_quantization_backend
from torch import nn

from neuroglot.errors import UserError, nearest
from neuroglot.tuner.routing import Mixture, Router

# ---- Units and groups of one layer ----------------------------------------------------------------------------------
# A unit is what the adapter trains: an output row of a weight or, of an `ffn` neuron's down side, an input column. Its
# values are always stored as a row; an axis of 1 says that the stored weight is read transposed for that.

ALL = "*"
"""Used instead of a pair: everything trains."""


@dataclass(frozen=True)
class Layout:
    """What one adapter trains in one layer.

    Attributes:
        groups: group text -> number of units, in the order in which the units are stored.
        pairs: the pairs that the adapter knows.
        agnostic_only: whether every group of the adapter, in every layer, holds all pairs.
        axis: the axis of the stored weight that the units lie on.
        biased: whether bias entries are trained as well, where the layer has some.
        ranks: group text -> rank of its delta; None for a dense one.
        mode: `auto`, `sliced` or `additive`.
    """

    groups: Mapping[str, int]
    pairs: tuple[str, ...]
    agnostic_only: bool
    axis: int = 0
    biased: bool = True
    ranks: Mapping[str, int | None] = field(default_factory=dict)
    mode: str = "auto"

    @property
    def size(self) -> int:
        """The number of units of all groups."""
        return sum(self.groups.values())


@dataclass(frozen=True)
class Share:
    """Trained groups whose gradient comes from the same samples.

    Attributes:
        groups: their texts.
        start, stop: where their units lie in the route's order.
        samples: indices along the first axis of the layer's input; None for all of them.
    """

    groups: tuple[str, ...]
    start: int
    stop: int
    samples: torch.Tensor | None = None


@dataclass(frozen=True)
class Route:
    """A split of an adapter's units in a layer.

    Attributes:
        shares: the trained groups.
        frozen: the others.
        units: [K] indices along the units' axis of the weight; those of the shares first, in their order.
        own: [k] those of the shares; made once, so that no step has to make it.
        others: [K - k] the rest.
    """

    shares: tuple[Share, ...]
    frozen: tuple[str, ...]
    units: torch.Tensor
    own: torch.Tensor
    others: torch.Tensor

    @property
    def trained(self) -> tuple[str, ...]:
        """The trained groups in their order."""
        return tuple(group for share in self.shares for group in share.groups)


def make_route(
    layout: Layout,
    units_K: torch.Tensor,
    pair: str | Mixture | None,
    adapter: str,
    length: int = 0,
    part: str | None = None,
) -> Route:
    """Split a layer's units.

    Args:
        layout: what the adapter trains in the layer.
        units_K: their indices in the order of the layout.
        pair: the pair that trains, `ALL`, a mixture, or None for nothing.
        adapter: its name, for messages.
        length: of the first axis of the layer's input, for a mixture.
        part: the layer's part, for a mixture.

    Raises:
        UserError: the adapter has no such pair, or the mixture does not fit the input.
    """
    wanted = pair.pairs if isinstance(pair, Mixture) else (() if pair in (None, ALL) else (str(pair),))
    for one in wanted:
        if one not in layout.pairs:
            raise UserError(f"adapter {adapter!r} has no pair {one!r}; {nearest(one, layout.pairs)}")
    by_group = dict(zip(layout.groups, units_K.long().split(list(layout.groups.values())), strict=True))
    by_samples: dict[tuple[int, ...] | None, tuple[list[str], torch.Tensor | None]] = {}
    for group in by_group:
        if not (pair == ALL or set(wanted) & set(group.split(","))):
            continue
        samples = pair.samples(group, length, part, units_K.device) if isinstance(pair, Mixture) else None
        if samples is None or samples.numel():
            key = None if samples is None else tuple(samples.tolist())
            by_samples.setdefault(key, ([], samples))[0].append(group)
    shares, start = [], 0
    for groups, samples in by_samples.values():
        stop = start + sum(layout.groups[group] for group in groups)
        shares.append(Share(tuple(groups), start, stop, samples))
        start = stop
    trained = [group for share in shares for group in share.groups]
    frozen = tuple(group for group in by_group if group not in trained)
    units = torch.cat([by_group[group] for group in (*trained, *frozen)])
    return Route(tuple(shares), frozen, units, units[:start], units[start:])


# ---- Deltas ---------------------------------------------------------------------------------------------------------
# Shape suffixes: K units of an adapter in this layer, k of one group, w the width of a unit, I inputs, O outputs.
#
# What is trained is the delta of each unit, zero at the start, float32 whatever the base holds (float64 for a float64
# base). Every group always adds to the output, but only the groups that hold the active pair are parameters in
# it, so that the gradients of the others stay None.

KEY = "pairs:"
"""Prefix of a group's parameter name, so that no adapter name (PEFT compares whole name parts) can equal it."""


class UnitLayer(nn.Module, BaseTunerLayer):
    """Wraps a module with one weight matrix; holds, per adapter, unit indices and a delta per group.

    Args:
        base_layer: the module.
        module_name: its full name in the base model, for messages.
        router: holds the active pair.
        part: the model part that it belongs to, for batches of several pairs; `packed` where the first axis of its
            input holds the images of all samples.
        weight_name: the matrix's attribute.
    """

    adapter_layer_names = ("neuroglot_delta", "neuroglot_up", "neuroglot_down", "neuroglot_bias")
    other_param_names = ("neuroglot_rows", "neuroglot_layout")
    cast_input_dtype_enabled = True  # for PEFT's `disable_input_dtype_casting`; inputs are never cast here

    def __init__(
        self,
        base_layer: nn.Module,
        module_name: str,
        router: Router,
        part: str | None = None,
        weight_name: str = "weight",
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.module_name, self.router, self.part, self.weight_name = module_name, router, part, weight_name
        self.out_features, self.in_features = shape_of(base_layer, weight_name)
        self.neuroglot_delta = nn.ModuleDict()
        self.neuroglot_up = nn.ModuleDict()
        self.neuroglot_down = nn.ModuleDict()
        self.neuroglot_bias = nn.ModuleDict()
        self.neuroglot_rows = BufferDict(persistent=True)
        self.neuroglot_layout: dict[str, Layout] = {}
        self.quantization_backend = resolve_quantization_backend(base_layer)
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self._routes: dict[Any, Route] = {}
        self._known: set[str] = set()

    # --- shapes

    @property
    def _outputs_axis(self) -> int:
        """The stored weight's axis of outputs: `Conv1D` and bare matrices are stored as [in, out]."""
        return 0 if isinstance(self.base_layer, nn.Linear) else 1

    @property
    def bias(self) -> Any:
        """The base's bias, None where there is none or where the matrix is a bare one."""
        return getattr(self.base_layer, "bias", None) if self.weight_name == "weight" else None

    @property
    def outputs_first(self) -> torch.Tensor:
        """The current dense weight, outputs first."""
        weight = getattr(self.base_layer, self.weight_name).data
        return weight.t() if self._outputs_axis else weight

    def units_are_outputs(self, adapter: str | None) -> bool:
        """Whether an adapter's units are output rows; they are input columns otherwise."""
        return adapter is None or self.neuroglot_layout[adapter].axis == self._outputs_axis

    def trains_bias(self, adapter: str) -> bool:
        """Whether an adapter trains bias entries here."""
        return self.bias is not None and self.units_are_outputs(adapter) and self.neuroglot_layout[adapter].biased

    @property
    def adapters_at_work(self) -> list[str]:
        """This layer's adapters in this forward: the active ones, or those of the samples; none if disabled."""
        asked = self.active_adapters if self.router.adapters is None else dict.fromkeys(self.router.adapters)
        known = [name for name in asked if name in self.neuroglot_layout]
        return [] if self.disable_adapters else known

    def group_size(self, adapter: str, group: str) -> int:
        """Return the number of units of a group."""
        return self.neuroglot_layout[adapter].groups[group]

    # --- adapters

    def update_layer(
        self, adapter: str, layout: Layout, rows_K: torch.Tensor | None, init_weights: bool = True
    ) -> None:
        """Add an adapter.

        Args:
            adapter: its name.
            layout: its groups in this layer.
            rows_K: int32 unit indices in the order of the layout; None when they come with the saved weights.
            init_weights: deltas of zero; else random ones.
        """
        weight = getattr(self.base_layer, self.weight_name)
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        rows_K = torch.full((layout.size,), -1, dtype=torch.int32) if rows_K is None else rows_K.to(torch.int32)
        self.neuroglot_layout[adapter] = layout
        self.neuroglot_rows[adapter] = rows_K.to(weight.device)
        outputs = self.units_are_outputs(adapter)
        width = self.in_features if outputs else self.out_features

        def parameter(*shape: int, zero: bool, bound: float = 0.1) -> nn.Parameter:
            value = torch.zeros(*shape, dtype=dtype, device=weight.device)
            return nn.Parameter(value if zero else value.uniform_(-bound, bound))

        rank = {group: layout.ranks.get(group) for group in layout.groups}
        low = {KEY + g: (k, r) for g, k in layout.groups.items() if (r := rank[g]) is not None}
        self.neuroglot_delta[adapter] = nn.ParameterDict(
            {KEY + g: parameter(k, width, zero=init_weights) for g, k in layout.groups.items() if rank[g] is None}
        )
        # as in LoRA one factor is zero and the other is not, so that the delta is zero and its gradient is not
        self.neuroglot_up[adapter] = nn.ParameterDict(
            {key: parameter(k, r, zero=init_weights) for key, (k, r) in low.items()}
        )
        self.neuroglot_down[adapter] = nn.ParameterDict(
            {key: parameter(r, width, zero=False, bound=1 / math.sqrt(width)) for key, (k, r) in low.items()}
        )
        biased = self.trains_bias(adapter)
        self.neuroglot_bias[adapter] = nn.ParameterDict(
            {KEY + g: parameter(k, zero=init_weights) for g, k in layout.groups.items() if biased}
        )
        self.forget()

    def delta(self, adapter: str, group: str) -> tuple[torch.Tensor, ...]:
        """Return a group's delta, (dense [k, w],) or (up [k, r], down [r, w])."""
        dense = cast(nn.ParameterDict, self.neuroglot_delta[adapter])
        if KEY + group in dense:
            return (dense[KEY + group],)
        up, down = self.neuroglot_up[adapter], self.neuroglot_down[adapter]
        return cast(nn.ParameterDict, up)[KEY + group], cast(nn.ParameterDict, down)[KEY + group]

    def bias_delta(self, adapter: str, group: str) -> torch.Tensor | None:
        """Return the delta [k] of a group's bias entries, None where it has none."""
        biases = cast(nn.ParameterDict, self.neuroglot_bias[adapter])
        return biases.get(KEY + group, None)

    @torch.no_grad()
    def unit_deltas(self, adapter: str, groups: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the deltas [K, w] and bias deltas [K] or None of groups, multiplied out, one below the other."""
        deltas = [self.delta(adapter, group) for group in groups]
        dense = [delta[0].detach() if len(delta) == 1 else delta[0] @ delta[1] for delta in deltas]
        biases = [bias.detach() for group in groups if (bias := self.bias_delta(adapter, group)) is not None]
        one = len(dense) == 1
        return dense[0] if one else torch.cat(dense), (biases[0] if one else torch.cat(biases)) if biases else None

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """Return what an adapter adds to the stored weight, in its shape."""
        layout, rows = self.neuroglot_layout[adapter], self._indices(adapter).long()
        delta, _ = self.unit_deltas(adapter, list(layout.groups))
        full = delta.new_zeros(self.out_features, self.in_features)
        full = full.t() if self._outputs_axis else full
        (full.t() if layout.axis else full).index_copy_(0, rows, delta)
        return full

    def parameters_of(self, adapter: str, route: Route) -> list[torch.Tensor]:
        """Return the trained parameters in the order of a route: deltas or factors first, then biases."""
        trained = [factor for group in route.trained for factor in self.delta(adapter, group)]
        biases = [self.bias_delta(adapter, group) for group in route.trained]
        return trained + [bias for bias in biases if bias is not None]

    # --- routes

    def _route(self, adapter: str, x: torch.Tensor) -> Route:
        """Return the split for the current pair; made once per adapter and pair, then looked up."""
        pair = self._training_pair(adapter)
        key = (adapter, pair, x.shape[0] if isinstance(pair, Mixture) else 0)
        route = self._routes.get(key)
        if route is None or route.units.device != self.neuroglot_rows[adapter].device:
            if isinstance(pair, Mixture):  # rarely the same twice
                self._routes = {k: v for k, v in self._routes.items() if not isinstance(k[1], Mixture)}
            layout = self.neuroglot_layout[adapter]
            route = make_route(layout, self._indices(adapter), pair, adapter, x.shape[0], self.part)
            self._routes[key] = route
        return route

    def _training_pair(self, adapter: str) -> str | Mixture | None:
        """Return the pair that this forward trains, `ALL` for everything, None for nothing."""
        layout = self.neuroglot_layout[adapter]
        if not torch.is_grad_enabled() or not any(p.requires_grad for p in self._parameters_of(adapter)):
            return None
        if self.router.pair is not None:
            return self.router.pair
        if layout.agnostic_only:
            return ALL
        if self.training:
            raise UserError(
                f"{self.module_name}: a training forward without an active pair, but adapter {adapter!r} has rows "
                f"that only some pairs may train; expected one of {', '.join(layout.pairs)}; enclose forward and "
                f'backward in `with active_pair(model, "{layout.pairs[0]}"):`'
            )
        return None

    def _parameters_of(self, adapter: str) -> Iterator[nn.Parameter]:
        return (p for name in self.adapter_layer_names for p in getattr(self, name)[adapter].parameters())

    def forget(self) -> None:
        """Drop what was derived from the unit indices, which are about to change."""
        self._routes.clear()
        self._known.clear()

    def _indices(self, adapter: str) -> torch.Tensor:
        rows_K = self.neuroglot_rows[adapter]
        if adapter not in self._known and (rows_K.is_meta or bool((rows_K < 0).any())):
            raise UserError(
                f"{self.module_name}: adapter {adapter!r} has no row indices; they are in the saved adapter or in a "
                "configuration made by NeuroglotConfig.from_selection; load or make one of these"
            )
        if adapter not in self._known and any(p.is_meta for p in self._parameters_of(adapter)):
            raise UserError(
                f"{self.module_name}: adapter {adapter!r} holds no values (low_cpu_mem_usage=True); load saved ones "
                "into it, or make it without that option"
            )
        self._known.add(adapter)  # reading a tensor waits for the GPU and breaks a compiled graph
        return rows_K

    # --- bookkeeping

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move to the base layer's device and, unlike PEFT's own, never to its dtype: deltas stay float32."""
        device = device or getattr(self.base_layer, self.weight_name).device
        for name in self.adapter_layer_names:
            container = getattr(self, name)
            if adapter_name in container and not any(p.is_meta for p in container[adapter_name].parameters()):
                container[adapter_name].to(device)
        if adapter_name in self.neuroglot_rows and not self.neuroglot_rows[adapter_name].is_meta:
            self.neuroglot_rows[adapter_name] = self.neuroglot_rows[adapter_name].to(device)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter from this layer."""
        super().delete_adapter(adapter_name)
        self.forget()

    def extra_repr(self) -> str:
        """Show how many units each adapter trains."""
        return ", ".join(f"{name}: {layout.size} rows" for name, layout in self.neuroglot_layout.items())


def shape_of(module: nn.Module, weight_name: str = "weight") -> tuple[int, int]:
    """Return (outputs, inputs) of a module's matrix; a quantised Linear's stored shape tells neither."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    inputs, outputs = getattr(module, weight_name).shape  # Conv1D and bare matrices are stored as [in, out]
    return outputs, inputs
