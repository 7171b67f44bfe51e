"""Values that are not finite: found by one fused reduction, and named by the tensor or module where they arise.

A tensor is *usable* if its Euclidean norm, taken in float32 (float64 of float64), is a finite number. That holds for
no tensor with a NaN or an infinity, nor for one with a value such as 1e38 whose square overflows: a single product
with it is already an infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from neuroglot.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


class DivergedError(UserError):
    """Training, or a model that it made, has values that are not finite; a lower learning rate may help."""


def usable(tensors: Iterable[Tensor]) -> bool:
    """Return whether all tensors are usable; the device is waited for once. Integers and quantised ones are."""
    import torch

    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        tensor = getattr(tensor, "to_local", lambda tensor=tensor: tensor)()  # of a sharded one, what is here
        if tensor.is_floating_point() and tensor.element_size() > 1 and tensor.numel() and not tensor.is_meta:
            groups.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    norms = [
        torch.stack(torch._foreach_norm(group, dtype=torch.promote_types(dtype, torch.float32))).sum().cpu()
        for (_, dtype), group in groups.items()
    ]
    return all(bool(norm.isfinite()) for norm in norms)


def unusable(tensors: Mapping[str, Tensor]) -> str:
    """Return the first tensor that is not usable and what it holds, as `NAME (2 of 64 values are nan)`; or nothing."""
    if usable(tensors.values()):
        return ""
    return next(f"{name} ({unusable_values(tensor)})" for name, tensor in tensors.items() if not usable([tensor]))


def unusable_values(tensor: Tensor) -> str:
    """Return what makes a tensor unusable, in words."""
    wrong = tensor[~tensor.isfinite()]
    if wrong.numel():
        return f"{wrong.numel():,} of {tensor.numel():,} values are not finite, such as {float(wrong[0])}"
    return f"its largest value is {float(tensor.abs().max()):.1e}, whose square is beyond float32"


def origin(model: nn.Module, inputs: Mapping[str, Any], run: Callable[[], Any]) -> str:
    """Return in words where values that are not finite arise: in an input, or in the first module that puts one out.

    Args:
        model: whose modules are watched.
        inputs: of the forward.
        run: runs it; it is run once more, to explain a failure.
    """
    import torch

    tensors = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
    wrong = unusable(tensors)
    if wrong:
        return f"they come in with the input {wrong}"
    result: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not result and any(_broken(x) for x in _tensors(output)):
                result.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return f"they arise first in what {result[0]} puts out" if result else "every module puts out finite numbers"


def check_weights(model: nn.Module, name: str) -> None:
    """Refuse a model with a weight that is not finite, or so large that a product with it is not.

    Args:
        model: read once, one layer after the other.
        name: what the user calls it.

    Raises:
        UserError: the first such weight.
    """
    result = unusable(dict(model.named_parameters()))
    if result:
        raise UserError(
            f"model {name} has a weight that cannot be computed with: {result}; the checkpoint is damaged or was "
            "saved from a training that diverged; get it again, or take another"
        )


def _broken(tensor: Tensor) -> bool:
    # Minus infinity is what masks are made of.
    return tensor.is_floating_point() and bool((tensor.isnan() | tensor.isposinf()).any())


def _tensors(output: Any) -> Iterator[Tensor]:
    import torch

    if torch.is_tensor(output):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
