"""Which matrices are trained, by what they do in a block: attention projections, feed-forward matrices, or by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from neuroglot.errors import UserError, nearest

_KINDS = {
    "qkv": ("q_proj", "k_proj", "v_proj", "qkv", "qkv_proj", "query_key_value", "in_proj_weight"),
    "out": ("o_proj", "out_proj", "projection_layer", "attn.proj"),
    "gate_up": ("gate_proj", "up_proj", "gate_up_proj", "fc1", "linear_fc1"),
    "down": ("down_proj", "fc2", "linear_fc2"),
}
"""Kind of matrix -> how the classes of transformers name it, by the end of a module's name."""
KINDS: dict[str, tuple[str, ...]] = {
    **_KINDS,
    "attention": (*_KINDS["qkv"], *_KINDS["out"]),
    "mlp": (*_KINDS["gate_up"], *_KINDS["down"]),
}
"""What `select.modules` may say besides names."""


class Named(Protocol):
    """A layer, as the inventory lists it."""

    @property
    def name(self) -> str:
        """The full name of its module."""

    @property
    def part(self) -> str:
        """Vision, connector or language."""


L = TypeVar("L", bound=Named)


def in_modules(layer: Named, modules: Sequence[str]) -> bool:
    """Whether a layer is one of some kinds or has one of some names; always if nothing is named.

    A name is that of a module or the end of it (`q_proj`, `layers.3.mlp.up_proj`). The connector has no attention and
    no feed-forward block: its matrices are chosen by name alone.
    """
    names = [name for entry in modules for name in _names(entry, layer.part)]
    return not modules or any(layer.name == name or layer.name.endswith(f".{name}") for name in names)


def of_modules(layers: Iterable[L], modules: Sequence[str]) -> list[L]:
    """Return the layers that `in_modules` is true of.

    Raises:
        UserError: an entry matches none of them.
    """
    known = list(layers)
    for entry in modules:
        if not any(in_modules(layer, (entry,)) for layer in known):
            ends = dict.fromkeys(layer.name.rpartition(".")[2] for layer in known)
            raise UserError(f"modules: no matrix to train is called {entry!r}; {nearest(entry, (*KINDS, *ends))}")
    return [layer for layer in known if in_modules(layer, modules)]


def _names(entry: str, part: str) -> tuple[str, ...]:
    if entry in KINDS:
        return KINDS[entry] if part != "connector" else ()
    return (entry,)
