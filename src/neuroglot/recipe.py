"""What a run is: one typed recipe, refused as a whole if anything in it is wrong. `recipes` reads it from files."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from neuroglot.complaint import complaint
from neuroglot.errors import UserError, nearest
from neuroglot.pair import TASKS, Pair

PRESETS = ("mnaft", "neumt", "neumt-paper")
CONTROLS = ("random", "gradient", "activation", "weight", "lape", "least", "random-layers")
NEURON_METHODS = (*PRESETS, *CONTROLS)
METHODS = (*NEURON_METHODS, "full", "lora")
SCORES = ("taylor_token", "taylor_sample", "gradient", "activation", "activation_probability", "row_gradient")

PartName = Literal["vision", "connector", "language"]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Side = Literal["pair", "source", "target"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The model to start from."""

    path: str = Field("embedded", description="`embedded`, a folder, or a name on the hub")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="of the frozen weights")
    parts: dict[PartName, tuple[str, ...]] = Field(
        {}, description="module prefixes of a part, where the table of families does not know or the guess is wrong"
    )


class DataSection(_Section):
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


class ProfileSection(_Section):
    """What importance is measured on."""

    items: int = Field(48, ge=1, description="source items, each in every pair")
    batch_size: int = Field(12, ge=1)
    instructions: int = Field(3, ge=1, description="paraphrased instructions per task, in turn")
    contrast: tuple[str, ...] = Field(
        ("ocr", "describe"), description="tasks on the same images that translating is held against"
    )
    scores: tuple[str, ...] = Field(("taylor_token", "gradient", "activation"), description="collected in one pass")
    tokens: Literal["all", "image", "prompt", "target"] = Field("all", description="positions that count")
    neurons: Literal["rows", "ffn", "both"] = Field(
        "rows", description="rows of matrices, units of feed-forward blocks, or both"
    )
    save_batches: int = Field(
        100, ge=1, description="batches between one saving of an unfinished profile and the next"
    )

    @field_validator("contrast")
    @classmethod
    def _tasks(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for task in tasks:
            if task not in TASKS:
                raise ValueError(f"task {task!r} is not known; {nearest(task, TASKS)}")
        return tasks

    @field_validator("scores")
    @classmethod
    def _scores(cls, scores: tuple[str, ...]) -> tuple[str, ...]:
        for score in scores:
            if score not in SCORES:
                raise ValueError(f"score {score!r} cannot be profiled; {nearest(score, SCORES)}")
        return scores

    @model_validator(mode="after")
    def _fit(self) -> ProfileSection:
        if "row_gradient" in self.scores and self.neurons != "rows":
            raise ValueError(f"score row_gradient is one of rows, got neurons={self.neurons}; use neurons=rows")
        return self


class ProbeSection(_Section):
    """The short tuning before and after which layers are compared (only where they are ranked by similarity)."""

    estimator: Literal["lora", "full", "neurons"] = Field(
        "lora", description="what is tuned: low-rank factors, everything, or a tenth of every layer's neurons"
    )
    steps: int = Field(40, ge=1)
    batch_size: int = Field(24, ge=1)
    lr: float = Field(1e-3, gt=0)
    items: int = Field(16, ge=1, description="source items that activations are compared on")


class SelectSection(_Section):
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
    specific: Share | Literal["auto"] | dict[str, Fraction] | None = Field(
        None, description="share of the trained neurons that is language-specific, `auto` by test, or one a pair"
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
    normalise: Literal["pair", "none"] | None = None
    dispersion: Literal["cv", "variance"] | None = None
    contrast: Literal["subtract", "none"] | None = None
    keep: tuple[str, ...] | None = Field(
        None, description="tasks not to be forgotten: importance is held against that for them"
    )
    score: str | None = None
    parts: tuple[PartName, ...] | None = None
    like: Literal["mnaft", "neumt", "neumt-paper"] | None = Field(
        None, description="of a control: the method whose layers and numbers of rows it takes over"
    )
    seed: int = Field(0, description="of what `random` and `random-layers` draw")

    @model_validator(mode="after")
    def _file_alone(self) -> SelectSection:
        given = [name for name, value in self if name not in ("file", "seed") and value is not None]
        if self.file is not None and given:
            raise ValueError(
                f"file is a selection made already, to which {given[0]} says nothing; leave one of them out"
            )
        return self


class TrainSection(_Section):
    """How it is trained."""

    steps: int = Field(200, ge=1)
    batch_size: int = Field(24, ge=1)
    accumulation: int = Field(1, ge=1)
    lr: float | None = Field(None, gt=0, description="unset: 1e-3 for neurons and lora, 2e-4 for full")
    specific_lr: float | None = Field(None, gt=0, description="of language-specific neurons; unset: lr")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    optimizer: str = "adamw_torch_fused"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0)
    rank: int = Field(16, ge=1, description="of LoRA")
    neuron_rank: int | None = Field(None, ge=1, description="of a group's delta; unset: each row trains by itself")
    parameters: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of all layers' weights that is trained, as low-rank deltas of the chosen rows that start "
        "along the gradient; layers get ranks by their gradient; instead of neuron_rank",
    )
    rows: float = Field(
        1.0,
        gt=0,
        le=1,
        description="with parameters: of the rows that select chose in a layer, the share with the largest gradients "
        "that is trained",
    )
    mode: Literal["auto", "sliced", "additive"] = Field("auto", description="how chosen rows are computed")
    gradient_checkpointing: bool = False
    bf16: bool = False
    save_steps: int = Field(100, ge=1, description="checkpoint every so many steps")
    log_steps: int = Field(10, ge=1)
    seed: int = 0


class EvaluateSection(_Section):
    """How it is scored."""

    batch_size: int = Field(64, ge=1)
    max_new_tokens: int = Field(48, ge=1)
    beams: int = Field(1, ge=1)
    cascade: bool = Field(True, description="score the base's own transcription put through its own text translation")


class ReportSection(_Section):
    """What the page shows."""

    gallery: int = Field(12, ge=0, description="test images shown with reference, before and after")


class Recipe(_Section):
    """One run. Every field has a default; `name` is its folder under `runs/`."""

    name: str = "run"
    method: str = "mnaft"
    task: Literal["image_translation", "multimodal_translation"] = "image_translation"
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    profile: ProfileSection = ProfileSection()
    probe: ProbeSection = ProbeSection()
    select: SelectSection = SelectSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    report: ReportSection = ReportSection()

    @field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"a run's name is letters, digits, dots, hyphens and underscores, got {name!r}")
        return name

    @field_validator("method")
    @classmethod
    def _method(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"method {method!r} is not known; {nearest(method, METHODS)}")
        return method

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
        if self.train.parameters is not None and self.train.neuron_rank is not None:
            raise ValueError(
                "train.parameters gives each layer a rank of its own and train.neuron_rank all of them the same; "
                "give one of them"
            )
        if self._preset.startswith("neumt") and self.select.budget is not None and self.select.layers is not None:
            raise ValueError(
                f"{self._preset} trains every row of the layers it keeps, so select.budget and select.layers say the "
                "same thing; give one of them"
            )
        return self

    @property
    def uses_neurons(self) -> bool:
        """Whether the method trains chosen neurons (otherwise it is a competitor)."""
        return self.method in NEURON_METHODS

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
        return self.train.lr or (2e-4 if self.method == "full" else 1e-3)


def check(tree: dict[str, Any], origin: str) -> Recipe:
    """Return the recipe that a mapping describes; a section left empty is one left out.

    Raises:
        UserError: the first thing wrong with it, with its path.
    """
    tree = {key: value for key, value in tree.items() if value is not None}
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{origin}: {complaint(Recipe, error, tree)}") from None


def dump(recipe: Recipe) -> str:
    """Return a recipe as YAML, complete and in the order of its sections."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
