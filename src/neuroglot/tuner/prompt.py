"""Prompt tuning for models that read images: learned vectors in front of everything that the model reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from neuroglot.errors import UserError
from neuroglot.tuner.config import OwnType, StrictConfig, StrictTuner, with_card

# ---- Injection: wrapping modules by their full names ----------------------------------------------------------------


class ByName(StrictTuner):
    """Wraps each of a configuration's `target_modules` in a `tuner_layer_cls`, which `_fill` gives its adapter."""

    @abstractmethod
    def _fill(self, layer: Any, config: Any, adapter: str, name: str) -> None:
        """Add an adapter to the layer of a module."""

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> bool:
        return key in (peft_config.target_modules or ())  # type: ignore[attr-defined]

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        kind: Any = self.tuner_layer_cls
        layer = target if isinstance(target, kind) else kind(target).train(target.training)
        self._fill(layer, peft_config, adapter_name, current_key)
        if layer is not target:
            setattr(parent, target_name, layer)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own looks for a `weight`


# ---- Prompt ---------------------------------------------------------------------------------------------------------
# PEFT's own prompt tuning hands the model embeddings in place of token ids. Models that place images by their tokens
# then lose what they need: Qwen-VL falls back to one-dimensional positions in training and fails in generation,
# PaliGemma and Gemma 3 lose the token types that let a prefix see itself. Here the vectors have their own positions,
# with ids beyond every vocabulary: what a model derives from ids and masks is then the same as for text.
#
# From outside the model is unchanged: its inputs and what it returns, logits and generated ids, do not include the
# positions of the vectors.

FIRST_ID = 1 << 30
"""The id of the first vector; no vocabulary is that large."""
FILL = {"input_ids": 0, "attention_mask": 1, "labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}
"""The value at the vectors' positions, for each input with one column per token."""


@dataclass
class PromptConfig(StrictConfig):
    """How many vectors are learned.

    Args:
        tokens: number of vectors.
        seed: of the random tokens whose embeddings they start as.
        module: full name of the input embeddings; set by the model.
        pairs: the pairs that it is trained for, in text form.
        trained_on: what it was trained on, for the JSON and the model card.
    """

    tokens: int = field(default=16, metadata={"help": "Number of vectors."})
    seed: int = field(default=0, metadata={"help": "Of the embeddings they start as."})
    module: str | None = field(default=None, metadata={"help": "The input embeddings."})
    pairs: list[str] = field(default_factory=list, metadata={"help": "The pairs that it is trained for."})
    trained_on: dict[str, Any] | None = field(default=None, metadata={"help": "What it was trained on."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PROMPT
        if self.tokens < 1:
            raise UserError(f"prompt: tokens must be 1 or more, got {self.tokens}")

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The exact full name of the embeddings."""
        return () if self.module is None else (self.module,)

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the JSON, and into the model card how to load the adapter."""
        super().save_pretrained(save_directory, **kwargs)
        with_card(self, save_directory, f"{self.tokens} vectors in front of what the model reads", mergeable=False)


PROMPT = OwnType("NEUROGLOT_PROMPT")


class PromptEmbedding(nn.Module, BaseTunerLayer):
    """Wraps the input embeddings [V, D]; ids from `FIRST_ID` on are learned vectors [n, D]."""

    adapter_layer_names = ("neuroglot_prompt",)
    other_param_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.neuroglot_prompt = nn.ParameterDict()
        self.merged_adapters: list[str] = []
        self._disable_adapters = False

    def update_layer(self, adapter: str, tokens: int, seed: int) -> None:
        """Add an adapter's vectors, which start as embeddings of drawn tokens (Lester et al., 2021, section 3.2)."""
        weight = self.base_layer.get_parameter("weight")
        drawn = torch.randint(len(weight), (tokens,), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            start = self.base_layer(drawn.to(weight.device)).float()  # some models scale what they look up
        self.neuroglot_prompt[adapter] = nn.Parameter(start.clone())
        self.set_adapter(self.active_adapters if len(self.neuroglot_prompt) > 1 else [adapter])

    @property
    def vectors(self) -> Tensor | None:
        """The active vectors [n, D]; None where adapters are disabled."""
        if self.disable_adapters or not self.active_adapters:
            return None
        return self.neuroglot_prompt[self.active_adapters[0]]

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [..., L] to embeddings [..., L, D]."""
        is_vector = ids >= FIRST_ID
        out: Tensor = self.base_layer(ids.masked_fill(is_vector, 0))
        vectors = self.vectors
        if vectors is None or not bool(is_vector.any()):
            return out
        indices = (ids - FIRST_ID).clamp(0, len(vectors) - 1)
        return torch.where(is_vector.unsqueeze(-1), vectors[indices].to(out.dtype), out)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: there is no weight that vectors could be merged into.

        Raises:
            ValueError: always.
        """
        raise ValueError("a learned prompt cannot be merged into weights; use the adapter as it is")

    def unmerge(self) -> None:
        """Do nothing: nothing is ever merged."""


class PromptModel(ByName):
    """A model with learned vectors in front; made by `peft.get_peft_model` from a `PromptConfig`."""

    prefix = "neuroglot_prompt"
    tuner_layer_cls = PromptEmbedding

    def _check_tied_modules(self, model: nn.Module, peft_config: PeftConfig) -> None:
        """Nothing to check: no row of the embeddings is trained, so a head tied to them stays tied."""

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Find the embeddings, where the configuration does not name them."""
        inside = _embeddings(model)
        inside = inside.base_layer if isinstance(inside, PromptEmbedding) else inside
        name = next(name for name, module in model.named_modules() if _unwrapped(module) is inside)
        if peft_config.module not in (None, name):  # type: ignore[attr-defined]
            raise UserError(
                f"prompt: the model's embeddings are {name}, and the adapter's were "
                f"{peft_config.module}; use the base model that it was made for"  # type: ignore[attr-defined]
            )
        peft_config.module = name  # type: ignore[attr-defined]

    def _fill(self, layer: Any, config: Any, adapter: str, name: str) -> None:
        layer.update_layer(adapter, config.tokens, config.seed)

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        if "_neuroglot_prompter" not in vars(model):
            vars(model)["_neuroglot_prompter"] = _Prompter(model)

    def unload(self) -> nn.Module:
        """Return the plain model as it was."""
        vars(self.model).pop("_neuroglot_prompter").detach()
        return super().unload()


class _Prompter:
    """Puts the vectors' positions in front of a model's inputs, and removes them from what it returns.

    `generate` computes positions before it calls the model, so it needs the longer inputs itself. It is replaced on
    this one model object, because hooks exist for `forward` only.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._generate = model, model.generate
        self._added = self._length = 0
        self._hooks = (
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        )
        vars(model)["generate"] = self.generate

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        del vars(self._model)["generate"]

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Generate with the vectors in front; the returned ids are without them."""
        if inputs is not None:
            kwargs["input_ids"] = inputs
        count = self._count(kwargs)
        if "max_length" in kwargs:
            kwargs["max_length"] += count
        out = self._generate(**_lengthened(kwargs, count))
        if isinstance(out, Tensor):
            return out[:, count:]
        out.sequences = out.sequences[:, count:]
        return out

    def _count(self, inputs: Mapping[str, Any]) -> int:
        """Return how many positions to put in front: none where they are there already, or in the cache."""
        vectors = _embeddings(self._model).vectors
        if vectors is None:
            return 0
        ids, cache = inputs.get("input_ids"), inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            return 0
        if ids is None:
            raise UserError("a learned prompt needs input_ids, got none (inputs_embeds hold no place for its vectors)")
        return 0 if bool((ids[:, 0] >= FIRST_ID).any()) else len(vectors)

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            kwargs, args = {"input_ids": args[0], **kwargs}, args[1:]
        if args:
            raise UserError("a model with a learned prompt takes keyword arguments after input_ids; name them")
        count = self._count(kwargs)
        lengthened = _lengthened(kwargs, count)
        self._added, self._length = count, lengthened["input_ids"].shape[1] if count else 0
        return (), lengthened

    def _after(self, model: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        logits = getattr(out, "logits", None)
        if self._added and logits is not None and logits.shape[1] == self._length:  # all columns, not a few
            out.logits = logits[:, self._added :]


def _lengthened(inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return inputs with `count` positions in front of every column."""
    if not count:
        return dict(inputs)
    lengthened, to_keep = dict(inputs), inputs.get("logits_to_keep")
    rows = len(inputs["input_ids"])
    for name, fill in FILL.items():
        value = inputs.get(name)
        if name == "labels" and isinstance(to_keep, Tensor):
            continue  # they are of the kept positions only
        if isinstance(value, Tensor) and value.dim() == 2:
            front = value.new_full((rows, count), fill)
            if name == "input_ids":
                front += FIRST_ID + torch.arange(count, device=value.device, dtype=value.dtype)
            lengthened[name] = torch.cat([front, value], dim=1)
    if isinstance(to_keep, Tensor):
        lengthened["logits_to_keep"] = to_keep + count
    return lengthened


def _embeddings(model: nn.Module) -> Any:
    return model.get_input_embeddings()  # type: ignore[operator]


def _unwrapped(module: nn.Module) -> nn.Module:
    return module.base_layer if isinstance(module, PromptEmbedding) else module
