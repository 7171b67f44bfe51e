"""A comparison worth believing: a grid over the stages, every rate swept, every seed counted, test looked at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neuroglot.artefact import COMPARISON, fresh, write_json, write_text
from neuroglot.recipe import Recipe
from neuroglot.stages.context import Track

__all__ = ["compare"]


def compare(
    recipe: Recipe,
    runs: Path,
    methods: Sequence[str],
    budgets: Sequence[float],
    seeds: int,
    sweep: bool = True,
    rates: Sequence[float] = (),
    jobs: int = 1,
    retain: float | None = None,
    trust_remote_code: bool = False,
    track: Track = lambda label, total: lambda done: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a grid and write comparison.json, comparison.md and comparison.svg in the run's folder.

    Args:
        recipe: what the cells have in common.
        runs: the folder that holds runs.
        methods: names of methods, `base`, `cascade`.
        budgets: shares of trainable neurons; LoRA gets the rank of as many parameters as that share of all rows.
        seeds: how many.
        sweep: choose the learning rate per contender on dev; otherwise the recipe's, or the method's default.
        rates: to sweep; none to search from each method's own.
        jobs: cells at a time.
        retain: most nats per character on what should be kept, on dev, at which a rate may be chosen.
        trust_remote_code: let code that comes with the model run.
        track: makes progress bars.
        say: prints a line.

    Returns:
        What comparison.json holds.

    Raises:
        UserError: whatever the user can mend.
    """
    from neuroglot.compare.picture import draw
    from neuroglot.compare.results import summarise
    from neuroglot.compare.runner import make_grid, run_grid
    from neuroglot.compare.table import markdown

    grid = make_grid(recipe, methods, budgets, seeds, sweep, rates, retain)
    outcomes = run_grid(grid, runs, jobs, track, say, trust_remote_code)
    folder = runs / recipe.name
    found = summarise(grid, folder, outcomes)
    write_text(folder / "comparison.md", markdown(found))
    with fresh(folder / "comparison.svg") as part:
        draw(found, part)
    return write_json(folder / "comparison.json", COMPARISON, found)
