"""Train the embedded model from scratch: `python -m neuroglot.models.tiny.pretrain --out out/pretrain`.

It learns reading, translating and naming in endless batches; never translating images.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlavaForConditionalGeneration

from neuroglot.data.example import Example, instruction, paraphrases
from neuroglot.models.tiny.build import PATCH, build_model, build_processor, build_tokenizer
from neuroglot.synthetic.pictures import draw_picture, names
from neuroglot.synthetic.render import Rendered, render
from neuroglot.synthetic.signs import LANGUAGES, MAX_SOURCE, signs
from neuroglot.synthetic.style import SIZE

# ---- Lessons --------------------------------------------------------------------------------------------------------
# Batches are built by character look-up instead of the processor, several times faster; a test checks that the two
# are equal. B batch, L tokens, P patches per side, S most characters of a patch.

SLOTS = 3
SIDE = SIZE // PATCH
Batch = dict[str, torch.Tensor]


def pixels(image: object) -> np.ndarray:
    """Return an image as the processor's normalised array [3, H, W]."""
    return ((np.asarray(image, dtype=np.float32) / 255.0 - 0.5) / 0.5).transpose(2, 0, 1)


@dataclass
class Lessons:
    """Draws batches from the `pretrain` split; everything depends only on the seed."""

    seed: int
    count: int = 60_000

    def __post_init__(self) -> None:
        self.rng = random.Random(f"lessons:{self.seed}")
        self.tokenizer = build_tokenizer()
        self.ids = self.tokenizer.get_vocab()
        self.drawn = 0

    @cached_property
    def texts(self) -> list[dict[str, str]]:
        """Every pretraining sign in every language."""
        return [{c: sign.text(c) for c in ("en", *LANGUAGES)} for sign in signs("pretrain", self.count, self.seed)]

    @cached_property
    def words(self) -> list[str]:
        """The words of the signs, for texts that a language model cannot guess."""
        return sorted({w for text in self.texts for w in text["en"].split()})

    def _scrambled(self) -> str:
        """Return unrelated words, or random characters: they can be read only from the image."""
        if self.rng.random() < 0.6:
            words = [self.rng.choice(self.words) for _ in range(self.rng.randrange(1, 5))]
        else:
            alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:-/%()$"
            words = ["".join(self.rng.choices(alphabet, k=self.rng.randrange(1, 9))) for _ in range(3)]
        while len(" ".join(words)) > MAX_SOURCE:
            words.pop()
        return " ".join(words) or "7"

    def _sign(self, scrambled: float) -> tuple[str, Rendered]:
        text = self._scrambled() if self.rng.random() < scrambled else self.rng.choice(self.texts)["en"]
        self.drawn += 1
        return text, render(text, self.seed, self.drawn)

    def dense(self, batch: int) -> Batch:
        """Pixels [B, 3, H, W] and, for each patch, `cells`: the characters centred in it [B, P*P, S] (0: none)."""
        signs = [self._sign(scrambled=0.5)[1] for _ in range(batch)]
        return {
            "pixel_values": torch.from_numpy(np.stack([pixels(sign.image) for sign in signs])),
            "cells": torch.from_numpy(np.stack([self._cells(sign) for sign in signs])),
        }

    def _cells(self, sign: Rendered) -> np.ndarray:
        """Ids of the characters centred in each patch, from left to right [P*P, S]."""
        cells = np.zeros((SIDE * SIDE, SLOTS), dtype=np.int64)
        for character in sign.characters:
            row, column = (min(SIDE - 1, int(v // PATCH)) for v in (character.y, character.x))
            free = np.flatnonzero(cells[row * SIDE + column] == 0)
            if len(free):
                cells[row * SIDE + column, free[0]] = self.ids[character.text]
        return cells

    def seeing(self, batch: int) -> Batch:
        """Read a sign (five in six) or name a picture; `cells` as in `dense`, -100 for pictures."""
        rows, images, cells = [], [], []
        for _ in range(batch):
            if self.rng.random() < 1 / 6:
                target, task = self.rng.choice(names("pretrain")), "describe"
                self.drawn += 1
                images.append(pixels(draw_picture(target, self.seed, self.drawn)))
                cells.append(np.full((SIDE * SIDE, SLOTS), -100, dtype=np.int64))
            else:
                (target, rendered), task = self._sign(scrambled=0.25), "ocr"
                images.append(pixels(rendered.image))
                cells.append(self._cells(rendered))
            rows.append((self._prompt(task, "en", None), target))
        arrays = {"pixel_values": np.stack(images), "cells": np.stack(cells)}
        return {**self._pad(rows), **{name: torch.from_numpy(array) for name, array in arrays.items()}}

    def translating(self, batch: int) -> Batch:
        """Translate a text, or, one in fourteen, repeat it in English."""
        rows = []
        for _ in range(batch):
            text = self.rng.choice(self.texts)
            language = "en" if self.rng.random() < 1 / 14 else self.rng.choice(LANGUAGES)
            rows.append((self._prompt("text_translation", language, text["en"]), text[language]))
        return self._pad(rows)

    def _prompt(self, task: str, language: str, source: str | None) -> list[int]:
        """Prompt ids, as the chat template writes them: image or source, line break, instruction."""
        example = Example((), source, "", "en", language, task)
        words = "\n" + instruction(example, self.rng.randrange(paraphrases(task)))
        shown = [self.ids["<image>"]] * SIDE**2 if source is None else [self.ids[c] for c in source]
        asked = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        return [self.ids["<s>"], *shown, *asked, self.ids["<|assistant|>"]]

    def _pad(self, rows: list[tuple[list[int], str]]) -> Batch:
        length = max(len(prompt) + len(target) + 1 for prompt, target in rows)
        ids = torch.full((len(rows), length), self.ids["<pad>"])
        labels = torch.full((len(rows), length), -100)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for b, (prompt, target) in enumerate(rows):
            answer = [*(self.ids[c] for c in target), self.ids["</s>"]]
            end = len(prompt) + len(answer)
            ids[b, :end] = torch.tensor([*prompt, *answer])
            labels[b, len(prompt) : end] = torch.tensor(answer)
            mask[b, :end] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# ---- Training -------------------------------------------------------------------------------------------------------
# Three stages, one after the other, each resumable from its last checkpoint:
#
# 1. *look*: the vision tower predicts the characters in each patch through a linear head that is discarded at the end.
#    Without it the language model learns to guess signs instead of reading them.
# 2. *speak*: the language model translates text.
# 3. *both*: everything together, also the first stage; reading and naming through the connector, translating text;
#    never an image into another language, so that this remains for tuning.

SEED = 0
CHECKPOINT_EVERY = 250


@dataclass(frozen=True)
class Stage:
    """One stage: number of steps, batch sizes and learning rate."""

    name: str
    steps: int
    images: int
    texts: int
    lr: float
    horizon: int = 0  # step of the cosine's minimum; 0: the last step
    look_weight: float = 1.0  # most cells are empty, so a cell's loss is small beside a token's


STAGES = (
    Stage("look", steps=1000, horizon=2500, images=48, texts=0, lr=2e-3),
    Stage("speak", steps=750, horizon=1200, images=0, texts=96, lr=2.5e-3),
    Stage("both", steps=3200, horizon=3600, images=32, texts=32, lr=1.5e-3, look_weight=5.0),
)


class _Stream(IterableDataset):
    """Endless batches of a stage, made in a worker during training; the random numbers depend on the step `start`."""

    def __init__(self, stage: Stage, start: int) -> None:
        self.stage, self.start = stage, start

    def __iter__(self) -> Iterator[tuple[Batch, Batch]]:
        torch.set_num_threads(1)
        lessons = Lessons(SEED)
        lessons.rng.seed(f"{self.stage.name}:{self.start}:{SEED}")
        lessons.drawn = self.start * self.stage.images + {"look": 0, "speak": 0, "both": 10_000_000}[self.stage.name]
        while True:
            if self.stage.name == "look":
                yield lessons.dense(self.stage.images), {}
            else:
                seen = lessons.seeing(self.stage.images) if self.stage.images else {}
                yield seen, lessons.translating(self.stage.texts)


def _learning_rate(stage: Stage, step: int) -> float:
    warmup = 50
    if step < warmup:
        return stage.lr * (step + 1) / warmup
    return stage.lr * (
        0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / ((stage.horizon or stage.steps) - warmup)))
    )


def _losses(
    model: LlavaForConditionalGeneration, head: torch.nn.Module, seen: Batch, texts: Batch, hidden: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return mean losses per character cell and per target token; `hidden` receives the tower's output."""
    losses = {}
    if seen and "input_ids" not in seen:
        model.model.vision_tower(seen["pixel_values"])
    for name, part in (("see", seen), ("text", texts)):
        if "input_ids" in part:
            logits = model(**{k: v for k, v in part.items() if k not in ("labels", "cells")}).logits
            losses[name] = cross_entropy(
                logits[:, :-1].float().flatten(0, 1), part["labels"][:, 1:].flatten(), ignore_index=-100
            )
    if seen:
        logits = head(hidden.pop()[:, 1:])  # (B, P*P, S*V), without CLS
        losses["look"] = cross_entropy(logits.float().view(-1, logits.size(-1) // SLOTS), seen["cells"].view(-1))
    return losses


def train_stage(stage: Stage, out: Path, start_from: list[Path], threads: int, log: Callable[[str], None]) -> Path:
    """Train one stage, from its checkpoint if there is one; return the file of the finished weights."""
    done = out / f"{stage.name}.pt"
    if done.exists():
        return done
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = build_processor()
    model = build_model(processor.tokenizer)
    model.set_attn_implementation("eager")  # the fused kernel's backward is slow on a CPU: half of a step's time
    head = torch.nn.Linear(model.model.vision_tower.config.hidden_size, SLOTS * len(processor.tokenizer))
    for path in start_from:
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"], strict=False)
        if state["head"]:
            head.load_state_dict(state["head"])
        log(f"{stage.name}: took {len(state['model'])} tensors from {path.name}")
    hidden: list[torch.Tensor] = []
    model.model.vision_tower.register_forward_hook(lambda module, args, out: hidden.append(out.last_hidden_state))
    model.train().to(torch.device(device))
    head.to(device)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01)
    checkpoint, step = out / f"{stage.name}.checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        head.load_state_dict(saved["head"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        log(f"{stage.name}: resumes at step {step}")
    batches = iter(DataLoader(_Stream(stage, step), batch_size=None, num_workers=1, prefetch_factor=4))
    # Matrix units for bfloat16 (AMX, tensor cores) make this several times faster; without them float32 is as fast.
    half = device == "cuda" or torch.cpu._is_amx_tile_supported()
    totals: dict[str, float] = {}
    began, cpu = time.time(), time.process_time()
    for step in range(step, stage.steps):  # noqa: B020  (resumes at the checkpoint's step)
        batch = tuple({k: v.to(device) for k, v in part.items()} for part in next(batches))
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(stage, step)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            losses = _losses(model, head, batch[0], batch[1], hidden)
        torch.stack([stage.look_weight * v if k == "look" else v for k, v in losses.items()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for name, loss in losses.items():
            totals[name] = totals.get(name, 0.0) + float(loss.detach())
        if (step + 1) % 50 == 0:
            means = " ".join(f"{k} {v / 50:.4f}" for k, v in totals.items())
            log(
                f"{stage.name} {step + 1}/{stage.steps}: {means} | {time.time() - began:.0f} s, "
                f"{time.process_time() - cpu:.0f} CPU-s"
            )
            totals = {}
        if (step + 1) % CHECKPOINT_EVERY == 0:
            _save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "head": head.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
            )
    keep = {"look": ("model.vision_tower",), "speak": ("model.language_model",)}.get(stage.name, ("",))
    state = {k: v.cpu() for k, v in model.state_dict().items() if k.startswith(keep)}
    _save(done, {"model": state, "head": {} if stage.name == "speak" else head.state_dict()})
    return done


def _save(path: Path, state: dict) -> None:
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    fresh.replace(path)


def export(weights: Path, folder: Path) -> None:
    """Write the model in bfloat16, the tokenizer and the processor as `save_pretrained` does."""
    processor = build_processor()
    model = build_model(processor.tokenizer)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    model.eval().to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> None:
    """Run the unfinished stages, then export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument("--stage", choices=[s.name for s in STAGES], help="only this stage")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export", type=Path, help="where the finished model goes (default: OUT/model)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    def log(text: str) -> None:
        print(text, flush=True)
        with (arguments.out / "log.txt").open("a") as file:
            file.write(text + "\n")

    log(json.dumps({"stages": [vars(s) for s in STAGES], "seed": SEED, "torch": torch.__version__}))
    finished: list[Path] = []
    for stage in STAGES:
        if arguments.stage in (None, stage.name):
            parents = [arguments.out / "look.pt", arguments.out / "speak.pt"] if stage.name == "both" else []
            finished.append(train_stage(stage, arguments.out, parents, arguments.threads, log))
    if finished[-1].stem == "both":
        export(finished[-1], arguments.export or arguments.out / "model")


if __name__ == "__main__":
    main()
