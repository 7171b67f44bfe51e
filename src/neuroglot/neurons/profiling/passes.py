"""The pass: how a model is run so that activations get gradients, weights get none, and little is held between.

A bare forward holds act(gate) of every gated feed-forward block for the backward pass, although the gate it was made
from is held as well. Made again when it is needed, it leaves room for the outputs of layers that autograd would not
hold (queries and keys before their rotation, what is added to the residual stream) and that scores of activation and
gradient need.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS
from transformers.modeling_layers import GradientCheckpointingLayer

from neuroglot.errors import UserError
from neuroglot.pair import Condition

POINTWISE: tuple[type[nn.Module], ...] = tuple({c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()})  # type: ignore[misc]
"""Activation functions, which are cheap and of one argument."""


@dataclass(frozen=True)
class _Made:
    """What an activation function returned: not the tensor, but how to make it again."""

    function: nn.Module
    argument: Tensor
    version: int
    result: weakref.ref[Tensor]

    def again(self) -> Tensor:
        _check(self.argument, self.version)
        with torch.no_grad():
            return self.function.forward(self.argument)


def _check(tensor: Tensor, version: int) -> None:
    if tensor._version != version:
        raise RuntimeError("a tensor that the backward pass needs has been modified by an inplace operation")


@contextmanager
def lean(model: nn.Module) -> Iterator[None]:
    """Let autograd hold the arguments of activation functions in place of their results; for the forward pass.

    Inside a block that is checkpointed, which holds neither, nothing changes.
    """
    made: dict[int, _Made] = {}

    def remember(module: nn.Module, args: Any, result: Tensor) -> None:
        argument = args[0]
        # A function that writes into its argument cannot be done again.
        if result.requires_grad and result.data_ptr() != argument.data_ptr():
            made[result.data_ptr()] = _Made(module, argument.detach(), argument._version, weakref.ref(result))

    def pack(tensor: Tensor) -> Any:
        found = made.get(tensor.data_ptr())
        result = None if found is None else found.result()
        # While the result lives, nothing else lies at its address; a view of it, or one changed since, is not it.
        same = result is not None and tensor.shape == result.shape and tensor.stride() == result.stride()
        # Detached: a branch that no gradient reaches (the tower's last layer) would else hold itself for ever.
        return found if same and tensor._version == 0 else (tensor.detach(), tensor._version)

    def unpack(held: Any) -> Tensor:
        if isinstance(held, _Made):
            return held.again()
        tensor, version = held
        _check(tensor, version)  # autograd leaves it to the hooks
        return tensor

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, POINTWISE):
                hooks.callback(module.register_forward_hook(remember).remove)
        hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        hooks.callback(made.clear)  # the graph holds what it needs of it, and lets go of it block by block
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the weights, turn dropout off and make the token embeddings require grad; gradient checkpointing stays.

    Nothing else in the text would have a gradient then; of the images, `forward_inputs` sees to it.
    """
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    hook = embeddings.register_forward_hook(lambda module, args, output: output.detach().requires_grad_().clone())
    try:
        model.eval()
        for module in model.modules():
            # transformers checkpoints a block only in training mode. The block alone is put there, its children,
            # which hold the dropout, are not; a block that has dropout of its own goes without checkpointing.
            own_dropout = any("dropout" in key and isinstance(p, float) and p > 0 for key, p in vars(module).items())
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing and not own_dropout:
                module.training = True
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode
        for parameter, needed in grads:
            parameter.requires_grad_(needed)


def token_loss(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, condition: Condition) -> Tensor:
    """Return the sum over samples of each sample's own mean token loss, so that samples do not weigh each other.

    Raises:
        UserError: a sample has no target token, or the model returns no logits for its positions.
    """
    logits = model(**inputs, use_cache=False).logits  # (B, T, vocabulary)
    if logits.shape[:2] != labels.shape:
        raise UserError(
            f"the model returns logits of shape {tuple(logits.shape)} for labels of shape {tuple(labels.shape)}; "
            "expected one position each; let the processor expand the image tokens"
        )
    labels = labels.to(logits.device)[:, 1:]
    lengths = (labels != -100).sum(1)
    if not bool(lengths.all()):
        empty = int((lengths == 0).nonzero()[0])
        raise UserError(
            f"sample {empty} of a batch of {condition} has no target token; expected labels other than -100; "
            "check that its target is not empty or cut off"
        )
    sample, position = (labels != -100).nonzero(as_tuple=True)
    chosen = logits[sample, position]
    chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    losses = nn.functional.cross_entropy(chosen, labels[sample, position], reduction="none")
    return (losses / lengths[sample]).sum()
