"""Whether the layers that `neumt` kept depend on the precision in which similarities were added up.

    python benchmarks/similarity_precision.py --json out/similarity.json

Similarities are added up in float64 as 1 - R, see `neuroglot.neurons.layers.distance`. Earlier, R itself was added up,
in float32 and with an eps of 1e-8 in its denominator; after a short probe 1 - R is small, and float32 knows numbers
near 1 in steps of 6e-8. Here both are taken of the same probe, at the settings of docs/results and for several
seeds of the probe, and the layers that each would keep are compared. Seed 0 is that of the results.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from neuroglot.config.load import load_recipe
from neuroglot.neurons import activation_similarity, inventory, keep, mean_similarity
from neuroglot.pipeline.context import Context, quiet
from neuroglot.pipeline.neurons import compared_batches, states_of, tuned_briefly

SETTINGS = {
    "second task, gender": ("quickstart-multimodal", (0.4,), ["data.domains=[gender]", "data.train=800"]),
    "second task": ("quickstart-multimodal", (0.8,), []),
    "signs": ("quickstart", (0.01, 0.1, 0.2, 0.4, 0.6, 0.8), []),
}
"""Section of docs/results -> recipe, shares of layers kept there, and what its command sets that a probe sees.

The ablation over layers has the probe of the signs: the same data, steps and seed.
"""

EPSILON = 1e-8


def earlier(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return -R of every token, in float32 and with eps, so that the mean over tokens is rounded as it was, too."""
    x, y = x.float(), y.float()
    return -(x * y).sum(-1, keepdim=True) / (x.norm(dim=-1) * y.norm(dim=-1) + EPSILON).unsqueeze(-1)


def compared(name: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Run one probe and return, for each share, how many of the kept layers differ."""
    recipe, shares, changes = SETTINGS[name]
    changes = [*changes, *([f"probe.steps={steps}"] if steps else [])]
    with tempfile.TemporaryDirectory() as folder:
        context = Context(load_recipe(recipe, changes), Path(folder), lambda label, total: lambda done: None, print)
        model = context.model()
        layers = [layer for layer in inventory(model) if layer.part != "vision"]
        tuned = tuned_briefly(context, model, seed)
        model, before, after = states_of(context.recipe.probe.estimator, model, tuned)
        both = [
            activation_similarity(model, compared_batches(context), before, after, layers, apart=apart)
            for apart in (None, earlier)
        ]
    ranking, old = map(mean_similarity, both)
    old = {layer: value - 1 for layer, value in old.items()}  # of 1 less the mean of -R
    kept = {}
    for share in shares:
        now, then = (set(keep(r, share, layers, lowest=True)) for r in (ranking, old))
        kept[f"{share:g}"] = {"kept": len(now), "changed": len(now - then), "layers": sorted(now - then)}
    apart = [1 - value for value in ranking.values()]
    error = max(abs(old[layer] - ranking[layer]) / (1 - ranking[layer]) for layer in ranking)
    return {"setting": name, "seed": seed, "shares": kept, "least": min(apart), "largest": max(apart), "error": error}


def main() -> None:
    """Print a line for each probe and setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SETTINGS, nargs="*", default=list(SETTINGS), help="sections of docs/results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of the probe; those of the recipes by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    quiet()
    found = []
    for name in arguments.only:
        for seed in range(arguments.seeds):
            found.append(compared(name, seed, arguments.steps))
            shares = ", ".join(f"{x['changed']} of {x['kept']} at {share}" for share, x in found[-1]["shares"].items())
            print(
                f"{name}, seed {seed}: kept layers that change: {shares}; 1 - R from {found[-1]['least']:.1e} to "
                f"{found[-1]['largest']:.1e}, wrong by {found[-1]['error']:.1e} of it at most",
                flush=True,
            )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
