"""What `step.py` measures: the two models with a batch each, and the ways to train chosen rows of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import ShiraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import LlamaConfig, LlamaForCausalLM

from neuroglot.data.batch import Batcher
from neuroglot.data.corpus import Sizes, load_corpus
from neuroglot.models.load import EMBEDDED, load_model, load_processor
from neuroglot.selection import Selection
from neuroglot.training.methods import linear_names, prepare
from neuroglot.tuner import NeuroglotConfig

METHODS = ("full", "mask", "compose", "lora", "shira", "additive", "sliced", "sliced-lowrank")
TOP = 0.4
PAIR = "en-de"

DECODER = {
    "full": {"hidden_size": 896, "intermediate_size": 2432, "num_hidden_layers": 10, "num_attention_heads": 14,
             "num_key_value_heads": 14, "vocab_size": 4096},
    "small": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 5, "num_attention_heads": 4,
              "num_key_value_heads": 4, "vocab_size": 128},
}  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """A base model, a batch for it, and the names of the layers to train by the name of the choice."""

    name: str
    base: nn.Module
    batch: Mapping[str, Any]
    layers: Mapping[str, Sequence[str]]
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The base's."""
        return next(self.base.parameters()).dtype

    def forward(self, model: nn.Module) -> Tensor:
        """Return the loss of the batch; a base in lower precision runs under autocast, as the Trainer runs it."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return model(**self.batch).loss

    def frozen_flops(self, rows: Mapping[str, Tensor]) -> int:
        """Return the FLOPs of dW that all but these rows of their layers take: 2 x tokens x inputs x other rows."""
        total = 0
        chosen = {self.base.get_submodule(name): index for name, index in rows.items()}

        def add(module: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
            nonlocal total
            total += 2 * inputs[0].numel() * (module.out_features - len(chosen[module]))

        handles = [module.register_forward_pre_hook(add) for module in chosen]
        with torch.no_grad():
            self.forward(self.base)
        for handle in handles:
            handle.remove()
        return total


def decoder(size: str, tokens: int, device: torch.device, dtype: torch.dtype) -> Workload:
    """A random Llama and sequences of at most 1,024 random tokens."""
    torch.manual_seed(0)
    options = DECODER[size]
    base = LlamaForCausalLM(LlamaConfig(**options, tie_word_embeddings=False, use_cache=False)).to(device, dtype)
    length = min(tokens, 1024)
    ids = torch.randint(options["vocab_size"], (max(1, tokens // length), length), device=device)
    return Workload("decoder", base, {"input_ids": ids, "labels": ids}, choices(base), device)


def tiny(size: str, device: torch.device, dtype: torch.dtype) -> Workload:
    """The embedded model and as many signs as a batch of the quickstart holds."""
    count = 16 if size == "full" else 2
    corpus = load_corpus("signs", "image_translation", [PAIR], Sizes(count, 0, 0, 0, 0), seed=0, describes=False)
    batch = Batcher(load_processor(EMBEDDED)).encode(corpus.train)
    base = load_model(EMBEDDED, str(dtype).removeprefix("torch.")).to(device)
    moved = {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in batch.items()}
    return Workload("tiny", base, {**moved, "use_cache": False}, choices(base), device)


def choices(base: nn.Module) -> dict[str, list[str]]:
    """Every Linear but the head, and those of the upper share of the blocks, in the order in which data passes."""
    names = linear_names(base)
    if any("vision" in name for name in names):
        names.sort(key=lambda name: "vision" not in name)  # a stable sort: modules may list the language part first
    block = re.compile(r"(.*\.layers\.\d+)\.")
    blocks = list(dict.fromkeys(found[1] for name in names if (found := block.match(name))))
    top = blocks[len(blocks) - round(TOP * len(blocks)) :]
    return {"all": names, "top40": [name for name in names if (found := block.match(name)) and found[1] in top]}


class AddRows(nn.Module):
    """Composes W' = W + the delta on the chosen rows; autograd gives the delta its gradient through a full dW'."""

    def __init__(self, original: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.delta = nn.Parameter(original.new_zeros((len(rows), *original.shape[1:]), dtype=torch.float32))

    def forward(self, original: Tensor) -> Tensor:
        """Return a new weight."""
        return original.index_add(0, self.rows, self.delta.to(original.dtype))


@dataclass
class Setting:
    """Rows of some layers of a model, and the ranks that match their number of parameters.

    Attributes:
        base: the model.
        rows: layer -> row indices.
        asked: the rank that LoRA and SHiRA shall have; by default that of as many parameters as the rows have.
        rank: what they have.
        lowrank: of low-rank rows; below the fewest rows of a layer, since the tuner keeps a layer dense from there on.
    """

    base: nn.Module
    rows: Mapping[str, Tensor]
    asked: int | None = None
    rank: int = field(init=False)
    lowrank: int = field(init=False)

    def __post_init__(self) -> None:
        linears = {name: self.base.get_submodule(name) for name in self.rows}
        shapes = [(len(self.rows[n]), m.in_features, m.out_features, m.bias is not None) for n, m in linears.items()]
        entries = sum(k * (i + biased) for k, i, _, biased in shapes)
        self.rank = self.asked or max(1, round(entries / sum(i + o for _, i, o, _ in shapes)))
        lora = self.rank * sum(i + o for _, i, o, _ in shapes)
        fewest = min(k for k, *_ in shapes)
        low = {
            r: sum((k * i if k <= r else r * (k + i)) + k * biased for k, i, _, biased in shapes)
            for r in range(1, max(2, fewest))
        }
        self.lowrank = min(low, key=lambda r: abs(low[r] - lora))

    def build(self, method: str) -> nn.Module:
        """Return a copy of the base that trains by a method."""
        model = copy.deepcopy(self.base).train().requires_grad_(False)
        chosen = {name: model.get_submodule(name) for name in self.rows}
        if method == "lora":
            return prepare(model, "lora", r=self.rank, modules=list(chosen))
        if method == "shira":
            names = "|".join(map(re.escape, chosen))  # a pattern, because PEFT takes a list for suffixes
            return get_peft_model(model, ShiraConfig(r=self.rank, random_seed=0, target_modules=names))
        if method in ("additive", "sliced", "sliced-lowrank"):
            selection = Selection((PAIR,), {name: {frozenset({PAIR}): rows.cpu()} for name, rows in self.rows.items()})
            mode, _, low = method.partition("-")
            rank = self.lowrank if low else None
            return get_peft_model(model, NeuroglotConfig.from_selection(selection, mode=mode, rank=rank))
        for name, linear in chosen.items():
            if method == "compose":
                for part, value in list(linear.named_parameters()):
                    parametrize.register_parametrization(linear, part, AddRows(value, self.rows[name]))
                continue
            for value in linear.parameters():
                value.requires_grad_(True)
                if method == "mask":
                    value.register_post_accumulate_grad_hook(_mask(value, self.rows[name]))
        return model


def _mask(value: Tensor, rows: Tensor) -> Callable[[Tensor], None]:
    kept = torch.zeros_like(value[:, :1] if value.dim() > 1 else value).index_fill_(0, rows, 1.0)

    def zero_others(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.mul_(kept)

    return zero_others
