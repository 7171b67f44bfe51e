"""The page: what the files say, in the order in which a reader asks, as one HTML file that loads nothing else."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from neuroglot.errors import UserError
from neuroglot.evaluation.metrics import is_exact
from neuroglot.file_format import write_text
from neuroglot.report import figures, tables
from neuroglot.report.figures import Draw, both
from neuroglot.report.files import BEFORE, CASCADE, RunFiles, made_by, read_run
from neuroglot.report.importance import ImportanceView, group_counts, importance_view

GALLERY_BYTES = 1_300_000
"""Most base64 of images on the page: with the figures of a large model it then stays under 3 MB."""

LIBRARIES = ("neuroglot", "torch", "transformers", "peft", "sacrebleu")


def report(run_folder: Path | str) -> Path:
    """Write `report.html` into a run folder and return its path.

    Only the run's files are read; of these only scores.json must be there.

    Raises:
        UserError: no run folder, no scores.json, or a damaged file.
    """
    run = read_run(run_folder)
    path = run.folder / "report.html"
    write_text(path, render(run))
    return path


def render(run: RunFiles) -> str:
    """Return the page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": tables.number, "signed": tables.signed, "count": tables.count}
    template = resources.files("neuroglot.report").joinpath("page.html").read_text(encoding="utf-8")
    view = importance_view(run.profile, run.selection, run.headline_split) if run.profile else None
    page = environment.from_string(template).render(
        name=run.folder.resolve().name,
        run=run,
        title=tables.split_title(run.headline_split),
        colours=_colours(run),
        headline=run.headline,
        judged=run.figure,
        judged_label=dict(tables.FIGURES)[run.figure],
        difference=run.difference,
        bars=_headline_bars(run),
        parts=tables.part_rows(run),
        part_heads=tables.PART_HEADS,
        training=run.training or {},
        groups=group_counts(run.selection) if run.selection else {},
        view=view,
        map=_importance_figure(view) if view else None,
        dispersion=_dispersion_figure(view) if view and view.curves else None,
        scores=_scores_figure(run),
        score_tables=[_score_table(run, split) for split in run.splits],
        domains=tables.domain_rows(run),
        domain_heads=tables.domain_heads(run),
        controls=tables.control_rows(run) if run.controls else [],
        control_heads=tables.control_heads(run),
        signatures=_signatures(run),
        kept=tables.kept_rows(run),
        kept_heads=tables.kept_heads(run),
        replay_note=tables.replay_note(run),
        retention=_retention_figure(run),
        loss=_loss_figure(run),
        gallery=_gallery(run.gallery),
        probe=run.layers,
        versions={name: _version(name) for name in LIBRARIES},
        made_by=made_by,
    )
    return page.strip() + "\n"


def _figure(name: str, alt: str, draw: Draw) -> dict[str, Any]:
    return {"alt": alt, **both(name, draw)}


def _colours(run: RunFiles) -> dict[str, str]:
    """Base, cascade and method have a colour of their own in every run; others take what is left."""
    fixed = {BEFORE: "system-0", CASCADE: "system-1", run.method: "system-5"}
    others = [name for name in run.order if name not in fixed]
    return {name: fixed.get(name) or f"system-{2 + others.index(name) % 3}" for name in run.order}


def _headline_bars(run: RunFiles) -> list[dict[str, Any]]:
    split = run.headline_split
    return [
        {"system": name, "value": run.systems[name][split]["average"][run.figure]}
        for name in run.order
        if split in run.systems[name]
    ]


def _importance_figure(view: ImportanceView) -> dict[str, Any]:
    best = max(view.rows, key=lambda row: float(row.values.mean()))
    alt = (
        f"Heat map of {len(view.rows)} {view.unit}s by {len(view.pairs)} pairs. The most important {view.unit} is "
        f"{best.label} of the {best.part} part, with {best.values.mean():.2g} times the average importance. "
        "The same figures are in the table below."
    )
    return _figure("importance", alt, figures.importance_map(view))


def _dispersion_figure(view: ImportanceView) -> dict[str, Any]:
    tenth = [float(curve.values[len(curve.values) // 10]) for curve in view.curves]
    alt = (
        f"Curves of the coefficient of variation over pairs by rank for {len(view.curves)} kept layers. A tenth of "
        f"the neurons of a layer lie above {min(tenth):.2f} to {max(tenth):.2f}, depending on the layer."
    )
    return _figure("dispersion", alt, figures.dispersion_curves(view.curves))


def _scores_figure(run: RunFiles) -> dict[str, Any]:
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for split in run.taught:
        scored = {name: run.systems[name][split] for name in run.order if split in run.systems[name]}
        pairs = sorted({pair for by_pair in scored.values() for pair in by_pair if pair != "average"})
        panels[tables.split_title(split)] = {
            pair: {name: by_pair[pair][run.figure] for name, by_pair in scored.items() if pair in by_pair}
            for pair in (*pairs, "average")
        }
    averages = "; ".join(
        f"{title}: " + ", ".join(f"{name} {value:.1f}" for name, value in pairs["average"].items())
        for title, pairs in panels.items()
    )
    label = dict(tables.FIGURES)[run.figure]
    alt = f"Bars of {label} per pair and system. Averages: {averages}. Every figure is in the tables below."
    return _figure("scores", alt, figures.score_bars(panels, _colours(run), label))


def _score_table(run: RunFiles, split: str) -> dict[str, Any]:
    shown = tables.figures(run, split)
    return {
        "title": tables.split_title(split),
        "heads": [label for _, label in shown],
        "systems": [name for name in run.order if split in run.systems[name]],
        "rows": [
            {
                "pair": pair,
                "n": tables.count(n),
                "cells": [[tables.number(row[key], tables.DIGITS.get(key, 1)) for key, _ in shown] for row in scored],
            }
            for pair, n, scored in tables.score_rows(run, split)
        ],
        "open": split in run.taught,
        "reasons": tables.reasons(run, split),
    }


def _signatures(run: RunFiles) -> list[tuple[str, str, str]]:
    """Return (metric, pairs, signature): pairs that share a signature share a line."""
    lines: dict[tuple[str, str], list[str]] = {}
    for metric, by_pair in run.scores.get("signatures", {}).items():
        for pair, signature in by_pair.items():
            lines.setdefault((metric, signature), []).append(pair)
    return [
        (dict(tables.FIGURES).get(metric, metric), ", ".join(pairs), text) for (metric, text), pairs in lines.items()
    ]


def _retention_figure(run: RunFiles) -> dict[str, Any] | None:
    if not run.kept:
        return None
    labels = dict(tables.FIGURES)
    short = {"text_translation": "text"}  # the narrow figure has no space for more
    rows = [
        {
            "label": f"{short.get(row['split'], tables.split_title(row['split']).lower())} {labels[row['metric']]}",
            "before": row["before"],
            "after": row["after"],
            "note": tables.signed(row["difference"]),
        }
        for row in run.kept
    ]
    changes = ", ".join(f"{row['label']} {row['before']:.1f} to {row['after']:.1f}" for row in rows)
    return _figure("retention", f"Before and after of each ability: {changes}.", figures.retention_dumbbells(rows))


def _loss_figure(run: RunFiles) -> dict[str, Any] | None:
    logged = [(row["step"], row["loss"]) for row in run.log if row.get("loss") is not None]
    looks = [(row["step"], row["dev"]["chrf"], row["dev"]["exact"]) for row in run.log if row.get("dev")]
    if not logged:
        return None
    steps, losses = zip(*logged, strict=True)
    alt = f"Training loss from {losses[0]:.3g} at step {steps[0]} to {losses[-1]:.3g} at step {steps[-1]}."
    if looks:
        (first, before, _), (last, after, exact) = looks[0], looks[-1]
        alt += (
            f" On dev items, chrF++ {before:.1f} at step {first} and {after:.1f} at step {last}, {exact:.1f} % exact"
        )
    return {**_figure("loss", alt, figures.loss_curve(steps, losses, looks)), "looks": looks}


def _gallery(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return as many cards as the page has room for, and how many are left out."""
    cards, room = [], GALLERY_BYTES
    for number, row in enumerate(rows, start=1):
        image = row["png_base64"] or ""
        room -= len(image)
        if room < 0:
            break
        others = row.get("alternatives") or []
        cards.append(
            {
                **row,
                "alternatives": others,
                "kind": _image_kind(image, number) if image else None,
                **{f"{when}_verdict": _verdict(row[when], row["reference"], others) for when in ("before", "after")},
                "languages": _tags(row["pair"]),
            }
        )
    return {"cards": cards, "left_out": len(rows) - len(cards)}


def _verdict(answer: str, reference: str, others: Sequence[str]) -> str:
    if is_exact(answer, reference):
        return "right"
    return "other" if any(is_exact(answer, other) for other in others) else "wrong"


def _tags(pair: str) -> list[str]:
    """Return a pair's codes as HTML language tags, which join with hyphens."""
    return [code.replace("_", "-") for code in pair.split("-")]


def _image_kind(image: str, number: int) -> str:
    try:
        head = base64.b64decode(image, validate=True)[:8]
    except (binascii.Error, ValueError):
        raise UserError(
            f"gallery.jsonl: png_base64 of line {number} is not base64; delete it and run the evaluate stage again"
        ) from None
    return "jpeg" if head[:2] == b"\xff\xd8" else "png"


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"
