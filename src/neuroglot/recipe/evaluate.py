"""How it is scored, and what the page shows."""

from __future__ import annotations

from pydantic import Field

from neuroglot.recipe.section import Section


class EvaluateSection(Section):
    """How it is scored."""

    batch_size: int = Field(64, ge=1)
    max_new_tokens: int = Field(48, ge=1)
    beams: int = Field(1, ge=1)
    cascade: bool = Field(True, description="score the base's own transcription put through its own text translation")


class ReportSection(Section):
    """What the page shows."""

    gallery: int = Field(12, ge=0, description="test images shown with reference, before and after")
