"""A trained classic system: it translates, it has a likelihood, it can be saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from neuroglot.baselines.features import Features, TowerFeatures
from neuroglot.baselines.network import IGNORED, Network, Vision, padded
from neuroglot.baselines.settings import CLASSIC, PAD, ClassicSettings, Vocabulary
from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.file_format import MANIFEST, fresh, read_manifest, write_manifest, write_text
from neuroglot.models.load import on_device
from neuroglot.systems.base import Progress, length_sorted_batches

TASKS = ("multimodal_translation", "text_translation")
"""What the source text is shown for."""

WEIGHTS, TOKENIZER = "network.safetensors", "tokenizer.json"


class ClassicSystem:
    """A System around a network from scratch.

    Args:
        kind: which of `KINDS`; also its name.
        network: trained.
        vocabulary: of its texts.
        features: makes the vectors of images.
        settings: that it was made and trained with.
        image_width: of the vectors, 0 where training had no image.
        batch_size: examples a forward.
        max_new_tokens: a longer answer is cut.
        num_beams: 1 is greedy.
        progress: called with the number of examples finished since the last call.
        length_penalty: of beams, as that of `HFSystem`.
    """

    def __init__(
        self,
        kind: str,
        network: Network,
        vocabulary: Vocabulary,
        features: Features,
        settings: ClassicSettings,
        image_width: int,
        batch_size: int = 64,
        max_new_tokens: int = 96,
        num_beams: int = 1,
        progress: Progress | None = None,
        length_penalty: float = 1.0,
    ) -> None:
        for field, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens), ("num_beams", num_beams)):
            if value < 1:
                raise UserError(f"{field} must be at least 1, got {value!r}")
        self.name = self.kind = kind
        self.network, self.vocabulary, self.features = network.eval(), vocabulary, features
        self.settings, self.image_width = settings, image_width
        self.batch_size, self.max_new_tokens, self.num_beams = batch_size, max_new_tokens, num_beams
        self.progress, self.length_penalty = progress, length_penalty

    @property
    def sees(self) -> bool:
        """Whether images make a difference to it."""
        return self.kind != "text-transformer" and self.image_width > 0

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Translate each example, in their order.

        Raises:
            UserError: an example of another task, or into a language that training did not have.
        """
        answers = [""] * len(examples)
        self._prepare(examples)
        with torch.inference_mode():
            for batch in length_sorted_batches(examples, self.batch_size):
                source, vision = self.inputs([examples[index] for index in batch])
                rows = self.network.generate(source, vision, self.num_beams, self.max_new_tokens, self.length_penalty)
                for index, text in zip(batch, self.vocabulary.texts(rows.tolist()), strict=True):
                    answers[index] = text
                self._advance(len(batch))
        return answers

    def nll(self, examples: Sequence[Example]) -> list[float]:
        """Return per example the sum over its target tokens, end included, of -log p, in nats."""
        totals = [0.0] * len(examples)
        self._prepare(examples)
        with torch.inference_mode():
            for batch in length_sorted_batches(examples, self.batch_size):
                losses = self.losses([examples[index] for index in batch])
                for index, loss in zip(batch, losses.tolist(), strict=True):
                    totals[index] = loss
                self._advance(len(batch))
        return totals

    def tokens(self, examples: Sequence[Example]) -> list[int]:
        """Return per example how many tokens its nats are of: the target's, end included."""
        return [len(self.vocabulary.target(example.target)) for example in examples]

    def losses(self, examples: Sequence[Example]) -> Tensor:
        """Return the nats of each target: (B,)."""
        source, vision = self.inputs(examples)
        target = padded([self.vocabulary.target(example.target) for example in examples], IGNORED).to(source.device)
        logits = self.network(source, vision, target)
        return cross_entropy(logits.transpose(1, 2), target, ignore_index=IGNORED, reduction="none").sum(1)

    def inputs(self, examples: Sequence[Example]) -> tuple[Tensor, Vision]:
        """Return source tokens (B, L) and what is seen."""
        for example in examples:
            if example.task not in TASKS:
                raise UserError(
                    f"{self.kind} translates a text that it is given, and a {example.task} example gives none; "
                    f"expected {' or '.join(TASKS)}"
                )
        device = self.network.shift.device
        source = padded([self.vocabulary.source(example) for example in examples], PAD).to(device)
        return source, self.vision(examples, device)

    def vision(self, examples: Sequence[Example], device: Any = "cpu") -> Vision:
        """Return the vectors of the examples' images, one image's behind another's."""
        count = len(examples)
        most = max((len(example.images) for example in examples), default=0) if self.sees else 0
        if most == 0:
            return Vision(
                torch.zeros(count, 0, self.image_width, device=device), torch.zeros(count, 0, device=device).bool()
            )
        vectors = self.features([image for example in examples for image in example.images])  # (N, P, D)
        size, width = vectors.shape[1:]
        tokens = torch.zeros(count, most, size, width)
        mask = torch.zeros(count, most, size, dtype=torch.bool)
        index = 0
        for row, example in enumerate(examples):
            shown = len(example.images)
            tokens[row, :shown] = vectors[index : index + shown]
            mask[row, :shown] = True
            index += shown
        return Vision(tokens.flatten(1, 2).to(device), mask.flatten(1, 2).to(device))

    def _prepare(self, examples: Sequence[Example]) -> None:
        if self.sees:
            self.features.prepare(list(dict.fromkeys(image for example in examples for image in example.images)))

    def _advance(self, count: int) -> None:
        if self.progress is not None:
            self.progress(count)

    def save(self, folder: Path, facts: dict[str, Any] | None = None) -> None:
        """Write a folder with a manifest: weights, tokenizer, and what made it."""
        with fresh(folder) as part:
            part.mkdir(parents=True)
            tensors = {name: tensor.cpu().contiguous() for name, tensor in _untied(self.network).items()}
            save_file(tensors, str(part / WEIGHTS))
            write_text(part / TOKENIZER, self.vocabulary.tokenizer.to_str())
            content = {
                "kind": self.kind,
                "settings": self.settings.model_dump(),
                "languages": self.vocabulary.languages,
                "image_width": self.image_width,
                "features": self.features.describe(),
                **(facts or {}),
            }
            write_manifest(part, CLASSIC, content)


def load(folder: Path | str, features: Features | None = None, **options: Any) -> ClassicSystem:
    """Return a saved system.

    Args:
        folder: what `train` or `ClassicSystem.save` wrote.
        features: of images; made again as they were in training by default.
        options: of `ClassicSystem`: `batch_size`, `max_new_tokens`, `num_beams`, `progress`,
            `length_penalty`.

    Raises:
        UserError: the folder holds no such system, or was damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, CLASSIC)
    try:
        settings = ClassicSettings(**manifest["settings"])
        vocabulary = Vocabulary.read((folder / TOKENIZER).read_text(encoding="utf-8"), manifest["languages"])
        network = Network(manifest["kind"], settings, len(vocabulary), manifest["image_width"])
        wrong = network.load_state_dict(load_file(str(folder / WEIGHTS)), strict=False)
        missing = [name for name in wrong.missing_keys if name not in _tied(network)]
        if missing or wrong.unexpected_keys:
            raise KeyError(f"weights do not fit: {(missing + wrong.unexpected_keys)[0]}")
    except Exception as error:
        raise CLASSIC.damaged(folder / MANIFEST, error) from None
    on_device(network)
    made = features or TowerFeatures(**manifest["features"])
    return ClassicSystem(manifest["kind"], network, vocabulary, made, settings, manifest["image_width"], **options)


def _untied(network: Network) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in network.state_dict().items() if name not in _tied(network)}


def _tied(network: Network) -> set[str]:
    """Names of one matrix beside its first: embeddings of encoder, decoder and output are the same."""
    first: dict[int, str] = {}
    return {
        name
        for name, tensor in network.state_dict().items()
        if first.setdefault(tensor.data_ptr(), name) != name and tensor.numel()
    }
