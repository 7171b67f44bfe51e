"""TRL's SFTTrainer takes the configuration as any other of PEFT's.

Agnostic neurons need no pair; with specific ones, `active_pair` around `train()` says whose data it is.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from families import MAIN, build
from families import selection as chosen_of
from peft import PeftModel
from tiny_llava import deltas, group_of
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neuroglot.selection import Selection
from neuroglot.training import audit, changed, snapshot
from neuroglot.tuner import NeuroglotConfig, active_pair

trl = pytest.importorskip("trl", reason='needs TRL: pip install "neuroglot[trl]"')

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]

WORDS = ("ein", "hund", "schläft", "eine", "katze", "läuft", "ist", "hier", "dort", "und")
TEXTS = [" ".join(WORDS[(i + step * k) % len(WORDS)] for k in range(8)) for i in range(10) for step in (1, 3)]
PAIRS = ("en-de", "en-fr")
COUNT = 5


def base() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    special = ("<pad>", "<s>", "</s>", "<unk>")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*special, *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def selection() -> Selection:
    """Return rows of two matrices and columns of a third, all of them for every pair."""
    g, both = torch.Generator().manual_seed(0), frozenset(PAIRS)
    sizes = {
        "model.layers.0.self_attn.v_proj": 32,
        "model.layers.1.mlp.gate_proj": 48,
        "model.layers.1.self_attn.o_proj": 32,
    }
    rows = {name: {both: torch.randperm(size, generator=g)[:COUNT].sort().values} for name, size in sizes.items()}
    return Selection(PAIRS, rows)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["sliced", "additive"])
def test_sft_trains_the_chosen_rows_and_nothing_else(tmp_path: Path, mode: str, checkpointing: bool) -> None:
    model = base()
    before = snapshot(model)
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2,
        weight_decay=0.1, gradient_checkpointing=checkpointing, bf16=False, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer(),
        peft_config=NeuroglotConfig.from_selection(selection(), mode=mode, task_type="CAUSAL_LM"),
    )
    trained = trainer.model
    assert isinstance(trained, PeftModel)
    trainer.train()
    assert trainer.state.global_step == 3
    assert changed(before, trained) == {}, "the base moved"
    trainer.save_model(str(tmp_path / "adapter"))
    inputs = {"input_ids": torch.arange(4, 14).reshape(2, 5)}
    trained.eval()
    with torch.no_grad():
        expected, plain = trained(**inputs).logits, base()(**inputs).logits
        assert (expected - plain).abs().max() > 1e-3
        again = PeftModel.from_pretrained(base(), tmp_path / "adapter").eval()
        assert torch.equal(again(**inputs).logits, expected)
    again.merge_adapter()
    report = audit(before, again, selection())
    assert (report.outside, report.trained, report.selected) == ({}, 3 * COUNT, 3 * COUNT)


@pytest.mark.parametrize("family", MAIN)
def test_sft_of_every_family_moves_its_own_groups_and_nothing_else(tmp_path: Path, family: str) -> None:
    """The data are the family's fixed inputs, images and all, so the collator has nothing to look up."""
    model, inputs = build(family)
    before, selected = snapshot(model), chosen_of(model, PAIRS, bare=True)
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=2, learning_rate=1e-2,
        weight_decay=0.1, gradient_checkpointing=False, bf16=False, use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True, logging_steps=1, remove_unused_columns=False, max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"sample": list(range(6))}),
        data_collator=lambda items: {name: value.clone() for name, value in inputs.items()},
        processing_class=tokenizer(),
        peft_config=NeuroglotConfig.from_selection(selected, task_type="CAUSAL_LM"),
    )
    trained = trainer.model
    assert isinstance(trained, PeftModel)
    start = {name: p.detach().clone() for name, p in deltas(trained).items()}
    with active_pair(trained, "en-de"):
        trainer.train()
    assert trainer.state.global_step == 3
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    moved = {name for name, p in deltas(trained).items() if not torch.equal(p, start[name])}
    assert moved == {name for name in start if "en-de" in group_of(name)}
    assert changed(before, trained) == {}, "the base moved"
    trainer.save_model(str(tmp_path / "adapter"))
    trained.eval()
    with torch.no_grad():
        again = PeftModel.from_pretrained(build(family)[0], tmp_path / "adapter").eval()
        assert torch.equal(again(**inputs).logits, trained(**inputs).logits)
    again.merge_adapter()
    assert audit(before, again, selected).outside == {}
