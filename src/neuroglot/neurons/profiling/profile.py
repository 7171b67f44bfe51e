"""Profile: streamed moments of every neuron's importance, per condition. Importance makes it, select reads it.

Shapes: K conditions, S scores, C token classes, N neurons of a layer. A profile holds sums, never activations, so two
profiles of different data add up (`merge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from neuroglot.artefact import PROFILE, load_tensors, save_tensors
from neuroglot.errors import UserError, nearest
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.files import Stored, StoredBlocks, cut, cut_block, cut_mean, packed, packed_block
from neuroglot.pair import Condition
from neuroglot.shown import short

STATIC = ("weight", "movement", "random")
"""Scores of a neuron that are the same for every condition: they come from the weights, not from data."""

Moments = tuple[Tensor, Tensor, Tensor | None]
"""Of a layer: sums [K, N] and sums of squares [K, N] over samples of shares; block sums [N], or None."""


def population(layer: Layer) -> tuple[str, bool]:
    """Return what a layer's neurons are shared out among: the rows of its part, or the units of its blocks."""
    return layer.part, bool(layer.writes)


@dataclass(frozen=True, eq=False)
class Profile:
    """What one pass over data left behind.

    A *share* of a neuron in a sample is its score divided by the sample's sum of that score over the part's neurons
    (rows and feed-forward units apart), 0 where that sum is 0: a pair whose gradients are larger has no larger shares.

    Attributes:
        model: the model's name or path.
        fingerprint: hash of the layers' names, shapes and a sample of their weights.
        layers: the profiled layers.
        conditions: task and pair of each row below.
        scores: names of the scores, see `neuroglot.neurons.profiling.scores.SCORES`.
        classes: names of the token classes.
        counts: [K, C], samples that hold a token of the class.
        sums: layer -> [K, S, C, N] float64, sum over samples of the score.
        squares: layer -> [K, S, C, N] float64, sum over samples of its square.
        share_sums: layer -> [K, S, C, N] float64, sum over samples of the share.
        share_squares: layer -> [K, S, C, N] float64, sum over samples of its square.
        blocks: task -> layer -> [S, C, N] float64, sum over source items of (mean over pairs of the share)^2, for
            items that were seen with every pair of the task.
        block_counts: task -> [C], the number of such items.
        static: score -> layer -> [N]: `weight`, the norms of the neurons' weights, and what else the weights tell;
            layers with a quantised weight are absent.
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
    share_sums: Mapping[str, Tensor]
    share_squares: Mapping[str, Tensor]
    blocks: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    block_counts: Mapping[str, Tensor] = field(default_factory=dict)
    static: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    data: str = ""

    __repr__ = short

    def of_task(self, task: str) -> tuple[Condition, ...]:
        """Return the conditions of a task, in the order in which they were first seen."""
        return tuple(condition for condition in self.conditions if condition.task == task)

    def mean(
        self, score: str, token_class: str = "all", conditions: Sequence[Condition] | None = None
    ) -> dict[str, Tensor]:
        """Return the mean of a score over samples, I_k[n]: layer -> [conditions, N], float64.

        A static score, such as `weight`, needs no data and is the same for every condition.

        Raises:
            UserError: the profile lacks the score, the class or a condition, or a value of it is not finite.
        """
        rows = self._rows(conditions)
        if score in STATIC and score not in self.scores:
            return {name: x.repeat(len(rows), 1) for name, x in self._static(score).items()}
        s, c = self._score(score), self._class(token_class)

        def of(name: str) -> Tensor:
            return self._finite(cut_mean(self.sums, self.counts, name, rows, s, c), score, name, rows)

        return {layer.name: of(layer.name) for layer in self.layers}

    def variance(
        self, score: str, token_class: str = "all", conditions: Sequence[Condition] | None = None
    ) -> dict[str, Tensor]:
        """Return the unbiased variance of a score between the samples of a condition: layer -> [conditions, N].

        Raises:
            UserError: as for `mean`, or a condition has fewer than two samples.
        """
        rows, s, c = self._rows(conditions), self._score(score), self._class(token_class)
        self._check_samples(rows, c)
        n = self.counts[rows, c].double().unsqueeze(1)

        def of(name: str) -> Tensor:
            sums, squares = (cut(values, name, rows, s, c) for values in (self.sums, self.squares))
            return ((squares - sums**2 / n) / (n - 1)).clamp(min=0)

        return {layer.name: of(layer.name) for layer in self.layers}

    def moments(self, task: str, score: str, token_class: str = "all") -> tuple[Tensor, Mapping[str, Moments], int]:
        """Return what an analysis of variance over the pairs of a task needs.

        Returns:
            Samples of each pair [K]; layer -> (share sums [K, N], share squares [K, N], block sums [N] or None), each
            layer made when it is asked for; and the number of source items in complete blocks, 0 without.

        Raises:
            UserError: the profile lacks the task, the score or the class, or a pair has fewer than two samples.
        """
        rows, s, c = self._rows(self.of_task(task)), self._score(score), self._class(token_class)
        if not rows:
            known = {condition.task for condition in self.conditions}
            raise UserError(f"task {task!r} is not in the profile; {nearest(task, known)}; profile it too")
        self._check_samples(rows, c)
        items = int(self.block_counts[task][c]) if task in self.block_counts else 0

        def of(name: str) -> Moments:
            sums, squares = (
                self._finite(cut(values, name, rows, s, c), score, name, rows)
                for values in (self.share_sums, self.share_squares)
            )
            block = cut_block(self.blocks[task], name, s, c) if items else None
            return sums, squares, None if block is None else self._finite(block, score, name, rows)

        return self.counts[rows, c], _Made([layer.name for layer in self.layers], of), items

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
            normalise: `pair` divides each condition by its sum over all neurons of the part (rows and feed-forward
                units apart), so that a pair with larger gradients does not win every comparison; `none` leaves the
                scale as it is.
        """
        mean = self.mean(score, token_class, conditions)
        if normalise == "none":
            return mean
        if normalise != "pair":
            raise UserError(f"normalise {normalise!r} is not known; expected pair or none")
        totals: dict[tuple[str, bool], Tensor] = {}
        for layer in self.layers:
            total = mean[layer.name].sum(1, keepdim=True)  # no score is below zero
            totals[population(layer)] = totals.get(population(layer), 0) + total
        # A part that a task does not use (the vision part in text translation) sums to zero and stays zero.
        whole = {key: total.masked_fill(total == 0, 1.0) for key, total in totals.items()}
        return {layer.name: mean[layer.name].div_(whole[population(layer)]) for layer in self.layers}

    def _static(self, score: str) -> dict[str, Tensor]:
        found = self.static.get(score, {})
        missing = [layer.name for layer in self.layers if layer.name not in found]
        if missing:
            why = "whose weight is quantised" if score == "weight" else "which nobody has measured"
            raise UserError(
                f"score {score!r} is not known for {missing[0]}, {why}; use one of {', '.join(self.scores)}"
            )
        return {x.name: self._finite(found[x.name].double(), score, x.name) for x in self.layers}

    def _finite(self, values: Tensor, score: str, layer: str, rows: Sequence[int] = ()) -> Tensor:
        """Return values [K, N] or [N], or refuse them: nothing can be chosen or ranked by what is no number."""
        if bool(values.sum().isfinite()):  # of float64, which no sum of such numbers overflows
            return values
        wrong = ~values.isfinite().reshape(-1, values.shape[-1])
        pairs = [str(self.conditions[row]) for row, any_ in zip(rows, wrong.any(1).tolist(), strict=False) if any_]
        raise UserError(
            f"the profile's {score} of layer {layer} is not finite for {int(wrong.any(0).sum())} of its "
            f"{values.shape[-1]} neurons{f' ({pairs[0]})' if pairs else ''}; the profile is of no use: profile again"
        )

    def _check_samples(self, rows: Sequence[int], token_class: int) -> None:
        for row in rows:
            count = int(self.counts[row, token_class])
            if count < 2:
                raise UserError(
                    f"a variance is asked of {self.conditions[row]}, which has {count} sample{'s' * (count != 1)} of "
                    f"token class {self.classes[token_class]}; expected 2 or more; profile more items of this pair"
                )

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
        """Write a safetensors file that `load` reads; see `files` for what of float64 is kept."""
        tensors = {"counts": self.counts}
        for layer in self.layers:
            name = layer.name
            tensors[f"mean|{name}"], tensors[f"spread|{name}"] = packed(self.counts, self.sums, self.squares, name)
            shares = packed(self.counts, self.share_sums, self.share_squares, name)
            tensors[f"share_mean|{name}"], tensors[f"share_spread|{name}"] = shares
            for task, blocks in self.blocks.items():
                rows, items = self._rows(self.of_task(task)), self.block_counts[task]
                distance = packed_block(self.counts, rows, self.share_sums, blocks, items, name)
                tensors[f"block|{task}|{name}"] = distance
        tensors |= {f"items|{task}": items for task, items in self.block_counts.items()}
        for score, values in self.static.items():
            tensors |= {f"static|{score}|{name}": x.float() for name, x in values.items()}
        head = {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "layers": [asdict(layer) for layer in self.layers],
            "conditions": [str(condition) for condition in self.conditions],
            "scores": self.scores,
            "classes": self.classes,
            "tasks": list(self.blocks),
            "static": list(self.static),
            "data": self.data,
        }
        save_tensors(path, PROFILE, {name: x.contiguous() for name, x in tensors.items()}, head)

    @classmethod
    def load(cls, path: Path | str) -> Profile:
        """Read what `save` wrote; the file is mapped, not copied.

        Raises:
            UserError: the file is missing, damaged, or not a profile of this format version.
        """
        tensors, head = load_tensors(path, PROFILE)
        with PROFILE.reading(path):
            return cls._of(tensors, head)

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], head: dict[str, Any]) -> Profile:
        """Return what `save` wrote, once its tensors have the shapes that its head speaks of."""
        layers = tuple(Layer(**{**layer, "reads": tuple(layer["reads"])}) for layer in head["layers"])
        conditions = tuple(Condition.parse(text) for text in head["conditions"])

        def by_layer(kind: str) -> dict[str, Tensor]:
            return {x.name: tensors[f"{kind}|{x.name}"] for x in layers if f"{kind}|{x.name}" in tensors}

        shape = (len(conditions), len(head["scores"]), len(head["classes"]))
        if tensors["counts"].shape != (shape[0], shape[2]):
            raise ValueError("counts has another shape than conditions and classes")
        for layer in layers:
            for kind in ("mean", "spread", "share_mean", "share_spread"):
                if tensors[f"{kind}|{layer.name}"].shape != (*shape, layer.neurons):
                    raise ValueError(f"{kind} of {layer.name} has another shape than its scores and neurons")
        samples = tensors["counts"].double()[:, None, :, None]
        means, shares = by_layer("mean"), by_layer("share_mean")
        blocks, items = {}, {task: tensors[f"items|{task}"] for task in head["tasks"]}
        for task, count in items.items():
            rows = [k for k, condition in enumerate(conditions) if condition.task == task]
            blocks[task] = StoredBlocks(count.double()[None, :, None], rows, shares, by_layer(f"block|{task}"))
        return cls(
            model=head["model"],
            fingerprint=head["fingerprint"],
            layers=layers,
            conditions=conditions,
            scores=tuple(head["scores"]),
            classes=tuple(head["classes"]),
            counts=tensors["counts"],
            sums=Stored(samples, means),
            squares=Stored(samples, means, by_layer("spread")),
            share_sums=Stored(samples, shares),
            share_squares=Stored(samples, shares, by_layer("share_spread")),
            blocks=blocks,
            block_counts=items,
            static={score: by_layer(f"static|{score}") for score in head["static"]},
            data=head["data"],
        )


class _Made(Mapping[str, Moments]):
    """A mapping whose values are made on access: those of all layers at once would fill the memory."""

    def __init__(self, names: Sequence[str], make: Callable[[str], Moments]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Moments:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
