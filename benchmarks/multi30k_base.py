"""A base for Multi30K: reads rendered English captions, translates their text to German, French and Czech, no more.

`python benchmarks/multi30k_base.py --data FOLDER --out out/multi30k` trains a LLaVA of 6 million parameters from the
embedded model's vision tower and a language model without weights. Like the embedded model it is never shown an image
with a target in another language: closing that gap is what the compared methods are for. The first 4,000 training
captions are kept back for them. Three stages, each resumable: *look* (which characters does a patch hold), *speak*
(translate text), *both*.
"""

from __future__ import annotations

import argparse
import gzip
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers import PreTrainedTokenizerFast as Fast

from neuroglot.data.example import Example, instruction, paraphrases
from neuroglot.models.load import EMBEDDED, load_model
from neuroglot.models.tiny.build import CHAT_TEMPLATE, PATCH, SPECIAL, build_processor, phrases
from neuroglot.models.tiny.pretrain import pixels
from neuroglot.synthetic.render import Rendered, render
from neuroglot.synthetic.style import SIZE

LANGUAGES = ("de", "fr", "cs")
KEPT_BACK = 4000
STYLE = {"font": "DejaVu Sans Mono", "size": "10"}
SIDE, SLOTS, PIECES = SIZE // PATCH, 3, 6000
EMPTY = 0


@dataclass(frozen=True)
class Stage:
    """How many steps of how many images and texts."""

    name: str
    steps: int
    images: int
    texts: int
    lr: float


STAGES = (
    Stage("look", 500, 48, 0, 1e-3),
    Stage("speak", 4000, 0, 64, 1.5e-3),
    Stage("both", 2000, 24, 32, 1e-3),
)


def captions(folder: Path, split: str = "train") -> list[dict[str, str]]:
    """Return the captions of a split, each in English and the languages."""
    columns = {}
    for code in ("en", *LANGUAGES):
        with gzip.open(folder / f"{split}.{code}.gz", "rt", encoding="utf-8") as file:
            columns[code] = file.read().splitlines()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def build_tokenizer(texts: list[dict[str, str]]) -> Fast:
    """Byte-level pieces shared by the languages; the pieces of the instructions are one token each."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    every = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=PIECES, special_tokens=list(SPECIAL), initial_alphabet=every,
                                  show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator((text for row in texts for text in row.values()), trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in phrases()])
    return Fast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>", "assistant_token": "<|assistant|>"},
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False, model_max_length=512,
    )  # fmt: skip


def build(tokenizer: Fast) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return the model, its tower from the embedded model, and its processor."""
    embedded = load_model(EMBEDDED)
    language = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=embedded.config.vision_config, text_config=language, vision_feature_layer=-1,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_select_strategy="default",
        image_seq_length=SIDE**2, tie_word_embeddings=True,
    )  # fmt: skip
    config.pad_token_id = tokenizer.pad_token_id
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(embedded.model.vision_tower.float().state_dict())
    old = build_processor()
    processor = LlavaProcessor(image_processor=old.image_processor, tokenizer=tokenizer, patch_size=PATCH,
                               vision_feature_select_strategy="default", num_additional_image_tokens=1,
                               chat_template=CHAT_TEMPLATE)  # fmt: skip
    return model, processor


class Lessons(IterableDataset):
    """Endless batches of a stage, different for every step that they start at."""

    def __init__(self, stage: Stage, start: int, texts: list[dict[str, str]], tokenizer: Fast) -> None:
        self.stage, self.start, self.texts, self.tokenizer = stage, start, texts, tokenizer
        self.letters = {c: k for k, c in enumerate(alphabet(texts), start=1)}

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], ...]]:
        torch.set_num_threads(1)
        self.rng = random.Random(f"{self.stage.name}:{self.start}")
        self.drawn = {"look": 0, "speak": 0, "both": 10_000_000}[self.stage.name] + self.start * self.stage.images
        words = sorted({w for row in self.texts for w in row["en"].split()})
        prompts: dict[Any, list[int]] = {}
        while True:
            # Lines of one length together, or half of a batch is padding.
            size = self.stage.texts
            lines = sorted((self._line(prompts) for _ in range(16 * size)), key=lambda line: len(line[0]))
            groups = [lines[k * size : (k + 1) * size] for k in range(16)]
            self.rng.shuffle(groups)
            for group in groups:
                yield self._seen(words, prompts) if self.stage.images else {}, self._pad(group) if group else {}

    def _seen(self, words: list[str], prompts: dict[Any, list[int]]) -> dict[str, torch.Tensor]:
        images, cells, rows = [], [], []
        for _ in range(self.stage.images):
            text = self.rng.choice(self.texts)["en"]
            if self.rng.random() < 0.3:  # what no language model can guess has to be read
                text = " ".join(self.rng.choices(words, k=self.rng.randrange(3, 15)))[:110].strip()
            self.drawn += 1
            drawn = render(text, 1, self.drawn, STYLE)
            images.append(pixels(drawn.image))
            cells.append(self._cells(drawn))
            rows.append((self._prompt("ocr", "en", None, prompts), text))
        out = {"pixel_values": torch.from_numpy(np.stack(images)), "cells": torch.from_numpy(np.stack(cells))}
        return out if self.stage.name == "look" else {**out, **self._pad(rows)}

    def _cells(self, drawn: Rendered) -> np.ndarray:
        cells = np.full((SIDE * SIDE, SLOTS), EMPTY, dtype=np.int64)
        for character in drawn.characters:
            row, column = (min(SIDE - 1, int(v // PATCH)) for v in (character.y, character.x))
            free = np.flatnonzero(cells[row * SIDE + column] == EMPTY)
            if len(free):
                cells[row * SIDE + column, free[0]] = self.letters.get(character.text, EMPTY)
        return cells

    def _line(self, prompts: dict[Any, list[int]]) -> tuple[list[int], str]:
        row = self.rng.choice(self.texts)
        language = "en" if self.rng.random() < 0.1 else self.rng.choice(LANGUAGES)
        return self._prompt("text_translation", language, row["en"], prompts), row[language]

    def _prompt(self, task: str, language: str, source: str | None, cache: dict[Any, list[int]]) -> list[int]:
        turn = self.rng.randrange(paraphrases(task))
        if (task, language, turn) not in cache:
            words = "\n" + instruction(Example((), source, "", "en", language, task), turn)
            cache[task, language, turn] = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        image = self.tokenizer.convert_tokens_to_ids("<image>")
        shown = [image] * SIDE**2 if source is None else self.tokenizer(source, add_special_tokens=False)["input_ids"]
        assistant = self.tokenizer.convert_tokens_to_ids("<|assistant|>")
        return [self.tokenizer.bos_token_id, *shown, *cache[task, language, turn], assistant]

    def _pad(self, rows: list[tuple[list[int], str]]) -> dict[str, torch.Tensor]:
        answers = [
            [*self.tokenizer(t, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id] for _, t in rows
        ]
        length = _rounded(max(len(p) + len(a) for (p, _), a in zip(rows, answers, strict=True)), 8)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for b, ((prompt, _), answer) in enumerate(zip(rows, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[b, :end] = torch.tensor([*prompt, *answer])
            labels[b, len(prompt) : end] = torch.tensor(answer)
            mask[b, :end] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _rounded(size: int, to: int) -> int:
    """Round up: for every shape that is new, a CPU makes kernels and keeps buffers, gigabytes after 700 steps."""
    return -(-size // to) * to


def alphabet(texts: list[dict[str, str]]) -> str:
    """Return every character of the English captions."""
    return "".join(sorted({c for row in texts for c in row["en"] if not c.isspace()}))


def losses(
    model: LlavaForConditionalGeneration, head: torch.nn.Module, seen: dict, spoken: dict, hidden: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Mean loss per cell and per target token."""
    found = {}
    if seen and "input_ids" not in seen:
        model.model.vision_tower(seen["pixel_values"])
    for name, part in (("read", seen), ("translate", spoken)):
        if "input_ids" in part:
            inputs = {k: v for k, v in part.items() if k not in ("labels", "cells")}
            labels = part["labels"][:, 1:].flatten()
            places = (labels != -100).nonzero()[:, 0]
            spare = _rounded(len(places), 256) - len(places)
            states = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            logits = model.lm_head(states[pad(places, (0, spare))]).float()  # (targets + spare, vocabulary)
            found[name] = cross_entropy(logits, pad(labels[places], (0, spare), value=-100),
                                        label_smoothing=0.1 if name == "translate" else 0.0)  # fmt: skip
    if seen:
        logits = head(hidden.pop()[:, 1:])
        found["look"] = cross_entropy(logits.float().view(-1, logits.size(-1) // SLOTS), seen["cells"].view(-1))
    return found


def rate(stage: Stage, step: int) -> float:
    """Warm up over 200 steps, then a cosine to 2 %."""
    if step < 200:
        return stage.lr * (step + 1) / 200
    return stage.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - 200) / (stage.steps - 200))))


def train(stage: Stage, out: Path, texts: list[dict[str, str]], tokenizer: Fast, threads: int, minutes: float) -> bool:
    """Train a stage as far as time goes; return whether it is finished."""
    done, checkpoint = out / f"{stage.name}.pt", out / f"{stage.name}.checkpoint.pt"
    if done.exists():
        return True
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, _ = build(tokenizer)
    model.set_attn_implementation("eager")
    head = torch.nn.Linear(model.config.vision_config.hidden_size, SLOTS * (len(alphabet(texts)) + 1))
    for earlier in STAGES:
        if earlier.name != stage.name and (out / f"{earlier.name}.pt").exists():
            state = torch.load(out / f"{earlier.name}.pt", weights_only=True)
            model.load_state_dict(state["model"], strict=False)
            if state["head"]:
                head.load_state_dict(state["head"])
    hidden: list[torch.Tensor] = []
    model.model.vision_tower.register_forward_hook(
        lambda module, args, output: hidden.append(output.last_hidden_state)
    )
    model.train().to(device)
    model.model.language_model.compile(dynamic=True)  # a quarter of a step
    head.to(device)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        head.load_state_dict(saved["head"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    batches = iter(
        DataLoader(Lessons(stage, step, texts, tokenizer), batch_size=None, num_workers=1, prefetch_factor=4)
    )
    half = device == "cuda" or torch.cpu._is_amx_tile_supported()
    totals: dict[str, float] = {}
    began, cpu = time.time(), time.process_time()
    while step < stage.steps and time.time() - began < 60 * minutes:
        seen, spoken = ({k: v.to(device) for k, v in part.items()} for part in next(batches))
        for group in optimizer.param_groups:
            group["lr"] = rate(stage, step)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            found = losses(model, head, seen, spoken, hidden)
        torch.stack([v * (5.0 if k == "look" else 1.0) for k, v in found.items()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        for name, loss in found.items():
            totals[name] = totals.get(name, 0.0) + float(loss.detach())
        if step % 50 == 0:
            means = " ".join(f"{k} {v / 50:.4f}" for k, v in totals.items())
            print(f"{stage.name} {step}/{stage.steps}: {means} | {time.time() - began:.0f} s, "
                  f"{time.process_time() - cpu:.0f} CPU-s", flush=True)  # fmt: skip
            totals = {}
        if step % 250 == 0 or step == stage.steps:
            save(checkpoint, {"model": model.state_dict(), "head": head.state_dict(),
                              "optimizer": optimizer.state_dict(), "step": step})  # fmt: skip
    if step < stage.steps:
        return False
    kept = {"look": "model.vision_tower", "speak": "model.language_model"}.get(stage.name, "")
    state = {k: v.cpu() for k, v in model.state_dict().items() if k.startswith(kept)}
    save(done, {"model": state, "head": {} if stage.name == "speak" else head.state_dict()})
    return True


def save(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all."""
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    fresh.replace(path)


def main() -> None:
    """Train what is left to train, and write the model to OUT/model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train.en.gz, train.de.gz ...")
    parser.add_argument("--out", type=Path, default=Path("out/multi30k"))
    parser.add_argument("--stages", default="look,speak,both")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop a stage after so long; call again to go on")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    texts = captions(given.data)[KEPT_BACK:]
    if not (given.out / "tokenizer").exists():
        build_tokenizer(texts).save_pretrained(given.out / "tokenizer")
    tokenizer = Fast.from_pretrained(given.out / "tokenizer")
    for stage in STAGES:
        if stage.name in given.stages.split(",") and not train(
            stage, given.out, texts, tokenizer, given.threads, given.minutes
        ):
            return
    last = given.out / "both.pt"
    if not last.exists():
        return
    model, processor = build(tokenizer)
    model.load_state_dict(torch.load(last, weights_only=True)["model"])
    model.to(torch.bfloat16).save_pretrained(given.out / "model")
    processor.save_pretrained(given.out / "model")


if __name__ == "__main__":
    main()
