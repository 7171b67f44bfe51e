"""What is translated, and by which model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from neuroglot.data.rendering.style import style_texts
from neuroglot.pair import Pair
from neuroglot.recipe.sections.section import PartName, Section, Seed, Tasks

if TYPE_CHECKING:  # a recipe is read without waiting for Pillow and numpy
    from neuroglot.data.readers import Layout


class ModelSection(Section):
    """The model to start from."""

    path: str = Field("embedded", description="`embedded`, a folder, or a name on the hub")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="of the frozen weights")
    attn_implementation: str | None = Field(
        None,
        description="as transformers takes it: sdpa, eager, flash_attention_2 ...; its own choice if empty. "
        "With `train.bf16` on a CPU, `eager` trains on short sequences faster",
    )
    parts: dict[PartName, tuple[str, ...]] = Field(
        {}, description="module prefixes of a part, where the table of families does not know or the guess is wrong"
    )


class DataSection(Section):
    """What is translated."""

    source: str = Field(
        "signs",
        description="`signs` or `scenes` (the embedded corpora), a file or folder, relative to the recipe, or "
        "`hf:owner/name`, a dataset of the hub",
    )
    format: str = Field("auto", description="how the source is laid out; told from its path where that is possible")
    columns: dict[str, str] = Field(
        {}, description="our field -> the source's column (`translation.de` for what lies deeper), or `=value`"
    )
    splits: dict[Literal["train", "dev", "test"], str] = Field(
        {}, description="our split -> the source's name for it; the usual names if empty"
    )
    images: str = Field("", description="folder of the images, relative to the recipe; empty for the layout's own")
    root: str = Field(
        "",
        description="folder that the images of the data must lie in, relative to the recipe, wherever `..` and "
        "symbolic links lead; empty for no bound",
    )
    tasks: Tasks = Field((), description="tasks to make of records that do not say theirs; the recipe's task if empty")
    render: dict[str, str] | None = Field(
        None, description="style of images made from the source text, such as {width: 448, height: 448}; {} for any"
    )
    pairs: tuple[str, ...] = Field(
        (), description="translation directions such as en-de; every pair of the data if empty"
    )
    domains: tuple[str, ...] = Field((), description="domains of ambiguity of the scenes; all of them if empty")
    train: int = Field(1500, ge=1, description="source items to train on, each in every pair")
    dev: int = Field(60, ge=0, description="source items to choose settings by")
    test: int = Field(60, ge=1, description="source items to score")
    heldout: int = Field(40, ge=0, description="items of held-out names and templates (embedded corpus)")
    retention: int = Field(60, ge=0, description="items for each task that should not be forgotten; 0 to skip")
    max_length: int = Field(0, ge=0, description="most tokens a sample may take; 0 for the model's context")
    max_pixels: int = Field(0, ge=0, description="of an image; larger ones are scaled down; 0 for no limit")
    max_image_tokens: int = Field(
        0,
        ge=0,
        description="most tokens that an example's images may take; they are scaled down to fit; 0 for no limit",
    )
    temperature: float = Field(
        1.0, ge=1, description="T of p ~ n^(1/T), by which pairs of n examples share the training; 1 is by their size"
    )
    replay: float = Field(
        0.0, ge=0, le=0.9, description="share of the training batches that are of other tasks, against forgetting"
    )
    max_bad: int = Field(0, ge=0, description="records of a file that may be left out because they cannot be used")
    seed: Seed = Field(0, description="of the embedded corpora, of the split, and of drawn images")

    def layout(self, task: str) -> Layout:
        """Return what a reader is told, where the run trains a task."""
        from neuroglot.data.readers import Layout

        return Layout(
            format=self.format,
            columns=self.columns,
            pairs=self.pairs,
            splits={str(ours): theirs for ours, theirs in self.splits.items()},
            images=Path(self.images) if self.images else None,
            root=Path(self.root) if self.root else None,
            tasks=self.tasks,
            task=task,
            render=None if self.render is None else tuple(sorted(self.render.items())),
            seed=self.seed,
        )

    @field_validator("render", mode="before")
    @classmethod
    def _texts(cls, render: object) -> object:
        """A style's values are texts, and YAML makes numbers and truths of some of them."""
        return style_texts(render) if isinstance(render, dict) else render

    @field_validator("pairs")
    @classmethod
    def _known(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        known = [str(Pair.parse(p)) for p in pairs]
        for number, pair in enumerate(known):
            if pair in known[:number]:
                raise ValueError(f"pair {pair} is named twice; name it once")
        return tuple(known)
