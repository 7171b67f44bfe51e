"""The same facts for the terminal: `show` is the JSON behind `neuroglot show`, `show_tables` its rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.evaluation.significance import OWN
from neuroglot.printing import plain
from neuroglot.report.files import STAGES, RunFiles, read_run
from neuroglot.report.importance import group_counts

if TYPE_CHECKING:
    from rich.console import Console

NBSP = "\N{NO-BREAK SPACE}"
TITLES = {"ocr": "Transcribing", "describe": "Describing"}
FIGURES = (("bleu", "BLEU"), ("bleu_moses", "BLEU, Moses lc"), ("chrf", "chrF++"), ("ter", "TER"), ("exact", "exact"),
           ("lines", "lines F1"), ("nll", "nll"), ("contrastive", "contrastive"))  # fmt: skip
SOMETIMES = ("bleu_moses", "ter", "lines", "contrastive")
"""Figures that not every run has."""
DIGITS = {"nll": 3}


def show(run_folder: Path | str) -> dict[str, Any]:
    """Return what is known of a run, ready for `json.dumps`.

    Keys: run, method, split (that the run is judged by), headline (before, after, cascade averages, the
    figure that stands for them, or null), parts,
    trainable_parameters, total_parameters, groups (part -> kind -> neurons), scores (scores.json's systems), domains
    (domain -> system -> figures), ceilings (scores.json's), retention, replayed (tasks),
    signatures, seconds, files (file -> present).

    Raises:
        UserError: no run folder, no scores.json, or a damaged file.
    """
    run = read_run(run_folder)
    training = run.training or {}
    return {
        "run": run.folder.resolve().name,
        "method": run.method,
        "split": run.headline_split,
        "headline": run.headline,
        "parts": training.get("parts", {}),
        "trainable_parameters": training.get("trainable_parameters"),
        "total_parameters": training.get("total_parameters"),
        "groups": group_counts(run.selection) if run.selection else {},
        "scores": run.systems,
        "domains": run.domains,
        "ceilings": run.scores.get("ceilings", {}),
        "retention": run.kept,
        "replayed": list(run.replayed),
        "signatures": run.scores.get("signatures", {}),
        "seconds": run.scores.get("seconds", {}),
        "files": {file: (run.folder / file).exists() for file in STAGES},
    }


def show_tables(run_folder: Path | str, console: Console) -> None:
    """Print the parts, the scores and what was kept as tables."""
    run = read_run(run_folder)
    name = plain(run.folder.resolve().name)
    name.stylize("bold")
    console.print(name.append(plain(f"  {headline_sentence(run)}")))
    parts = part_rows(run)
    if parts:
        console.print(_rich(trained_title(run), PART_HEADS, parts))
    for split in run.splits:
        systems = [name for name in run.order if split in run.systems[name]]
        shown = [(key, label) for key, label in figures(run, split) if key not in ("nll", "ter")]
        heads = ("pair", "n", *(f"{name} {label}" for name in systems for _, label in shown))
        rows = [
            [pair, count(n), *(number(system[key]) for system in scored for key, _ in shown)]
            for pair, n, scored in score_rows(run, split)
        ]
        console.print(_rich(split_title(split), heads, rows))
        for line in reasons(run, split):
            console.print(plain(line), soft_wrap=True)
    if run.domains:
        console.print(_rich(f"{split_title(run.headline_split)}, by domain", domain_heads(run), domain_rows(run)))
    if run.controls:
        console.print(_rich("What the answers rest on", control_heads(run), control_rows(run)))
    if run.kept:
        console.print(_rich(f"What {run.method} kept", kept_heads(run), kept_rows(run)))
        if replay_note(run):
            console.print(replay_note(run), soft_wrap=True)


PART_HEADS = ("part", "layers", "neurons", "of eligible", "parameters", "of the part")
INTERVAL = f"95{NBSP}% interval"


def headline_sentence(run: RunFiles) -> str:
    """Return the run's result in one line."""
    headline = run.headline
    if headline is None:
        return "no system was scored before and after training"
    before, after = (headline[when][headline["figure"]] for when in ("before", "after"))
    label = dict(FIGURES)[headline["figure"]]
    return f"{split_title(headline['split']).lower()} {label} {before:.1f} -> {after:.1f} ({headline['method']})"


def part_rows(run: RunFiles) -> list[list[str]]:
    """Return a row per part and their sum, as text; empty without training.json."""
    parts: Mapping[str, Mapping[str, int]] = (run.training or {}).get("parts", {})
    rows = [
        [
            part,
            count(row.get("layers")),
            count(row.get("neurons")),
            share(row.get("neurons"), row.get("eligible_neurons")),
            count(row.get("parameters")),
            share(row.get("parameters"), row.get("all_parameters")),
        ]
        for part, row in parts.items()
    ]
    if rows:

        def total(key: str) -> int | None:
            values = [row.get(key) for row in parts.values()]
            return None if None in values else sum(value or 0 for value in values)

        training = run.training or {}
        parameters = training.get("trainable_parameters", total("parameters"))
        rows.append(
            [
                "all",
                count(total("layers")),
                count(total("neurons")),
                share(total("neurons"), total("eligible_neurons")),
                count(parameters),
                share(parameters, training.get("total_parameters", total("all_parameters"))),
            ]
        )
    return rows


def figures(run: RunFiles, split: str) -> list[tuple[str, str]]:
    """Return the figures (key, label) of a split's table: those that not every run has only where there are some."""
    scored = [run.systems[name][split]["average"] for name in run.order if split in run.systems[name]]
    some = {key for average in scored for key in SOMETIMES if average.get(key) is not None}
    return [(key, label) for key, label in FIGURES if key in some or key not in SOMETIMES]


def reasons(run: RunFiles, split: str) -> list[str]:
    """Return why figures of a split are left out, a sentence for each figure and reason."""
    labels = dict(FIGURES)
    result: dict[str, dict[str, None]] = {}
    for name in run.order:
        for pair, scored in run.systems[name].get(split, {}).items():
            for metric, why in scored.get("reasons", {}).items():
                if pair != "average" and metric in labels:
                    result.setdefault(f"No {labels[metric]}: {why}", dict.fromkeys([pair]))[pair] = None
    return [f"{sentence} ({', '.join(pairs)})." for sentence, pairs in result.items()]


def score_rows(run: RunFiles, split: str) -> list[tuple[str, int | None, list[dict[str, float | None]]]]:
    """Return (pair, n, figures per system) of a split, the average last; None where a system lacks a figure."""
    scored = [run.systems[name][split] for name in run.order if split in run.systems[name]]
    pairs = sorted({pair for by_pair in scored for pair in by_pair if pair != "average"})
    rows = []
    for pair in (*pairs, "average"):
        values = [{key: by_pair.get(pair, {}).get(key) for key, _ in FIGURES} for by_pair in scored]
        n = next((by_pair[pair].get("n") for by_pair in scored if pair in by_pair), None)
        rows.append((pair, n, values))
    return rows


def domain_heads(run: RunFiles) -> list[str]:
    """Return the columns of the table of domains."""
    return ["domain", "n", *(f"{system} {label}" for system in run.order for label in ("exact", "contrastive"))]


def domain_rows(run: RunFiles) -> list[list[str]]:
    """Return a row per domain of the headline's split, as text."""
    rows = []
    for domain, by_system in run.domains.items():
        n = next(iter(by_system.values()))["n"]
        cells = [by_system.get(system, {}).get(key) for system in run.order for key in ("exact", "contrastive")]
        rows.append([domain, count(n), *map(number, cells)])
    return rows


def control_rows(run: RunFiles) -> list[list[str]]:
    """Return the averages of the headline's split, for the whole input and for less, and what less can reach."""
    split = run.headline_split
    shown_figures = figures(run, split)
    systems = [name for name in (*run.order, *run.controls) if split in run.systems[name]]
    averages = {name: run.systems[name][split]["average"] for name in systems}
    rows = [
        [name, *(number(average.get(key), DIGITS.get(key, 1)) for key, _ in shown_figures)]
        for name, average in averages.items()
    ]
    for shown, most in run.scores.get("ceilings", {}).get(split, {}).items():
        rows.append([f"at most, {shown}", *(number(most if key == "exact" else None) for key, _ in shown_figures)])
    return rows


def control_heads(run: RunFiles) -> list[str]:
    """Return the columns of the table of controls."""
    return ["shown", *(label for _, label in figures(run, run.headline_split))]


def kept_heads(run: RunFiles) -> list[str]:
    """Return the columns of the retention table: intervals only where the hypotheses are there to say them."""
    known = any(row["low"] is not None for row in run.kept)
    return ["task", "figure", "before", "after", "difference", *([INTERVAL] if known else []), "kept"]


def trained_title(run: RunFiles) -> str:
    """Return the title of the table of what was trained, with the modules that the recipe chose."""
    modules = (run.training or {}).get("modules", [])
    return "What was trained" + (f", of the modules {', '.join(modules)}" if modules else "")


def replay_note(run: RunFiles) -> str:
    """Return what has to be said of tasks that were replayed; nothing where none were."""
    tasks = dict.fromkeys(row["split"] for row in run.kept)
    marked = [split_title(task) for task in tasks if task in run.replayed]
    if not marked:
        return ""
    free = [split_title(task) for task in tasks if task not in run.replayed]
    rest = f"What is kept without that is shown by: {', '.join(free)}." if free else "No task was left out."
    return f"Replayed in training, on other examples: {', '.join(marked)}. {rest}"


def kept_rows(run: RunFiles) -> list[list[str]]:
    """Return the retention rows as text."""
    labels, heads = dict(FIGURES), kept_heads(run)
    return [
        [
            split_title(row["split"]) + (" (replayed)" if row["split"] in run.replayed else ""),
            labels[row["metric"]],
            number(row["before"]),
            number(row["after"]),
            signed(row["difference"]),
            *([interval(row["low"], row["high"])] if INTERVAL in heads else []),
            "–" if row["ratio"] is None else f"{100 * row['ratio']:.0f}{NBSP}%",
        ]
        for row in run.kept
    ]


def split_title(split: str) -> str:
    """Return a split's name for people.

    Examples:
        >>> split_title("image_translation_heldout"), split_title("ocr")
        ('Image translation, held out', 'Transcribing')
    """
    if split.startswith(OWN):
        return split.removeprefix(OWN)
    task, _, rest = split.partition("_heldout")
    title = TITLES.get(task, task.replace("_", " ").capitalize())
    return title + (", held out" if task != split else "") + rest.replace("_", " ")


def number(value: float | None, digits: int = 1) -> str:
    """Return a figure with fixed digits; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference with its sign; what rounds to zero has none."""
    if value is None:
        return "–"
    text = number(abs(value), digits)
    sign = "" if float(f"{value:.{digits}f}") == 0 else "+" if value > 0 else "\N{MINUS SIGN}"
    return sign + text


def interval(low: float | None, high: float | None) -> str:
    """Return both ends of an interval with their signs; a dash where it is not known."""
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def count(value: int | None) -> str:
    """Return a whole number with thousands separated."""
    return "–" if value is None else f"{value:,}"


def share(part: float | None, whole: float | None) -> str:
    """Return a ratio in percent; small ones keep two digits."""
    if part is None or not whole:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.{2 if 0 < percent < 1 else 1}f}{NBSP}%"


def _rich(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", title_style="bold", header_style="", pad_edge=False)
    for index, head in enumerate(heads):
        table.add_column(plain(head), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        style = "bold" if row[0] in ("average", "all") else ""
        table.add_row(*map(plain, row), style=style)
    return table
