"""Which neurons: what importance is measured on, and how they are chosen by it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from neuroglot.errors import nearest
from neuroglot.recipe.sections.section import Fraction, PartName, Section, Seed, Share, Side, Tasks

SCORES = ("taylor_token", "taylor_sample", "gradient", "activation", "activation_probability", "row_gradient")


class ProfileSection(Section):
    """What importance is measured on."""

    items: int = Field(48, ge=1, description="source items, each in every pair")
    batch_size: int = Field(12, ge=1, description="samples a pass")
    instructions: int = Field(3, ge=1, description="paraphrased instructions per task, in turn")
    contrast: Tasks = Field(
        ("ocr", "describe"), description="tasks on the same images that translating is held against"
    )
    scores: tuple[str, ...] = Field(("taylor_token", "gradient", "activation"), description="collected in one pass")
    tokens: Literal["all", "image", "prompt", "target"] = Field("all", description="positions that count")
    importance_at: Literal["base", "during"] = Field(
        "base",
        description="measured on the base model, or at even distances along a full fine-tuning with the steps, "
        "batches and rate of `probe`, as LLaVA-NeuMT does; unset: `during` for neumt-paper, else base",
    )
    neurons: Literal["rows", "ffn", "both"] = Field(
        "rows", description="rows of matrices, units of feed-forward blocks, or both"
    )
    save_batches: int = Field(
        100, ge=1, description="batches between one saving of an unfinished profile and the next"
    )

    @field_validator("scores")
    @classmethod
    def _scores(cls, scores: tuple[str, ...]) -> tuple[str, ...]:
        for score in scores:
            if score == "integrated_gradients":
                raise ValueError(
                    "score integrated_gradients is not for recipes: it is measured of single, named layers, in Python "
                    "(neuroglot.neurons.integrated)"
                )
            if score not in SCORES:
                raise ValueError(f"score {score!r} cannot be profiled; {nearest(score, SCORES)}")
        return scores

    @model_validator(mode="after")
    def _fit(self) -> ProfileSection:
        if "row_gradient" in self.scores and self.neurons != "rows":
            raise ValueError(f"score row_gradient is one of rows, got neurons={self.neurons}; use neurons=rows")
        return self


class ProbeSection(Section):
    """The short tuning before and after which layers are compared (only where they are ranked by similarity)."""

    estimator: Literal["lora", "full", "neurons"] = Field(
        "lora",
        description="what is tuned: low-rank factors, everything (as LLaVA-NeuMT does), or a tenth of every layer's "
        "neurons; unset: `full` for neumt-paper, else lora",
    )
    steps: int = Field(40, ge=1, description="optimiser steps")
    batch_size: int = Field(24, ge=1, description="samples a step")
    lr: float = Field(1e-3, gt=0, description="the highest learning rate")
    items: int = Field(16, ge=1, description="source items that activations are compared on")


class SelectSection(Section):
    """Which neurons are trained; unset fields take the method's defaults."""

    file: str | None = Field(
        None, description="a selection to train as it is, relative to the recipe: safetensors, or YAML or JSON by hand"
    )
    neuron: Literal["rows", "ffn"] | None = Field(None, description="rows of matrices, or feed-forward units")
    budget: Fraction | dict[PartName, Fraction] | None = Field(
        None, description="share of all neurons of the eligible parts that is trained, one number or one a part"
    )
    budget_of: Literal["neurons", "weights"] | None = Field(None, description="what the budget is a share of")
    rank: Literal["per-layer", "per-part", "global"] | None = Field(
        None, description="every layer gives the same share of its rows, or the best of a part or of all are taken"
    )
    cost: Literal["none", "weights"] | None = Field(
        None, description="`weights`: rows are ranked over layers by importance per weight"
    )
    layers: Share | dict[PartName, Share] | None = Field(
        None, description="share of layers kept, one number or one a part"
    )
    specific: Share | Literal["auto"] | dict[str, Share] | None = Field(
        None,
        description="share of the trained neurons that is language-specific, `auto` by test, or one for every pair",
    )
    epsilon: float | None = Field(
        None,
        ge=0,
        description="instead of specific, as LLaVA-NeuMT's equation 8: agnostic are the neurons whose dispersion over "
        "pairs is at most this, and the others specific",
    )
    effect: float | None = Field(
        None, ge=0, description="with `auto`: least coefficient of variation over pairs, by its lower bound"
    )
    specific_to: Side | dict[PartName, Side] | None = Field(
        None, description="what a specific neuron is specific to, one word or one a part"
    )
    share: Fraction | None = Field(None, description="a neuron serves every pair within this share of its best")
    floor: Share | None = Field(None, description="least importance of a specific neuron, of its layer's mean best")
    ranking: Literal["relevance", "similarity"] | None = Field(None, description="of layers")
    normalise: Literal["pair", "none"] | None = Field(
        None, description="`pair`: the importances of a pair sum to one over a part"
    )
    dispersion: Literal["cv", "variance"] | None = Field(
        None, description="over pairs: coefficient of variation, or variance"
    )
    contrast: Literal["subtract", "none"] | None = Field(
        None, description="`subtract`: less the importance for the tasks of `profile.contrast`"
    )
    keep: tuple[str, ...] | None = Field(
        None, description="tasks not to be forgotten: importance is held against that for them"
    )
    score: str | None = Field(
        None, description="what neurons are ranked by; it must be in `profile.scores`, or `weight` or `movement`"
    )
    parts: tuple[PartName, ...] | None = Field(None, description="whose neurons may be chosen")
    like: Literal["mnaft", "mnaft-raw", "neumt", "neumt-paper"] | None = Field(
        None, description="of a control: the method whose layers and numbers of rows it takes over"
    )
    sets: Literal["both", "agnostic", "specific"] | None = Field(
        None, description="of the neurons chosen, which are trained: the language-agnostic, the specific, or both"
    )
    seed: Seed = Field(0, description="of what `random` and `random-layers` draw")

    @model_validator(mode="after")
    def _file_alone(self) -> SelectSection:
        given = [name for name, value in self if name not in ("file", "seed") and value is not None]
        if self.file is not None and given:
            raise ValueError(
                f"file is a selection made already, to which {given[0]} says nothing; leave one of them out"
            )
        return self
