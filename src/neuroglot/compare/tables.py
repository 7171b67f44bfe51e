"""A comparison or an ablation as tables: for the terminal and for Markdown, from the same cells of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neuroglot.printing import plain, plain_table

if TYPE_CHECKING:
    from rich.console import Console

# ---- Comparison -----------------------------------------------------------------------------------------------------

LABELS = {
    "bleu": "BLEU", "bleu_moses": "BLEU, Moses", "chrf": "chrF++", "ter": "TER", "exact": "exact",
    "lines": "lines, F1", "bleu_lines": "BLEU, lines matched", "nll": "nll", "contrastive": "contrastive",
    "heldout_bleu": "held-out BLEU", "heldout_chrf": "held-out chrF++", "heldout_nll": "held-out nll",
    "retention": "kept, exact", "retention_nll": "kept, nll",
}  # fmt: skip
EQUAL = 0.1
"""What numbers of parameters may differ by and still be called as many, as a share."""
NLL = ("nll", "retention_nll", "heldout_nll")
MARKS = {("chance", "better"): "▲", ("chance", "worse"): "▼", ("full", "better"): "△", ("full", "worse"): "▽"}
LEGEND = (
    "Mean [95 % interval] over {seeds} seeds and the source items, both resampled. ▲ better, ▼ worse than `{chance}` "
    "of the same budget; △ better, ▽ worse than `full`: differences that survive Holm's correction over all "
    "comparisons of the figure (from six seeds on). A rate marked * was the lowest or highest tried. kept: the mean "
    "over {kept}."
)


def quality(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of figures, header first."""
    names = [n for n in LABELS if any(n in e["figures"] for e in comparison["contenders"])]
    rows = [["", "rate", *(LABELS[name] for name in names)]]
    for entry in comparison["contenders"]:
        row = [entry["name"], _rate(entry)]
        row += [_figure(entry, name, comparison["comparisons"]) for name in names]
        rows.append(row)
    return rows


def cost(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of what training took, header first."""
    rows = [["", "trainable", "seconds", "peak memory, MiB", "saved, MiB"]]
    for entry in comparison["contenders"]:
        if entry["cost"]:
            c = entry["cost"]
            rows.append([entry["name"], f"{c['trainable_parameters']:,.0f}", f"{c['seconds']:.0f}",
                         f"{c['peak_memory_bytes'] / 2**20:,.0f}", f"{c['saved_bytes'] / 2**20:.2f}"])  # fmt: skip
    return rows


def won(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Return in how many seeds each contender beat the chance control of its budget, header first."""
    names = [n for n in LABELS if any(w["figure"] == n for w in comparison["wins"])]
    counts = {(w["of"], w["figure"]): f"{w['won']} of {w['seeds']}" for w in comparison["wins"]}
    systems = dict.fromkeys(w["of"] for w in comparison["wins"])
    return [[f"ahead of {_chance(comparison)}", *(LABELS[name] for name in names)],
            *([system, *(counts.get((system, name), "") for name in names)] for system in systems)]  # fmt: skip


def against_lora(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Return each contender's difference to LoRA of its budget, header first; only the header where there is none."""
    result = {(c["of"], c["figure"]): c for c in comparison["comparisons"] if _of_lora(c)}
    names = [n for n in LABELS if any(figure == n for _, figure in result)]
    shares = _shares(comparison)

    def cell(own: Mapping[str, Any] | None, name: str) -> str:
        if own is None:
            return ""
        text = _with_interval(own["difference"], f"+.{3 if name in NLL else 1}f")
        return text + ({"better": "▲", "worse": "▼"}[own["survives"]] if own["survives"] else "")

    systems = dict.fromkeys(of for of, _ in result)
    return [["less lora", "parameters", *(LABELS[name] for name in names)],
            *([system, f"× {shares[system]:.2f}" if system in shares else "",
               *(cell(result.get((system, name)), name) for name in names)] for system in systems)]  # fmt: skip


def lora_title(comparison: Mapping[str, Any]) -> str:
    """Return what the differences to LoRA are between: as many parameters only where that is so."""
    if all(abs(share - 1) <= EQUAL for share in _shares(comparison).values()):
        return "Difference to LoRA with as many parameters (within 10 %)"
    return "Difference to LoRA of the same budget, beside how many parameters are trained (× LoRA's)"


def _shares(comparison: Mapping[str, Any]) -> dict[str, float]:
    """Return how many parameters each contender that is held against LoRA trains, as a multiple of LoRA's."""
    costs = {entry["name"]: entry["cost"] for entry in comparison["contenders"] if entry["cost"]}
    both = {c["of"]: c["to"] for c in comparison["comparisons"] if _of_lora(c)}
    return {of: costs[of]["trainable_parameters"] / costs[to]["trainable_parameters"] for of, to in both.items()}


def _of_lora(comparison: Mapping[str, Any]) -> bool:
    return str(comparison["to"]).startswith("lora")


def at_matched_quality(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Return the loss on what should be kept at equal loss on the task, header first; a row per budget."""
    rows = []
    for group in comparison["matched"]:
        for name, loss in sorted(group["retention_nll"].items(), key=lambda kv: (kv[1] is None, kv[1] or 0.0)):
            rows.append([f"{100 * group['budget']:g} %", f"{group['nll']:.3f}", name,
                         "not reached" if loss is None else f"{loss:.3f}"])  # fmt: skip
    return [["budget", "nll on dev", "", "kept, nll on dev"], *rows]


def _rate(entry: Mapping[str, Any]) -> str:
    return "" if entry["rate"] is None else f"{entry['rate']:g}{'*' if entry['at_edge'] else ''}"


def _figure(entry: Mapping[str, Any], name: str, comparisons: Sequence[Mapping[str, Any]]) -> str:
    result = entry["figures"].get(name)
    if result is None:
        return ""
    marks = "".join(
        MARKS["full" if c["to"] == "full" else "chance", c["survives"]]
        for c in comparisons
        if c["of"] == entry["name"] and c["figure"] == name and c["survives"] and not _of_lora(c)
    )
    return _with_interval(result, f".{3 if name in NLL else 1}f") + marks


def _with_interval(result: Mapping[str, float | None], digits: str) -> str:
    """Return a figure with its interval, or alone where it has none."""
    if result["low"] is None:
        return format(result["mean"], digits)
    return f"{result['mean']:{digits}} [{result['low']:{digits}}, {result['high']:{digits}}]"


def legend(comparison: Mapping[str, Any]) -> str:
    """Return what the marks mean."""
    kept = ", ".join(comparison["kept"]) or "nothing"
    text = LEGEND.format(seeds=comparison["seeds"], kept=kept, chance=_chance(comparison))
    if comparison.get("retain") is not None:
        text += f" Rates were chosen among those that keep what should be kept at {comparison['retain']:g} nll on dev."
    for name, why in comparison.get("reasons", {}).items():
        text += f" No {LABELS[name]}: {why}."
    return text + signed(comparison)


def signed(comparison: Mapping[str, Any]) -> str:
    """Return sacreBLEU's signatures of the figures that have one, as a sentence; empty where none is known."""
    known = comparison.get("signatures", {})
    texts = [f"{LABELS[name]} `{known[name]}`" for name in LABELS if "version:" in known.get(name, "")]
    return f" Signatures: {', '.join(texts)}." if texts else ""


def said(comparison: Mapping[str, Any]) -> list[str]:
    """Return what the systems had to say when they were done, such as their cost."""
    return [line for entry in comparison["contenders"] for line in entry.get("said", ())]


def _chance(comparison: Mapping[str, Any]) -> str:
    """Return the control that choices were held against."""
    return next((w["than"] for w in comparison["wins"]), "random")


def markdown(comparison: Mapping[str, Any]) -> str:
    """Return the whole comparison as Markdown."""
    parts = [as_markdown(quality(comparison)), legend(comparison), *said(comparison), as_markdown(cost(comparison))]
    if any(map(_of_lora, comparison["comparisons"])):
        parts += [f"{lora_title(comparison)}; ▲ better, ▼ worse where it survives the correction:",
                  as_markdown(against_lora(comparison))]  # fmt: skip
    if comparison["wins"]:
        parts += [f"How many seeds a contender was ahead of `{_chance(comparison)}` of the same budget and seed:",
                  as_markdown(won(comparison))]  # fmt: skip
    if comparison["matched"]:
        parts += ["Retention at matched quality, read off the sweeps of the first seed on dev:",
                  as_markdown(at_matched_quality(comparison))]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, header first, as Markdown."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def show(comparison: Mapping[str, Any], console: Console) -> None:
    """Print the comparison."""
    titles = {"quality and retention on test": quality, "cost of training": cost}
    if any(map(_of_lora, comparison["comparisons"])):
        titles[lora_title(comparison)] = against_lora
    if comparison["wins"]:
        titles[f"seeds ahead of {_chance(comparison)}"] = won
    if comparison["matched"]:
        titles["retention at matched quality, on dev"] = at_matched_quality
    for title, make in titles.items():
        head, *body = make(comparison)
        console.print(plain_table(head, body, title=plain(title), title_justify="left"))
    for line in (legend(comparison).replace("`", ""), *said(comparison)):
        console.print(plain(line))


# ---- Ablation -------------------------------------------------------------------------------------------------------

ABLATION_LEGEND = (
    "Mean [95 % interval] over {seeds} seeds and the source items, both resampled. ▲ better, ▼ worse than "
    "{reference}: differences that survive Holm's correction over all comparisons of the figure (from six seeds on). "
    "A rate marked * was the lowest or highest tried. kept: the mean over {kept}."
)


def ablation_legend(result: Mapping[str, Any]) -> str:
    """Return what the marks mean."""
    kept = ", ".join(result["kept"]) or "nothing"
    text = ABLATION_LEGEND.format(seeds=result["seeds"], reference=repr(result["reference"]), kept=kept)
    return text + signed(result)


def figures(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of figures, header first."""
    head, *rows = quality(result)
    return [[result["label"], *head[1:]], *rows]


def ablation_markdown(result: Mapping[str, Any]) -> str:
    """Return the whole ablation as Markdown."""
    return "\n\n".join([as_markdown(figures(result)), ablation_legend(result), as_markdown(cost(result))]) + "\n"


def show_ablation(result: Mapping[str, Any], console: Console) -> None:
    """Print the ablation."""
    for title, (head, *body) in {
        "quality and retention on test": figures(result),
        "cost of training": cost(result),
    }.items():
        console.print(plain_table(head, body, title=plain(title), title_justify="left"))
    console.print(plain(ablation_legend(result).replace("`", "")))
