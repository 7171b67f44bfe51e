"""The sections of a recipe: what each setting means, its type, its default and its range."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from neuroglot.config.errors import error_message
from neuroglot.config.methods import BASELINES, METHODS, UNBUDGETED
from neuroglot.errors import UserError, nearest
from neuroglot.pair import TASKS, Pair
from neuroglot.synthetic.style import style_texts

if TYPE_CHECKING:
    from neuroglot.data.readers import Layout

# ---- What all sections share ----------------------------------------------------------------------------------------

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
    """Nothing unknown, nothing infinite.

    Raises:
        UserError: a value is wrong; the message names it by its path, such as `train.lr`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            name = re.sub(r"(Section|Settings)$", "", type(self).__name__).lower()
            raise UserError(error_message(type(self), error, values, name)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # sections inside a recipe are not made by it


# ---- data and model -------------------------------------------------------------------------------------------------


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
        description="folder that the images of the data and of evaluate.retention must lie in, relative to the "
        "recipe, wherever `..` and symbolic links lead; empty for no bound",
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
    replay_tasks: Tasks = Field(
        (),
        description="which of the other tasks are replayed; all that there are if empty. Retention is what the "
        "others show: leave one out",
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

    @model_validator(mode="after")
    def _replays(self) -> DataSection:
        if self.replay_tasks and not self.replay:
            raise ValueError("replay_tasks says what is replayed, and replay is 0; set replay, such as 0.3")
        return self

    @field_validator("pairs")
    @classmethod
    def _known(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        known = [str(Pair.parse(p)) for p in pairs]
        for number, pair in enumerate(known):
            if pair in known[:number]:
                raise ValueError(f"pair {pair} is named twice; name it once")
        return tuple(known)


# ---- profile, probe and select --------------------------------------------------------------------------------------

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
                    "(neuroglot.neurons.profiling.integrated)"
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
        None,
        description="every kept layer gives the same share of its rows, or the rows of a part or of all are ranked "
        "over layers, so that the best layers give most",
    )
    cost: Literal["none", "weights"] | None = Field(
        None, description="in a ranking over layers, `weights` divides a row's importance by its number of weights"
    )
    layers: Share | dict[PartName, Share] | None = Field(
        None,
        description="share of layers kept, one number or one a part; 0 leaves a part out; unset: all where rows are "
        "ranked over layers",
    )
    specific: Share | Literal["auto"] | dict[str, Share] | None = Field(
        None,
        description="share of a layer's chosen rows that is language-specific, at most; `auto` for those that a test "
        "shows to be; or one share for every pair",
    )
    epsilon: float | None = Field(
        None,
        ge=0,
        description="instead of specific, as LLaVA-NeuMT's equation 8: agnostic are the neurons whose dispersion over "
        "pairs is at most this, and the others specific",
    )
    effect: float | None = Field(
        None,
        ge=0,
        description="with `auto`: least coefficient of variation over pairs, by its lower bound. 0.2 is one of six "
        "pairs that uses a neuron 1.6 times as much as the others do: less is a preference, not a specialisation",
    )
    specific_to: Side | dict[PartName, Side] | None = Field(
        None, description="what a specific neuron is specific to, one word or one a part"
    )
    share: Fraction | None = Field(None, description="a neuron serves every pair within this share of its best")
    floor: Share | None = Field(
        None,
        description="least importance of a specific neuron, as a share of its layer's mean best; without it the "
        "coefficient of variation favours neurons that are nearly dead",
    )
    ranking: Literal["relevance", "similarity"] | None = Field(None, description="of layers")
    normalise: Literal["pair", "none"] | None = Field(
        None, description="`pair`: the importances of a pair sum to one over a part"
    )
    dispersion: Literal["cv", "variance"] | None = Field(
        None, description="over pairs: coefficient of variation, or variance"
    )
    contrast: Literal["subtract", "auto", "none"] | None = Field(
        None,
        description="`subtract`: less the importance for the tasks of `profile.contrast`, floored at 0; `auto`: where "
        "such were profiled; layers are ranked without it",
    )
    keep: tuple[str, ...] | None = Field(
        None, description="tasks not to be forgotten: importance is divided by the root of that for them"
    )
    score: str | None = Field(
        None, description="what neurons are ranked by; it must be in `profile.scores`, or `weight` or `movement`"
    )
    parts: tuple[PartName, ...] | None = Field(None, description="whose neurons may be chosen")
    modules: tuple[str, ...] | None = Field(
        None,
        description="which matrices are trained, with LoRA, DoRA, full and the parts as well: `attention` (`qkv`, "
        "`out`), `mlp` (`gate_up`, `down`), or ends of module names; all of them if unset",
    )
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
        if self.modules and self.neuron == "ffn":
            raise ValueError(
                "modules chooses matrices, and neuron=ffn trains whole feed-forward blocks; leave one out"
            )
        if self.file is not None and given:
            raise ValueError(
                f"file is a selection made already, to which {given[0]} says nothing; leave one of them out"
            )
        return self


# ---- train ----------------------------------------------------------------------------------------------------------


class TrainSection(Section):
    """How it is trained."""

    steps: int = Field(200, ge=1, description="optimiser steps")
    batch_size: int = Field(24, ge=1, description="samples a micro-batch")
    accumulation: int = Field(1, ge=1, description="micro-batches a step; these may be of different pairs")
    lr: float | None = Field(
        None,
        gt=0,
        description="the highest rate; unset: 1e-3 for neurons, lora, dora and connector; 2e-4 for full, vision and "
        "language; 1e-2 for bitfit and norms; 3e-2 for prompt",
    )
    specific_lr: float | None = Field(None, gt=0, description="of language-specific neurons; unset: lr")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="of the learning rate, after the warm-up"
    )
    optimizer: str = Field("adamw_torch_fused", description="name of an optimiser of transformers")
    weight_decay: float = Field(0.0, ge=0, description="towards zero; of chosen rows, towards the base's weights")
    max_grad_norm: float = Field(1.0, ge=0, description="clips the gradient; 0 does not")
    rank: int = Field(16, ge=1, description="of LoRA and DoRA")
    prompt_tokens: int = Field(16, ge=1, description="of prompt: how many vectors are learned")
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
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    bf16: bool = Field(False, description="compute under bfloat16 autocast; chosen rows stay float32")
    save_steps: int = Field(100, ge=0, description="checkpoint every so many steps; 0 makes none")
    log_steps: int = Field(10, ge=1, description="steps from one line of the log to the next")
    non_finite: Literal["stop", "skip"] = Field(
        "stop", description="a step whose loss or gradient is not finite ends the training, or is left out"
    )
    max_skipped: int = Field(10, ge=0, description="with non_finite=skip: steps left out at most")
    seed: Seed = Field(0, description="of the order of batches, and of dropout")


# ---- evaluate and report --------------------------------------------------------------------------------------------


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
        from neuroglot.evaluation.tokenize import known_tokenisers

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


# ---- classic baselines ----------------------------------------------------------------------------------------------


class ClassicSection(Section):
    """Their size and training; `train.lr` and `train.seed` are theirs too."""

    steps: int = Field(3000, ge=1, description="at most; training ends earlier where dev gets no better")
    batch_size: int = Field(64, ge=1, description="examples a step")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    eval_steps: int = Field(200, ge=1, description="steps between two validation runs")
    patience: int = Field(5, ge=1, description="looks without a better loss after which training ends")
    width: int = Field(128, ge=8, description="of the encoder and decoder")
    layers: int = Field(3, ge=1, description="of the encoder, and as many of the decoder")
    heads: int = Field(4, ge=1, description="of attention")
    inner: int = Field(512, ge=1, description="width inside a feed-forward block")
    dropout: float = Field(0.2, ge=0, lt=1, description="in training")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the loss")
    pieces: int = Field(
        4000, ge=300, description="most entries of the vocabulary, which is learnt from the texts; 256 are the bytes"
    )
    tower: str | None = Field(
        None, description="a vision model by folder or name on the hub; unset: the vision part of model.path"
    )
    image_tokens: int = Field(49, ge=1, description="most vectors an image; more are averaged over neighbours")

    @model_validator(mode="after")
    def _heads_fit(self) -> ClassicSection:
        if self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of twice the heads, got {self.width} and {self.heads} heads")
        return self


# ---- sweep ----------------------------------------------------------------------------------------------------------

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
        known = (*BASELINES, *UNBUDGETED)
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
