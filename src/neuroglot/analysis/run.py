"""Walking the kinds of analysis of a run: what is done and unchanged is skipped, every kind is kept as it ends."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroglot.analysis.context import Kind, Setting, Work, check
from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError, nearest
from neuroglot.file_format import ANALYSIS, digests, read_json, remove, write_json
from neuroglot.models.load import model_identity
from neuroglot.pipeline.context import Context, Track, quiet
from neuroglot.pipeline.folder import locked, sweep

FILE = "analysis.json"
SEEDS = 5
"""Repetitions, unless said otherwise."""
TIMED = 12
"""Samples of the batch that the estimate of time rests on."""
OPTIONS = ("items", "seeds", "ablate")
"""Of a setting, that numbers depend on."""
FIELDS = ("task", "method", "model", "data", "profile", "select", "probe")
"""Of the recipe, that the analysis depends on."""


def analyse(
    folder: Path,
    only: Sequence[str] = (),
    seeds: int = SEEDS,
    items: int | None = None,
    ablate: str = "zero",
    force: bool = False,
    trust_remote_code: bool = False,
    track: Track = lambda label, total: lambda done: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure, and write analysis.json, analysis.md, analysis.html and a picture for each figure into a run.

    Args:
        folder: the run's.
        only: names of kinds; all of them if empty.
        seeds: repetitions with other draws.
        items: source items that a measurement takes; by default those of the run's profile.
        ablate: what an ablated neuron yields, `zero` or its `mean`.
        force: measure again what is done and unchanged.
        trust_remote_code: let code that comes with the model run.
        track: makes progress bars.
        say: prints a line.

    Returns:
        What analysis.json holds.

    Raises:
        UserError: whatever the user can mend.
    """
    from neuroglot.analysis.kinds import KINDS
    from neuroglot.analysis.page import write

    for name in only:
        if name not in KINDS:
            raise UserError(f"kind of analysis {name!r} is not known; {nearest(name, KINDS)}")
    recipe_file = folder / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError(f"{folder} is not a run folder (it has no recipe.yaml); expected one such as runs/demo")
    recipe = load_recipe(recipe_file)
    items = check(folder, recipe, items, seeds, ablate)
    with locked(folder):
        sweep(folder)
        quiet()
        context = Context(recipe, folder, track, say, trust_remote_code)
        counter = _Counter()
        setting = Setting(context, items, seeds, ablate, counter.add)
        asked = {name: getattr(setting, name) for name in OPTIONS}
        marks = {name: fingerprint(kind, context, asked) for name, kind in KINDS.items()}
        done = {} if force and not only else _done(folder, context, marks, only, say)
        wanted = [KINDS[name] for name in KINDS if (name in only or not only) and (force or name not in done)]
        for name in KINDS:
            if name in done and (name in only or not only) and not force:
                say(f"{name}: unchanged")
        if wanted:
            _foretell(wanted, setting, counter, track, say)
        for kind in wanted:
            began = time.perf_counter()
            result = _plain(kind.measure(setting))
            seconds = round(time.perf_counter() - began, 1)
            sentence = f"Nothing to show: {result['skipped']}." if "skipped" in result else kind.sentence(result)
            done[kind.name] = {
                "fingerprint": marks[kind.name],
                "options": {name: asked[name] for name in kind.options},
                "seconds": seconds,
                "sentence": sentence,
                "found": result,
            }
            content = _write(folder, {name: done[name] for name in KINDS if name in done}, setting)
            say(f"{kind.name}: {seconds:.0f} s. {sentence}")
        if not wanted:
            content = read_json(folder / FILE, ANALYSIS)
        write(folder, content)
        remove(setting.work_folder)
    return content


def fingerprint(kind: Kind, context: Context, options: Mapping[str, Any]) -> str:
    """Return a hash of all that a kind's numbers depend on."""
    tree = context.recipe.model_dump(mode="json")
    parts = {
        "kind": [kind.name, kind.version, str(ANALYSIS)],
        "recipe": {field: tree[field] for field in FIELDS},
        "options": {name: options[name] for name in kind.options},
        "reads": {name: digests(context.path(name)) for name in kind.reads if context.path(name).exists()},
        "model": model_identity(context.recipe.model.path),
        "data": context.data.identity if context.data is not None else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _done(
    folder: Path, context: Context, marks: Mapping[str, str], only: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Return what is there and still holds; a damaged file counts as none.

    What was not asked for this time may have been measured with other options, and is kept as it is.
    """
    from neuroglot.analysis.kinds import KINDS

    if not (folder / FILE).exists():
        return {}
    try:
        kinds: dict[str, Any] = read_json(folder / FILE, ANALYSIS)["kinds"]
    except UserError as error:
        say(f"{error}; measured again")
        return {}
    result = {}
    for name, entry in kinds.items():
        if name in KINDS:
            other = only and name not in only
            mark = fingerprint(KINDS[name], context, entry["options"]) if other else marks[name]
            if entry["fingerprint"] == mark:
                result[name] = entry
    return result


def _write(folder: Path, kinds: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    about = {
        "run": setting.recipe.name,
        "method": setting.recipe.method,
        "task": setting.task,
        "model": setting.recipe.model.path if setting.recipe.model.path == "embedded" else setting.profile.model,
        "score": setting.score,
    }
    return write_json(folder / FILE, ANALYSIS, {**about, "kinds": dict(kinds)})


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON will give back: text keys, null for what is no number."""
    from neuroglot.analysis.statistics import finite

    plain: dict[str, Any] = json.loads(json.dumps(finite(result)))
    return plain


class _Counter:
    """Adds up the samples done, for one bar over all kinds."""

    def __init__(self) -> None:
        self.done = 0
        self.bar: Callable[[int], None] = lambda done: None

    def add(self, count: int) -> None:
        self.done += count
        self.bar(self.done)


def _foretell(
    kinds: Sequence[Kind], setting: Setting, counter: _Counter, track: Track, say: Callable[[str], None]
) -> None:
    """Say how long it will take, from one batch of the run's own model and data, and show a bar."""
    works = {kind.name: kind.work(setting) for kind in kinds}
    shared = Work()
    if any(work.chunks for work in works.values()):
        shared = Work(backward=setting.chunks.samples)
    if any(work.records for work in works.values()):
        count = setting.items * len(setting.profile.of_task(setting.task))
        shared = Work(shared.forward + count, shared.backward + count)
    forward, backward = _pace(setting)

    def seconds(work: Work) -> float:
        return work.forward * forward + work.backward * backward

    every = {"profiles": shared, **works}
    total = sum(seconds(work) for work in every.values())
    each = ", ".join(f"{name} {seconds(work):.0f} s" for name, work in every.items() if seconds(work) >= 1)
    say(f"analysis: about {total / 60:.1f} minutes ({each or 'seconds each'})")
    counter.bar = track("analysis", sum(work.forward + work.backward for work in every.values()))


def _pace(setting: Setting) -> tuple[float, float]:
    """Return the seconds that a sample takes forward only, and forward and backward."""
    from neuroglot.neurons import profile

    examples = setting.heldout[:TIMED]
    system = setting.context.system(setting.model, "base")
    system.nll(examples[:1])  # what the first forward alone has to do is not counted
    began = time.perf_counter()
    system.nll(examples)
    forward = (time.perf_counter() - began) / len(examples)
    batches = list(setting.context.batcher.batches([e for e in examples if e.pair == examples[0].pair], TIMED))
    samples = sum(len(batch.items) for batch in batches)
    began = time.perf_counter()
    profile(setting.model, batches, scores=(setting.score,), classes=(setting.token_class,))
    return forward, (time.perf_counter() - began) / samples
