"""How each method makes a model trainable: all of it or a part, low-rank factors, vectors, a prompt, chosen rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PreTrainedModel

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import described, family_of
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig, PromptConfig, VectorsConfig

# ---- LoRA and DoRA --------------------------------------------------------------------------------------------------


def linear_names(model: nn.Module) -> list[str]:
    """Return the full name of every Linear except the output embeddings: the layers of all three parts."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]


def lora(
    model: nn.Module,
    r: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    modules: Sequence[str] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train LoRA factors in every Linear of the three parts.

    Args:
        model: a base model.
        r: the rank.
        alpha: the scale's numerator, `r` by default (a scale of 1).
        dropout: on the input of the factors.
        modules: full names; every Linear but the output embeddings by default.
        seed: of the factors' initial values.
    """
    return _factors(model, "lora", r, alpha, dropout, modules, seed)


def dora(
    model: nn.Module,
    r: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    modules: Sequence[str] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train DoRA (arXiv 2402.09353, Eq. 5): LoRA of the rows' directions, and their lengths; else as `lora`."""
    return _factors(model, "dora", r, alpha, dropout, modules, seed)


def _factors(
    model: nn.Module,
    method: str,
    r: int,
    alpha: int | None,
    dropout: float,
    modules: Sequence[str] | None,
    seed: int,
) -> nn.Module:
    if r < 1:
        raise UserError(f"{method}: r must be 1 or more, got {r}")
    names = list(linear_names(model) if modules is None else modules)
    config = LoraConfig(
        r=r,
        lora_alpha=r if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=names,
        use_dora=method == "dora",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config)
    matched = set(cast(BaseTuner, peft_model.base_model).targeted_module_names)
    if matched != set(names):  # PEFT matches by suffix
        wrong = min(matched ^ set(names))
        raise UserError(
            f"{method}: module {wrong!r} is not matched by its exact name; {nearest(wrong, linear_names(model))}"
        )
    return peft_model


# ---- Neurons --------------------------------------------------------------------------------------------------------


def neurons(
    model: nn.Module, selection: Selection | None, rank: int | None = None, mode: str = "auto", seed: int = 0
) -> nn.Module:
    """Train the rows of a selection, whichever way they were selected.

    Args:
        model: a base model.
        selection: the rows.
        rank: of a group's delta; None trains the rows themselves.
        mode: `sliced`, `additive` or `auto`; see `neuroglot.tuner.NeuroglotConfig`.
        seed: of the initial values of low-rank factors.
    """
    if selection is None:
        raise UserError("method neurons needs a selection, got none; run the select stage first")
    config = NeuroglotConfig.from_selection(selection, rank=rank, mode=mode)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


# ---- Prompt, BitFit and norms ---------------------------------------------------------------------------------------


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

    Many language models (Llama, Mistral, Gemma) have none: there only the other parts' biases are trained.

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

    Biases inside torch's MultiheadAttention are not trained: it reads its projection's bias without calling it.
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    layout: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if module is head or isinstance(_parent(model, name), nn.MultiheadAttention):
            continue
        names = [key for key, p in module.named_parameters(recurse=False) if p.dim() == 1 and wanted(module, key)]
        if names and name:
            layout[name] = names
    return layout


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


# ---- Full fine-tuning, of all or of one part ------------------------------------------------------------------------


def full(model: nn.Module, modules: Sequence[str] | None = None) -> nn.Module:
    """Train every parameter, in float32: at fine-tuning rates most bfloat16 entries would not change in a step.

    Args:
        model: a base model.
        modules: full names of the modules, or of bare matrices, that are trained; by default everything is.
    """
    model = model.float().requires_grad_(modules is None)
    for name in modules or ():
        owner, _, leaf = name.rpartition(".")
        target = getattr(model.get_submodule(owner), leaf)
        target.requires_grad_(True)  # a module, or a matrix that is a parameter
    return model


def vision(model: nn.Module, modules: Sequence[str] | None = None) -> nn.Module:
    """Train the image encoder, or of it the named modules."""
    return _part(model, "vision", modules)


def connector(model: nn.Module, modules: Sequence[str] | None = None) -> nn.Module:
    """Train what maps image features into the language model, or of it the named modules."""
    return _part(model, "connector", modules)


def language(model: nn.Module, modules: Sequence[str] | None = None) -> nn.Module:
    """Train the language model, its embeddings and its head, or of it the named modules."""
    return _part(model, "language", modules)


def part_parameters(model: nn.Module, part: str) -> set[str]:
    """Return the names of a part's parameters, its embeddings, norms and convolutions included.

    A parameter that two parts share, under two names, belongs to neither: training it would train both.
    """
    family = family_of(model)
    owners: dict[int, set[str | None]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(family.part_of(name))
    return {name for name, parameter in model.named_parameters() if owners[id(parameter)] == {part}}


def _part(model: nn.Module, part: str, modules: Sequence[str] | None) -> nn.Module:
    """Train one part and freeze the rest; all in float32, because no model computes in two dtypes."""
    names = part_parameters(model, part)
    if not names:
        raise UserError(
            f"method {part}: this model has no {part} parameters ({described(family_of(model))}); say where they are "
            f"with model.parts={{{part}: [PREFIX]}}"
        )
    full(model, modules)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in names)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"method {part}: none of the modules is in the {part} part; name modules of it")
    return model


METHODS: dict[str, Callable[..., nn.Module]] = {
    "full": full,
    "vision": vision,
    "connector": connector,
    "language": language,
    "lora": lora,
    "dora": dora,
    "prompt": prompt,
    "bitfit": bitfit,
    "norms": norms,
    "neurons": neurons,
}


def prepare(model: nn.Module, method: str, selection: Selection | None = None, **options: Any) -> nn.Module:
    """Make a model trainable by a method; the model is changed in place.

    Args:
        model: a base model.
        method: `full`; `vision`, `connector` or `language`, one part of it; `lora` or `dora`, low-rank factors;
            `prompt`, learned vectors in front; `bitfit`, the biases; `norms`; or `neurons`.
        selection: the rows to train, for `neurons`; the others ignore it.
        options: of the method: for `lora` and `dora` `r`, `alpha`, `dropout`, `modules`, `seed`; for `full` and the
            parts `modules`; for `prompt` `tokens`, `seed`; for `neurons` `rank`, `mode`, `seed`.

    Returns:
        The model to train: the model itself for `full` and the parts, a `PeftModel` around it otherwise.

    Raises:
        UserError: the method is unknown, or one of its options is, or the model has nothing that it trains.
    """
    if method not in METHODS:
        raise UserError(f"training method {method!r} is not known; {nearest(method, METHODS)}")
    function = METHODS[method]
    known = [name for name in inspect.signature(function).parameters if name not in ("model", "selection")]
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "it takes none"
            raise UserError(f"training method {method} has no option {option!r}; {hint}")
    positional = (model, selection) if method == "neurons" else (model,)
    return function(*positional, **options)


def from_adapter(model: nn.Module, folder: Path | str) -> nn.Module:
    """Make a model trainable from a saved adapter of neurons."""
    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
