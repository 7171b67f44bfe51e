"""A dial after training: how much of what was trained is kept in the weights.

W(s) = W(0) + s (W(1) - W(0)), with the base's weights W(0) and the trained ones W(1) (WiSE-FT, arXiv 2109.01903). It
costs no training: between nothing and all of it lies a line of models, of which some have most of the new ability and
have forgotten little. The scale is chosen on the dev split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError
from neuroglot.file_format import Format, digests, fresh, write_json
from neuroglot.pipeline.context import Context, Track, quiet
from neuroglot.pipeline.evaluation import load_trained
from neuroglot.pipeline.folder import locked

DIAL = Format("dial", 1, "dial")
SCALES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
FIGURES = ("bleu", "chrf", "exact")
JUDGED = "chrf"
"""By which a scale is chosen: it means something of texts of any length."""


# ---- Weights --------------------------------------------------------------------------------------------------------


def difference(base: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the base's values of the parameters that differ in a trained model; zeros for those that it lacks."""
    changed = {}
    for name, parameter in model.named_parameters():
        before = base.get(name)
        before = torch.zeros_like(parameter) if before is None else before.to(parameter.device, parameter.dtype)
        if not torch.equal(before, parameter.detach()):
            changed[name] = before
    return changed


@torch.no_grad()
def scale_(model: nn.Module, base: Mapping[str, Tensor], scale: float, trained: Mapping[str, Tensor]) -> None:
    """Write W(0) + s (W(1) - W(0)) into a model; at 0 and 1 the very bits of either.

    Args:
        model: is changed in place.
        base: name -> W(0), of the parameters that differ.
        scale: s.
        trained: name -> W(1), of the same.
    """
    parameters = dict(model.named_parameters())
    for name, before in base.items():
        mixed = torch.lerp(before.float(), trained[name].float(), scale)
        value = before if scale == 0 else trained[name] if scale == 1 else mixed
        parameters[name].copy_(value)


def check_scale(scale: float) -> float:
    """Return a scale.

    Raises:
        UserError: it is not in [0, 1].
    """
    if not 0 <= scale <= 1:
        raise UserError(f"scale must be in [0, 1], got {scale:g}; 0 is the base, and 1 all that was trained")
    return scale


# ---- The dial -------------------------------------------------------------------------------------------------------


def dial(
    folder: Path,
    scales: Sequence[float] = SCALES,
    retain: float = 0.95,
    trust_remote_code: bool = False,
    track: Track = lambda label, total: lambda done: None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score a run's model at several scales on the dev split, and write `dial.json` and `dial.svg` into the run.

    Args:
        folder: the run's.
        scales: in [0, 1]; 0 and 1 are always among them.
        retain: least share of the base's chrF++ that every other task keeps at the chosen scale.
        trust_remote_code: let the model's own code run.
        track: makes a progress bar.
        say: prints a line.

    Returns:
        `points` (scale, scores: task -> figures, kept: task -> share of the base's), `chosen` (a scale) and `retain`.

    Raises:
        UserError: not a run, nothing trained, a dev split that is empty, or a value out of range.
    """
    if not 0 <= retain <= 1:
        raise UserError(f"--retain must be in [0, 1], got {retain:g}; it is a share of the base's figure")
    wanted = sorted({0.0, 1.0, *map(check_scale, scales)})
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} is not a run folder (it has no recipe.yaml); expected one such as runs/demo")
    with locked(folder):
        return _dialled(folder, wanted, retain, trust_remote_code, track, say)


def _dialled(
    folder: Path,
    wanted: Sequence[float],
    retain: float,
    trust_remote_code: bool,
    track: Track,
    say: Callable[[str], None],
) -> dict[str, Any]:
    from neuroglot.evaluation import evaluate

    quiet()
    context = Context(load_recipe(folder / "recipe.yaml"), folder, track, say, trust_remote_code)
    recipe, corpus = context.recipe, context.corpus
    if recipe.method == "prompt":
        raise UserError("a learned prompt changes no weight, so that there is nothing to scale; lower train.steps")
    if not len(corpus.dev):
        raise UserError("the dev split is empty, on which the scale is chosen; raise data.dev")
    splits = {recipe.task: corpus.dev, **corpus.dev_retention}
    base = {name: parameter.detach().clone() for name, parameter in context.model().named_parameters()}
    model = load_trained(recipe.model, folder, trust_remote_code)
    base = difference(base, model)
    trained = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in base}
    bar = track("dial", len(wanted))
    points: list[dict[str, Any]] = []
    for done, scale in enumerate(wanted, 1):
        scale_(model, base, scale, trained)
        scores, _ = evaluate(context.system(model, f"scale {scale:g}"), splits)
        averages = {task: {name: pairs["average"][name] for name in FIGURES} for task, pairs in scores.items()}
        points.append({"scale": scale, "scores": averages})
        bar(done)
    for point in points:
        point["kept"] = {task: _share(points[0], point, task) for task in corpus.dev_retention}
    fit = [p for p in points if all(share is None or share >= retain for share in p["kept"].values())]
    best = max(fit, key=lambda point: (point["scores"][recipe.task][JUDGED] or 0.0, -point["scale"]))
    made_from = digests(folder / "training.json")
    result = {"task": recipe.task, "made_from": made_from, "retain": retain, "points": points, "chosen": best["scale"]}
    write_json(folder / "dial.json", DIAL, result)
    _draw(result, folder / "dial.svg")
    return result


def _share(base: Mapping[str, Any], point: Mapping[str, Any], task: str) -> float | None:
    before, after = base["scores"][task][JUDGED], point["scores"][task][JUDGED]
    return after / before if before else None


def _draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw quality against the task that keeps least, a point for every scale."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from neuroglot.compare.figures import STYLE

    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
        for task in result["points"][0]["kept"]:
            shares = [100 * (point["kept"][task] or 0) for point in result["points"]]
            quality = [point["scores"][result["task"]][JUDGED] for point in result["points"]]
            axes.plot(shares, quality, marker="o", markersize=4, label=task.replace("_", " "))
            for share, value, point in zip(shares, quality, result["points"], strict=True):
                axes.annotate(f"{point['scale']:g}", (share, value), xytext=(4, 4), textcoords="offset points",
                              fontsize=7)  # fmt: skip
        axes.axvline(100 * result["retain"], linewidth=0.8, linestyle="--", color="#5a5a5a")
        axes.set(xlabel="kept of the base's chrF++, %", ylabel=f"chrF++ of {result['task'].replace('_', ' ')}, dev")
        axes.legend(frameon=False, fontsize=8)
        with fresh(path) as part:
            figure.savefig(part, format="svg", metadata={"Date": None})
        plt.close(figure)
