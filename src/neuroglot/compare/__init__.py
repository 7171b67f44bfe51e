"""Comparisons: a grid of methods, learning rates and seeds over the stages, and ablations of one setting.

The learning rate is chosen for each contender on the validation split; the test split is used once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neuroglot.config import Recipe
from neuroglot.file_format import ABLATION, COMPARISON, fresh, write_json, write_text
from neuroglot.pipeline.context import Track

__all__ = ["compare", "sweep"]


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
    from neuroglot.compare.figures import draw
    from neuroglot.compare.results import summarise
    from neuroglot.compare.runner import make_grid, run_grid
    from neuroglot.compare.tables import markdown

    grid = make_grid(recipe, methods, budgets, seeds, sweep, rates, retain)
    outcomes = run_grid(grid, runs, jobs, track, say, trust_remote_code)
    folder = runs / recipe.name
    result = summarise(grid, folder, outcomes)
    write_text(folder / "comparison.md", markdown(result))
    with fresh(folder / "comparison.svg") as part:
        draw(result, part)
    return write_json(folder / "comparison.json", COMPARISON, result)


def sweep(
    recipe: Recipe,
    runs: Path,
    seeds: int | None = None,
    rates: Sequence[float] = (),
    jobs: int = 1,
    retain: float | None = None,
    trust_remote_code: bool = False,
    track: Track = lambda label, total: lambda done: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train every variant of a recipe's `sweep` section; write ablation.json, ablation.md and ablation.svg.

    Each variant has its own learning rate, chosen on dev with the first seed, as in a comparison.

    Args:
        recipe: one with a `sweep` section.
        runs: the folder that holds runs.
        seeds: trainings per variant; None for what the section says.
        rates: to sweep; none for the section's, or to search.
        jobs: cells at a time.
        retain: most nats per character on what should be kept, on dev, at which a rate may be chosen.
        trust_remote_code: let code that comes with the model run.
        track: makes progress bars.
        say: prints a line.

    Returns:
        What ablation.json holds.

    Raises:
        UserError: whatever the user can mend.
    """
    from neuroglot.compare.figures import draw_ablation
    from neuroglot.compare.results import summarise
    from neuroglot.compare.runner import make_sweep, run_grid
    from neuroglot.compare.tables import ablation_markdown

    grid = make_sweep(recipe, seeds, rates, retain)
    outcomes = run_grid(grid, runs, jobs, track, say, trust_remote_code)
    folder, section = runs / recipe.name, recipe.sweep
    assert section is not None  # or make_sweep had refused
    assert grid.reference is not None
    result = summarise(grid, folder, outcomes) | {
        "name": recipe.name,
        "label": section.label or section.over or "variant",
        "places": section.places,
        "changes": section.settings,
        "reference": grid.reference.name,
    }
    write_text(folder / "ablation.md", ablation_markdown(result))
    with fresh(folder / "ablation.svg") as part:
        draw_ablation(result, part)
    return write_json(folder / "ablation.json", ABLATION, result)
