"""How it is scored, and what the page shows."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from neuroglot.recipe.sections.section import Section


class EvaluateSection(Section):
    """How it is scored."""

    batch_size: int = Field(64, ge=1, description="examples translated together")
    max_new_tokens: int = Field(48, ge=1, description="a longer answer is cut")
    beams: int = Field(1, ge=1, description="1 is greedy")
    length_penalty: float = Field(1.0, description="of beams: above 0 favours long answers, below 0 short ones")
    cascade: bool = Field(True, description="score the base's own transcription put through its own text translation")
    moses: bool = Field(
        False, description="also lower-cased, Moses-tokenised BLEU, to stand beside papers' BLEU-4; needs sacremoses"
    )
    tokenise: dict[str, str] = Field(
        default_factory=dict,
        description="BLEU's tokeniser by pair or target language, such as {ja: char}; by default the script decides",
    )
    retention: tuple[str, ...] = Field(
        (),
        description="JSONL files or corpora of what should not be forgotten, relative to the recipe: any task, "
        "questions with instruction and target, or CoMMuTE",
    )
    retention_items: int = Field(1000, ge=1, description="most items of each of these sources and tasks")
    every: int = Field(0, ge=0, description="steps of training between looks at the dev split; 0 for none")
    items: int = Field(16, ge=1, description="dev items that are translated at each look, greedily")

    @field_validator("tokenise")
    @classmethod
    def _known_tokenisers(cls, value: dict[str, str]) -> dict[str, str]:
        if not value:  # most recipes need not wait for sacreBLEU
            return value
        from neuroglot.evaluation.figures.tokenise import known_tokenisers

        return known_tokenisers(value)

    @model_validator(mode="after")
    def _for_beams(self) -> EvaluateSection:
        if self.length_penalty != 1.0 and self.beams == 1:
            raise ValueError(
                f"length_penalty {self.length_penalty} is of beams, and beams is 1; raise beams, or leave it out"
            )
        return self


class ReportSection(Section):
    """What the page shows."""

    gallery: int = Field(12, ge=0, description="test images shown with reference, before and after")
