"""What processes of their own do in test_pieces: profile a shard, or be killed on the way and go on."""

from __future__ import annotations

import os
import signal

import neuron_kit as kit
import torch

from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.profiling.merge import Checkpoint, shard

SCORES = ("taylor_token", "gradient")
CLASSES = ("all", "target")


def batches():
    """Four blocks of two pairs, with a contrast task and batches of no block between them."""
    samples = kit.make_samples(12, seed=5)
    for k in range(4):
        items = (f"{k}a", f"{k}b")
        yield kit.collate(samples[k : k + 2]), "image_translation:en-de", items
        yield kit.collate(samples[k + 2 : k + 3]), "ocr:en-en"
        yield kit.collate(samples[k + 4 : k + 6]), "image_translation:en-fr", items


def whole():
    return profile(kit.make_llava(), batches(), SCORES, CLASSES)


def part(rank: int, world: int, out: str) -> None:
    profile(kit.make_llava(), shard(batches(), rank, world), SCORES, CLASSES).save(out)


def resumable(folder, lethal: int | None = None):
    """Profile with a checkpoint every two batches; SIGKILL hits when batch number `lethal` is asked for."""
    from pathlib import Path

    def deadly():
        for number, batch in enumerate(batches()):
            if number == lethal:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    seen = []
    checkpoint = Checkpoint(Path(folder, "sums.safetensors"), 2, "key")
    found = profile(kit.make_llava(), deadly(), SCORES, CLASSES, progress=seen.append, checkpoint=checkpoint)
    return found, seen


def killed(folder: str, lethal: int, threads: int) -> None:
    torch.set_num_threads(threads)  # sums are rounded by thread
    resumable(folder, lethal)
