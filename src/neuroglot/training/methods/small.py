"""A thousandth of a model: a learned prompt, the biases (BitFit), the norms."""

from __future__ import annotations

from collections.abc import Callable

from peft import get_peft_model
from torch import nn
from transformers import PreTrainedModel

from neuroglot.errors import UserError
from neuroglot.tuner import PromptConfig, VectorsConfig


def prompt(model: nn.Module, tokens: int = 16, seed: int = 0) -> nn.Module:
    """Train vectors in front of everything that the model reads (Lester et al., arXiv 2104.08691).

    Args:
        model: a base model.
        tokens: how many vectors.
        seed: of the tokens whose embeddings they start as.
    """
    return get_peft_model(model, PromptConfig(tokens=tokens, seed=seed))


def bitfit(model: nn.Module) -> nn.Module:
    """Train every bias, of Linears, norms and convolutions (BitFit, arXiv 2106.10199).

    Many language models (Llama, Mistral, Gemma) have none: there it trains the other parts' alone.

    Raises:
        UserError: the model has no bias at all.
    """
    layout = _vectors(model, lambda module, name: name == "bias")
    if not layout:
        raise UserError("method bitfit: this model has no bias in any layer; train its norms instead (method=norms)")
    return get_peft_model(model, VectorsConfig(layout=layout))


def norms(model: nn.Module) -> nn.Module:
    """Train the gains and biases of every LayerNorm and RMSNorm (arXiv 2312.11420).

    Raises:
        UserError: the model has none that can be trained.
    """
    layout = _vectors(model, lambda module, name: "norm" in type(module).__name__.lower())
    if not layout:
        raise UserError("method norms: this model has no LayerNorm or RMSNorm with weights; take another method")
    return get_peft_model(model, VectorsConfig(layout=layout))


def _vectors(model: nn.Module, wanted: Callable[[nn.Module, str], bool]) -> dict[str, list[str]]:
    """Return module -> names of its wanted one-dimensional parameters, without those of the output embeddings.

    What lies inside torch's MultiheadAttention is left out: it reads its projection's bias without calling it.
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    layout: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if module is head or isinstance(_parent(model, name), nn.MultiheadAttention):
            continue
        names = [own for own, p in module.named_parameters(recurse=False) if p.dim() == 1 and wanted(module, own)]
        if names and name:
            layout[name] = names
    return layout


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])
