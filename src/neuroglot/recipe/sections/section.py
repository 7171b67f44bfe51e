"""What every section of a recipe is: typed, complete, frozen, and refused if anything in it is not known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from neuroglot.errors import nearest
from neuroglot.pair import TASKS

PartName = Literal["vision", "connector", "language"]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy and torch both take."""
Side = Literal["pair", "source", "target"]


def _known(tasks: tuple[str, ...]) -> tuple[str, ...]:
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"task {task!r} is not known; {nearest(task, TASKS)}")
    return tasks


Tasks = Annotated[tuple[str, ...], AfterValidator(_known)]


class Section(BaseModel):
    """Nothing unknown, nothing infinite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
