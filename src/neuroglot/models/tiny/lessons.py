"""What the embedded model is taught: endless batches of reading, translating, naming; never translating images.

Batches are built by character look-up rather than through the processor, which is several times faster; a test holds
the two equal. B batch, L tokens, P patches a side, S characters a patch at most.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from neuroglot.data.embedded.pictures import draw_picture, names
from neuroglot.data.embedded.signs import LANGUAGES, MAX_SOURCE, signs
from neuroglot.data.example import Example
from neuroglot.data.instructions import instruction, paraphrases
from neuroglot.data.render import SIZE, Rendered, render
from neuroglot.models.tiny.build import PATCH, build_tokenizer

SLOTS = 3
SIDE = SIZE // PATCH
Batch = dict[str, torch.Tensor]


def pixels(image: object) -> np.ndarray:
    """Return an image as the processor's normalised array [3, H, W]."""
    return ((np.asarray(image, dtype=np.float32) / 255.0 - 0.5) / 0.5).transpose(2, 0, 1)


@dataclass
class Lessons:
    """Draws batches from the `pretrain` split; everything follows from the seed."""

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
        """The words of the signs, for strings that no language model can guess."""
        return sorted({w for text in self.texts for w in text["en"].split()})

    def _scrambled(self) -> str:
        """A string of unrelated words, or of random characters: it must be looked at to be read."""
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
