"""Run by the Python of COMET's own environment, which knows nothing of neuroglot: triples in, a score each out.

    python comet_worker.py MODEL INPUT.json OUTPUT.json

What the libraries print goes to standard error or is lost; the scores go to a file. Exit code 3: no COMET here.
"""

from __future__ import annotations

import json
import os
import sys

NO_COMET = 3


def main(model: str, source: str, target: str) -> int:
    """Score the triples of a file."""
    try:
        from comet import download_model, load_from_checkpoint
    except ImportError as error:
        print(error, file=sys.stderr)
        return NO_COMET
    with open(source, encoding="utf-8") as file:
        triples = json.load(file)
    checkpoint = model if os.path.exists(model) else download_model(model)
    if os.path.isdir(checkpoint):  # a folder as it is downloaded
        checkpoint = os.path.join(checkpoint, "checkpoints", "model.ckpt")
    result = load_from_checkpoint(checkpoint).predict(triples, batch_size=8, gpus=_gpus())
    answer = {"scores": [float(score) for score in result["scores"]], "version": _version()}
    with open(target, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    return 0


def _gpus() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return int(torch.cuda.is_available())


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("unbabel-comet")
    except metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
