"""An ablation: a recipe's variants trained as a comparison trains methods, and drawn over what is varied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neuroglot.artefact import ABLATION, fresh, write_json, write_text
from neuroglot.recipe import Recipe
from neuroglot.stages.context import Track

__all__ = ["sweep"]


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
    from neuroglot.compare.ablation.picture import draw
    from neuroglot.compare.ablation.table import markdown
    from neuroglot.compare.results import summarise
    from neuroglot.compare.runner import make_sweep, run_grid

    grid = make_sweep(recipe, seeds, rates, retain)
    outcomes = run_grid(grid, runs, jobs, track, say, trust_remote_code)
    folder, section = runs / recipe.name, recipe.sweep
    assert section is not None  # or make_sweep had refused
    assert grid.reference is not None
    found = summarise(grid, folder, outcomes) | {
        "name": recipe.name,
        "label": section.label or section.over or "variant",
        "places": section.places,
        "changes": section.settings,
        "reference": grid.reference.name,
    }
    write_text(folder / "ablation.md", markdown(found))
    with fresh(folder / "ablation.svg") as part:
        draw(found, part)
    return write_json(folder / "ablation.json", ABLATION, found)
