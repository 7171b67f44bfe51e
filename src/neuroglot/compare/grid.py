"""The grid: its cells, their recipes and names, and which learning rate is tried next.

A *contender* is a method at a budget. Each is trained at several learning rates with the first seed, a rate is chosen
by the loss on the dev split, and with that rate it is trained with every seed. A *cell* is one such training; `base`,
`cascade` and the systems that the recipe names, which are not trained, are one cell each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroglot.config import (
    BASELINES,
    CLASSIC,
    CONTROLS,
    FACTORS,
    METHODS,
    NEURON_METHODS,
    PRESETS,
    UNBUDGETED,
    Recipe,
    check,
)
from neuroglot.config.sections import SweepSection, frozen, slug
from neuroglot.errors import UserError, nearest

# ---- The grid: its cells, and which learning rate is tried next -----------------------------------------------------
# A *contender* is a method at a budget. Each is trained at several learning rates with the first seed, a rate is
# chosen by the loss on the dev split, and with that rate it is trained with every seed. A *cell* is one such training;
# `base`, `cascade` and the systems that the recipe names, which are not trained, are one cell each.

MOST_RATES = 6
"""Tried for one contender; a best rate that is still at the edge then is marked."""


@dataclass(frozen=True)
class Contender:
    """A method at a budget, or a variant of the recipe.

    Attributes:
        method: its name.
        budget: its share of trainable neurons; None where it has none.
        variant: the name of the variant; None in a grid of methods.
        changes: of a variant, the settings in which it differs from the recipe, as JSON.
    """

    method: str
    budget: float | None = None
    variant: str | None = None
    changes: str = "{}"

    @property
    def name(self) -> str:
        """Its name in the table."""
        if self.variant is not None:
            return self.variant
        return self.method if self.budget is None else f"{self.method} {100 * self.budget:g} %"

    @property
    def trained(self) -> bool:
        """Whether there is anything to train."""
        return self.method in (*METHODS, *CLASSIC)


@dataclass(frozen=True)
class Cell:
    """One training of a contender, or a baseline."""

    contender: Contender
    rate: float | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        """Its folder."""
        variant = self.contender.variant
        own = self.contender.method if variant is None else f"{self.contender.method}-{slug(variant)}"
        parts = (own, self.contender.budget, self.rate, self.seed)
        return "-".join(part if isinstance(part, str) else f"{part:g}" for part in parts if part is not None)


def contenders(methods: Sequence[str], budgets: Sequence[float], systems: Iterable[str] = ()) -> list[Contender]:
    """Return the contenders, what is not trained first.

    Args:
        methods: names of methods, of baselines, and of systems.
        budgets: shares of trainable neurons.
        systems: the names that the recipe has systems for.

    Raises:
        UserError: an unknown or repeated method, a budget outside (0, 1], or none where a method needs one.
    """
    untrained = (*BASELINES, *systems)
    for index, method in enumerate(methods):
        if method not in (*untrained, *METHODS, *CLASSIC):
            known = (*untrained, *METHODS, *CLASSIC)
            raise UserError(f"method {method!r} is not known; {nearest(method, known)}")
        if method in methods[:index]:
            raise UserError(f"method {method} is named twice; name it once")
    for budget in budgets:
        if not 0 < budget <= 1:
            raise UserError(f"a budget must be in (0, 1], got {budget:g}; it is a share of neurons, 0.4 for 40 %")
    result = []
    for method in sorted(methods, key=lambda m: m not in untrained):
        if method in (*untrained, *UNBUDGETED, *CLASSIC):
            result.append(Contender(method))
        elif not budgets:
            raise UserError(f"method {method} needs --budgets, such as 0.01,0.1")
        else:
            result += [Contender(method, budget) for budget in budgets]
    return result


def variants(recipe: Recipe, sweep: SweepSection) -> list[Contender]:
    """Return the contenders of a sweep: what stands beside, then the variants in their order."""
    result = [Contender(method) for method in sorted(sweep.beside, key=lambda m: m not in BASELINES)]
    for name, changes in sweep.settings.items():
        result.append(Contender(changes.get("method", recipe.method), None, name, frozen(changes)))
    return result


def recipe_of(cell: Cell, recipe: Recipe, widths: Sequence[tuple[int, int]]) -> Recipe:
    """Return a cell's recipe.

    Args:
        cell: which.
        recipe: what the grid is of; a control is like its method, or `mnaft`.
        widths: (inputs with bias, outputs) of each layer, for LoRA's rank.
    """
    tree: dict[str, Any] = recipe.model_dump(mode="json") | {"name": cell.name, "sweep": None}
    contender = cell.contender
    tree["systems"] = {name: own for name, own in tree["systems"].items() if name == contender.method}
    if contender.method in CLASSIC[1:] and recipe.task == "image_translation":
        raise UserError(
            f"method {contender.method} is given the source text and a picture beside it, and {recipe.task} has its "
            f"text in the picture; set task: multimodal_translation, or compare with {CLASSIC[0]}, which is given "
            "the text"
        )
    if contender.trained:
        own = contender.method in METHODS
        tree["method"] = contender.method if own else "full"  # a classic system has nothing to choose neurons in
        tree["train"] |= {"seed": cell.seed, "lr": cell.rate if own else cell.rate or 1e-3}
    if contender.variant is not None:
        tree["select"]["seed"] = cell.seed
        for field, value in json.loads(contender.changes).items():
            section, _, key = field.partition(".")
            if key:
                tree[section][key] = value
        return check(tree, f"sweep, variant {contender.variant}")
    if contender.method in NEURON_METHODS:
        tree["select"]["seed"] = cell.seed
        if recipe.train.parameters is None:
            tree["select"]["budget"] = contender.budget
        else:  # to the parameter what LoRA trains at the budget; the recipe says among which rows
            tree["train"]["parameters"] = lora_share(contender.budget or 0, widths)
        if recipe.aligned and contender.method in CONTROLS:  # a control does not look at the gradient for its rows
            from neuroglot.neurons.selecting.options import Options

            given, rows = recipe.select.budget or Options.budget or 1.0, recipe.train.rows
            if isinstance(given, Mapping):
                tree["select"]["budget"] = {part: rows * share for part, share in given.items()}
            else:
                tree["select"]["budget"] = rows * given
            tree["train"]["rows"] = 1.0
    like = contender.method
    if contender.method in CONTROLS:
        like = recipe.select.like or (recipe.method if recipe.method in PRESETS else "mnaft")
        tree["select"]["like"] = like
    if contender.budget is not None and like.startswith("neumt"):
        tree["select"]["layers"] = None  # there the budget is the share of layers
    if contender.method in FACTORS and contender.budget is not None:
        tree["train"]["rank"] = equal_rank(contender.budget, widths, contender.method == "dora")
    return check(tree, f"cell {cell.name}")


def equal_rank(budget: float, widths: Sequence[tuple[int, int]], magnitudes: bool = False) -> int:
    """Return the rank at which LoRA in every layer trains as many parameters as a share of all rows, at least 1.

    Args:
        budget: the share.
        widths: (inputs with bias, outputs) of each layer.
        magnitudes: count DoRA's lengths too, one a row.

    Examples:
        >>> equal_rank(0.5, [(64, 64), (64, 64)])
        16
        >>> equal_rank(0.5, [(64, 64), (64, 64)], magnitudes=True)
        16
    """
    rows = budget * sum(inputs * outputs for inputs, outputs in widths)
    lengths = sum(outputs for _, outputs in widths) if magnitudes else 0
    return max(1, round((rows - lengths) / sum(inputs + outputs for inputs, outputs in widths)))


def lora_share(budget: float, widths: Sequence[tuple[int, int]]) -> float:
    """Return LoRA's parameters at the rank of a budget as a share of all layers' weights.

    Examples:
        >>> lora_share(0.5, [(64, 64), (64, 64)])
        0.5
    """
    trained = equal_rank(budget, widths) * sum(inputs + outputs for inputs, outputs in widths)
    return min(1.0, trained / sum(inputs * outputs for inputs, outputs in widths))


def rate(step: int) -> float:
    """Return a learning rate of the ladder ..., 1e-3, 3e-3, 1e-2, 3e-2, ...; step 0 is 1e-3.

    Examples:
        >>> [rate(step) for step in (-1, 0, 1, 2)]
        [0.0003, 0.001, 0.003, 0.01]
    """
    return float(f"{(3 if step % 2 else 1)}e{step // 2 - 3}")


FIRST = {"full": -1, "vision": -1, "language": -1, "connector": 0, "lora": 1, "dora": 1, "bitfit": 2, "norms": 2,
         "prompt": 3}  # fmt: skip
"""The middle of the ladder's first steps, where the method says it; of neurons it is the budget."""


def first_steps(contender: Contender, low_rank: bool = False) -> list[int]:
    """Return the steps of the ladder to begin with: few parameters want high rates."""
    if contender.method in FIRST:
        middle = FIRST[contender.method]
    elif low_rank:
        middle = 1
    else:
        middle = 0 if (contender.budget or 1) > 0.2 else 1 if (contender.budget or 1) > 0.03 else 2
    return [middle - 1, middle, middle + 1]


def next_steps(tried: Mapping[int, float]) -> list[int]:
    """Return the steps to try next: one beyond the edge as long as the best is there, and none when it is inside.

    Args:
        tried: step -> loss on dev; infinite where training diverged.
    """
    if len(tried) >= MOST_RATES:
        return []
    best = best_of(tried)
    if best == min(tried):
        return [best - 1]
    return [best + 1] if best == max(tried) else []


def best_of(tried: Mapping[int, float]) -> int:
    """Return the step with the lowest loss, the lower rate of two equals.

    Examples:
        >>> best_of({-1: 0.7, 0: 0.5, 1: float("inf")})
        0
    """
    return min(tried, key=lambda step: (tried[step] if not math.isnan(tried[step]) else math.inf, step))


# ---- The estimate of the time left ----------------------------------------------------------------------------------


def finished(folder: Path) -> list[Path]:
    """Return the folders of cells that have a loss on dev."""
    return [position.parent.parent for position in (folder / "cells").glob("*/.stages/develop.json")]


def recorded(folder: Path) -> list[float]:
    """Return how many seconds the stages of each finished cell took, as they recorded it."""
    own = ("select", "align", "train", "develop", "examine")
    cells = [[cell / ".stages" / f"{name}.json" for name in own] for cell in finished(folder)]
    return [sum(json.loads(record.read_text())["seconds"] for record in cell if record.exists()) for cell in cells]


class Estimate:
    """What cells have taken so far, and so how long the others will take.

    Args:
        before: seconds of cells that an earlier process did; they count until one is measured here.
        jobs: cells at a time.
    """

    def __init__(self, before: Sequence[float], jobs: int) -> None:
        self._spent, self._cells, self._jobs = sum(before), len(before), jobs
        self._measured = False

    def add(self, seconds: float, whole: bool) -> None:
        """Count what a process took; `whole` if it did a new cell, and not more of one that was counted before."""
        if not self._measured:
            self._spent, self._cells, self._measured = 0.0, 0, True
        self._spent += seconds
        self._cells += whole

    def left(self, cells: int) -> str:
        """Say how long a number of cells will take."""
        if not self._cells:
            return "how long they take is said when the first is done"
        each = self._spent / self._cells
        minutes = cells * each / 60 / self._jobs
        time = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{60 * minutes:.0f} seconds"
        return f"about {time} left ({each:.0f} s a cell, {self._jobs} at a time)"
