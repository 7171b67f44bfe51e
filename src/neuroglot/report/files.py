"""What a run folder holds, read once. The page and the terminal tables both start here.

Notable: only `scores.json` is needed. Any other file may be missing; what would have been made from it is then left
out, and the reader is told which stage makes the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroglot.errors import UserError
from neuroglot.evaluation.evaluate import Scores, read_scores, score_domains
from neuroglot.evaluation.significance import Difference, paired_bootstrap, retention
from neuroglot.file_format import LAYERS, TRAINING, Format, read_json

STAGES = {
    "recipe.yaml": "run",
    "profile.safetensors": "profile",
    "layers.json": "probe",
    "selection.safetensors": "select",
    "training.json": "train",
    "train_log.jsonl": "train",
    "scores.json": "evaluate",
    "hypotheses.jsonl": "evaluate",
    "gallery.jsonl": "evaluate",
}
"""File of a run folder -> the stage that makes it."""

TRANSLATION = ("image_translation", "multimodal_translation", "text_translation", "ocr", "describe")
"""Splits by how well they serve as the headline of a run."""

JUDGED = ("bleu", "chrf", "exact")
"""Figures that a run may be judged by, the first that means something: BLEU of short texts does not."""

BEFORE, CASCADE = "base", "cascade"


@dataclass(frozen=True)
class RunFiles:
    """The files of one run; None or empty where a file is missing."""

    folder: Path
    scores: dict[str, Any]
    recipe: str | None = None
    training: dict[str, Any] | None = None
    layers: dict[str, Any] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    hypotheses: list[dict[str, Any]] = field(default_factory=list)
    gallery: list[dict[str, Any]] = field(default_factory=list)
    profile: Path | None = None
    selection: Path | None = None

    @property
    def systems(self) -> dict[str, Scores]:
        """System -> split -> pair -> figures."""
        systems: dict[str, Scores] = self.scores["systems"]
        return systems

    @cached_property
    def method(self) -> str | None:
        """The system that was trained: named by training.json, else the last that is neither base nor cascade."""
        named = (self.training or {}).get("method")
        others = [name for name in self.systems if name not in (BEFORE, CASCADE) and "(" not in name]
        return named if named in self.systems else others[-1] if others else None

    @property
    def controls(self) -> list[str]:
        """The method shown less than it should be, such as `neumt (no image)`."""
        return [name for name in self.systems if name.startswith(f"{self.method} (")]

    @property
    def order(self) -> list[str]:
        """Systems as they are shown side by side: base, cascade, anything else, the method last; no controls."""
        first = [name for name in (BEFORE, CASCADE) if name in self.systems]
        rest = [name for name in self.systems if name not in (*first, self.method, *self.controls)]
        return [*first, *rest, *([self.method] if self.method else [])]

    @property
    def splits(self) -> list[str]:
        """Every scored split, the headline's first, then in the order of the file."""
        names = list(dict.fromkeys(split for system in self.order for split in self.systems[system]))
        return sorted(names, key=lambda name: name != self.headline_split)

    @property
    def headline_split(self) -> str:
        """The split that the run is judged by."""
        names = [split for splits in self.systems.values() for split in splits]
        return next((split for split in TRANSLATION if split in names), names[0])

    @property
    def taught(self) -> list[str]:
        """The headline's split and its variants (`image_translation_heldout`); the others are retention."""
        return [split for split in self.splits if split.startswith(self.headline_split)]

    @cached_property
    def kept(self) -> list[dict[str, Any]]:
        """Retention rows of the method against the base, with intervals; taught splits left out."""
        if self.method is None or BEFORE not in self.systems:
            return []
        own = [row for row in self.hypotheses if row["split"] not in self.taught]
        rows = retention(self.systems, BEFORE, self.method, own)
        return [row for row in rows if row["split"] not in self.taught]

    @property
    def replayed(self) -> tuple[str, ...]:
        """Tasks of which examples were part of the training."""
        return tuple((self.training or {}).get("replay", {}).get("examples", {}))

    @cached_property
    def figure(self) -> str:
        """The figure that the run is judged by: the first of `JUDGED` that means something of all that is taught."""
        scored = [self.systems[name].get(split, {}) for split in self.taught for name in self.order]
        known = [figures for pairs in scored for figures in pairs.values()]
        meant = (name for name in JUDGED if all(figures.get(name) is not None for figures in known))
        return next(meant, JUDGED[-1])

    @cached_property
    def headline(self) -> dict[str, Any] | None:
        """Averages of the headline's split, before and after, and the figure that the run is judged by."""
        split = self.headline_split
        if self.method is None or not all(split in self.systems.get(name, {}) for name in (BEFORE, self.method)):
            return None
        before, after = (self.systems[name][split]["average"] for name in (BEFORE, self.method))
        cascade = self.systems.get(CASCADE, {}).get(split, {}).get("average")
        return {
            "split": split,
            "figure": self.figure,
            "method": self.method,
            "before": before,
            "after": after,
            "cascade": cascade,
        }

    @cached_property
    def domains(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Domain -> system -> figures, averages over pairs on the headline's split; empty where none is named."""
        result: dict[str, dict[str, dict[str, Any]]] = {}
        for system in self.order:
            own = (r for r in self.hypotheses if r["system"] == system and r["split"] == self.headline_split)
            for domain, figures in score_domains(own).items():
                result.setdefault(domain, {})[system] = figures
        return result

    @cached_property
    def difference(self) -> Difference | None:
        """Bootstrap interval of the headline's gain; None without the hypotheses of both systems."""
        rows: dict[str, list[dict[str, Any]]] = {BEFORE: [], self.method or "": []}
        for row in self.hypotheses:
            if row["split"] == self.headline_split and row["system"] in rows:
                rows[row["system"]].append(row)
        before, after = rows[BEFORE], rows[self.method or ""]
        try:
            result = paired_bootstrap(before, after, self.figure)
        except UserError:  # the two were scored on different items, or one is not in the file: no pairing, no interval
            return None
        return None if result.low is None else result


def read_run(folder: Path | str) -> RunFiles:
    """Read a run folder.

    Raises:
        UserError: no such folder, no scores.json, or a file that cannot be read as what it should be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected a run folder such as runs/demo")
    scores = read_scores(folder / "scores.json")
    if not scores.get("systems") or not any(scores["systems"].values()):
        raise UserError(f"{folder / 'scores.json'} holds no system's scores; run the evaluate stage again")
    recipe = folder / "recipe.yaml"
    return RunFiles(
        folder=folder,
        scores=scores,
        recipe=recipe.read_text(encoding="utf-8") if recipe.exists() else None,
        training=_json(folder / "training.json", TRAINING),
        layers=_json(folder / "layers.json", LAYERS),
        log=_jsonl(folder / "train_log.jsonl"),
        hypotheses=_jsonl(folder / "hypotheses.jsonl"),
        gallery=_jsonl(folder / "gallery.jsonl"),
        profile=_existing(folder / "profile.safetensors"),
        selection=_existing(folder / "selection.safetensors"),
    )


def made_by(file: str) -> str:
    """Return the sentence that stands where a section is left out.

    Examples:
        >>> made_by("gallery.jsonl")
        'Not in this run: gallery.jsonl, which the evaluate stage makes.'
    """
    return f"Not in this run: {file}, which the {STAGES[file]} stage makes."


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _json(path: Path, kind: Format) -> dict[str, Any] | None:
    return read_json(path, kind) if path.exists() else None


def _jsonl(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number} is not valid JSON ({error}); {_again(path)}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number} holds a {type(row).__name__}, expected an object; {_again(path)}")
        rows.append(row)
    return rows


def _again(path: Path) -> str:
    return f"delete it and run the {STAGES[path.name]} stage again"
