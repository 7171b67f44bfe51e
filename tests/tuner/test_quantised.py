"""A base quantised by bitsandbytes: nf4 and int8 train additively, go back to the bit, and merge as PEFT merges."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_llava import GROUPS, IMAGE, PAIRS, batch, deltas, fill_deltas, group_of, logits
from torch import nn
from transformers import BitsAndBytesConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from neuroglot.errors import UserError
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig, active_pair, modes

bnb = pytest.importorskip("bitsandbytes", reason='needs bitsandbytes: pip install "neuroglot[quant]"')

pytestmark = [
    pytest.mark.turns,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line per int8 product of float32 inputs

WIDTH = 64  # nf4 quantises 64 values of a row together
KINDS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "nf4, nested": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.float32,
        "bnb_4bit_use_double_quant": True,
    },
    "int8": {"load_in_8bit": True},
}
each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if "nested" in kind else kind for kind in KINDS]
)
MODULES = {
    "model.vision_tower.encoder.layers.0.mlp.fc1": 2 * WIDTH,
    "model.multi_modal_projector.linear_2": WIDTH,
    "model.language_model.layers.0.self_attn.q_proj": WIDTH,
    "model.language_model.layers.1.mlp.gate_proj": 2 * WIDTH,
}
COLUMNS = {"model.language_model.layers.1.mlp.down_proj": 2 * WIDTH}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the real classes, saved without quantisation."""
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, image_size=16, patch_size=8),
        text_config=LlamaConfig(**shape, vocab_size=64, attention_bias=True, tie_word_embeddings=False),
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("base")
    model.save_pretrained(path)
    return path


def quantised(folder: Path, kind: str) -> nn.Module:
    settings = BitsAndBytesConfig(**KINDS[kind])
    return LlavaForConditionalGeneration.from_pretrained(folder, quantization_config=settings, device_map="cpu").eval()


def selection() -> Selection:
    g = torch.Generator().manual_seed(0)
    rows = {}
    for name, size in (MODULES | COLUMNS).items():
        order = torch.randperm(size, generator=g)
        rows[name] = {group: order[i * 3 : i * 3 + 3].sort().values for i, group in enumerate(GROUPS)}
    return Selection(PAIRS, rows, axes=dict.fromkeys(COLUMNS, 1))


def tuned(folder: Path, kind: str, fill: float = 0.1, **kwargs: object) -> PeftModel:
    model = get_peft_model(quantised(folder, kind), NeuroglotConfig.from_selection(selection(), **kwargs))
    fill_deltas(model, fill)
    return model.eval()


def far(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().max().item() > 1e-2


@each_kind
def test_layers_are_quantised_and_go_additive(folder: Path, kind: str) -> None:
    base, model = quantised(folder, kind), tuned(folder, kind, 0.0)
    wanted = bnb.nn.Linear4bit if kind != "int8" else bnb.nn.Linear8bitLt
    assert all(isinstance(base.get_submodule(name), wanted) for name in MODULES | COLUMNS)
    assert modes(model).startswith("5 layers additive (its weight is a ")
    assert torch.equal(logits(model), logits(base)), "deltas of zero change nothing"


@each_kind
def test_sliced_is_refused_in_one_line(folder: Path, kind: str) -> None:
    with pytest.raises(UserError, match="mode sliced does not work here, its weight is a") as error:
        tuned(folder, kind, mode="sliced")
    assert "\n" not in str(error.value)
    assert "use mode='auto' or 'additive'" in str(error.value)


@each_kind
@pytest.mark.parametrize("rank", [None, 2])
def test_training_moves_its_own_groups(folder: Path, kind: str, rank: int | None) -> None:
    model = tuned(folder, kind, rank=rank).train()
    base = {name: p.detach().clone() for name, p in model.named_parameters() if "neuroglot_" not in name}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for step, pair in enumerate(("en-de", "en-fr", "en-de", "en-fr")):
        before = {name: p.detach().clone() for name, p in deltas(model).items()}
        with active_pair(model, pair):
            model(**batch(step)).loss.backward()
        for name, parameter in deltas(model).items():
            assert (parameter.grad is not None) is (pair in group_of(name)), name
            assert parameter.grad is None or parameter.grad.abs().max() > 0, name
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in deltas(model).items():
            assert torch.equal(parameter, before[name]) is (pair not in group_of(name)), name
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in base.items()), "the base moved"


@each_kind
def test_saving_and_loading_is_exact(folder: Path, kind: str, tmp_path: Path) -> None:
    model = tuned(folder, kind)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(quantised(folder, kind), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    assert far(logits(model), logits(quantised(folder, kind)))


@each_kind
def test_disabling_gives_the_base_back_to_the_bit(folder: Path, kind: str) -> None:
    expected = logits(quantised(folder, kind))
    model = tuned(folder, kind)
    adapted = logits(model)
    assert far(adapted, expected)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), adapted)
    assert torch.equal(logits(model.unload()), expected)


@each_kind
@pytest.mark.parametrize("order", ["fresh", "after a forward"])
def test_merging_is_as_close_as_quantisation_allows(folder: Path, kind: str, order: str) -> None:
    """Merging rounds the whole weight again, as PEFT's LoRA does; unmerging gives the old weight back to the bit."""
    model, expected = tuned(folder, kind), logits(quantised(folder, kind))
    adapted = logits(tuned(folder, kind))
    if order == "after a forward":  # bitsandbytes repacks weights and fills caches in the first one
        logits(model)
    before = {name: dense(model, name) for name in MODULES | COLUMNS}
    bias_before = {name: bias(model, name) for name in MODULES | COLUMNS}
    change = {name: layer(model, name).get_delta_weight("default") for name in before}
    model.merge_adapter()
    merged = logits(model)
    for name, old in before.items():
        asked, found = old + change[name], dense(model, name)
        coarse = asked.abs().amax(dim=1, keepdim=True) / (127 if kind == "int8" else 6)
        assert ((found - asked).abs() <= coarse * 1.02).all(), name
        assert far(found, old), name
    noise = (merged - adapted).abs().mean().item()
    assert noise < (expected - adapted).abs().mean().item() / 2, "merged is nearer to the base than to the adapter"
    model.unmerge_adapter()
    for name, old in before.items():
        assert torch.equal(dense(model, name), old), name
        now = bias(model, name)
        assert now is bias_before[name] is None or torch.equal(now, bias_before[name]), name
    assert torch.equal(logits(model), adapted)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)


def layer(model: PeftModel, name: str) -> nn.Module:
    return model.get_base_model().get_submodule(name)


def dense(model: PeftModel, name: str) -> torch.Tensor:
    return layer(model, name).get_base_weight().float().clone()


def bias(model: PeftModel, name: str) -> torch.Tensor | None:
    found = layer(model, name).base_layer.bias
    return None if found is None else found.detach().clone()


@each_kind
def test_merge_and_unload_leaves_a_quantised_model(folder: Path, kind: str) -> None:
    model = tuned(folder, kind)
    adapted, expected = logits(model), logits(quantised(folder, kind))
    plain = model.merge_and_unload()
    assert isinstance(plain.get_submodule(next(iter(MODULES))), bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)
    assert (logits(plain) - adapted).abs().mean() < (expected - adapted).abs().mean() / 2


@each_kind
def test_a_copy_is_a_model_of_its_own(folder: Path, kind: str) -> None:
    model = tuned(folder, kind)
    expected = logits(model)
    other = copy.deepcopy(model)
    fill_deltas(other, 0.3, seed=5)
    assert far(logits(other), expected)
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("mode", ["sliced", "additive"])
def test_eight_bit_adam_leaves_foreign_groups_alone(mode: str) -> None:
    """On a dense base, too; bitsandbytes moves parameters behind their version counters."""
    from tiny_llava import tiny_llava, tiny_selection

    config = NeuroglotConfig.from_selection(tiny_selection(), mode=mode)
    model = get_peft_model(tiny_llava(bias=True), config).train()
    fill_deltas(model, 0.05)
    # small tensors are kept in 32 bits by default, and these are small
    optimizer = bnb.optim.AdamW8bit(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1, min_8bit_size=0
    )

    def state() -> dict[str, dict[str, torch.Tensor]]:
        return {
            name: {"value": p.detach().clone()}
            | {k: torch.as_tensor(v).clone() for k, v in optimizer.state.get(p, {}).items()}
            for name, p in deltas(model).items()
        }

    for step, pairs in enumerate((("en-de",), ("en-fr",), ("en-de", "en-cs"), ("en-fr",), ("en-cs",))):
        old = state()
        for pair in pairs:
            with active_pair(model, pair):
                model(**batch(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        new = state()
        for name in old:
            same = old[name].keys() == new[name].keys() and all(
                torch.equal(old[name][k], new[name][k]) for k in old[name]
            )
            assert same is not bool(group_of(name) & set(pairs)), (step, name)
    kept = {value["state1"].dtype for value in state().values()}
    assert kept == {torch.uint8}, "the state was to be of 8 bits"
    fresh = get_peft_model(tiny_llava(bias=True), NeuroglotConfig.from_selection(tiny_selection(), mode=mode)).eval()
    with torch.no_grad():
        for name, parameter in deltas(fresh).items():
            parameter.copy_(deltas(model)[name])
    assert torch.equal(logits(model), logits(fresh)), "the live model is stale"
