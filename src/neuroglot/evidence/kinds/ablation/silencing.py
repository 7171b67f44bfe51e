"""Silencing units of a model for the time of a block.

A unit is a row of a layer (its output is set to zero, or to its mean over data), a column (its input is), or a unit
of a feed-forward block (what goes into the writing matrix is). Hooks do it, so that quantised weights can stay as
they are; a bare matrix, which no module yields, has its weights zeroed for the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.errors import UserError
from neuroglot.models.families import family_of
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.tapping.positions import Positions, forward_inputs, unpack


@dataclass(frozen=True)
class Place:
    """Where a layer's units are found in the model: the outputs or the inputs of a module, or an axis of a matrix."""

    module: str
    side: str
    axis: int = 0


def place_of(model: nn.Module, layer: Layer | str, axis: int = 0) -> Place:
    """Return where the units of a profile's layer, or of a selection's module with its axis, are.

    Raises:
        UserError: the model has no such module.
    """
    if isinstance(layer, Layer):
        if layer.writes:
            return Place(layer.writes, "inputs")
        return place_of(model, layer.name, layer.axis)
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(modules.get(layer), nn.Linear):
        return Place(layer, "inputs" if axis else "outputs")
    if layer in modules:  # transformers' Conv1D, stored as [inputs, outputs]
        return Place(layer, "outputs" if axis else "inputs")
    if not any(name == layer for name, _ in model.named_parameters()):
        raise UserError(f"the model has no layer {layer!r} to ablate; give a selection that was made for this model")
    return Place(layer, "matrix", axis)


def size_of(model: nn.Module, place: Place) -> int:
    """Return how many units there are at a place."""
    if place.side == "matrix":
        return model.get_parameter(place.module).shape[place.axis]
    module = model.get_submodule(place.module)
    if isinstance(module, nn.Linear):
        return module.out_features if place.side == "outputs" else module.in_features
    weight: Any = module.weight  # of a Conv1D, stored as [inputs, outputs]
    return int(weight.shape[1 if place.side == "outputs" else 0])


@contextmanager
def ablated(
    model: nn.Module, units: Mapping[Place, Tensor], means: Mapping[Place, Tensor] | None = None
) -> Iterator[None]:
    """Silence units for the time of the block.

    Args:
        model: any.
        units: place -> indices.
        means: place -> what all its units yield instead of zero.

    Raises:
        UserError: a mean is asked of a bare matrix, of which no module yields the output.
    """
    with ExitStack() as stack:
        for place, index in units.items():
            if not len(index):
                continue
            if place.side == "matrix":
                if means is not None:
                    raise UserError(f"{place.module} is a bare matrix, whose units have no mean; use --ablate zero")
                stack.enter_context(_zeroed(model.get_parameter(place.module), place.axis, index))
                continue
            module = model.get_submodule(place.module)
            value = None if means is None else means[place][index]
            if place.side == "outputs":
                stack.callback(module.register_forward_hook(_output_hook(index, value)).remove)
            else:
                stack.callback(module.register_forward_pre_hook(_input_hook(index, value)).remove)
        yield


def _output_hook(index: Tensor, value: Tensor | None) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda module, args, output: _filled(output, index, value)


def _input_hook(index: Tensor, value: Tensor | None) -> Callable[[nn.Module, Any], tuple[Any, ...]]:
    return lambda module, args: (_filled(args[0], index, value), *args[1:])


def _filled(x: Tensor, index: Tensor, value: Tensor | None) -> Tensor:
    """Return x with what lies at the indices of its last axis replaced."""
    x = x.clone()
    x[..., index.to(x.device)] = 0 if value is None else value.to(x)
    return x


@contextmanager
def _zeroed(matrix: nn.Parameter, axis: int, index: Tensor) -> Iterator[None]:
    index = index.to(matrix.device)
    kept = matrix.data.index_select(axis, index)
    try:
        matrix.data.index_fill_(axis, index, 0)
        yield
    finally:
        matrix.data.index_copy_(axis, index, kept)


@torch.no_grad()
def mean_units(model: nn.Module, places: Mapping[Place, str], batches: Iterable[Sequence[Any]]) -> dict[Place, Tensor]:
    """Return what the units of modules yield on average, over the tokens of a sample and then over samples.

    Args:
        model: in evaluation mode.
        places: place -> the part that it is in.
        batches: as for a profile.
    """
    family = family_of(model)
    sums: dict[Place, Tensor] = {}
    now: dict[str, Positions] = {}
    samples = 0

    def keep(place: Place, part: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any = None) -> None:
            value = args[0] if place.side == "inputs" else output
            layer = Layer(place.module, part, value.shape[-1], 0, False)
            total = now["positions"].average(layer, value.float())[:, 0].sum(0)
            sums[place] = sums[place] + total if place in sums else total

        return hook

    with ExitStack() as stack:
        for place, part in places.items():
            if place.side == "matrix":
                continue
            module = model.get_submodule(place.module)
            register = module.register_forward_hook if place.side == "outputs" else module.register_forward_pre_hook
            stack.callback(register(keep(place, part)).remove)
        for batch in batches:
            inputs, _, _ = unpack(batch)
            now["positions"] = Positions(model, family, inputs, ("all",))
            model(**forward_inputs(model, inputs, gradient=False), use_cache=False)
            samples += len(inputs["input_ids"])
    return {place: total / samples for place, total in sums.items()}
