"""What `neuroglot score` computes: metrics of a system's outputs with intervals and signatures, and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.errors import UserError, nearest
from neuroglot.evaluation import metrics
from neuroglot.evaluation.bootstrap import FIGURES, Draws, interval, item_of, reason, resample
from neuroglot.evaluation.comet import MODEL, comet, python_of
from neuroglot.evaluation.metrics import LOWER_IS_BETTER, has_lines
from neuroglot.evaluation.outputs import read_outputs, read_texts
from neuroglot.evaluation.significance import paired_bootstrap
from neuroglot.evaluation.tokenize import Tokenise, needs_moses, read_tokenise
from neuroglot.pair import Pair
from neuroglot.printing import plain

if TYPE_CHECKING:
    from rich.console import Console

# ---- Scoring --------------------------------------------------------------------------------------------------------
# Notable: whoever made the outputs, they go through the same functions as those of a run; nothing is scored twice in
# two ways.

Row = dict[str, Any]

UNKNOWN = "und-und"
"""The pair of outputs whose languages nobody named."""
COMPARED = ("other", "difference", "difference_low", "difference_high", "p")
"""What is said of a figure beside another system's."""


@dataclass(frozen=True)
class Options:
    """How outputs are scored.

    Attributes:
        source: a text file of what was translated; what COMET needs.
        pair: of outputs that do not say theirs; of outputs that do, the one to score.
        system: of outputs of several systems, the one to score.
        split: of outputs of several splits, the one to score.
        against: another file of outputs, or another system in the same file.
        figures: which figures; those that apply if empty.
        tokenise: BLEU's tokeniser, or `ja=char,en-th=flores200`, if it is not to follow the script.
        resamples: of the bootstrap over source items.
        seed: of the resampling.
        comet: COMET's virtual environment.
        comet_model: its model.
    """

    source: Path | None = None
    pair: str | None = None
    system: str | None = None
    split: str | None = None
    against: str | None = None
    figures: Sequence[str] = ()
    tokenise: Tokenise = None
    resamples: int = 1000
    seed: int = 0
    comet: Path | None = None
    comet_model: str = MODEL

    def __post_init__(self) -> None:
        for figure in self.figures:
            if figure not in FIGURES:
                raise UserError(f"figure {figure!r} is not known; {nearest(figure, FIGURES)}")
        if "comet" in self.figures and self.comet is None:
            raise UserError("the figure comet needs COMET's virtual environment; give it with --comet PATH")
        if self.comet is not None:
            python_of(self.comet)
        if metrics.MOSES in self.figures and needs_moses():
            raise UserError(needs_moses())
        if isinstance(self.tokenise, str):
            object.__setattr__(self, "tokenise", read_tokenise(self.tokenise))
        if self.pair is not None:
            object.__setattr__(self, "pair", str(Pair.parse(self.pair)))  # as rows have theirs
        if self.resamples < 1:
            raise UserError(f"resamples must be 1 or more, got {self.resamples}")


def score_outputs(
    hypotheses: Path,
    references: Path | Sequence[Path] | None,
    options: Options,
    track: Callable[[str, int], Callable[[int], None]] = lambda label, total: lambda done: None,
) -> dict[str, Any]:
    """Score the outputs in a file.

    Args:
        hypotheses: text with a line a segment, or JSONL.
        references: the same; not needed where the JSONL has them. Of several files any reference of a segment will
            do; nll, contrastive, COMET, Moses' BLEU and the figures of lines take the first.
        options: see `Options`.
        track: shows progress, given a label and how many figures there are.

    Returns:
        `hypotheses`, `references`, `resamples`, `against`, and `results`: a list with, for each system and
        split, `system`, `split`, and `pairs`: pair (and `average`, where there are several) -> `n`, `items`,
        `figures`: figure -> `value`, `low`, `high` (95 % interval), `signature`, and, with `against`, `other`,
        `difference`, `difference_low`, `difference_high` and `p`. All but the signature may be None: of a figure
        that would mean nothing (then `reason` says why), and of the interval of a single item.

    Raises:
        UserError: a file cannot be read, the files do not match, or a figure that was asked for is not there.
    """
    references = [references] if isinstance(references, Path) else list(references or ())
    every = _with_references(_read(hypotheses), hypotheses, references, options)
    groups = _groups(_chosen(every, options, hypotheses, options.system), hypotheses)
    others = _others(groups, every, hypotheses, references, options)
    comet_signature = ""
    if options.comet is not None:
        comet_signature = _add_comet([*groups.values(), *others.values()], options)
    parts_of = {group: _parts(rows) for group, rows in groups.items()}
    named = [*map(str, references)]
    bar, done = track("scoring", sum(map(len, parts_of.values()))), 0
    results = []
    for system, split in groups:
        other = others.get(split)
        pairs = {}
        for pair, members in parts_of[system, split].items():
            counted = None if other is None else other if pair == "average" else _of_pair(other, pair)
            result = _figures(members, counted, options, comet_signature)
            pairs[pair] = {"n": len(members), "items": len(set(map(item_of, members))), "figures": result}
            done += 1
            bar(done)
        results.append({"system": system, "split": split, "pairs": pairs})
    return {
        "hypotheses": str(hypotheses),
        "references": named[0] if len(named) == 1 else named or None,
        "against": options.against,
        "resamples": options.resamples,
        "results": results,
    }


def _figures(rows: list[Row], other: list[Row] | None, options: Options, comet_signature: str) -> dict[str, Any]:
    """Return every figure of some rows, and of what they are held against."""
    wanted = options.figures or [f for f in _usual(rows) if other is None or f in _usual(other)]
    if options.comet is not None and "comet" not in wanted:
        wanted = [*wanted, "comet"]
    draws = Draws.make(rows, 1, options.resamples, options.seed)
    splits = list(draws.items)
    result: dict[str, Any] = {}
    for name in wanted:
        drawn = resample([rows], name, splits, draws, options.tokenise)
        signature = comet_signature if name == "comet" else metrics.signature_of(name, rows, options.tokenise)
        if drawn is None:
            if why := reason(rows, name, splits, options.tokenise):
                result[name] = {"value": None, "low": None, "high": None, "signature": signature, "reason": why}
                if other is not None:
                    result[name] |= dict.fromkeys(COMPARED)
                continue
            why = "no reference has several lines" if "lines" in name else "not every segment has what it needs"
            raise UserError(f"the figure {name} cannot be computed: {why}; leave it out of --metrics")
        low, high = interval(drawn, sum(map(len, draws.items.values()))) or (None, None)
        result[name] = {"value": float(drawn[0]), "low": low, "high": high, "signature": signature}
        if other is not None:
            result[name] |= dict.fromkeys(COMPARED)
            if why := reason(other, name, splits, options.tokenise):
                result[name]["reason"] = f"of the other: {why}"
                continue
            gap = paired_bootstrap(other, rows, name, options.resamples, seed=options.seed, tokenise=options.tokenise)
            values = (result[name]["value"] - gap.value, gap.value, gap.low, gap.high, gap.p)
            result[name] |= dict(zip(COMPARED, values, strict=True))
    return result


def _usual(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the figures that apply to some rows."""
    result = ["bleu", "chrf", "ter", "exact"]
    by_pair: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_pair.setdefault(row["pair"], []).append(row)
    if all(any(has_lines(row["reference"]) for row in members) for members in by_pair.values()):
        result += ["lines", "bleu_lines"]
    if all(row.get("nll") is not None for row in rows):
        result.append("nll")
    if all(metrics.costs(row) is not None for row in rows):
        result.append("contrastive")
    return result


def _read(path: Path) -> list[Row]:
    rows = read_outputs(path)
    return [{**row, "index": row["index"] if row.get("index") is not None else n} for n, row in enumerate(rows)]


def _with_references(rows: list[Row], path: Path, references: Sequence[Path], options: Options) -> list[Row]:
    """Give every row its reference, source and pair; several files of references are several references of each."""
    for given in references:
        texts = _texts(given, "reference", rows, path)
        if given == references[0]:
            rows = [{**row, "reference": text, "references": None} for row, text in zip(rows, texts, strict=True)]
        if len(references) > 1:
            rows = [{**row, "references": [*(row["references"] or ()), text]}
                    for row, text in zip(rows, texts, strict=True)]  # fmt: skip
    if options.source is not None:
        texts = _texts(options.source, "source", rows, path)
        rows = [{**row, "source": text} for row, text in zip(rows, texts, strict=True)]
    for number, row in enumerate(rows, start=1):
        if row.get("reference") is None:
            if not row.get("references"):
                raise UserError(f"{path} has no reference for segment {number}; give a file of references")
            row["reference"] = row["references"][0]
    return [{**row, "pair": row.get("pair") or options.pair or UNKNOWN} for row in rows]


def _texts(given: Path, field: str, rows: list[Row], path: Path) -> list[str]:
    """Return the text of every row from another file."""
    if given.suffix in (".jsonl", ".json"):
        texts = [str(row[field]) for row in read_outputs(given, field)]
    else:
        texts = read_texts(given)
    if len(texts) != len(rows):
        raise UserError(
            f"{path} has {len(rows)} segments and {given} {len(texts)}; expected one each, in the same order"
        )
    return texts


def _chosen(rows: list[Row], options: Options, path: Path, system: str | None) -> list[Row]:
    """Return the rows of the pair, system and split that were asked for."""
    for field, wanted in (("pair", options.pair), ("system", system), ("split", options.split)):
        if wanted is not None:
            known = dict.fromkeys(str(row.get(field)) for row in rows)
            rows = [row for row in rows if row.get(field) == wanted]
            if not rows:
                raise UserError(f"{path} has nothing of {field} {wanted}; it has {', '.join(known)}")
    return rows


def _groups(rows: list[Row], path: Path) -> dict[tuple[str, str], list[Row]]:
    """Return the rows by system and split; a file that names none is one system, called like the file."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.get("system") or path.name, row.get("split") or ""), []).append(row)
    for (system, split), members in groups.items():
        seen = set()
        for row in members:
            if (row["pair"], row["index"]) in seen:
                raise UserError(
                    f"{path} has segment {row['index']} of {row['pair']} twice ({f'{system} {split}'.strip()}); "
                    "expected each once"
                )
            seen.add((row["pair"], row["index"]))
    return groups


def _others(
    groups: Mapping[tuple[str, str], list[Row]],
    every: list[Row],
    path: Path,
    references: Sequence[Path],
    options: Options,
) -> dict[str, list[Row]]:
    """Return what is held against the groups, by split."""
    if options.against is None:
        return {}
    systems = list(dict.fromkeys(system for system, _ in groups))
    if len(systems) > 1:
        raise UserError(f"{path} has {len(systems)} systems: {', '.join(systems)}; choose one with --system")
    target = Path(options.against)
    if target.is_file():
        rows, own = _read(target), next(iter(groups.values()), [])
        if not references and len(groups) == 1 and len(rows) == len(own) and not any(map(_is_scored, rows)):
            rows = [
                {**b, "nll": None, "system": None, "hypothesis": a["hypothesis"]}
                for a, b in zip(rows, own, strict=True)
            ]
        rows = _with_references(rows, target, references, options)
        names = list(dict.fromkeys(row.get("system") for row in rows))
        if len(names) > 1 and systems[0] not in names:
            raise UserError(f"{target} has systems {', '.join(map(str, names))}; choose one with --system")
        rows = _chosen(rows, options, target, systems[0] if len(names) > 1 else None)
    elif options.against in {row.get("system") for row in every}:
        target = path
        rows = _chosen(every, options, path, options.against)
    else:
        known = {str(row["system"]) for row in every if row.get("system")}
        hint = f"or a system of {path}; {nearest(options.against, known)}" if known else ""
        raise UserError(f"--against {options.against} does not exist; expected a file of outputs {hint}".strip())
    result = {split: members for (_, split), members in _groups(rows, target).items()}
    for _, split in groups:
        if split not in result:
            raise UserError(f"{target} has nothing of split {split}; choose another with --split")
    return result


def _is_scored(row: Row) -> bool:
    return row.get("reference") is not None


def _parts(rows: list[Row]) -> dict[str, list[Row]]:
    """Return rows by pair, and all of them as `average` where there are several pairs."""
    names = list(dict.fromkeys(row["pair"] for row in rows))
    return {**{pair: _of_pair(rows, pair) for pair in names}, **({"average": rows} if len(names) > 1 else {})}


def _of_pair(rows: list[Row], pair: str) -> list[Row]:
    return [row for row in rows if row["pair"] == pair]


def _add_comet(groups: Sequence[list[Row]], options: Options) -> str:
    """Give every row COMET's score, and return its signature."""
    rows = [row for group in groups for row in group]
    for row in rows:
        if not isinstance(row.get("source"), str):
            raise UserError("COMET needs what was translated; give the source texts with --source FILE")
    sources, said, wanted = ([str(row[field]) for row in rows] for field in ("source", "hypothesis", "reference"))
    result = comet(options.comet or Path(), sources, said, wanted, options.comet_model)
    for row, score in zip(rows, result.scores, strict=True):
        row["comet"] = score
    return result.signature


# ---- Tables ---------------------------------------------------------------------------------------------------------

LABELS = {
    "bleu": "BLEU", "chrf": "chrF++", "ter": "TER", "exact": "exact", "nll": "nll", "contrastive": "contrastive",
    "lines": "lines, F1", "bleu_lines": "BLEU, lines by best match", "bleu_moses": "BLEU, lower-cased, Moses",
    "comet": "COMET", "chrf0": "chrF",
}  # fmt: skip


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print a table for each system, split and pair, and the signatures beneath them."""
    from rich.table import Table

    compared = results["against"] is not None
    signatures: dict[str, dict[str, None]] = {}
    for result in results["results"]:
        for pair, part in result["pairs"].items():
            names = [result["system"], result["split"], "" if pair == "und-und" else pair]
            title = f"{', '.join(filter(None, names))}: {part['n']:,} segments, {part['items']:,} items"
            table = Table(
                title=plain(title), title_justify="left", title_style="bold", header_style="", pad_edge=False
            )
            table.add_column("figure")
            heads = ["", "95 % interval", *([f"{results['against']}", "difference", "95 %", "p"] if compared else [])]
            for head in heads:
                table.add_column(plain(head), justify="right", overflow="fold")
            for name, figure in part["figures"].items():
                table.add_row(*map(plain, _cells(name, figure, compared)))
                signatures.setdefault(LABELS[name], {})[figure["signature"]] = None
            console.print(table)
            for name, figure in part["figures"].items():
                if "reason" in figure:
                    line = f"No {LABELS[name]}: {figure['reason']}."
                    console.print(plain(line), soft_wrap=True)
    for label, texts in signatures.items():
        for text in texts:
            console.print(plain(f"{label}: {text}"), soft_wrap=True)
    console.print(
        f"Intervals and p by {results['resamples']:,} bootstrap draws of source items"
        + ("; difference = the first less the other; p two-sided, not corrected for the number of figures"
           if compared else "") + ".",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _cells(name: str, figure: Mapping[str, Any], compared: bool) -> list[str]:
    digits = 3 if name == "nll" else 1

    def number(value: float | None, sign: str = "") -> str:
        return "–" if value is None else f"{value:{sign}.{digits}f}"

    def interval(low: float | None, high: float | None, sign: str = "") -> str:
        return "–" if low is None else f"{number(low, sign)} to {number(high, sign)}"

    cells = [
        f"{LABELS[name]}{' (lower is better)' if name in LOWER_IS_BETTER else ''}",
        number(figure["value"]),
        interval(figure["low"], figure["high"]),
    ]
    if compared:
        cells += [
            number(figure["other"]),
            number(figure["difference"], "+"),
            interval(figure["difference_low"], figure["difference_high"], "+"),
            "–" if figure["p"] is None else f"{figure['p']:.3f}",
        ]
    return cells
