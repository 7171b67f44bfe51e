"""The wrapped layers: y = x W^T + b, with deltas on the chosen rows (or columns) of W.

Two ways of computing it. `sliced`: the weight itself holds base + deltas and `sliced.py` does the arithmetic.
`additive`: the base's output plus the units' own product, for weights that cannot be written (quantised, sharded), for
several adapters at once, and under `torch.compile`, which does not follow what is written behind autograd's back.
"""

from __future__ import annotations

from typing import Any

import torch

from neuroglot.errors import UserError
from neuroglot.tuner.engines.additive import added_units
from neuroglot.tuner.engines.base import LINEAR, check_base, forward_name, has_own_forward, is_plain
from neuroglot.tuner.engines.sliced import sliced_linear
from neuroglot.tuner.engines.units import Route
from neuroglot.tuner.engines.weight import HeldWeight, why_not_sliced


class NeuroglotLinear(HeldWeight):
    """Wraps an `nn.Linear`, quantised or not, or transformers' `Conv1D`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map x [..., I] to [..., O].

        Raises:
            UserError: a training forward with specific groups and no active pair.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.merged:
            return self.base_layer(x, *args, **kwargs)
        if is_plain(self.base_layer) or self.sharded:  # sharding's own hooks only gather the weight
            return self._compute(x, *args, **kwargs)
        check_base(self.module_name, self.base_layer)
        dense, replaced = why_not_sliced(self.base_layer) is None, has_own_forward(self.base_layer)
        if dense and (replaced or type(self.base_layer).forward not in LINEAR):
            return self._through((x, *args), kwargs)
        if replaced:
            raise UserError(
                f"{self.module_name}: the forward of this quantised layer was replaced, so the adapter's share of it "
                "is not known; expected its own forward; put that back, or leave the layer out of the selection"
            )
        return self._inside_hooks(x, *args, **kwargs)

    @torch.compiler.disable
    def _inside_hooks(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute where the base module would, inside its hooks, which so see and change what they always do.

        The function that the hooks enclose stands in an attribute of the module, and there is no other way between
        them; it is put back at once.
        """
        base, name = self.base_layer, forward_name(self.base_layer)
        before = vars(base).get(name)
        vars(base)[name], self._enclosed = self._compute, True
        try:
            return base(*args, **kwargs)
        finally:
            self._enclosed = False
            if before is None:
                del vars(base)[name]
            else:
                vars(base)[name] = before

    def _compute(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        names = self.adapters_at_work
        routes = {name: self._route(name, x) for name in names}
        mixed = self.router.adapters is not None
        if len(names) < 2 and not mixed and self.sliced(names):
            name = names[0] if names else None
            return self._forward_sliced(x, name, routes.get(name) if name else None)
        if self._kept is not None:
            self.park()
        if names and x.requires_grad and self.holds:
            out = sliced_linear(x, self, None, None, ())  # another forward may write into the weight before backward
        else:
            out = self.call_base(x, *args, **kwargs)
            if x.requires_grad and torch.is_grad_enabled() and not out.requires_grad:
                raise UserError(
                    f"{self.module_name}: a {type(self.base_layer).__name__} gives its input no gradient, so nothing "
                    "before it would be trained; load the base in another format, or select layers after it only"
                )
        if routes and self.quantization_backend is not None:
            out = self.quantization_backend.maybe_clone_base_result(out)
        samples = self.router.samples_by_adapter(len(x), x.device) if mixed else {}
        for name, route in routes.items():
            if mixed:
                own = samples[name]
                some = added_units(out.index_select(0, own), x.index_select(0, own), self, name, route)
                out = out.index_copy(0, own, some)
            else:
                out = added_units(out, x, self, name, route)
        return out

    def _forward_sliced(self, x: torch.Tensor, adapter: str | None, route: Route | None) -> torch.Tensor:
        trained = () if adapter is None or route is None else self.parameters_of(adapter, route)
        if trained or (x.requires_grad and torch.is_grad_enabled()):
            return sliced_linear(x, self, adapter, route, trained)
        self.settle(adapter)
        return self.call_base(x)


class NeuroglotMatrix(HeldWeight):
    """Wraps a module that multiplies with a bare matrix of its own, such as Gemma 3's connector.

    What the module does with the matrix is its business, so a training forward gives it the sum of base and deltas in
    the matrix's place, and autograd finds the way: a full dW, of which the chosen units are taken. One small matrix.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module.

        Raises:
            UserError: a training forward with specific groups and no active pair, or a batch of several pairs.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.merged:
            return self.base_layer(*args, **kwargs)
        if not self.sharded:
            check_base(self.module_name, self.base_layer, self.weight_name)
        names = self.adapters_at_work
        alike = self.router.adapters is None and len(names) < 2
        if not torch.is_grad_enabled() and alike and self.sliced(names):
            self.settle(names[0] if names else None)
            return self.base_layer(*args, **kwargs)
        return self._through(args, kwargs)
