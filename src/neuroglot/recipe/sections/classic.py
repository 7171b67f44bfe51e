"""The systems that a comparison trains from scratch beside the model's methods."""

from __future__ import annotations

from pydantic import Field

from neuroglot.recipe.sections.section import Section


class ClassicSection(Section):
    """Their size and training; `train.lr` and `train.seed` are theirs too."""

    steps: int = Field(3000, ge=1, description="at most; training ends earlier where dev gets no better")
    batch_size: int = Field(64, ge=1, description="examples a step")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    eval_steps: int = Field(200, ge=1, description="steps from one look at dev to the next")
    patience: int = Field(5, ge=1, description="looks without a better loss after which training ends")
    width: int = Field(128, ge=8, description="of the encoder and decoder")
    layers: int = Field(3, ge=1, description="of the encoder, and as many of the decoder")
    heads: int = Field(4, ge=1, description="of attention")
    inner: int = Field(512, ge=1, description="width inside a feed-forward block")
    dropout: float = Field(0.2, ge=0, lt=1, description="in training")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the loss")
    pieces: int = Field(4000, ge=300, description="most entries of the vocabulary, which is learnt from the texts")
    tower: str | None = Field(
        None, description="a vision model by folder or name on the hub; unset: the vision part of model.path"
    )
    image_tokens: int = Field(49, ge=1, description="most vectors an image; more are averaged over neighbours")
