"""A commented recipe for the user's own data and model, its parts, languages and sizes read off both."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from neuroglot.config import check
from neuroglot.data.corpus import RETAINED, Sizes, load_corpus
from neuroglot.data.example import Example
from neuroglot.data.readers import Layout
from neuroglot.data.readers.checked import counted
from neuroglot.data.readers.layout import quoted
from neuroglot.data.store import View
from neuroglot.errors import UserError, nearest
from neuroglot.file_format import given_path
from neuroglot.models.load import EMBEDDED, load_processor, load_skeleton
from neuroglot.pipeline.context import LISTED, Context, Data

TASKS = ("image_translation", "multimodal_translation")
"""What can be trained, the likelier first."""

DEV, RETENTION = 60, 60
"""Items: the default of data.dev, and what a recipe says of data.retention."""

RECIPE = """\
# Written by `neuroglot init` for {data_name}. Run it with:
#
#   neuroglot run {command}
#   neuroglot run {command} --scale smoke     # everything on next to nothing, to see that it works
#
# The model's parts:
{parts}

name: {name}
method: mnaft          # or neumt, neumt-paper, random (a control), lora, full
task: {task}

model:
  path: {model}
  dtype: {dtype}       # of the frozen weights; the trained rows are float32

data:
  source: {data}{layout}
  # Examples found: {counted}; {items} items. A field "split" in the data decides what trains and what tests;
  # without it four fifths of the items train, a tenth each is dev and test.
  pairs: [{pairs}]
  train: {items}
  test: {test}
  retention: {retention}        # items of other tasks that should still work afterwards; 0 to skip{replay}

profile:
  items: {profile_items}
  batch_size: {profile_batch}

select:
  budget: 0.4          # share of all neurons that is trained
  layers: 0.6          # share of each part's layers; or {{{layers}}}

train:
  steps: {steps}
  batch_size: {batch}
  lr: {rate}

evaluate:
  max_new_tokens: {longest}   # from the longest target
"""


def write_recipe(
    model: str,
    data: Path,
    out: Path,
    force: bool = False,
    trust_remote_code: bool = False,
    task: str | None = None,
    pairs: Sequence[str] = (),
    layout: str = "auto",
    columns: Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
    images: Path | None = None,
    max_bad: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Write a recipe and return a sentence on what was found.

    Args:
        model: `embedded`, a folder, or a name on the hub.
        data: a file or folder in any layout that readers know, or `hf:owner/name`; every image in it is opened, and
            the model is asked about every text, as a run does before it trains.
        out: the recipe to write.
        force: write over it if it is there.
        trust_remote_code: let the model's own code run.
        task: what is to be trained; by default the first of `TASKS` that the data have.
        pairs: directions; by default all that the data have.
        layout: how the data are laid out; told from the path by default.
        columns: our field -> the data's column, or `=value`.
        splits: our split -> the data's name for it.
        images: folder of the images, where the layout has no place for them.
        max_bad: records that may be left out because they cannot be used; the recipe then allows as many.
        say: told of each record that cannot be used, up to a bound.

    Raises:
        UserError: `out` exists or cannot be written, or the data or the model cannot be used; advice in it names the
            options of `neuroglot init`.
    """
    if out.exists() and not force:
        raise UserError(f"{out} exists; choose another with --out, or write over it with --force")
    if task is not None and task not in TASKS:
        raise UserError(f"task {task!r} cannot be trained; {nearest(task, TASKS)}")
    columns, splits = columns or {}, splits or {}
    how = Layout(layout, columns, tuple(pairs), splits, images and images.resolve(), task=task or TASKS[0])
    with _own_options():
        result = _examples(data, how, model, trust_remote_code, max_bad, say)
        return _write(model, data, out, trust_remote_code, how, result, _task(data, result, task), max_bad)


def _write(
    model: str, data: Path, out: Path, trust_remote_code: bool, how: Layout, result: View, task: str, max_bad: int
) -> str:
    pairs = how.pairs
    ours = result.where(np.array([kind.task == task for kind in result.store.kinds])[result.column("kind")])
    counts = Counter(pair for pair in ours.pairs if not pairs or pair in pairs)
    items = len(np.unique(ours.column("item")))
    sizes = Sizes(items, 0, items, 0, 0)
    load_corpus(str(data), task, list(pairs or counts), sizes, 0, False, result)  # no split is empty
    replay = _replay(data, task, list(pairs or counts), items, result)
    longest = _longest(model, ours, trust_remote_code)
    parts = _parts(model, trust_remote_code)

    small = model == EMBEDDED
    batch = 24 if small else 4
    text = RECIPE.format(
        data_name=data.name,
        command=shlex.quote(str(out)),
        parts="\n".join(f"#   {part}: {layers} layers, {neurons:,} neurons" for part, layers, neurons in parts),
        name=_quoted(re.sub(r"[^A-Za-z0-9._-]+", "-", out.stem).lstrip("._-") or "run"),
        task=task,
        model=_quoted(str(given_path(model).resolve()) if given_path(model).is_dir() else model),
        dtype="float32" if small else "bfloat16",
        data=_quoted(_relative(data, out.parent)),
        layout=_layout(how, out.parent, max_bad),
        counted=", ".join(f"{pair} ({count})" for pair, count in counts.items()),
        items=items,
        pairs=", ".join(counts),
        test=min(items, 200),
        retention=RETENTION,
        replay=replay,
        profile_items=min(items, 48),
        profile_batch=min(batch, 12),
        layers=", ".join(f"{part}: 0.6" for part, *_ in parts),
        steps=max(50, min(2000, 4 * len(ours) // batch)),
        batch=batch,
        # Large models are trained at the papers' rate; the embedded one is small and takes a larger one.
        rate="1e-3" if small else "2e-5",
        longest=longest,
    )
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; choose another with --out") from None
    told = f"{counts.total()} {task} examples of {items} items in {len(counts)} pair{'s' * (len(counts) != 1)}"
    return f"wrote {out}: {told}; neuroglot run {shlex.quote(str(out))}"


def _replay(data: Path, task: str, pairs: list[str], items: int, result: View) -> str:
    """Return the line of a recipe that replays the data's other tasks; nothing where there are none to train on."""
    others = [kind.task for kind in result.store.kinds if kind.task in RETAINED]
    if not others:
        return ""
    try:
        tested = Sizes(items, DEV, min(items, 200), 0, RETENTION)  # what the recipe's data section comes to
        corpus = load_corpus(str(data), task, pairs, tested, 0, False, result, replays=True)
    except UserError:  # all of them are tested
        return ""
    tasks = ", ".join(f"{name} ({len(examples)})" for name, examples in corpus.replay.items())
    line = f"\n  replay: 0.3          # of the batches are the data's other tasks, against forgetting: {tasks}"
    names = list(corpus.replay)
    if len(names) > 1:
        line += f"\n  # replay_tasks: [{', '.join(names[:-1])}]   # a task left out shows what is kept anyway"
    return line


def _layout(how: Layout, folder: Path, max_bad: int) -> str:
    """Return the lines of a recipe that say how its data are read, where that is not told from the path."""
    lines = [] if how.format == "auto" else [f"format: {how.format}"]
    lines += [
        f"{name}: {{{', '.join(f'{ours}: {quoted(theirs)}' for ours, theirs in given.items())}}}"
        for name, given in (("columns", how.columns), ("splits", how.splits))
        if given
    ]
    lines += [f"images: {_quoted(_relative(how.images, folder))}"] if how.images else []
    lines += [f"max_bad: {max_bad}         # records that may be left out; they are listed in rejected.jsonl"] * (
        max_bad > 0
    )
    return "".join(f"\n  {line}" for line in lines)


_SETTING = re.compile(r"\bdata\.(pairs|format|columns|splits|images|max_bad)\b(?:\.(\w+))?")
_VALUE = re.compile(r"(?<=such as )\{[^{}]*\}|(?<=with )\{[^{}]*\}")
"""Mappings in an error that are no options yet."""


@contextmanager
def _own_options() -> Iterator[None]:
    """Name the options of `neuroglot init` where an error names settings of a recipe, so that they can be pasted."""
    try:
        yield
    except UserError as error:
        message = _VALUE.sub(lambda value: shlex.quote(value[0]), str(error))
        raise UserError(_SETTING.sub(_option, message)) from None


def _option(setting: re.Match[str]) -> str:
    name, key = setting[1].replace("_", "-"), setting[2]
    return f"--{name}" if key is None else f"--{name} {{{key}: ...}}"


def _examples(
    data: Path, layout: Layout, model: str, trust_remote_code: bool, max_bad: int, say: Callable[[str], None]
) -> View:
    """Return every example, after looking at all of them as a run of a recipe without further settings does."""
    tree = {"task": layout.task, "model": {"path": model}, "data": {"source": str(data), "max_bad": max_bad}}
    run = Context(check(tree, "init"), data.parent, lambda label, total: lambda done: None, print, trust_remote_code)
    source = Data(data, data.parent, layout)
    try:
        return source.examples(run.fits, run.limits, max_bad, run.track)
    except UserError as error:
        if max_bad < source.bad_count < len(source.records):
            raise UserError(f"{error}; repair them, or leave them out with --max-bad {source.bad_count}") from None
        raise
    finally:
        if 0 < source.bad_count < len(source.records):  # what is wrong with all of them is said once
            for bad in source.found_bad[:LISTED]:
                say(f"{data} {counted(data)} {bad.line}: {bad.reason}")
            if source.bad_count > LISTED:
                say(f"... and {source.bad_count - LISTED} more")


def _task(data: Path, examples: View, wanted: str | None) -> str:
    """Return the task that can be trained, or the one that is wanted."""
    kinds = examples.store.kinds
    there = list(dict.fromkeys(kinds[kind].task for kind in examples.column("kind")))
    result = next((task for task in ((wanted,) if wanted else TASKS) if task in there), None)
    if result is None:
        raise UserError(f"{data} has no {wanted or ' or '.join(TASKS)} examples; it has {', '.join(there)}")
    return result


def _relative(data: Path, folder: Path) -> str:
    """Return a path that a recipe in a folder finds, relative if the data lies in or under that folder."""
    if str(data).startswith("hf:"):
        return str(data)
    data, folder = data.resolve(), folder.resolve()
    return str(data.relative_to(folder) if data.is_relative_to(folder) else data)


def _quoted(text: str) -> str:
    """Return a text as YAML reads it back, in quotes where it needs them."""
    return text if re.fullmatch(r"[A-Za-z/][\w./-]*", text) else json.dumps(text, ensure_ascii=False)


def _parts(model: str, trust_remote_code: bool) -> list[tuple[str, int, int]]:
    """Return the model's parts with their layers and neurons; its configuration says so, its weights stay unread."""
    from neuroglot.neurons import inventory

    counts: dict[str, tuple[int, int]] = {}
    for layer in inventory(load_skeleton(model, trust_remote_code)):
        layers, neurons = counts.get(layer.part, (0, 0))
        counts[layer.part] = (layers + 1, neurons + layer.neurons)
    return [(part, layers, neurons) for part, (layers, neurons) in counts.items()]


def _longest(model: str, examples: Sequence[Example], trust_remote_code: bool) -> int:
    """Return the tokens of the longest target, with a quarter to spare."""
    tokenizer: Any = load_processor(model, trust_remote_code).tokenizer
    longest = max(len(tokenizer(e.target, add_special_tokens=False)["input_ids"]) for e in examples)
    return -(-max(16, longest * 5 // 4) // 8) * 8
