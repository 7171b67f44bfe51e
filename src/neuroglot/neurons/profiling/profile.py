"""Profile: streamed moments of every neuron's importance, per condition. Importance makes it, select reads it.

Shapes: K conditions, S scores, C token classes, N neurons of a layer. A profile holds sums, never activations, so two
profiles of different data add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from neuroglot.artefact import PROFILE, load_tensors, save_tensors
from neuroglot.errors import UserError, nearest
from neuroglot.neurons.inventory import Layer
from neuroglot.pair import Condition


@dataclass(frozen=True, eq=False)
class Profile:
    """What one pass over data left behind.

    Attributes:
        model: the model's name or path.
        fingerprint: hash of the layers' names, shapes and a sample of their weights.
        layers: the profiled layers.
        conditions: task and pair of each row below.
        scores: names of the scores, see `neuroglot.neurons.profiling.importance.SCORES`.
        classes: names of the token classes.
        counts: [K, C], samples that hold a token of the class.
        sums: layer -> [K, S, C, N] float64, sum over samples of the score.
        squares: layer -> [K, S, C, N] float64, sum over samples of its square.
        norms: layer -> [N] float64, norms of the weight's rows; layers with a quantised weight are absent.
        blocks: task -> layer -> [S, C, N] float64, sum over source items of (mean over pairs)^2, for items that were
            seen with every pair of the task.
        block_counts: task -> [C], the number of such items.
        data: hash of the examples that it was measured on, where the caller said so.
    """

    model: str
    fingerprint: str
    layers: tuple[Layer, ...]
    conditions: tuple[Condition, ...]
    scores: tuple[str, ...]
    classes: tuple[str, ...]
    counts: Tensor
    sums: Mapping[str, Tensor]
    squares: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]
    blocks: Mapping[str, Mapping[str, Tensor]]
    block_counts: Mapping[str, Tensor]
    data: str = ""

    def of_task(self, task: str) -> tuple[Condition, ...]:
        """Return the conditions of a task, in the order in which they were first seen."""
        return tuple(condition for condition in self.conditions if condition.task == task)

    def mean(
        self, score: str, token_class: str = "all", conditions: Sequence[Condition] | None = None
    ) -> dict[str, Tensor]:
        """Return the mean of a score over samples, I_k[n]: layer -> [conditions, N], float64.

        The score `weight`, the norm of the neuron's weights, needs no data and is the same for every condition.

        Raises:
            UserError: the profile lacks the score, the class or a condition.
        """
        rows = self._rows(conditions)
        if score == "weight":
            missing = [layer.name for layer in self.layers if layer.name not in self.norms]
            if missing:
                raise UserError(
                    f"score 'weight' is not known for {missing[0]}, whose weight is quantised; "
                    f"use one of {', '.join(self.scores)}"
                )
            return {layer.name: self.norms[layer.name].expand(len(rows), -1) for layer in self.layers}
        s, c = self._score(score), self._class(token_class)
        n = self.counts[rows, c].clamp(min=1).unsqueeze(1)  # (K, 1)
        return {layer.name: self.sums[layer.name][rows, s, c] / n for layer in self.layers}

    def variance(
        self, score: str, token_class: str = "all", conditions: Sequence[Condition] | None = None
    ) -> dict[str, Tensor]:
        """Return the unbiased variance of a score between the samples of a condition: layer -> [conditions, N]."""
        rows, s, c = self._rows(conditions), self._score(score), self._class(token_class)
        n = self.counts[rows, c].double().unsqueeze(1)
        return {
            layer.name: (
                (self.squares[layer.name][rows, s, c] - self.sums[layer.name][rows, s, c] ** 2 / n.clamp(min=1))
                / (n - 1).clamp(min=1)
            ).clamp(min=0)
            for layer in self.layers
        }

    def importance(
        self,
        score: str,
        token_class: str = "all",
        conditions: Sequence[Condition] | None = None,
        normalise: str = "pair",
    ) -> dict[str, Tensor]:
        """Return the mean of a score, made comparable between conditions: layer -> [conditions, N].

        Args:
            score: name of the score.
            token_class: which tokens it was taken over.
            conditions: which conditions, None for all.
            normalise: `pair` divides each condition by its sum over all neurons of the part, so that a pair with
                larger gradients does not win every comparison; `none` leaves the scale as it is.
        """
        mean = self.mean(score, token_class, conditions)
        if normalise == "none":
            return mean
        if normalise != "pair":
            raise UserError(f"normalise {normalise!r} is not known; expected pair or none")
        totals: dict[str, Tensor] = {}
        for layer in self.layers:
            total = mean[layer.name].abs().sum(1, keepdim=True)
            totals[layer.part] = totals[layer.part] + total if layer.part in totals else total
        # A part that a task does not use (the vision part in text translation) sums to zero and stays zero.
        return {
            layer.name: mean[layer.name] / totals[layer.part].masked_fill(totals[layer.part] == 0, 1.0)
            for layer in self.layers
        }

    def _rows(self, conditions: Sequence[Condition] | None) -> list[int]:
        chosen = self.conditions if conditions is None else conditions
        for condition in chosen:
            if condition not in self.conditions:
                hint = nearest(str(condition), map(str, self.conditions))
                raise UserError(f"condition {condition} is not in the profile; {hint}; profile it too")
        return [self.conditions.index(condition) for condition in chosen]

    def _score(self, score: str) -> int:
        if score not in self.scores:
            raise UserError(
                f"score {score!r} is not in the profile; {nearest(score, self.scores)}; profile again with this score"
            )
        return self.scores.index(score)

    def _class(self, token_class: str) -> int:
        if token_class not in self.classes:
            raise UserError(
                f"token class {token_class!r} is not in the profile; {nearest(token_class, self.classes)}; "
                "profile again with this class"
            )
        return self.classes.index(token_class)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file that `load` reads."""
        tensors = {"counts": self.counts}
        for layer in self.layers:
            tensors[f"sums|{layer.name}"] = self.sums[layer.name].contiguous()
            tensors[f"squares|{layer.name}"] = self.squares[layer.name].contiguous()
        tensors |= {f"norms|{name}": norm for name, norm in self.norms.items()}
        for task, blocks in self.blocks.items():
            tensors[f"items|{task}"] = self.block_counts[task]
            tensors |= {f"blocks|{task}|{name}": block.contiguous() for name, block in blocks.items()}
        head = {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "layers": [asdict(layer) for layer in self.layers],
            "conditions": [str(condition) for condition in self.conditions],
            "scores": self.scores,
            "classes": self.classes,
            "tasks": list(self.blocks),
            "data": self.data,
        }
        save_tensors(path, PROFILE, tensors, head)

    @classmethod
    def load(cls, path: Path | str) -> Profile:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or not a profile of this format version.
        """
        tensors, head = load_tensors(path, PROFILE)
        layers = tuple(Layer(**layer) for layer in head["layers"])
        names = [layer.name for layer in layers]
        return cls(
            model=head["model"],
            fingerprint=head["fingerprint"],
            layers=layers,
            conditions=tuple(Condition.parse(text) for text in head["conditions"]),
            scores=tuple(head["scores"]),
            classes=tuple(head["classes"]),
            counts=tensors["counts"],
            sums={name: tensors[f"sums|{name}"] for name in names},
            squares={name: tensors[f"squares|{name}"] for name in names},
            norms={name: tensors[f"norms|{name}"] for name in names if f"norms|{name}" in tensors},
            blocks={task: {name: tensors[f"blocks|{task}|{name}"] for name in names} for task in head["tasks"]},
            block_counts={task: tensors[f"items|{task}"] for task in head["tasks"]},
            data=head["data"],
        )


def merge(a: Profile, b: Profile) -> Profile:
    """Return the profile of the data of both; `merge(profile(x), profile(y))` is `profile(x + y)`.

    Source items whose pairs are divided between the two are complete in neither and stay out of the block sums.

    Raises:
        UserError: the profiles are of different models, layers, scores or token classes.
    """
    for what in ("fingerprint", "layers", "scores", "classes"):
        if getattr(a, what) != getattr(b, what):
            raise UserError(f"profiles cannot be merged: their {what} differ; profile both with one model and options")
    conditions = a.conditions + tuple(condition for condition in b.conditions if condition not in a.conditions)

    def add(x: Tensor, y: Tensor) -> Tensor:
        total = x.new_zeros(len(conditions), *x.shape[1:])
        total[: len(a.conditions)] += x
        total[[conditions.index(condition) for condition in b.conditions]] += y
        return total

    blocks: dict[str, dict[str, Tensor]] = {}
    counts: dict[str, Tensor] = {}
    for task in {**a.blocks, **b.blocks}:
        pairs = {condition.pair for condition in conditions if condition.task == task}
        for profile in (a, b):
            # Blocks of fewer pairs than the merged task has are incomplete.
            if task not in profile.blocks or {c.pair for c in profile.of_task(task)} != pairs:
                continue
            old = blocks.get(task)
            blocks[task] = {n: x + old[n] if old else x for n, x in profile.blocks[task].items()}
            counts[task] = profile.block_counts[task] + (counts[task] if old else 0)
    return Profile(
        model=a.model,
        fingerprint=a.fingerprint,
        layers=a.layers,
        conditions=conditions,
        scores=a.scores,
        classes=a.classes,
        counts=add(a.counts, b.counts),
        sums={name: add(x, b.sums[name]) for name, x in a.sums.items()},
        squares={name: add(x, b.squares[name]) for name, x in a.squares.items()},
        norms=a.norms,
        blocks=blocks,
        block_counts=counts,
        data="+".join(profile.data for profile in (a, b) if profile.data),
    )
