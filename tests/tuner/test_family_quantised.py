"""nf4 over every family: a base of the real classes, stored, loaded by bitsandbytes, and trained additively.

What quantised layers do in detail is in `test_quantised.py`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import families
import pytest
import torch
from families import FAMILIES, selection
from peft import PeftModel, get_peft_model
from tiny_llava import deltas, fill_deltas, group_of
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from neuroglot.selection import Selection
from neuroglot.training import audit, snapshot
from neuroglot.tuner import NeuroglotConfig, active_pair, modes

bnb = pytest.importorskip("bitsandbytes", reason='needs bitsandbytes: pip install "neuroglot[quant]"')

pytestmark = [
    pytest.mark.turns,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


WIDTH = 64  # nf4 quantises 64 values of a row together
HEADS = 4


def build(family: str) -> tuple[nn.Module, families.Inputs]:
    """Return a family's model with every matrix as wide as nf4 needs it, and its inputs, which fit any width."""
    model, inputs = families.build(family)
    config = copy.deepcopy(model.config)
    vision, text = config.vision_config, config.text_config
    for part, fields in (
        (config, {"projection_dim": WIDTH, "hidden_size": WIDTH}),
        (vision, {"out_hidden_size": WIDTH, "embed_dim": WIDTH, "mlp_ratio": 2, "projection_dim": WIDTH}),
        (vision, {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH}),
        (text, {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "head_dim": WIDTH // HEADS}),
    ):
        for name, value in fields.items():
            if name in part.to_dict():
                setattr(part, name, value)
    if "head_dim" in vision.to_dict():
        vision.head_dim = WIDTH // vision.num_attention_heads
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        text.rope_parameters["mrope_section"] = [4, 2, 2]  # half a head
    torch.manual_seed(0)
    wide = type(model)(config)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return wide.eval(), inputs


class Stored:
    """A family's model in a folder.

    Attributes:
        family: its name.
        kind: its class.
        inputs: of the family.
        chosen: neurons of every layer.
        folder: of the base.
    """

    def __init__(self, family: str, folder: Path) -> None:
        model, self.inputs = build(family)
        self.family, self.kind, self.folder = family, type(model), folder
        self.chosen: Selection = selection(model, bare=True)
        model.save_pretrained(folder)

    def load(self, dtype: torch.dtype = torch.float32, **kwargs: object) -> nn.Module:
        return self.kind.from_pretrained(self.folder, dtype=dtype, **kwargs).eval()

    def quantised(self) -> nn.Module:
        return self.load(quantization_config=BitsAndBytesConfig(**NF4), device_map="cpu")

    def adapted(self) -> PeftModel:
        model = get_peft_model(self.quantised(), NeuroglotConfig.from_selection(self.chosen))
        fill_deltas(model, 0.2)
        return model.eval()

    def logits(self, model: nn.Module) -> Tensor:
        return logits(model, self.inputs)


@torch.no_grad()
def logits(model: nn.Module, inputs: families.Inputs) -> Tensor:
    dtype = model.dtype
    return model(**{k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}).logits


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stored]:
    """Return what stores a family's model, once."""
    return functools.cache(lambda family: Stored(family, tmp_path_factory.mktemp(family)))


each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
def test_only_the_active_pairs_rows_learn(store: Callable[[str], Stored], family: str) -> None:
    stored = store(family)
    model = stored.adapted()
    dense = set(stored.chosen.axes)  # a bare matrix belongs to no Linear, which is what bitsandbytes replaces
    wanted = len(stored.chosen.rows) - len(dense)
    assert modes(model).startswith(f"{wanted} layers additive (its weight is a ")
    assert all(isinstance(model.get_submodule(f"base_model.model.{name}").base_layer, bnb.nn.Linear4bit)
               for name in stored.chosen.rows if name not in dense)  # fmt: skip
    assert (stored.logits(model) - stored.logits(stored.quantised())).abs().max() > 1e-3
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.1)
    model.train()
    with active_pair(model, "en-de"):
        model(**stored.inputs).loss.backward()
    mine = {name for name in deltas(model) if "en-de" in group_of(name)}
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(grads) == mine
    assert [name for name, grad in grads.items() if not (grad.isfinite().all() and grad.any())] == []
    optimizer.step()
    after = model.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == mine


@each_family
def test_saved_to_the_bit_and_merged_into_bfloat16(
    store: Callable[[str], Stored], family: str, tmp_path: Path
) -> None:
    stored = store(family)
    model = stored.adapted()
    expected, plain = stored.logits(model), stored.logits(stored.quantised())
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(stored.quantised(), tmp_path).eval()
    assert torch.equal(stored.logits(again), expected)
    assert all(torch.equal(value, deltas(model)[name]) for name, value in deltas(again).items())

    base = stored.load(torch.bfloat16)
    before, unmerged = snapshot(base), stored.logits(base)
    live = PeftModel.from_pretrained(stored.load(torch.bfloat16), tmp_path).eval()
    wrapped = PeftModel.from_pretrained(base, tmp_path)
    wrapped.merge_adapter(safe_merge=True)
    report = audit(before, wrapped, stored.chosen)
    assert report.outside == {}
    assert report.trained == report.selected
    merged = wrapped.merge_and_unload().eval()
    assert type(merged) is stored.kind
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert torch.equal(stored.logits(merged), stored.logits(live))
    # what bfloat16 and nf4 round must not hide what was trained
    assert (stored.logits(merged) - expected).abs().mean() < (unmerged - stored.logits(merged)).abs().mean()
    assert (plain - expected).abs().max() > 1e-3
