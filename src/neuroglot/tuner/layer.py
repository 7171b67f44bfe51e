"""The wrapped layers: y = x W^T + b, with deltas on the chosen rows (or columns) of W.

Two ways of computing it. `sliced`: the weight itself holds base + deltas and `sliced.py` does the arithmetic.
`additive`: the base's output plus the units' own product, for weights that cannot be written (quantised, sharded), for
several adapters at once, and under `torch.compile`, which does not follow what is written behind autograd's back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call

from neuroglot.errors import UserError
from neuroglot.tuner.engines.additive import added_units
from neuroglot.tuner.engines.sliced import sliced_linear
from neuroglot.tuner.engines.units import Route
from neuroglot.tuner.engines.weight import HeldWeight
from neuroglot.tuner.routing import Mixture


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
        names = self.adapters_at_work
        routes = {name: self._route(name, x) for name in names}
        if len(names) < 2 and self.sliced(names):
            name = names[0] if names else None
            return self._forward_sliced(x, name, routes.get(name) if name else None)
        if self._kept is not None:
            self.park()
        if names and x.requires_grad and self.holds:
            out = sliced_linear(x, self, None, None, ())  # another forward may write into the weight before backward
        else:
            out = self.base_layer(x, *args, **kwargs)
        if routes and self.quantization_backend is not None:
            out = self.quantization_backend.maybe_clone_base_result(out)
        for name, route in routes.items():
            out = added_units(out, x, self, name, route)
        return out

    def _forward_sliced(self, x: torch.Tensor, adapter: str | None, route: Route | None) -> torch.Tensor:
        trained = () if adapter is None or route is None else self.parameters_of(adapter, route)
        if trained or (x.requires_grad and torch.is_grad_enabled()):
            return sliced_linear(x, self, adapter, route, trained)
        self.settle(adapter)
        return self.base_layer(x)


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
        names = self.adapters_at_work
        if isinstance(self.router.pair, Mixture) and torch.is_grad_enabled() and names:
            raise UserError(
                f"{self.module_name}: a bare matrix cannot tell the samples of a mixed batch apart; expected batches "
                "of one pair; make such batches, or leave this matrix out of the selection"
            )
        inputs = [value for value in (*args, *kwargs.values()) if torch.is_tensor(value)]
        routes = {name: self._route(name, inputs[0]) for name in names}
        if not torch.is_grad_enabled() and len(names) < 2 and self.sliced(names):
            self.settle(names[0] if names else None)
            return self.base_layer(*args, **kwargs)
        if self._kept is not None:
            self.park()
        weight = getattr(self.base_layer, self.weight_name).detach()
        for name, route in routes.items():
            deltas = [self.delta(name, group) for group in route.trained]
            dense = [delta[0] if len(delta) == 1 else delta[0] @ delta[1] for delta in deltas]
            if route.frozen:
                dense.append(self.unit_deltas(name, route.frozen)[0])
            axis, added = self.neuroglot_layout[name].axis, torch.cat(dense).to(weight.dtype)
            weight = weight.index_add(axis, route.units, added.t() if axis else added)
        return functional_call(self.base_layer, {self.weight_name: weight}, args, kwargs)
