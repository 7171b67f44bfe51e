"""What every section of a recipe is: typed, complete, frozen, and refused if anything in it is not known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PartName = Literal["vision", "connector", "language"]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Side = Literal["pair", "source", "target"]


class Section(BaseModel):
    """Nothing unknown, nothing infinite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
