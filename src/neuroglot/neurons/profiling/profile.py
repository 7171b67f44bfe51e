"""Profile: streamed moments of every neuron's importance, per condition, in memory that does not grow with the data.

`importance` makes it, `select` reads it. Float64 sums are saved as float32 means and spreads.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroglot.errors import UserError, nearest
from neuroglot.file_format import PROFILE, load_tensors, save_tensors
from neuroglot.neurons.inventory import Layer
from neuroglot.pair import Condition, Pair
from neuroglot.printing import short

# ---- Streamed sums --------------------------------------------------------------------------------------------------
# `Totals` adds up over samples, for the mean and the variance of each score. `Blocks` adds up over the source items of
# parallel data, so that an analysis of variance can separate differences between items from those between pairs.
#
# Shapes: B samples, N neurons, S scores, C token classes.

KINDS = ("sums", "squares", "share_sums", "share_squares")
"""What is summed over samples, named as in `Profile`."""


def wide(x: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def shares(samples: Mapping[str, Tensor], kinds: Mapping[str, Hashable]) -> dict[str, Tensor]:
    """Return each sample's scores divided by their sum over the layers of a kind: layer -> [S, B, C, N].

    Args:
        samples: layer -> [S, B, C, N], no score below zero.
        kinds: layer -> its kind; a share is of the sum over its kind.
    """
    totals: dict[Hashable, Tensor] = {}
    for name, x in samples.items():
        totals[kinds[name]] = totals.get(kinds[name], 0) + x.sum(3, keepdim=True)
    # A sample that does not use a part has shares of zero there, not 0 / 0.
    scale = {kind: (1 / total).masked_fill(total == 0, 0) for kind, total in totals.items()}
    return {name: x * scale[kinds[name]] for name, x in samples.items()}


class Totals:
    """Sums over samples, per condition: layer -> [S, C, N]."""

    def __init__(self) -> None:
        self.counts: dict[Condition, Tensor] = {}
        self.sums: dict[str, dict[Condition, dict[str, Tensor]]] = {kind: {} for kind in KINDS}

    def add(
        self, condition: Condition, samples: Mapping[str, Tensor], parts: Mapping[str, Tensor], present: Tensor
    ) -> None:
        """Add a batch: scores and shares, layer -> [S, B, C, N], and [B, C], which samples hold the class."""
        self.counts[condition] = self.counts.get(condition, 0) + present.sum(0)
        for values, (plain, squared) in ((samples, KINDS[:2]), (parts, KINDS[2:])):
            sums, squares = (self.sums[kind].setdefault(condition, {}) for kind in (plain, squared))
            for name, x in values.items():
                sums[name] = sums.get(name, 0) + wide(x.sum(1))
                squares[name] = squares.get(name, 0) + wide(x.square().sum(1))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON that `restore` takes."""
        order = list(self.counts)
        tensors = {f"counts|{k}": self.counts[c] for k, c in enumerate(order)}
        for kind, sums in self.sums.items():
            tensors |= {f"{kind}|{k}|{n}": x for k, c in enumerate(order) for n, x in sums.get(c, {}).items()}
        return tensors, {"conditions": [str(c) for c in order]}

    def restore(self, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        order = [Condition.parse(text) for text in head["conditions"]]
        for name, x in tensors.items():
            kind, k, *layer = name.split("|", 2)
            if kind == "counts":
                self.counts[order[int(k)]] = x
            else:
                self.sums[kind].setdefault(order[int(k)], {})[layer[0]] = x
        self.counts = {c: self.counts[c] for c in order}


@dataclass
class _Block:
    """The pairs seen so far of a batch of source items; `total` is layer -> [S, B, C, N], summed over them."""

    items: tuple[str, ...]
    pairs: set[Pair]
    total: dict[str, Tensor]
    present: Tensor


class Blocks:
    """Sums over source items of (mean over pairs of the share)^2, one open block per task.

    A block ends when its task's items change or a pair comes again (another instruction on the same items). The
    pairs of a task are known only at the end, so the sums are those of the blocks with the largest set of pairs so
    far; if this is not the full set in the end, no block was complete.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Block] = {}
        self._pairs: dict[str, set[Pair]] = {}
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, condition: Condition, items: tuple[str, ...], samples: dict[str, Tensor], present: Tensor) -> None:
        """Add a batch's shares, named by its items; without items it belongs to no block."""
        task, pair = condition.task, condition.pair
        block = self._open.get(task)
        if block is not None and (block.items != items or pair in block.pairs):
            self._close(task)
            block = None
        if not items:
            return
        if block is None:
            self._open[task] = _Block(items, {pair}, samples, present)
            return
        block.pairs.add(pair)
        block.present = block.present & present
        for name, x in samples.items():
            block.total[name] = block.total[name] + x if name in block.total else x

    def _close(self, task: str) -> None:
        block = self._open.pop(task)
        best = self._pairs.get(task, set())
        if len(block.pairs) < 2 or not block.pairs >= best:
            return
        if block.pairs > best:
            self._pairs[task], self._sums[task] = block.pairs, {}
            self._counts[task] = torch.zeros_like(block.present.sum(0))
        sums = self._sums[task]
        self._counts[task] += block.present.sum(0)
        for name, total in block.total.items():
            mean = total / len(block.pairs) * block.present.to(total).unsqueeze(2)  # (S, B, C, N)
            sums[name] = sums.get(name, 0) + wide(mean.square().sum(1))

    def finish(self, pairs: Mapping[str, set[Pair]]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """Return task -> layer -> [S, C, N] and task -> [C], for the tasks whose blocks hold all their pairs."""
        for task in list(self._open):
            self._close(task)
        complete = [task for task in self._pairs if self._pairs[task] == pairs[task]]
        return {task: self._sums[task] for task in complete}, {task: self._counts[task] for task in complete}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON that `restore` takes."""
        tensors: dict[str, Tensor] = {}
        for task, block in self._open.items():
            tensors[f"present|{task}"] = block.present
            tensors |= {f"open|{task}|{name}": x for name, x in block.total.items()}
        for task, sums in self._sums.items():
            tensors[f"items|{task}"] = self._counts[task]
            tensors |= {f"sums|{task}|{name}": x for name, x in sums.items()}
        head = {
            "open": {task: [list(block.items), sorted(map(str, block.pairs))] for task, block in self._open.items()},
            "pairs": {task: sorted(map(str, pairs)) for task, pairs in self._pairs.items()},
        }
        return tensors, head

    def restore(self, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        for task, (items, pairs) in head["open"].items():
            present = tensors[f"present|{task}"]
            self._open[task] = _Block(tuple(items), set(map(Pair.parse, pairs)), {}, present)
        for task, pairs in head["pairs"].items():
            self._pairs[task], self._sums[task] = set(map(Pair.parse, pairs)), {}
        for name, x in tensors.items():
            kind, task, *layer = name.split("|", 2)
            if kind == "items":
                self._counts[task] = x
            elif kind == "open":
                self._open[task].total[layer[0]] = x
            elif kind == "sums":
                self._sums[task][layer[0]] = x


# ---- The file of a profile ------------------------------------------------------------------------------------------
# A sum of squares in float32 would lose the variance where it is small compared with the mean. The file therefore
# holds the mean and the spread, the root of the mean squared deviation, whose squares may be too small for float32.
# The sums are computed again on access, in float64 and one layer at a time: a file of 1.5 million neurons and 14 pairs
# is mapped into memory and never copied completely.
#
# Shapes: K conditions, S scores, C token classes, N neurons of a layer.

ALL = slice(None)

Index = Any
"""A number, a list of numbers or a slice."""


@dataclass(frozen=True, eq=False)
class Stored(Mapping[str, Tensor]):
    """Sums over samples, layer -> [K, S, C, N] float64, computed on access from a file's values.

    Attributes:
        counts: [K, 1, C, 1] float64, samples.
        means: layer -> [K, S, C, N].
        spreads: layer -> [K, S, C, N]; None for plain sums, given for sums of squares.
    """

    counts: Tensor
    means: Mapping[str, Tensor]
    spreads: Mapping[str, Tensor] | None = None

    def cut(self, name: str, rows: Index = ALL, score: Index = ALL, token_class: Index = ALL) -> Tensor:
        """Return `self[name][rows, score, token_class]` without computing the rest."""
        n = self.counts[rows, 0 if isinstance(score, int) else ALL, token_class]
        mean = self.means[name][rows, score, token_class].double()
        if self.spreads is None:
            return mean.mul_(n)
        spread = self.spreads[name][rows, score, token_class].double()
        return mean.square_().addcmul_(spread, spread).mul_(n)

    def __getitem__(self, name: str) -> Tensor:
        return self.cut(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.means)

    def __len__(self) -> int:
        return len(self.means)


@dataclass(frozen=True, eq=False)
class StoredBlocks(Mapping[str, Tensor]):
    """Block sums of a task, layer -> [S, C, N] float64, made on access.

    They are stored as distances from their value if all items were alike, which is `counts` times the square of the
    mean over pairs of the mean share: where every sample lies in a block, that is the centred sum over items.

    Attributes:
        counts: [1, C, 1] float64, complete items.
        rows: the task's conditions.
        means: layer -> [K, S, C, N], the mean shares.
        distances: layer -> [S, C, N], the root of the distance over the count, with its sign.
    """

    counts: Tensor
    rows: Sequence[int]
    means: Mapping[str, Tensor]
    distances: Mapping[str, Tensor]

    def cut(self, name: str, score: Index = ALL, token_class: Index = ALL) -> Tensor:
        """Return `self[name][score, token_class]` without computing the rest."""
        n = self.counts[0 if isinstance(score, int) else ALL, token_class]
        centre = self.means[name][list(self.rows), score, token_class].double().mean(0)
        distance = self.distances[name][score, token_class].double()
        return centre.square_().addcmul_(distance, distance.abs()).mul_(n)

    def __getitem__(self, name: str) -> Tensor:
        return self.cut(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.distances)

    def __len__(self) -> int:
        return len(self.distances)


def cut(values: Mapping[str, Tensor], name: str, rows: Index, score: int, token_class: int) -> Tensor:
    """Return a slice [K, N] of sums, stored or not."""
    if isinstance(values, Stored):
        return values.cut(name, rows, score, token_class)
    return values[name][rows, score, token_class]


def cut_mean(
    sums: Mapping[str, Tensor], counts: Tensor, name: str, rows: Index, score: int, token_class: int
) -> Tensor:
    """Return a slice [K, N] of sums over counts [K, C], a new float64 tensor."""
    if isinstance(sums, Stored):
        return sums.means[name][rows, score, token_class].double()
    return sums[name][rows, score, token_class] / counts[rows, token_class].clamp(min=1).unsqueeze(1)


def cut_block(values: Mapping[str, Tensor], name: str, score: int, token_class: int) -> Tensor:
    """Return a slice [N] of a task's block sums, stored or not."""
    if isinstance(values, StoredBlocks):
        return values.cut(name, score, token_class)
    return values[name][score, token_class]


def packed(
    counts: Tensor, sums: Mapping[str, Tensor], squares: Mapping[str, Tensor], name: str
) -> tuple[Tensor, Tensor]:
    """Return a layer's means and spreads, [K, S, C, N] float32; a condition without samples has zeros."""
    if isinstance(sums, Stored) and isinstance(squares, Stored) and squares.spreads is not None:
        return sums.means[name], squares.spreads[name]
    n = counts.clamp(min=1).double()[:, None, :, None]
    mean = sums[name] / n
    return mean.float(), (squares[name] / n - mean.square()).clamp(min=0).sqrt().float()


def packed_block(
    counts: Tensor, rows: Sequence[int], share_sums: Mapping[str, Tensor], blocks: Mapping[str, Tensor],
    items: Tensor, name: str,
) -> Tensor:  # fmt: skip
    """Return a layer's distances of one task, [S, C, N] float32, see `StoredBlocks`."""
    if isinstance(blocks, StoredBlocks):
        return blocks.distances[name]
    samples = counts[list(rows)].clamp(min=1).double()[:, None, :, None]
    centre = (share_sums[name][list(rows)] / samples).mean(0)
    distance = blocks[name] / items.clamp(min=1).double()[None, :, None] - centre.square()
    distance = distance * (items > 0)[None, :, None]
    return (distance.abs().sqrt() * distance.sign()).float()


# ---- Profile --------------------------------------------------------------------------------------------------------
# Shapes: K conditions, S scores, C token classes, N neurons of a layer. A profile holds sums, never activations, so
# two profiles of different data add up (`merge`).

STATIC = ("weight", "movement", "random")
"""Scores of a neuron that are the same for every condition: they come from the weights, not from data."""

Moments = tuple[Tensor, Tensor, Tensor | None]
"""Of a layer: sums [K, N] and sums of squares [K, N] over samples of shares; block sums [N], or None."""


def population(layer: Layer) -> tuple[str, bool]:
    """Return the neurons among which a layer's shares are taken: the rows of its part, or its blocks' units."""
    return layer.part, bool(layer.writes)


@dataclass(frozen=True, eq=False)
class Profile:
    """The result of one pass over data.

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
        static: score -> layer -> [N]: `weight`, the norms of the neurons' weights, and other scores of the weights;
            layers with a quantised weight are absent.
        data: hash of the examples that it was measured on, if the caller gave one.
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
            layer computed on access; and the number of source items in complete blocks, 0 without.

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
        divisors = {key: total.masked_fill(total == 0, 1.0) for key, total in totals.items()}
        return {layer.name: mean[layer.name].div_(divisors[population(layer)]) for layer in self.layers}

    def _static(self, score: str) -> dict[str, Tensor]:
        values = self.static.get(score, {})
        missing = [layer.name for layer in self.layers if layer.name not in values]
        if missing:
            why = "whose weight is quantised" if score == "weight" else "which nobody has measured"
            raise UserError(
                f"score {score!r} is not known for {missing[0]}, {why}; use one of {', '.join(self.scores)}"
            )
        return {x.name: self._finite(values[x.name].double(), score, x.name) for x in self.layers}

    def _finite(self, values: Tensor, score: str, layer: str, rows: Sequence[int] = ()) -> Tensor:
        """Return values [K, N] or [N], or refuse them: NaN and infinity cannot be ranked."""
        if bool(values.sum().isfinite()):  # float64, in which no sum of such numbers overflows
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
        """Write a file for `load`; sums are stored as `neuroglot.neurons.profiling.profile.Stored` has them."""
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
        """Return what `save` wrote, if its tensors have the shapes that its head gives."""
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
    """A mapping whose values are computed on access: those of all layers at once would fill the memory."""

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
