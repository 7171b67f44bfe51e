"""What the ablation's numbers say: the sentence, the tables and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuroglot.evidence import figures
from neuroglot.evidence.kinds.ablation.measuring import AGNOSTIC
from neuroglot.evidence.setting import Figure, Found, Table, interval


def verdict(value: Mapping[str, float]) -> str:
    """Return what an interval says: `more`, `less`, or `no more` where it holds zero."""
    return "more" if value["low"] > 0 else "less" if value["high"] < 0 else "no more"


def _diagonal(found: Found, what: str) -> str:
    if "diagonal" not in found:
        return f"{what}: there is no group of fewer than all pairs to compare."
    d, beyond = found["diagonal"], found["diagonal_beyond_random"]
    return (
        f"{what}, a group's own pairs lose {d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] nats a character "
        f"against the other pairs; that is {verdict(beyond)} than with random groups of the same size "
        f"({beyond['mean']:+.4f} [{beyond['low']:+.4f}, {beyond['high']:+.4f}]), and the own pair is hit hardest in "
        f"{found['own_highest']} of {found['specific_groups']} groups."
    )


def sentence(found: Found) -> str:
    how = "zero" if found["ablate"] == "zero" else "their means"
    text = _diagonal(found["groups"], f"When the chosen groups are set to {how} in the base model")
    if "names" in found.get("trained", {}):
        text += " " + _diagonal(found["trained"], "When what a group learned is taken out of the trained model")
    if found["doses"]:
        text += " " + _doses(found["doses"]["rows"])
    return text


def _doses(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say at which dose own and other pairs are furthest apart, and whether the largest one still tells them apart."""
    best = max(rows, key=lambda row: row["gap"]["low"])
    if best["gap"]["low"] <= 0:
        return (
            "Ranked by how specific they are to a pair, no share of the neurons costs that pair more than the others."
        )
    cost, last = {name: f"{best[name]['mean']:+.2f}" for name in ("own", "others", "random")}, rows[-1]
    text = (
        f"Of all neurons, the {100 * best['share']:g} % most specific to a pair cost it {cost['own']} nats a "
        f"character when silenced, the other pairs {cost['others']}; as many random neurons cost {cost['random']}"
    )
    if last is not best:
        told = "still cost it more" if last["gap"]["low"] > 0 else "no longer cost it more"
        text += f". The {100 * last['share']:g} % most specific ones {told} than the other pairs"
    return f"{text}."


def tables(found: Found) -> list[Table]:
    tables = []
    for key, title in (("groups", "the base model"), ("trained", "the trained model, what a group learned taken out")):
        part = found.get(key)
        if not part or "skipped" in part:
            continue
        head = ["group", "neurons", *found["pairs"], "mean", "random, mean"]
        rows = [
            [name, f"{size:,}", *(f"{value:+.4f}" for value in row), interval(harm, 4), interval(chance, 4)]
            for name, size, row, harm, chance in zip(
                part["names"], part["sizes"], part["matrix"], part["harm"], part["harm_random"], strict=True
            )
        ]
        tables.append(Table(f"Nats a character added for each pair: {title}", [head, *rows]))
        if "diagonal" in part:
            own = [["", "own pairs less other pairs"]]
            own += [
                [label, interval(part[name], 4)]
                for label, name in (
                    ("groups", "diagonal"),
                    ("random groups", "diagonal_random"),
                    ("difference", "diagonal_beyond_random"),
                )
            ]
            tables.append(Table(f"Diagonal less off-diagonal: {title}", own))
    if found["doses"]:
        head = ["neurons silenced", "own pair", "other pairs", "random neurons", "own less other", "own less random"]
        rows = [
            [f"{100 * row['share']:g} % ({row['neurons']:,})"]
            + [interval(row[name], 3) for name in ("own", "others", "random", "gap", "beyond")]
            for row in found["doses"]["rows"]
        ]
        tables.append(Table("Dose and response: nats a character added", [head, *rows]))
    return tables


def figures_of(found: Found) -> list[Figure]:
    made = []
    for key, title in (("groups", "base model"), ("trained", "trained model")):
        part = found.get(key)
        if part and "skipped" not in part:
            # The agnostic group, many times as large, would leave the others one colour.
            rows = [place for place, name in enumerate(part["names"]) if name != AGNOSTIC]
            if len(rows) < 2:
                continue
            names = [part["names"][place] for place in rows]
            alt = f"Heat map of {len(rows)} groups by {len(found['pairs'])} pairs, {title}, beside random groups."
            panels = {
                f"{label} · {title}": _relative([part[kind][place] for place in rows])
                for label, kind in (("groups", "matrix"), ("random groups of their size", "random"))
            }
            unit = "nats a character added, less the pair's mean over groups"
            made.append(Figure(f"ablation-{key}", alt, figures.heat(panels, names, found["pairs"], unit)))
    if found["doses"]:
        doses: Sequence[Any] = found["doses"]["rows"]
        x = [100 * row["share"] for row in doses]
        curves = (
            ("own pair", "own", "system-5"),
            ("other pairs", "others", "system-1"),
            ("random", "random", "system-0"),
        )
        lines = [figures.Line(label, x, [row[key] for row in doses], colour) for label, key, colour in curves]
        draw = figures.lines({"nats a character added": lines}, "neurons silenced, %", log=True)
        made.append(Figure("ablation-dose", "Lines of loss added against the share of neurons silenced.", draw))
    return made


def _relative(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Take each pair's mean over the groups off, for pairs differ in how much any damage hurts them."""
    x = np.asarray(rows)
    relative: list[list[float]] = (x - x.mean(0)).tolist()
    return relative
