"""What is translated, and by which model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from neuroglot.pair import Pair
from neuroglot.recipe.section import PartName, Section


class ModelSection(Section):
    """The model to start from."""

    path: str = Field("embedded", description="`embedded`, a folder, or a name on the hub")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="of the frozen weights")
    parts: dict[PartName, tuple[str, ...]] = Field(
        {}, description="module prefixes of a part, where the table of families does not know or the guess is wrong"
    )


class DataSection(Section):
    """What is translated."""

    source: str = Field(
        "signs", description="`signs` or `scenes` (the embedded corpora), or a JSONL file, relative to the recipe"
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
    max_bad: int = Field(0, ge=0, description="records of a file that may be left out because they cannot be used")
    seed: int = 0

    @field_validator("pairs")
    @classmethod
    def _known(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        known = [str(Pair.parse(p)) for p in pairs]
        for number, pair in enumerate(known):
            if pair in known[:number]:
                raise ValueError(f"pair {pair} is named twice; name it once")
        return tuple(known)
