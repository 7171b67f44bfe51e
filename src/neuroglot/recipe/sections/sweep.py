"""What an ablation varies: one setting over its values, or a few named variants, all else being equal."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from neuroglot.errors import nearest
from neuroglot.recipe.methods import METHODS, UNBUDGETED, YARDSTICKS
from neuroglot.recipe.sections.section import Section

Scalar = float | int | bool | str | None

FREE = ("method", "select.", "train.")
"""What variants may change; the profile, the data and the model are everyone's."""


class SweepSection(Section):
    """What `neuroglot sweep` varies."""

    over: str | None = Field(None, description="the setting that is varied, such as select.layers")
    values: tuple[Scalar, ...] = Field((), description="its values")
    names: tuple[str, ...] = Field((), description="how the values are written in table and figure")
    variants: dict[str, dict[str, Any]] = Field(
        {}, description="instead of over and values: name -> the settings in which the variant differs"
    )
    label: str = Field("", description="what is varied, in words, under the figure")
    reference: str | None = Field(
        None, description="the variant that the others are compared with; the first if unset"
    )
    beside: tuple[str, ...] = Field(("base",), description="what is shown with every variant: base, full, bitfit ...")
    seeds: int = Field(3, ge=1, description="trainings per variant at its chosen rate")
    rates: tuple[float, ...] = Field((), description="learning rates to try; searched for by default")

    @field_validator("beside")
    @classmethod
    def _known(cls, beside: tuple[str, ...]) -> tuple[str, ...]:
        known = (*YARDSTICKS, *UNBUDGETED)
        for method in beside:
            if method not in known:
                raise ValueError(f"{method!r} cannot stand beside variants; {nearest(method, known)}")
        return beside

    @model_validator(mode="after")
    def _fits(self) -> SweepSection:
        if not self.over and not self.variants:
            raise ValueError("nothing is varied; expected over and values, or variants")
        if self.variants and (self.over or self.values or self.names):
            raise ValueError("variants stand alone; leave out over, values and names")
        if self.over and len(set(map(repr, self.values))) < 2:
            raise ValueError(
                f"values gives {self.over} {len(self.values)} values; expected two or more different ones"
            )
        if self.names and len(self.names) != len(self.values):
            raise ValueError(f"names has {len(self.names)} entries for {len(self.values)} values; expected as many")
        for name, changes in self.settings.items():
            for field in changes:
                if field != FREE[0] and not field.startswith(FREE[1:]):
                    raise ValueError(f"variant {name} changes {field}; expected method, select.X or train.X")
                if field in ("train.lr", "train.seed", "select.seed"):
                    raise ValueError(f"variant {name} sets {field}, which a sweep chooses itself; leave it out")
            if changes.get("method", METHODS[0]) not in METHODS:
                raise ValueError(
                    f"variant {name}: method {changes['method']!r}; {nearest(changes['method'], METHODS)}"
                )
        folders = [slug(name) for name in self.settings]
        if len(set(folders)) < len(self.settings):
            raise ValueError(f"two variants are called the same: {', '.join(self.settings)}; give each its own name")
        if self.reference is not None and self.reference not in self.settings:
            raise ValueError(f"reference {self.reference!r} is no variant; {nearest(self.reference, self.settings)}")
        return self

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Name of a variant -> the settings in which it differs."""
        if self.variants:
            return {str(name): dict(changes) for name, changes in self.variants.items()}
        names = self.names or tuple(f"{v:g}" if isinstance(v, float) else str(v) for v in self.values)
        return {name: {str(self.over): value} for name, value in zip(names, self.values, strict=False)}

    @property
    def places(self) -> list[float] | None:
        """Where the values lie on an axis; None where they are no numbers."""
        numeric = all(isinstance(v, float | int) and not isinstance(v, bool) for v in self.values)
        return [float(v) for v in self.values] if self.over and numeric else None  # type: ignore[arg-type]


def slug(name: str) -> str:
    """Return a name as a part of a folder's.

    Examples:
        >>> slug("specific only, at random")
        'specific_only_at_random'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_") or "variant"


def frozen(changes: dict[str, Any]) -> str:
    """Return changes as text, which can be compared and hashed."""
    return json.dumps(changes, sort_keys=True)
