"""The adapter's configuration: shapes and pairs in the JSON, row indices beside it, and a model card."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field, fields
from pathlib import Path
from typing import Any

import peft
import torch
from huggingface_hub import ModelCard, ModelCardData
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from neuroglot.errors import UserError, expect, nearest
from neuroglot.printing import short
from neuroglot.selection import Selection, group_name

# ---- Arguments of PEFT: accepted or refused -------------------------------------------------------------------------


class StrictTuner(BaseTuner):
    """A tuner that checks the arguments of PEFT's functions."""

    tuner_layer_cls: type[BaseTunerLayer]
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter.

        Raises:
            UserError: its name cannot be part of a parameter's name.
        """
        if not adapter_name or "." in adapter_name:
            raise UserError(f"adapter name {adapter_name!r} is empty or holds a dot; expected a name such as 'de'")
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Keep trained values in float32, or use the base's dtype if the caller asks for it."""
        if autocast_adapter_dtype:
            super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
            return
        for layer in self.model.modules():
            if not isinstance(layer, self.tuner_layer_cls):
                continue
            dtypes = {p.dtype for p in layer.get_base_layer().parameters()}
            dtype = next((d for d in dtypes if d.is_floating_point and d.itemsize > 1), None)
            for name in layer.adapter_layer_names:
                container = getattr(layer, name)
                if dtype is None or adapter_name not in container:
                    continue
                value = container[adapter_name]
                for parameter in [value] if isinstance(value, nn.Parameter) else value.parameters():
                    parameter.data = parameter.data.to(dtype)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse keywords that PEFT takes from those of forward and generate, whatever the method."""
        self._refuse_keywords(kwargs, "adapter_names", "alora_offsets")
        yield

    @staticmethod
    def _refuse_keywords(keywords: Mapping[str, Any], *names: str) -> None:
        for name in names:
            if keywords.get(name) is not None:
                raise UserError(
                    f"{name} is not known to this kind of adapter; leave it out, and choose the adapter of a batch "
                    "with model.set_adapter(name)"
                )

    def _check_names(self, adapter_names: Sequence[str] | None) -> None:
        if isinstance(adapter_names, str):
            raise UserError(f"adapter_names must be a list of names, got {adapter_names!r}; use [{adapter_names!r}]")
        for name in adapter_names or ():
            if name not in self.peft_config:
                raise UserError(f"adapter {name!r} is not in the model; {nearest(str(name), self.peft_config)}")

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters into the base's parameters.

        Raises:
            UserError: the model has no such adapter.
        """
        self._check_names(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """Return the plain model with adapters merged.

        Raises:
            UserError: the model has no such adapter.
        """
        self._check_names(adapter_names)
        return super().merge_and_unload(progressbar, safe_merge, adapter_names)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: it exists for LoRA only.

        Raises:
            UserError: always.
        """
        raise UserError(
            "add_weighted_adapter exists for LoRA only; several adapters add up when they are active together: "
            "model.base_model.set_adapter([...])"
        )


# ---- Configuration --------------------------------------------------------------------------------------------------
# Row indices are data, not settings, and there are many of them: they are int32 tensors in the adapter's
# safetensors file. A configuration made from a selection holds them in memory until the layers have copied them.

CARD_HEADING = "## How to load this adapter"


class OwnType(str):
    """A stand-in for a member of PEFT's enum of types, which cannot be extended from outside."""

    __slots__ = ()

    @property
    def value(self) -> str:
        return str.__str__(self)

    @property
    def name(self) -> str:
        return str.__str__(self)

    def __str__(self) -> str:
        return f"PeftType.{self.value}"


NEUROGLOT = OwnType("NEUROGLOT")


MODES = ("auto", "sliced", "additive")

INSTEAD = {
    "r": "rank, which makes the deltas of the chosen rows low-rank",
    "lora_alpha": "nothing: deltas are added as they are",
    "lora_dropout": "nothing: deltas know no dropout",
    "bias": "train_bias",
    "init_lora_weights": "init_weights",
    "rank_pattern": "ranks",
    "modules_to_save": "a method that trains whole modules",
    **dict.fromkeys(
        ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters"),
        "a selection, which names its layers: NeuroglotConfig.from_selection(select(profile))",
    ),
}
"""What to use instead of LoRA's keywords."""


class UnknownKeywordError(UserError, TypeError):
    """An unknown keyword; PEFT expects this type when it leaves out keywords of a newer version's file."""


class StrictConfig(PeftConfig):
    """A configuration that refuses unknown keywords."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Check the keywords.

        Raises:
            UserError: one of them is unknown.
        """
        taken = inspect.signature(cls.__init__).parameters
        known = [name for name in taken if name != "self"]
        unknown = next((name for name in kwargs if name not in known), None)
        if unknown is not None and not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            hint = f"use {INSTEAD[unknown]}" if unknown in INSTEAD else nearest(unknown, known)
            raise UnknownKeywordError(f"{cls.__name__} got an unexpected keyword argument {unknown!r}; {hint}")
        return super().__new__(cls)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any) -> Any:
        """Read the configuration of a saved adapter; PEFT calls this with what `PeftModel.from_pretrained` was given.

        Raises:
            UserError: a field was given, which the saved value would override silently.
        """
        refused = {name for name in kwargs if name in {field.name for field in fields(cls)}} - {"revision"}
        if kwargs.get("ephemeral_gpu_offload"):
            refused.add("ephemeral_gpu_offload")
        if refused:
            raise UserError(
                f"{min(refused)} cannot be given while loading an adapter; set a field of "
                "PeftConfig.from_pretrained(...) and pass that as config="
            )
        return super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)


@dataclass
class NeuroglotConfig(StrictConfig):
    """Which units of which layers an adapter trains, by the pairs whose data may train them.

    Args:
        pairs: every pair of the selection, in text form; a group of all of them is language-agnostic.
        layout: module (exact full name) -> group (its pairs, sorted, joined by commas) -> number of units. The order
            of the groups is the order in which the layer stores their units.
        axes: module -> the axis of its stored weight that the units lie on, where that is not 0; 1 are the input
            columns of a Linear and the outputs of a matrix that is stored as [in, out].
        rank: None trains the units' deltas [k, width] themselves; a number trains them as products [k, rank] x
            [rank, width]. A group of at most that many units stays dense, which is smaller.
        ranks: module -> group -> its rank, where that is not `rank`.
        train_bias: train the bias entries of output rows as well, as the papers do.
        quantised: whether the base was quantised when the adapter was trained; the tuner sets it.
        mode: `sliced` keeps the current units in the weight itself, `additive` adds their product to the base's
            output; `auto` takes `sliced` wherever the weight is a dense floating tensor.
        init_weights: start with deltas of zero; False fills them at random, for tests.
        trained_on: what it was trained on, such as task, data, examples, steps; for the JSON and the model card.
        chosen: how the units were chosen: method, budget, and their share of all; also for the JSON and the card.
        rows: module -> unit indices in the order of the layout; they are data and never part of the JSON.

    Raises:
        UserError: a field does not fit the others.
    """

    pairs: list[str] = field(default_factory=list, metadata={"help": "The pairs of the selection."})
    layout: dict[str, dict[str, int]] = field(
        default_factory=dict, metadata={"help": "Number of units per module and group."}
    )
    axes: dict[str, int] = field(default_factory=dict, metadata={"help": "Axis of the units where it is not 0."})
    rank: int | None = field(default=None, metadata={"help": "Rank of a group's delta; null for dense units."})
    ranks: dict[str, dict[str, int]] = field(default_factory=dict, metadata={"help": "Ranks that are not `rank`."})
    train_bias: bool = field(default=True, metadata={"help": "Train the bias entries of output rows as well."})
    mode: str = field(default="auto", metadata={"help": "auto, sliced or additive."})
    init_weights: bool = field(default=True, metadata={"help": "Start with deltas of zero."})
    quantised: bool = field(default=False, metadata={"help": "Whether the base was quantised in training."})
    trained_on: dict[str, Any] | None = field(default=None, metadata={"help": "What it was trained on."})
    chosen: dict[str, Any] | None = field(default=None, metadata={"help": "How the units were chosen."})
    rows: InitVar[Mapping[str, Sequence[int] | torch.Tensor] | None] = None

    __repr__ = short

    def __post_init__(self, rows: Mapping[str, Sequence[int] | torch.Tensor] | None = None) -> None:
        super().__post_init__()
        self.peft_type = NEUROGLOT
        self._check()
        sizes = {module: list(groups.values()) for module, groups in self.layout.items()}
        order = {m: sorted(range(len(groups)), key=list(groups).__getitem__) for m, groups in self.layout.items()}
        # PEFT sorts the keys of the JSON, and the rows follow the order of the groups
        self.layout = {module: dict(sorted(groups.items())) for module, groups in self.layout.items()}
        # not a field, because PEFT writes every field into the JSON
        self.units: dict[str, torch.Tensor] | None = None
        if rows is not None:
            parts = {module: index.split(sizes[module]) for module, index in self._checked_rows(rows).items()}
            self.units = {module: torch.cat([parts[module][i] for i in order[module]]) for module in parts}
        self.bare: dict[str, str] = {}  # module -> the layout's name of the bare matrix in it; set by the model

    def _check(self) -> None:
        expect("pairs", self.pairs, (list, tuple), "a list such as ['en-de', 'en-fr']")
        expect("layout", self.layout, Mapping, "a mapping of module -> group -> number of units")
        if self.mode not in MODES:
            raise UserError(f"mode {self.mode!r} is not known; {nearest(str(self.mode), MODES)}")
        if self.rank is not None and (not isinstance(self.rank, int) or self.rank < 1):
            raise UserError(f"rank must be a whole number >= 1, or None for dense units, got {self.rank!r}")
        for module, ranks in self.ranks.items():
            for group, rank in ranks.items():
                if group not in self.layout.get(module, {}) or not isinstance(rank, int) or rank < 1:
                    raise UserError(
                        f"ranks holds {module}, group {group}: {rank!r}; expected a group of the layout and a whole "
                        "number >= 1"
                    )
        known = set(self.pairs)
        for module, groups in self.layout.items():
            for group, count in groups.items():
                if group != group_name(frozenset(group.split(","))):
                    raise UserError(f"layout: {module} has group {group!r}; expected its pairs sorted and each once")
                unknown = set(group.split(",")) - known
                if unknown:
                    raise UserError(
                        f"layout: {module} has a group with pair {min(unknown)!r}; expected one of pairs: "
                        f"{', '.join(self.pairs)}"
                    )
                if not isinstance(count, int) or count < 1:
                    raise UserError(
                        f"layout: {module}, group {group}: rows must be a whole number >= 1, got {count!r}"
                    )
        for module, axis in self.axes.items():
            if module not in self.layout or axis not in (0, 1):
                raise UserError(f"axes holds {module}: {axis!r}; expected a module of the layout and 0 or 1")

    def _checked_rows(self, rows: Mapping[str, Sequence[int] | torch.Tensor]) -> dict[str, torch.Tensor]:
        indices = {module: torch.as_tensor(index, dtype=torch.int32) for module, index in rows.items()}
        if set(indices) != set(self.layout):
            raise UserError(f"rows and layout differ in {min(set(indices) ^ set(self.layout))}; expected the same")
        for module, index in indices.items():
            count = sum(self.layout[module].values())
            if index.dim() != 1 or len(index) != count:
                raise UserError(f"rows: {module} has {index.numel()} indices, its layout {count}; expected as many")
            if len(index.unique()) != count:
                raise UserError(f"rows: {module} has a row twice; expected each in one group at most; select again")
        return indices

    @classmethod
    def from_selection(cls, selection: Selection, **kwargs: Any) -> NeuroglotConfig:
        """Make the configuration of a fresh adapter that trains the units of a selection.

        Args:
            selection: the chosen units; empty groups are dropped.
            kwargs: `mode`, `rank`, and fields of `peft.PeftConfig`.

        Raises:
            UserError: the selection holds no row.

        Examples:
            >>> selection = Selection(("en-de",), {"head": {frozenset({"en-de"}): torch.tensor([3, 1])}})
            >>> NeuroglotConfig.from_selection(selection).layout
            {'head': {'en-de': 2}}
        """
        expect("selection", selection, Selection, "a Selection, which select(profile) makes and Selection.load reads")
        chosen = {
            module: {group_name(group): index.to(torch.int32).sort().values for group, index in groups.items()}
            for module, groups in selection.rows.items()
        }
        chosen = {m: {g: index for g, index in sorted(groups.items()) if len(index)} for m, groups in chosen.items()}
        chosen = {module: groups for module, groups in chosen.items() if groups}
        if not chosen:
            raise UserError("the selection holds no row; expected one or more; raise its budget or its layers")
        layout = {module: {group: len(index) for group, index in groups.items()} for module, groups in chosen.items()}
        axes = {module: axis for module, axis in selection.axes.items() if axis and module in chosen}
        rows = {module: torch.cat(list(groups.values())) for module, groups in chosen.items()}
        return cls(
            pairs=list(selection.pairs),
            layout=layout,
            axes=axes,
            rows=rows,
            **{"chosen": _chosen(selection), **kwargs},
        )

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The modules' exact full names; a tuple, because PEFT shortens lists and sets to suffixes."""
        return tuple(self.layout)

    def rank_of(self, module: str, group: str) -> int | None:
        """Return the rank of a group's delta in a module; None where it is dense."""
        rank = self.ranks.get(module, {}).get(group, self.rank)
        return None if rank is None or rank >= self.layout[module][group] else rank  # two factors would be larger

    @property
    def agnostic(self) -> str:
        """The text form of the group of all pairs."""
        return group_name(frozenset(self.pairs))

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the JSON and put a section on loading into the folder's model card.

        PEFT writes the card and then calls this; the card is where a reader learns that the type is registered by
        importing this package, without which PEFT fails with a bare KeyError.
        """
        super().save_pretrained(save_directory, **kwargs)
        with_card(self, save_directory, self._counted(), mergeable=True, facts=self._facts())

    def _counted(self) -> str:
        units = [(sum(groups.values()), self.axes.get(module, 0)) for module, groups in self.layout.items()]
        rows, others = (sum(count for count, axis in units if bool(axis) is other) for other in (False, True))
        what = " and ".join([f"{rows:,} rows"] * bool(rows) + [f"{others:,} columns"] * bool(others))
        return f"{what} in {len(self.layout)} layers for the pairs {', '.join(self.pairs)}"

    def _ranks(self) -> str:
        ranks = {self.rank_of(module, group) or 0 for module, groups in self.layout.items() for group in groups}
        low = sorted(ranks - {0})
        text = f"of rank {low[0]}" + (f" to {low[-1]}" if len(low) > 1 else "") if low else "dense"
        return f"{text}, or dense" if low and 0 in ranks else text

    def _facts(self) -> dict[str, Any]:
        sizes: dict[str, int] = {}
        for groups in self.layout.values():
            for group, count in groups.items():
                sizes[group] = sizes.get(group, 0) + count
        return {
            "pairs": ", ".join(self.pairs),
            "neurons by the pairs that train them": "; ".join(
                f"{group.replace(',', ' + ')}: {count:,}" for group, count in sorted(sizes.items())
            ),
            "layers": len(self.layout),
            "delta": self._ranks(),
            "mode": self.mode,
            **{f"chosen: {name}": value for name, value in (self.chosen or {}).items()},
            **(self.trained_on or {}),
        }


def with_card(
    config: PeftConfig, folder: Path | str, what: str, mergeable: bool, facts: Mapping[str, Any] | None = None
) -> None:
    """Put a section on loading into a folder's model card, instead of an earlier one.

    Args:
        config: of the saved adapter.
        folder: where PEFT has written the card.
        what: what is trained, in words.
        mergeable: whether the adapter can be merged into the base.
        facts: for a table; by default the pairs and what the configuration says of its training.
    """
    import transformers

    import neuroglot

    card = Path(folder) / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else "---\nlibrary_name: peft\n---\n"
    head, fence, body = _split_front_matter(_SECTION.sub("", text))
    base, kind = config.base_model_name_or_path, str(getattr(config.peft_type, "value", ""))
    merging = "model = model.merge_and_unload()  # optional: a plain model that needs neither peft nor neuroglot\n"
    pairs = ", ".join(getattr(config, "pairs", ()))
    if facts is None:
        facts = {"pairs": pairs, **(getattr(config, "trained_on", None) or {})}
    libraries = {"neuroglot": neuroglot, "peft": peft, "transformers": transformers, "torch": torch}
    versions = {"saved with": ", ".join(f"{name} {module.__version__}" for name, module in libraries.items())}
    cells = ((k, " ".join(str(v).split()).replace("|", "\\|")) for k, v in {**facts, **versions}.items())
    table = "\n".join(f"| {name} | {value} |" for name, value in cells)
    section = f"""{CARD_HEADING}

An adapter of {base or "a model"}{f" for {pairs}" if pairs else ""}, made with neuroglot.
It trains {what}.
Every other weight is that of the base model, bit for bit.
PEFT knows its type once `neuroglot` has been imported (`pip install neuroglot`):

```python
import neuroglot  # before or after peft; without it PEFT raises KeyError: {kind!r}
from peft import PeftModel
from transformers import AutoModelForImageTextToText

model = AutoModelForImageTextToText.from_pretrained({base or "path/to/the/base/model"!r})
model = PeftModel.from_pretrained(model, "path/to/this/folder")
{merging if mergeable else ""}```

### What was trained

| | |
|---|---|
{table}

### Licence

None is stated here. An adapter is of use only with its base model, whose licence holds for the two together.
"""
    body = _own_lines(body).lstrip()
    card.write_text(f"{head}{fence}\n{section}" + (f"\n{body}\n" if body else ""), encoding="utf-8")


def _chosen(selection: Selection) -> dict[str, Any]:
    """Return how a selection was made, from its meta, for the JSON."""
    meta, facts = selection.meta, {}
    if "method" in meta:
        facts["method"] = meta["method"]
    if (budget := (meta.get("options") or {}).get("budget")) is not None:
        facts["budget"] = budget
    if total := sum((meta.get("neurons") or {}).values()):
        facts["share"] = f"{len(selection):,} of {total:,} neurons of {', '.join(meta['neurons'])}"
    return facts


def _own_lines(body: str) -> str:
    """Return a card's body without PEFT's template: text that a person wrote stays, under its headings."""
    form = set(ModelCard.from_template(ModelCardData()).text.splitlines())
    body = re.sub(r"^### Framework versions\n\n- PEFT .*\n?", "", body, flags=re.MULTILINE)
    lines: list[str] = []
    headings: list[str] = []
    for line in body.splitlines():
        if line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            headings = [one for one in headings if len(one) - len(one.lstrip("#")) < level]
            headings.append(line)
        elif line.strip() and line not in form:
            lines += [part for heading in headings for part in ("", heading, "")]
            headings = []
            lines.append(line)
        elif lines and not headings and not line.strip():
            lines.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


_SECTION = re.compile(rf"^{CARD_HEADING}\n.*?(?=^##? |\Z)", re.DOTALL | re.MULTILINE)


def _split_front_matter(text: str) -> tuple[str, str, str]:
    """Split a card into its YAML front matter, the closing fence and the rest."""
    if text.startswith("---"):
        end = text.find("\n---", 3)
        if end >= 0:
            return text[:end], "\n---\n", text[end + 4 :]
    return "", "", text
