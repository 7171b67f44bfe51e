"""What a classic system is made of and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from neuroglot.artefact import Format
from neuroglot.errors import UserError, nearest

KINDS = ("text-transformer", "gated-fusion", "gated-fusion-wu", "concatenation", "lvp-m3")
"""The systems of LLaVA-NeuMT's Tables 1 and 2 that are trained from scratch, and the gate of Wu et al. (2021)."""

CLASSIC = Format("classic", 2, "train")


@dataclass(frozen=True)
class Settings:
    """The size and the training of a classic system; everything is float32.

    Attributes:
        width: of the states.
        layers: of the encoder, and as many of the decoder.
        heads: of attention; they divide the width.
        inner: width inside a feed-forward block.
        dropout: everywhere that a Transformer has it.
        pieces: size of the vocabulary at most, 256 bytes and the language tokens included.
        steps: optimiser steps at most.
        batch_size: examples a step.
        lr: the highest learning rate; it falls linearly to a tenth.
        warmup: share of the steps over which it rises.
        weight_decay: of AdamW.
        label_smoothing: of the training loss; the dev loss and likelihoods have none.
        max_grad_norm: clips the gradient.
        eval_steps: steps from one look at dev, and one checkpoint, to the next.
        patience: looks without a better dev loss after which training ends.
        seed: of initial weights, dropout and the order of the examples.
    """

    width: int = 128
    layers: int = 3
    heads: int = 4
    inner: int = 512
    dropout: float = 0.2
    pieces: int = 4000
    steps: int = 3000
    batch_size: int = 32
    lr: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    max_grad_norm: float = 1.0
    eval_steps: int = 200
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "inner", "steps", "batch_size", "eval_steps", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"classic.{name} must be 1 or more, got {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise UserError(
                f"classic.width must be a multiple of twice the heads, got {self.width} and {self.heads} heads"
            )
        for name in ("dropout", "warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"classic.{name} must be in [0, 1), got {getattr(self, name)}")
        if self.pieces < 300:
            raise UserError(
                f"classic.pieces must be 300 or more, got {self.pieces}; 256 of them are the bytes, from which every "
                "text can be written"
            )
        if not self.lr > 0:
            raise UserError(f"classic.lr must be above 0, got {self.lr}")


def known_kind(kind: str) -> str:
    """Return a kind as it is.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"classic system {kind!r} is not known; {nearest(kind, KINDS)}")
    return kind
