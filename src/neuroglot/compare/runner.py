"""Running a grid: one profile, a sweep of the learning rate per contender, then every seed at the rate chosen on dev.

Cells are done in an order in which an interrupted grid is of most use: all sweeps, then all contenders with the second
seed, then with the third. Cells that are done and unchanged are skipped, like the stages of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neuroglot.compare.grid import (
    Cell,
    Contender,
    Estimate,
    contenders,
    finished,
    first_steps,
    next_steps,
    rate,
    recipe_of,
    recorded,
    variants,
)
from neuroglot.compare.workers import Task, drain, mean_of, read_losses
from neuroglot.config import BASELINES, METHODS, Recipe
from neuroglot.errors import UserError
from neuroglot.pipeline.context import Context, Track, quiet
from neuroglot.pipeline.folder import locked, release
from neuroglot.pipeline.run import Stage, execute, stages

SWEPT = 3.5
"""Cells of a sweep, for the estimate; it is three or a few more."""


@dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
        recipe: the data, the model, and everything that the cells have in common.
        contenders: in the order of the table.
        seeds: how many, from 0.
        rates: the learning rates of every sweep; none to search from each method's own.
        sweep: whether the rate is swept; otherwise it is the recipe's, or the method's default.
        retain: the most that what should be kept may cost on dev, nats per character, at a rate that is chosen; None
            for any.
        reference: of variants, the one that the others are compared with; None in a grid of methods.
    """

    recipe: Recipe
    contenders: tuple[Contender, ...]
    seeds: int
    rates: tuple[float, ...] = ()
    sweep: bool = True
    retain: float | None = None
    reference: Contender | None = None


@dataclass(frozen=True)
class Outcome:
    """The sweep of one contender.

    Attributes:
        tried: learning rate -> losses on dev by split, in order of the rates; empty for a baseline.
        chosen: the rate of the cells that were scored on test; None for a baseline, and where every rate diverged.
    """

    contender: Contender
    tried: dict[float, dict[str, float | None]]
    chosen: float | None


def make_grid(
    recipe: Recipe,
    methods: Sequence[str],
    budgets: Sequence[float],
    seeds: int,
    sweep: bool,
    rates: Sequence[float],
    retain: float | None = None,
) -> Grid:
    """Check a grid.

    Raises:
        UserError: methods or budgets are wrong, there is no seed, a rate is not positive, or nothing to sweep by.
    """
    if not methods:
        raise UserError(
            f"no method is named; name one or more, such as base,mnaft; known: {', '.join((*BASELINES, *METHODS))}"
        )
    if seeds < 1:
        raise UserError(f"seeds must be 1 or more, got {seeds}")
    for given in rates:
        if not 0 < given < math.inf:
            raise UserError(f"a learning rate must be above 0, got {given:g}")
    if rates and not sweep:
        raise UserError("--rates are given, but --sweep is none; leave one of them out")
    if sweep and not recipe.data.dev:
        raise UserError("data.dev is 0, but the learning rate is chosen on dev; set data.dev, or --sweep none")
    if retain is not None and (not retain > 0 or not sweep or not recipe.data.retention):
        raise UserError(
            f"--retain is the most nats per character that what should be kept may cost on dev, got {retain:g}; "
            "expected a number above 0, a sweep, and data.retention above 0"
        )
    chosen = tuple(contenders(methods, budgets, recipe.systems))
    kept = {name: own for name, own in recipe.systems.items() if name in methods}
    recipe = recipe.model_copy(update={"systems": kept})
    return Grid(recipe, chosen, seeds, tuple(sorted(set(rates))), sweep, retain)


def make_sweep(
    recipe: Recipe, seeds: int | None = None, rates: Sequence[float] = (), retain: float | None = None
) -> Grid:
    """Return the grid of a recipe's sweep.

    Args:
        recipe: one with a `sweep` section.
        seeds: instead of the section's.
        rates: instead of the section's.
        retain: as of `make_grid`.

    Raises:
        UserError: it has no such section, or a variant is no recipe.
    """
    section = recipe.sweep
    if section is None:
        raise UserError(f"recipe {recipe.name} has no sweep section; give one that has, such as ablation-layers")
    seeds, rates = section.seeds if seeds is None else seeds, tuple(rates) or section.rates
    plain = make_grid(recipe.model_copy(update={"sweep": None}), section.beside, (), seeds, True, rates, retain)
    result = tuple(variants(recipe, section))
    for contender in result:
        recipe_of(Cell(contender, 1e-3, 0), recipe, [(1, 1)])  # what is wrong with a variant is said now
    name = section.reference or next(iter(section.settings))
    reference = next(contender for contender in result if contender.variant == name)
    return replace(plain, contenders=result, reference=reference)


def run_grid(
    grid: Grid, runs: Path, jobs: int, track: Track, say: Callable[[str], None], trust_remote_code: bool = False
) -> list[Outcome]:
    """Do every cell that is not done; returns what the sweeps found.

    Raises:
        UserError: whatever the user can mend.
    """
    if jobs < 1:
        raise UserError(f"jobs must be 1 or more, got {jobs}")
    quiet()
    Context(grid.recipe, runs / grid.recipe.name, track, say, trust_remote_code).check_systems()
    _prepare(grid, runs, track, say, trust_remote_code)
    folder = runs / grid.recipe.name
    (folder / "cells").mkdir(exist_ok=True)
    with locked(folder / "cells"):
        widths = _widths(grid.recipe, trust_remote_code)
        release()  # what the profile had of the accelerator's memory is the cells' now
        sweeps = _Sweeps(grid, folder, widths, Estimate(recorded(folder), jobs), say)
        sweeps.bar = track("cells", sweeps.planned)
        result = sweeps.run(jobs, trust_remote_code)
        for outcome in result:
            lost = [f"{lr:g}" for lr, losses in outcome.tried.items() if losses[grid.recipe.task] is None]
            if lost:
                left_out = "" if outcome.chosen is not None else "; at every rate that was tried, so it has no figures"
                say(f"{outcome.contender.name}: training diverged at the rate {', '.join(lost)}{left_out}")
        return result


def _prepare(grid: Grid, runs: Path, track: Track, say: Callable[[str], None], trust: bool) -> None:
    """Profile, and probe if some contender ranks layers by similarity: once for all."""
    made: dict[str, Stage] = {}
    for contender in grid.contenders:
        own = recipe_of(Cell(contender, 1e-3, 0), grid.recipe, [(1, 1)])
        if contender.trained and own.uses_neurons:
            made |= {stage.name: stage for stage in stages(own) if stage.name in ("profile", "probe")}
    if made:
        table = lambda recipe: list(made.values())  # noqa: E731
        execute(grid.recipe, runs, track, say, trust_remote_code=trust, table=table)
    else:
        (runs / grid.recipe.name).mkdir(parents=True, exist_ok=True)


def _widths(recipe: Recipe, trust: bool) -> list[tuple[int, int]]:
    from neuroglot.models.load import load_skeleton
    from neuroglot.models.modules import of_modules
    from neuroglot.neurons import inventory

    layers = inventory(load_skeleton(recipe.model.path, trust, recipe.model.parts))
    chosen = of_modules(layers, recipe.select.modules or ())
    return [(layer.inputs + layer.bias, layer.neurons) for layer in chosen]


class _Sweeps:
    """What is known of each contender so far, and what follows from a finished cell."""

    def __init__(
        self,
        grid: Grid,
        folder: Path,
        widths: Sequence[tuple[int, int]],
        estimate: Estimate,
        say: Callable[[str], None],
    ) -> None:
        self.grid, self.folder, self.widths, self.estimate, self.say = grid, folder, widths, estimate, say
        self.bar: Callable[[int], None] = lambda done: None
        self.tried: dict[Contender, dict[float, dict[str, float | None]]] = {}
        self.wanted: dict[Contender, list[float]] = {}
        self.chosen: dict[Contender, float | None] = {}
        self.cells: dict[str, Cell] = {}
        self.stamps: dict[tuple[str, bool], int] = {}
        self.done = 0

    @property
    def planned(self) -> int:
        """About how many cells there will be, by what is known of the sweeps so far."""
        result = 0.0
        for contender in self.grid.contenders:
            if not contender.trained:
                result += 1
                continue
            swept = (len(self.grid.rates) or SWEPT) if self.grid.sweep else 1
            known = len(self.wanted.get(contender, ()))
            result += (known if contender in self.chosen else max(known, swept)) + self.grid.seeds - 1
        return round(result)

    def run(self, jobs: int, trust: bool) -> list[Outcome]:
        tasks = []
        for contender in self.grid.contenders:
            self.tried[contender] = {}
            if not contender.trained:
                self.chosen[contender] = None
                tasks.append(self._task(Cell(contender), True))
                continue
            if not self.grid.sweep:
                own = recipe_of(Cell(contender, self.grid.recipe.train.lr, 0), self.grid.recipe, self.widths)
                self.wanted[contender] = [own.learning_rate]
            else:
                self.wanted[contender] = list(self.grid.rates) or [rate(step) for step in self._first(contender)]
            tasks += [self._task(Cell(contender, lr, 0), False) for lr in self.wanted[contender]]
        there = min(len(finished(self.folder)), self.planned)
        self.say(f"{self.planned} cells, {there} of them done; {self.estimate.left(self.planned - there)}")
        drain(tasks, self.folder, jobs, trust, self._follow)
        result = []
        for contender in self.grid.contenders:
            tried = self.tried[contender]
            result.append(Outcome(contender, {lr: tried[lr] for lr in sorted(tried)}, self.chosen[contender]))
        return result

    def _task(self, cell: Cell, examined: bool) -> Task:
        self.cells[cell.name] = cell
        position = self.grid.contenders.index(cell.contender)
        recipe = recipe_of(cell, self.grid.recipe, self.widths)
        task = Task((cell.seed or 0, int(examined), position, round(1e9 * (cell.rate or 0))), recipe,
                    cell.contender.method, examined)  # fmt: skip
        self.stamps[cell.name, examined] = self._stamp(task)
        return task

    def _stamp(self, task: Task) -> int:
        """Return when the last stage of a cell was done, 0 if it was not."""
        record = (
            self.folder / "cells" / task.recipe.name / ".stages" / f"{'examine' if task.examined else 'develop'}.json"
        )
        return record.stat().st_mtime_ns if record.exists() else 0

    def _follow(self, task: Task, seconds: float) -> list[Task]:
        """Return the cells that a finished one calls for: a rate beyond the edge, or the seeds of the chosen rate."""
        cell = self.cells[task.recipe.name]
        new = not (task.examined and cell.seed == 0)  # the first seed's chosen cell was counted when it was swept
        worked = self._stamp(task) != self.stamps[cell.name, task.examined]
        self.done += new
        self.bar(self.done)
        if worked:
            self.estimate.add(seconds, new)
        followers = self._followers(task)
        took = f"{seconds:.0f} s" if worked else "unchanged"
        if cell.rate is not None and read_losses(self.folder / "cells" / cell.name)[self.grid.recipe.task] is None:
            took = f"training diverged, {seconds:.0f} s"
        left = max(0, self.planned - self.done)
        self.say(f"cell {cell.name}{', test' * (not new)}: {took}; {self.done} done, {left} to do"
                 + f"; {self.estimate.left(left)}" * (left > 0))  # fmt: skip
        return followers

    def _followers(self, task: Task) -> list[Task]:
        cell = self.cells[task.recipe.name]
        if cell.rate is None:
            return []
        contender, tried = cell.contender, self.tried[cell.contender]
        losses = read_losses(self.folder / "cells" / cell.name)
        diverged = losses[self.grid.recipe.task] is None
        if task.examined:  # a rate at which one of the seeds diverges has lost
            if not diverged or self.chosen[contender] != cell.rate:
                return []
            tried[cell.rate] = losses
            return self._choose(contender)
        tried[cell.rate] = losses
        if len(tried) < len(self.wanted[contender]):
            return []
        more = self._further(contender)
        if more:
            self.wanted[contender] += more
            return [self._task(Cell(contender, lr, 0), False) for lr in more]
        return self._choose(contender)

    def _choose(self, contender: Contender) -> list[Task]:
        """Return the cells of the best rate; none where training diverged at every rate."""
        task = self.grid.recipe.task
        tried = {lr: losses for lr, losses in self.tried[contender].items() if losses[task] is not None}
        if not tried:
            self.chosen[contender] = None
            return []
        # where no rate retains enough, the one that retains most
        best = min(tried, key=lambda lr: (self._loss(tried[lr]), _kept(tried[lr], task), lr))
        self.chosen[contender] = best
        return [self._task(Cell(contender, best, seed), True) for seed in range(self.grid.seeds)]

    def _first(self, contender: Contender) -> list[int]:
        own = recipe_of(Cell(contender, 1e-3, 0), self.grid.recipe, self.widths)
        return first_steps(contender, own.aligned)

    def _further(self, contender: Contender) -> list[float]:
        if self.grid.rates or not self.grid.sweep:
            return []
        steps = {round(2 * math.log10(lr * 1e3)): self._loss(x) for lr, x in self.tried[contender].items()}
        return [rate(step) for step in next_steps(steps)]

    def _loss(self, losses: dict[str, float | None]) -> float:
        """Return what a rate is chosen by: the task's loss, infinite where too little is retained."""
        task, retain = self.grid.recipe.task, self.grid.retain
        result = losses[task]
        spent = retain is not None and _kept(losses, task) > retain
        return math.inf if result is None or spent else result


def _kept(losses: dict[str, float | None], task: str) -> float:
    """Return the mean loss on what should be kept."""
    result = mean_of(losses, task)
    return math.inf if result is None else result


def cell_folder(folder: Path, contender: Contender, lr: float | None, seed: int | None) -> Path:
    """Return where a cell's files are."""
    return folder / "cells" / Cell(contender, lr, seed).name
