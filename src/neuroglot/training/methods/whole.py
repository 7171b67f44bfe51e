"""Full fine-tuning, of everything or of one part."""

from __future__ import annotations

from torch import nn

from neuroglot.errors import UserError
from neuroglot.models.families import described, family_of


def full(model: nn.Module) -> nn.Module:
    """Train every parameter, in float32: at fine-tuning rates most bfloat16 entries would not change in a step."""
    return model.float().requires_grad_(True)


def vision(model: nn.Module) -> nn.Module:
    """Train the image encoder."""
    return _part(model, "vision")


def connector(model: nn.Module) -> nn.Module:
    """Train what maps image features into the language model."""
    return _part(model, "connector")


def language(model: nn.Module) -> nn.Module:
    """Train the language model, its embeddings and its head."""
    return _part(model, "language")


def part_parameters(model: nn.Module, part: str) -> set[str]:
    """Return the names of a part's parameters, its embeddings, norms and convolutions included.

    A parameter that two parts share, under two names, is neither's: to train it would be to train both.
    """
    family = family_of(model)
    owners: dict[int, set[str | None]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(family.part_of(name))
    return {name for name, parameter in model.named_parameters() if owners[id(parameter)] == {part}}


def _part(model: nn.Module, part: str) -> nn.Module:
    """Train one part and freeze the rest; all in float32, for no model computes in two dtypes."""
    names = part_parameters(model, part)
    if not names:
        raise UserError(
            f"method {part}: this model has no {part} parameters ({described(family_of(model))}); say where they are "
            f"with model.parts={{{part}: [PREFIX]}}"
        )
    model = model.float()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return model
