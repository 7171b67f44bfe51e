"""What a run is: one typed recipe, refused as a whole if anything in it is wrong. `recipes` holds those shipped."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from neuroglot.config.errors import error_message
from neuroglot.config.methods import (
    BASELINES,
    CLASSIC,
    CONTROLS,
    LEARNING_RATES,
    METHODS,
    NEURON_METHODS,
    RENAMED,
    SMALL,
    WHOLE,
)
from neuroglot.config.sections import (
    SCORES,
    ClassicSection,
    DataSection,
    EvaluateSection,
    ModelSection,
    ProbeSection,
    ProfileSection,
    ReportSection,
    Section,
    SelectSection,
    SweepSection,
    TrainSection,
)
from neuroglot.config.strict_yaml import write_yaml
from neuroglot.config.systems import SystemSettings
from neuroglot.errors import UserError, nearest


class Recipe(Section):
    """One run. Every field has a default; `name` is its folder under `runs/`."""

    name: str = Field("run", description="of the run, and of its folder under `runs/`")
    method: str = Field(
        "mnaft",
        description="what is trained: neurons chosen by `mnaft`, `neumt` or a control, or a baseline method (`lora`)",
    )
    task: Literal["image_translation", "multimodal_translation"] = Field(
        "image_translation", description="what the model learns"
    )
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    profile: ProfileSection = ProfileSection()
    probe: ProbeSection = ProbeSection()
    select: SelectSection = SelectSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    report: ReportSection = ReportSection()
    classic: ClassicSection = ClassicSection()
    sweep: SweepSection | None = Field(None, description="what `neuroglot sweep` varies; `run` does not look at it")
    systems: dict[str, SystemSettings] = Field(
        {}, description="what is scored beside the method, by name: cascades, other models, endpoints"
    )

    @model_validator(mode="before")
    @classmethod
    def _literal(cls, given: Any) -> Any:
        """Measure as the paper does where its own formulas are asked for, unless the recipe says otherwise."""
        if not isinstance(given, dict) or given.get("method") != "neumt-paper":
            return given
        for section, field, value in (("profile", "importance_at", "during"), ("probe", "estimator", "full")):
            own = given.get(section) or {}
            if isinstance(own, dict):
                given = {**given, section: {field: value, **own}}
        return given

    @field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"a run's name is letters, digits, dots, hyphens and underscores, got {name!r}")
        return name

    @field_validator("method")
    @classmethod
    def _method(cls, method: str) -> str:
        if method in RENAMED:
            raise ValueError(f"method {method} is now called {RENAMED[method]}, for no formula of MNAFT is public")
        if method not in METHODS:
            raise ValueError(f"method {method!r} is not known; {nearest(method, METHODS)}")
        return method

    @field_validator("systems")
    @classmethod
    def _names(cls, systems: dict[str, SystemSettings]) -> dict[str, SystemSettings]:
        for name in systems:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"a system's name is letters, digits, hyphens and underscores, got {name!r}")
            if name in (*BASELINES, *METHODS, *CLASSIC):
                raise ValueError(f"{name} is the name of a method; give the system another")
        return systems

    @model_validator(mode="after")
    def _systems_do_the_task(self) -> Recipe:
        for name, settings in self.systems.items():
            reads = settings.kind in ("cascade", "model", "endpoint")
            if self.task == "image_translation" and not reads:
                raise ValueError(
                    f"systems.{name} translates texts, and those of {self.task} are in images; put a reader before "
                    "it: {kind: cascade, reader: rapidocr, translator: ...}"
                )
            if self.task != "image_translation" and settings.kind == "cascade":
                raise ValueError(
                    f"systems.{name} is a cascade, which reads texts in images; those of {self.task} are given: name "
                    "its translator alone"
                )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.data.source in ("signs", "scenes") and not self.data.pairs:
            raise ValueError("data.pairs is empty; an embedded corpus needs pairs such as [en-fr, en-de]")
        if self.data.domains and self.data.source != "scenes":
            raise ValueError(f"data.domains is for the scenes; data.source is {self.data.source}; leave it out")
        if self.uses_neurons:
            own = "activation_probability" if self.method == "lape" else self.method
            needed = [self.select.score or "taylor_token", *([own] if own in SCORES else [])]
            for score in needed if self.select.file is None else ():
                if score not in (*SCORES, "weight", "movement"):
                    hint = nearest(score, (*SCORES, "weight", "movement"))
                    why = f"select.score {score!r} cannot choose neurons; {hint}"
                    if score == "integrated_gradients":
                        why = (
                            "select.score integrated_gradients is not for recipes: it is measured of single, named "
                            "layers, in Python (neuroglot.neurons.profiling.integrated), and cannot rank all of them; "
                            "take taylor_token or gradient"
                        )
                    raise ValueError(why)
                if score not in (*self.profile.scores, "weight", "movement"):
                    raise ValueError(f"profile.scores has no {score!r}, which select needs; add it to the list")
            neuron = self.select.neuron or self.profile.neurons
            if self.profile.neurons not in (neuron, "both"):
                raise ValueError(
                    f"select.neuron is {neuron} and profile.neurons only {self.profile.neurons}; make the latter both"
                )
            for task in self.select.keep or ():
                if task not in self.profile.contrast:
                    raise ValueError(f"profile.contrast has no {task!r}, which select.keep names; add it to the list")
        if self.select.modules and self.method in SMALL:
            raise ValueError(f"select.modules chooses matrices, and {self.method} trains none; leave it out")
        if self.train.parameters is not None and self.train.neuron_rank is not None:
            raise ValueError(
                "train.parameters gives each layer a rank of its own and train.neuron_rank all of them the same; "
                "give one of them"
            )
        if self.train.rows != 1 and self.train.parameters is None:
            raise ValueError("train.rows is a share of the rows that train.parameters divides; set that too")
        if self._preset.startswith("neumt") and self.select.budget is not None and self.select.layers is not None:
            raise ValueError(
                f"{self._preset} trains every row of the layers it keeps, so select.budget and select.layers say the "
                "same thing; give one of them"
            )
        return self

    @property
    def uses_neurons(self) -> bool:
        """Whether the method trains chosen neurons (otherwise it is a baseline method)."""
        return self.method in NEURON_METHODS

    @property
    def trains_whole(self) -> bool:
        """Whether what it saves is a model, or else an adapter."""
        return self.method in WHOLE

    @property
    def draws(self) -> bool:
        """Whether the selection follows `select.seed`."""
        return self.method in ("random", "random-layers")

    @property
    def aligned(self) -> bool:
        """Whether neurons are trained as low-rank deltas that start along the gradient."""
        return self.uses_neurons and self.train.parameters is not None

    @property
    def needs_probe(self) -> bool:
        """Whether a short tuning is part of choosing."""
        return self.ranks_by_similarity or self.needs_movement

    @property
    def needs_movement(self) -> bool:
        """Whether rows are chosen by how far a short tuning moves them."""
        return self.uses_neurons and self.select.file is None and self.select.score == "movement"

    @property
    def ranks_by_similarity(self) -> bool:
        """Whether layers are ranked by how far a short tuning moves what they put out."""
        default = "similarity" if self._preset.startswith("neumt") else "relevance"
        chosen = self.uses_neurons and self.select.file is None
        return chosen and (self.select.ranking or default) == "similarity"

    @property
    def _preset(self) -> str:
        """The method whose defaults count: of a control, the one that it is like."""
        return (self.method in CONTROLS and self.select.like) or self.method

    @property
    def learning_rate(self) -> float:
        """The learning rate set, or the method's default."""
        return self.train.lr or LEARNING_RATES.get(self.method, 1e-3)


def check(tree: dict[str, Any], origin: str) -> Recipe:
    """Return the recipe that a mapping describes; a section left empty is one left out.

    Raises:
        UserError: the first thing wrong with it, with its path.
    """
    tree = {key: value for key, value in tree.items() if value is not None}
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{origin}: {error_message(Recipe, error, tree)}") from None


def dump(recipe: Recipe) -> str:
    """Return a recipe as YAML, complete and in the order of its sections."""
    return write_yaml(recipe.model_dump(mode="json"))
