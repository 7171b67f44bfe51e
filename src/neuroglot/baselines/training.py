"""Training a classic system: AdamW with warm-up, early stopping on dev, and a checkpoint to go on from.

Notable: every step is a function of the weights and its number (order of examples and dropout are seeded by it), so
that a killed training ends with the weights of one that was not.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from neuroglot.baselines.features import Features
from neuroglot.baselines.network import IGNORED, Network, padded
from neuroglot.baselines.settings import ClassicSettings, Vocabulary, known_kind
from neuroglot.baselines.system import ClassicSystem
from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.file_format import fresh, remove
from neuroglot.finite import DivergedError
from neuroglot.models.load import on_device

STATE = "state.pt"
POOL = 20
"""Batches whose examples are sorted by length together."""
STANDARD_IMAGES = 1000
"""Images from which the mean and the spread of the vectors are taken."""

StepProgress = Callable[[int, int, float], None]
"""Called after every step with its number, how many there may be, and its loss."""


def train(
    kind: str,
    train_examples: Sequence[Example],
    dev_examples: Sequence[Example],
    features: Features,
    settings: ClassicSettings,
    folder: Path,
    work: Path | None = None,
    progress: StepProgress | None = None,
) -> ClassicSystem:
    """Train a system and save it.

    Args:
        kind: one of `KINDS`.
        train_examples: with source and target; the vocabulary is theirs.
        dev_examples: to stop by; without any, training takes all its steps.
        features: vectors of the images.
        settings: sizes and training.
        folder: where the system goes, with the weights of the lowest dev loss; `load` reads it.
        work: folder for the checkpoint while training lasts; `folder` with the ending `.unfinished` by default.
        progress: called after every step.

    Returns:
        The system.

    Raises:
        DivergedError: a loss or a gradient is not finite.
        UserError: an unknown kind, no examples, an example of a task without a source text, or an unreadable image.
    """
    known_kind(kind)
    if not train_examples:
        raise UserError(f"{kind} has no training examples; give at least one")
    work = work or folder.with_name(f"{folder.name}.unfinished")
    system = _fresh(kind, train_examples, features, settings)
    rows = _rows(system, train_examples)
    if dev_examples:
        system.inputs(list(dev_examples[:1]))  # a wrong task is said before the first step
        _prepare(system, dev_examples)

    parameters = [p for p in system.network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    mark = _mark(kind, train_examples, dev_examples, features, settings)
    state = _resumed(work, mark, system.network, optimiser)
    begun, clock = state["step"], time.perf_counter()
    each, order = -(-len(rows) // settings.batch_size), [[0]]
    while state["step"] < settings.steps and state["worse"] < settings.patience:
        step = state["step"]
        if step % each == 0 or step == begun:
            order = _order(rows, settings, step // each)
        loss = _step(system, [rows[index] for index in order[step % each]], optimiser, parameters, step)
        state["step"] = step + 1
        if progress is not None:
            progress(step + 1, settings.steps, loss)
        if (step + 1) % settings.eval_steps == 0 or step + 1 == settings.steps:
            _look(state, system, dev_examples, loss)
            state["seconds"] += time.perf_counter() - clock
            clock = time.perf_counter()
            _save(work, mark, state, system.network, optimiser)
    system.network.load_state_dict(state["best"])
    facts = {
        "steps": state["step"],
        "best_step": state["best_step"],
        "seconds": round(state["seconds"], 2),
        "dev_loss": state["lowest"] if math.isfinite(state["lowest"]) else None,
        "parameters": sum(p.numel() for p in parameters),
        "log": state["log"],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    system.save(folder, facts)
    remove(work)
    return system


def dev_loss(system: ClassicSystem, examples: Sequence[Example]) -> float:
    """Return nats per target token, end included."""
    tokens = sum(len(system.vocabulary.target(example.target)) for example in examples)
    system.network.eval()
    return sum(system.nll(examples)) / tokens


def _fresh(kind: str, examples: Sequence[Example], features: Features, settings: ClassicSettings) -> ClassicSystem:
    vocabulary = Vocabulary.learn(examples, settings.pieces)
    images = list(dict.fromkeys(image for example in examples for image in example.images))
    width, sample = 0, None
    if images and kind != "text-transformer":
        features.prepare(images)
        drawn = random.Random(0).sample(images, min(len(images), STANDARD_IMAGES))
        sample = features(drawn)  # (N, P, D)
        width = sample.shape[-1]
    elif kind != "text-transformer":
        raise UserError(f"{kind} looks at images, and no training example has one; train a text-transformer instead")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = Network(kind, settings, len(vocabulary), width)
    if sample is not None:
        every = sample.flatten(0, 1)
        network.shift.copy_(every.mean(0))
        network.scale.copy_(1 / every.std(0).clamp(min=1e-6))
    on_device(network)
    return ClassicSystem(kind, network, vocabulary, features, settings, width)


Row = tuple[list[int], list[int], Example]


def _rows(system: ClassicSystem, examples: Sequence[Example]) -> list[Row]:
    result = []
    for example in examples:
        system.inputs([replace(example, images=())])  # refuses what it cannot translate
        result.append((system.vocabulary.source(example), system.vocabulary.target(example.target), example))
    return result


def _prepare(system: ClassicSystem, examples: Sequence[Example]) -> None:
    if system.sees:
        system.features.prepare(list(dict.fromkeys(image for example in examples for image in example.images)))


def _step(
    system: ClassicSystem,
    batch: Sequence[Row],
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    step: int,
) -> float:
    settings, network = system.settings, system.network
    network.train()
    device = network.shift.device
    source = padded([row[0] for row in batch], 0).to(device)
    target = padded([row[1] for row in batch], IGNORED).to(device)
    vision = system.vision([row[2] for row in batch], device)
    for group in optimiser.param_groups:
        group["lr"] = settings.lr * _pace(step, settings)
    devices: list[int] | None = [] if device.type == "cpu" else None
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed * 1_000_003 + step)  # of dropout
        logits = network(source, vision, target)
    loss = cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=IGNORED, label_smoothing=settings.label_smoothing
    )
    optimiser.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
    result = float(loss.detach())
    if not (math.isfinite(result) and math.isfinite(norm)):
        items = ", ".join(row[2].item for row in batch)
        raise DivergedError(
            f"{system.kind} diverged at step {step + 1} (items {items}): the loss is {result}, its gradient's norm "
            f"{float(norm)}; lower train.lr ({settings.lr:g})"
        )
    optimiser.step()
    return result


def _pace(step: int, settings: ClassicSettings) -> float:
    """Return the share of the learning rate at a step: up over the warm-up, then down to a tenth."""
    warm = max(1, round(settings.warmup * settings.steps))
    if step < warm:
        return (step + 1) / warm
    return 1 - 0.9 * (step - warm) / max(1, settings.steps - warm)


def _order(rows: Sequence[Row], settings: ClassicSettings, epoch: int) -> list[list[int]]:
    """Return the batches of an epoch: examples of like length together, everything else at random."""
    rng = random.Random(f"{settings.seed}:{epoch}")
    places = list(range(len(rows)))
    rng.shuffle(places)
    size, result = settings.batch_size, []
    for start in range(0, len(places), POOL * size):
        pool = sorted(places[start : start + POOL * size], key=lambda place: len(rows[place][1]))
        result += [pool[cut : cut + size] for cut in range(0, len(pool), size)]
    rng.shuffle(result)
    return result


def _look(state: dict[str, Any], system: ClassicSystem, dev: Sequence[Example], loss: float) -> None:
    """Note how good the system is on dev, and keep its weights if it was never better."""
    result = dev_loss(system, dev) if dev else math.nan
    state["log"].append({"step": state["step"], "loss": round(loss, 5), "dev_loss": _number(result)})
    if not dev or result < state["lowest"]:
        state["lowest"] = result if dev else math.inf
        state["worse"], state["best_step"] = 0, state["step"]
        state["best"] = {name: tensor.clone() for name, tensor in system.network.state_dict().items()}
    else:
        state["worse"] += 1


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _mark(
    kind: str, train: Sequence[Example], dev: Sequence[Example], features: Features, settings: ClassicSettings
) -> str:
    """Return a hash of all that a training depends on: a checkpoint with another hash is not resumed from."""
    digest = hashlib.sha256(repr((kind, settings.model_dump(), features.describe(), len(train))).encode())
    for example in (*train, *dev):
        digest.update(repr((example.images, example.source, example.target, str(example.pair))).encode())
    return digest.hexdigest()


def _save(work: Path, mark: str, state: dict[str, Any], network: Network, optimiser: torch.optim.Optimizer) -> None:
    work.mkdir(parents=True, exist_ok=True)
    whole = {**state, "mark": mark, "network": network.state_dict(), "optimiser": optimiser.state_dict()}
    with fresh(work / STATE) as part:
        torch.save(whole, part)


def _resumed(work: Path, mark: str, network: Network, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return where a training stands, the weights put in place; at its beginning without a checkpoint of its own."""
    start = {"step": 0, "worse": 0, "lowest": math.inf, "best_step": 0, "seconds": 0.0, "log": [],
             "best": {name: tensor.clone() for name, tensor in network.state_dict().items()}}  # fmt: skip
    try:
        result = torch.load(work / STATE, map_location="cpu", weights_only=True)
    except Exception:  # there is none, or it is damaged
        return start
    if not isinstance(result, dict) or result.pop("mark", None) != mark:
        return start
    network.load_state_dict(result.pop("network"))
    optimiser.load_state_dict(result.pop("optimiser"))
    return result
