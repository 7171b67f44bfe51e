"""A million records through store, check, corpus and an epoch, in a process of its own that says what it took.

Run as a script: `python million.py FOLDER RECORDS CHECKED`; `test_million.py` does. One line of JSON comes out.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import islice
from pathlib import Path

TASK = "multimodal_translation"
LANGUAGES = ("de", "fr", "cs")
SHARES = (8, 3, 1)
"""Of twelve items, how many are in each language: pairs of unequal size, four in several."""
WORDS = (
    "open",
    "closed",
    "exit",
    "entrance",
    "platform",
    "ticket",
    "hall",
    "bridge",
    "market",
    "north",
    "Monday",
    "nine",
)


def write(path: Path, records: int) -> None:
    """Write so many examples, parallel and of unequal pairs, their images named and not there."""
    with path.open("w", encoding="utf-8") as file:
        written = number = 0
        while written < records:
            number += 1
            text = " ".join(WORDS[(number * k + number // k) % len(WORDS)] for k in range(1, 9))
            for language, share in zip(LANGUAGES, SHARES, strict=True):
                if number % 12 < share and written < records:
                    written += 1
                    row = {"images": [f"images/{number:07d}.png"], "source": f"{text} {number}",
                           "target": f"{language} {text} {number}", "source_lang": "en", "target_lang": language,
                           "task": TASK, "item": f"item-{number}"}  # fmt: skip
                    file.write(json.dumps(row) + "\n")


def main(folder: Path, records: int, checked: int) -> dict[str, float]:
    """Take the records as far as batches."""
    from neuroglot.data.batch import Batcher
    from neuroglot.data.corpus import Sizes, TrainingSet, load_corpus
    from neuroglot.data.store import View
    from neuroglot.models.load import load_processor
    from neuroglot.pipeline.context import Data
    from neuroglot.training import Mix, OnePairBatchSampler

    def peak() -> int:
        # Not ru_maxrss: it begins with that of the process that forked this one, such as a test worker of 2 GB.
        status = Path("/proc/self/status")
        if status.exists():
            return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    batcher = Batcher(load_processor("embedded"))
    found: dict[str, float] = {"at_start": peak()}
    began = time.perf_counter()

    def step(name: str) -> None:
        nonlocal began
        found[f"{name}_seconds"] = round(time.perf_counter() - began, 1)
        found[f"{name}_bytes"] = peak()
        began = time.perf_counter()

    data = Data(folder / "data.jsonl", folder)
    found["records"] = len(data.records)
    step("store")
    examples = View(data.records)
    for example in islice(examples, checked):
        batcher.check(example, [(96, 96)])
    step("check")
    sizes = Sizes(train=10**7, dev=500, test=500, heldout=0, retention=0)
    corpus = load_corpus(str(data.path), TASK, [], sizes, 0, False, examples, replays=True)
    drawn = TrainingSet(corpus)
    found["train"], found["test"] = len(corpus.train), len(corpus.splits[TASK])
    found["replayed"] = sum(drawn.replayed.values())
    step("corpus")
    mix = Mix(drawn.kinds, 2.0, int(found["replayed"]), 0.1)
    sampler = OnePairBatchSampler(drawn.pairs, 16, mix=mix)
    samples = batches = tokens = 0
    for batch in sampler:
        batches += 1
        taken = [drawn[index] for index in batch]
        samples += len(taken)
        if batches % 400 == 1 and not taken[0].images:  # the images are not there; the texts are
            tokens += batcher.encode(taken)["input_ids"].numel()
    found.update(samples=samples, batches=batches, tokens=tokens)
    step("epoch")
    return {**found, "peak": peak()}


if __name__ == "__main__":
    place, count = Path(sys.argv[1]), int(sys.argv[2])
    print(json.dumps(main(place, count, int(sys.argv[3]))))
