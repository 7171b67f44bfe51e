"""A Linear whose chosen rows can be trained: y = x W^T + b, plus x D^T + d on the chosen rows.

Shape suffixes: K rows of an adapter in this layer, k rows of one group, I inputs, O outputs.

What is trained is the delta D, zero at the start, float32 whatever the base holds, one parameter per group. Every
group always takes part in the output (the weight is the merged weight, whatever the pair), but only the groups that
hold the active pair take part as parameters; the others are detached, so that their gradient stays None. Where a pair
trains, `engine.py` does the arithmetic on the merged weight; elsewhere the rows' own product is added, a delta cast to
the dtype of its input.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from neuroglot.errors import UserError, nearest
from neuroglot.tuner.engine import composes, rows_linear
from neuroglot.tuner.routing import Router

KEY = "pairs:"
"""Prefix of a group's parameter name, so that no adapter name (PEFT compares whole name parts) can equal it."""

_ALL = "*"


@dataclass(frozen=True)
class Layout:
    """What one adapter trains in one layer.

    Attributes:
        groups: group text -> number of rows, in the order in which the rows are stored.
        pairs: the pairs that the adapter knows.
        agnostic_only: whether every group of the adapter, in every layer, holds all pairs.
    """

    groups: Mapping[str, int]
    pairs: tuple[str, ...]
    agnostic_only: bool


@dataclass(frozen=True)
class _Route:
    """How the rows are split while one pair is active; `rows` [K] lists the trained groups' rows first."""

    trained: tuple[str, ...]
    frozen: tuple[str, ...]
    rows: torch.Tensor


class NeuroglotLinear(nn.Module, BaseTunerLayer):
    """Wraps an `nn.Linear`; holds, per adapter, row indices and one delta (and bias delta) per group.

    Args:
        base_layer: the Linear.
        module_name: its full name in the base model, for messages.
        router: where the active pair stands.
    """

    adapter_layer_names = ("neuroglot_delta", "neuroglot_bias")
    other_param_names = ("neuroglot_rows", "neuroglot_layout")

    def __init__(self, base_layer: nn.Linear, module_name: str, router: Router) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.module_name = module_name
        self.router = router
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.neuroglot_delta = nn.ModuleDict()
        self.neuroglot_bias = nn.ModuleDict()
        self.neuroglot_rows = BufferDict(persistent=True)
        self.neuroglot_layout: dict[str, Layout] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self._replaced: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
        self._routes: dict[tuple[str, str | None], _Route] = {}
        self.train(base_layer.training)

    def update_layer(self, adapter: str, layout: Layout, rows_K: torch.Tensor | None) -> None:
        """Add an adapter, with deltas of zero.

        Args:
            adapter: its name.
            layout: its groups in this layer.
            rows_K: int32 row indices in the order of the layout; None when they come with the saved weights.
        """
        device = self.base_layer.weight.device
        size = sum(layout.groups.values())
        rows_K = torch.full((size,), -1, dtype=torch.int32) if rows_K is None else rows_K.to(torch.int32)

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=torch.float32, device=device))

        self.neuroglot_layout[adapter] = layout
        self.neuroglot_rows[adapter] = rows_K.to(device)
        self.neuroglot_delta[adapter] = nn.ParameterDict(
            {KEY + group: zeros(k, self.in_features) for group, k in layout.groups.items()}
        )
        biased = self.base_layer.bias is not None
        self.neuroglot_bias[adapter] = nn.ParameterDict(
            {KEY + group: zeros(k) for group, k in layout.groups.items() if biased}
        )
        self._routes.clear()

    # --- forward

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map x [..., I] to [..., O].

        Raises:
            UserError: a training forward with specific groups and no active pair.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x, *args, **kwargs)
        routes = [(name, self._route(name)) for name in self.active_adapters if name in self.neuroglot_layout]
        if len(routes) == 1 and routes[0][1].trained and composes(self.base_layer):
            adapter, route = routes[0]
            frozen = self._stacked(adapter, route.frozen, detach=True) if route.frozen else None
            trained = self._stacked(adapter, route.trained, detach=False)
            return rows_linear(x, self.base_layer, trained, frozen, route.rows)
        out = self.base_layer(x, *args, **kwargs)
        for adapter, route in routes:
            out = out.index_add(-1, route.rows, self._rows_output(adapter, route, x).to(out.dtype))
        return out

    def _rows_output(self, adapter: str, route: _Route, x: torch.Tensor) -> torch.Tensor:
        """Return x D^T + d, [..., K], in the route's order of rows: one matmul for what is trained, one for the rest.

        This is for what the engine does not take: quantised weights, several adapters at once, and inference, where
        it costs less than putting the weight together for a handful of tokens.
        """
        parts = []
        for groups, detach in ((route.trained, False), (route.frozen, True)):
            if groups:
                delta_kI, bias_k = self._stacked(adapter, groups, detach)
                parts.append(F.linear(x, delta_kI.to(x.dtype), None if bias_k is None else bias_k.to(x.dtype)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _stacked(
        self, adapter: str, groups: tuple[str, ...], detach: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the groups' deltas [k, I] and bias deltas [k] or None, one below the other."""

        def stack(container: nn.ModuleDict) -> torch.Tensor:
            values = cast(nn.ParameterDict, container[adapter])
            chosen = [values[KEY + group].detach() if detach else values[KEY + group] for group in groups]
            return chosen[0] if len(chosen) == 1 else torch.cat(chosen)

        return stack(self.neuroglot_delta), None if self.base_layer.bias is None else stack(self.neuroglot_bias)

    def _route(self, adapter: str) -> _Route:
        """Return the split for the present pair; made once per adapter and pair, then looked up."""
        pair = self._training_pair(adapter)
        route = self._routes.get((adapter, pair))
        if route is None or route.rows.device != self.neuroglot_rows[adapter].device:
            route = self._routes[adapter, pair] = self._make_route(adapter, pair)
        return route

    def _training_pair(self, adapter: str) -> str | None:
        """Return the pair that this forward trains, `*` for everything, None for nothing."""
        layout = self.neuroglot_layout[adapter]
        if not torch.is_grad_enabled() or not any(p.requires_grad for p in self.neuroglot_delta[adapter].parameters()):
            return None
        if self.router.pair is not None:
            return self.router.pair
        if layout.agnostic_only:
            return _ALL
        if self.training:
            raise UserError(
                f"{self.module_name}: a training forward without an active pair, but adapter {adapter!r} has rows "
                f"that only some pairs may train; expected one of {', '.join(layout.pairs)}; enclose forward and "
                f'backward in `with active_pair(model, "{layout.pairs[0]}"):`'
            )
        return None

    def _make_route(self, adapter: str, pair: str | None) -> _Route:
        layout = self.neuroglot_layout[adapter]
        if pair is not None and pair != _ALL and pair not in layout.pairs:
            raise UserError(f"adapter {adapter!r} has no pair {pair!r}; {nearest(pair, layout.pairs)}")
        rows_K = self.neuroglot_rows[adapter]
        if rows_K.is_meta or bool((rows_K < 0).any()):
            raise UserError(
                f"{self.module_name}: adapter {adapter!r} has no row indices; they are in the saved adapter or in a "
                "configuration made by NeuroglotConfig.from_selection; load or make one of these"
            )
        rows = dict(zip(layout.groups, rows_K.long().split(list(layout.groups.values())), strict=True))
        trained = tuple(g for g in rows if pair is not None and (pair == _ALL or pair in g.split(",")))
        frozen = tuple(g for g in rows if g not in trained)
        return _Route(trained, frozen, torch.cat([rows[g] for g in (*trained, *frozen)]))

    # --- merging

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the deltas to the base weight's chosen rows, keeping the rows that they replace.

        Args:
            safe_merge: refuse to write rows that are not finite.
            adapter_names: which adapters; the active ones by default.

        Raises:
            ValueError: with `safe_merge`, an adapter holds NaN or infinity.
            UserError: the base weight is quantised.
        """
        for adapter in check_adapters_to_merge(self, adapter_names) or ():
            if adapter in self.neuroglot_layout:
                self._merge_one(adapter, safe_merge)
                self.merged_adapters.append(adapter)

    @torch.no_grad()
    def _merge_one(self, adapter: str, safe_merge: bool) -> None:
        weight, bias = self.base_layer.weight.data, self.base_layer.bias
        if not weight.is_floating_point():
            raise UserError(
                f"{self.module_name}: cannot merge rows into a weight of {weight.dtype}; expected a floating type; "
                "load the base model without quantisation"
            )
        route = self._make_route(adapter, None)
        rows = route.rows.to(weight.device)
        delta_kI, bias_k = self._stacked(adapter, route.frozen, detach=True)
        added = [(weight, delta_kI), *([(bias.data, bias_k)] if bias_k is not None else [])]
        old = [target[rows] for target, _ in added]
        # old + delta is computed in the wider type, float32 or float64, and rounded once
        new = [(before + delta.to(before.device)).to(before.dtype) for before, (_, delta) in zip(old, added)]
        if safe_merge and not all(torch.isfinite(value).all() for value in new):
            raise ValueError(f"{self.module_name}: merging adapter {adapter!r} gives NaN or infinity; nothing merged")
        for (target, _), value in zip(added, new):
            target.index_copy_(0, rows, value)
        self._replaced.append((rows, old[0], old[1] if len(old) > 1 else None))

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the replaced rows back, bit for bit, last merged first."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            self.merged_adapters.pop()
            rows, weight, bias = self._replaced.pop()
            target = self.base_layer.weight.data
            target.index_copy_(0, rows.to(target.device), weight.to(target))
            if bias is not None:
                self.base_layer.bias.data.index_copy_(0, rows.to(target.device), bias.to(target))

    # --- bookkeeping

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move to the base layer's device and, unlike PEFT's own, never to its dtype: deltas stay float32."""
        device = device or self.base_layer.weight.device
        for container in (self.neuroglot_delta, self.neuroglot_bias):
            if adapter_name in container and not any(p.is_meta for p in container[adapter_name].parameters()):
                container[adapter_name].to(device)
        if adapter_name in self.neuroglot_rows and not self.neuroglot_rows[adapter_name].is_meta:
            self.neuroglot_rows[adapter_name] = self.neuroglot_rows[adapter_name].to(device)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._routes.clear()  # the row indices may be about to change
        super()._load_from_state_dict(*args, **kwargs)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter from this layer."""
        super().delete_adapter(adapter_name)
        self._routes.clear()

    def extra_repr(self) -> str:
        """Show how many rows each adapter trains."""
        return ", ".join(f"{name}: {sum(lay.groups.values())} rows" for name, lay in self.neuroglot_layout.items())
