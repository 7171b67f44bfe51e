"""The baseline methods: exactly the right parameters receive gradients and move, and nothing else by a bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import pytest
import torch
from peft import PeftModel
from tiny_llava import PAIRS, batch, logits, tiny_llava
from torch import nn

import neuroglot.tuner  # noqa: F401  (registers the adapter types)
from neuroglot.config import TrainSection
from neuroglot.errors import UserError
from neuroglot.neurons import inventory
from neuroglot.training import (
    audit_names,
    changed,
    layer_entries,
    prepare,
    snapshot,
    train,
    trained_names,
    trained_vectors,
)

pytestmark = pytest.mark.turns


ITEMS = [(seed, PAIRS[seed % 3]) for seed in range(12)]
PREFIXES = {
    "vision": ("model.vision_tower.",),
    "connector": ("model.multi_modal_projector.",),
    "language": ("model.language_model.", "lm_head."),
}
NORMS = ("norm", "layrnorm")


def collate(items: list[tuple[int, str]]) -> dict[str, Any]:
    parts = [batch(seed, size=1) for seed, _ in items]
    return {**{key: torch.cat([part[key] for part in parts]) for key in parts[0]}, "pair": items[0][1]}


def fit(model: nn.Module, folder: Path, **changes: Any) -> None:
    """Train with momentum and weight decay, which move what only has no gradient."""
    options = TrainSection(**{"steps": 6, "batch_size": 2, "lr": 1e-2, "weight_decay": 0.1, **changes})
    train(model, ITEMS, collate, options, folder, pairs=[pair for _, pair in ITEMS])


def expected(method: str, base: nn.Module) -> set[str]:
    """Names of the base's parameters that a method trains, from how they are called."""
    names = {name for name, _ in base.named_parameters()}
    if method in PREFIXES:
        return {name for name in names if name.startswith(PREFIXES[method])}
    if method == "norms":
        return {name for name in names if any(word in name.rpartition(".")[0].rpartition(".")[2] for word in NORMS)}
    return {name for name in names if name.endswith(".bias")} if method == "bitfit" else set()


def feeds(name: str) -> bool:
    """Whether anything depends on a parameter: with feature layer -2 nothing does on the tower's end, ..."""
    dead = ("encoder.layers.1.", "post_layernorm", "k_proj.bias")  # ... nor, by softmax, on the keys' bias
    return not any(part in name for part in dead)


@pytest.mark.parametrize(
    "method",
    ["vision", "bitfit", "norms", "prompt", "dora"]
    + [pytest.param(method, marks=pytest.mark.slow) for method in ("connector", "language", "lora")],
)
def test_what_is_trained_moves_and_nothing_else_by_a_bit(tmp_path: Path, method: str) -> None:
    before = snapshot(tiny_llava(bias=True))
    model = prepare(tiny_llava(bias=True), method)
    names = expected(method, tiny_llava(bias=True))
    assert trained_names(model) == names
    fit(model, tmp_path)
    if method in ("bitfit", "norms"):
        assert changed(before, model) == {}  # the delta stands beside
        model.base_model.merge_adapter()
    moved = set(changed(before, model))
    assert moved <= names
    assert {name for name in names if feeds(name)} <= moved
    found = audit_names(before, model, names)
    assert (found.selected, found.trained, found.outside) == (len(names), len(moved), ())


@pytest.mark.parametrize("method", ["bitfit", "prompt", "dora", pytest.param("norms", marks=pytest.mark.slow)])
def test_an_adapter_comes_back_from_disk_and_goes_into_the_weights(tmp_path: Path, method: str) -> None:
    plain = logits(tiny_llava(bias=True))
    model = prepare(tiny_llava(bias=True), method)
    fit(model, tmp_path / "work")
    out = logits(model)
    assert (out - plain).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(tiny_llava(bias=True), str(tmp_path / "adapter"))
    assert torch.equal(logits(again), out)
    if method == "prompt":
        assert torch.equal(logits(again.unload()), plain)
        return
    merged = again.merge_and_unload()
    assert type(merged) is type(tiny_llava())
    assert not any("neuroglot" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(logits(merged), out, rtol=0, atol=0 if method != "dora" else 1e-4)


@pytest.mark.parametrize("method", ["bitfit", "norms"])
def test_vectors_are_float32_beside_a_bfloat16_base_and_unmerge_to_its_bits(tmp_path: Path, method: str) -> None:
    base = tiny_llava(bias=True).to(torch.bfloat16)
    before = snapshot(base)
    model = prepare(base, method)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(number))
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch(7).items()}
    with torch.no_grad():
        out = model(**inputs).logits
        model.base_model.merge_adapter()
        assert torch.equal(model(**inputs).logits, out)
    assert set(changed(before, model)) == expected(method, base_of(model))
    model.base_model.unmerge_adapter()
    assert changed(before, model) == {}


def base_of(model: Any) -> nn.Module:
    """A base of the same names; the model's own has wrappers in them."""
    return tiny_llava(bias=True)


def test_a_llama_without_biases_says_where_the_others_are() -> None:
    model = prepare(tiny_llava(), "bitfit")
    assert "language none" in trained_vectors(model)
    assert all("language_model" not in name for name in trained_names(model))
    bare = nn.Sequential(nn.Linear(3, 3, bias=False))
    with pytest.raises(UserError, match="has no bias in any layer; train its norms"):
        prepare(bare, "bitfit")
    with pytest.raises(UserError, match="no LayerNorm or RMSNorm"):
        prepare(bare, "norms")


def test_trained_numbers_are_counted_where_they_are() -> None:
    base = tiny_llava()
    layers = inventory(base)
    sizes = {layer.name: (layer.inputs, layer.neurons, layer.bias) for layer in layers}
    for method, count in (("lora", 0), ("dora", 1)):
        found = layer_entries(prepare(tiny_llava(), method, r=3), list(sizes))
        assert found == {name: 3 * (i + o) + count * o for name, (i, o, _) in sizes.items()}
    assert layer_entries(prepare(tiny_llava(), "bitfit"), list(sizes)) == {n: o for n, (_, o, b) in sizes.items() if b}
    assert layer_entries(prepare(tiny_llava(), "prompt"), list(sizes)) == {}
    whole = layer_entries(prepare(tiny_llava(), "connector"), list(sizes))
    assert whole == {n: (i + b) * o for n, (i, o, b) in sizes.items() if "projector" in n}


def test_a_foreign_change_is_found() -> None:
    base = tiny_llava()
    before = snapshot(base)
    model = prepare(base, "connector")
    with torch.no_grad():
        model.model.language_model.norm.weight[3] += 1e-6
    found = audit_names(before, model, trained_names(model))
    assert found.outside == ("model.language_model.norm.weight",)
    assert "1 others (first model.language_model.norm.weight)" in str(found)


def extended(family: str, vectors: torch.Tensor) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The same prompt by other means: a vocabulary with a token more for each vector, and these tokens in front."""
    model, inputs = families.build(family)
    size = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(size + len(vectors), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[size:] = vectors / getattr(model.get_input_embeddings(), "embed_scale", 1)
    rows = len(inputs["input_ids"])
    front = {"input_ids": size + torch.arange(len(vectors)).expand(rows, -1)}
    for name, value in (("attention_mask", 1), ("labels", -100), ("token_type_ids", 0), ("mm_token_type_ids", 0)):
        front[name] = torch.full((rows, len(vectors)), value)
    longer = {k: torch.cat([front[k].to(v.dtype), v], dim=1) if k in front else v for k, v in inputs.items()}
    return model.eval(), longer


SLOW = [pytest.param(f, marks=pytest.mark.slow) for f in families.FAMILIES if f not in ("llava", "qwen2_5_vl")]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", *SLOW])
def test_a_prompt_is_what_new_tokens_in_front_would_be(family: str, tmp_path: Path) -> None:
    model, inputs = families.build(family)
    asked = {name: value for name, value in inputs.items() if name != "labels"}
    tuned = prepare(model, "prompt", tokens=3)
    vectors = next(p for p in tuned.parameters() if p.requires_grad)
    with torch.no_grad():
        vectors.normal_(std=0.5, generator=torch.Generator().manual_seed(5))
    other, longer = extended(family, vectors.detach())
    vocabulary = families.VOCAB
    with torch.no_grad():
        out, reference = tuned(**inputs), other(**longer)
        assert out.logits.shape[:2] == inputs["input_ids"].shape
        torch.testing.assert_close(out.logits, reference.logits[:, 3:, :vocabulary], rtol=1e-4, atol=1e-4)
        columns = torch.tensor([2, 6])
        kept = tuned(**asked, logits_to_keep=columns).logits
        torch.testing.assert_close(kept, out.logits[:, columns], rtol=1e-5, atol=1e-5)
    length = inputs["input_ids"].shape[1]
    said = tuned.generate(**asked, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(said[:, :length], inputs["input_ids"])
    assert said.shape[1] == length + 4
    beside = {k: v for k, v in longer.items() if k != "labels"}
    own = range(vocabulary, other.get_input_embeddings().num_embeddings)  # the new tokens are not for answering
    wanted = other.generate(**beside, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None,
                            suppress_tokens=list(own))  # fmt: skip
    assert torch.equal(said[:, length:], wanted[:, length + 3 :])
    tuned.train()(**inputs).loss.backward()
    assert bool((vectors.grad.abs().sum(1) > 0).all())
    tuned.eval().save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(families.build(family)[0], str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, out.logits)


@pytest.mark.slow
@pytest.mark.parametrize("family", families.FAMILIES)
def test_parts_and_vectors_of_every_family(family: str) -> None:
    model, _ = families.build(family)
    every = {name for name, _ in model.named_parameters()}
    parts = [trained_names(prepare(families.build(family)[0], part)) for part in ("vision", "connector", "language")]
    assert sum(map(len, parts)) == len(set().union(*parts))  # no parameter is two parts'
    rest = every - set().union(*parts)
    assert all(name.endswith("image_newline") for name in rest)  # a separator, which no part holds
    assert trained_names(prepare(families.build(family)[0], "norms")) <= every
    biases = {name for name in every if name.endswith(".bias")}
    if biases:
        assert trained_names(prepare(families.build(family)[0], "bitfit")) == biases
    else:  # Mistral 3 has none in any part
        with pytest.raises(UserError, match="no bias"):
            prepare(families.build(family)[0], "bitfit")


def test_a_prompt_needs_token_ids() -> None:
    model = prepare(tiny_llava(), "prompt", tokens=2)
    embeddings = torch.zeros(1, 4, 32)
    with pytest.raises(UserError, match="needs input_ids"):
        model(inputs_embeds=embeddings)
    with pytest.raises(UserError, match="tokens must be 1 or more, got 0"):
        prepare(tiny_llava(), "prompt", tokens=0)
