"""What a merge into a quantised layer must know about bitsandbytes, so that the layer can go back to the bit."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def readable(layer: nn.Module) -> nn.Module:
    """Return a layer whose weight can be dequantised: the layer itself or, of a packed 4-bit one, an unpacked copy.

    On a CPU, bitsandbytes packs a 4-bit weight anew for a faster kernel in its first forward of eval mode, and its
    dequantiser, which PEFT calls, takes no notice. Reading the layer's state turns that back, all but the order of the
    blocks' scales; in a copy, because it also rounds scales that are quantised themselves.
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
    """A quantised layer's weight and what else it computes with.

    An 8-bit layer moves the scales from the weight to a state of its own in its first forward.
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
