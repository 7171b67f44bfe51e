"""A commented recipe for the user's own data and model, its parts, languages and sizes read off both."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroglot.data.corpus import Sizes, load_corpus
from neuroglot.data.example import Example
from neuroglot.data.readers import Bad, allow, check_records, read_records
from neuroglot.errors import UserError
from neuroglot.models.load import EMBEDDED, load_processor, load_skeleton

TASKS = ("image_translation", "multimodal_translation")
"""What can be trained, the likelier first."""

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
  source: {data}
  # Examples found: {counted}; {items} items. A field "split" in the data decides what trains and what tests;
  # without it four fifths of the items train, a tenth each is dev and test.
  pairs: [{pairs}]
  train: {items}
  test: {test}
  retention: 60        # items of reading and text translation that should still work afterwards; 0 to skip

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


def write_recipe(model: str, data: Path, out: Path, force: bool = False, trust_remote_code: bool = False) -> str:
    """Write a recipe and return a sentence on what was found.

    Args:
        model: `embedded`, a folder, or a name on the hub.
        data: a JSONL file; every image in it is opened.
        out: the recipe to write.
        force: write over it if it is there.
        trust_remote_code: let the model's own code run.

    Raises:
        UserError: `out` exists or cannot be written, or the data or the model cannot be used.
    """
    if out.exists() and not force:
        raise UserError(f"{out} exists; choose another with --out, or write over it with --force")
    ours, task = _examples(data)
    pairs = Counter(str(e.pair) for e in ours)
    items = len({e.item for e in ours})
    load_corpus(str(data), task, list(pairs), Sizes(items, 0, items, 0, 0), 0, False)  # no split is empty
    longest = _longest(model, ours, trust_remote_code)
    parts = _parts(model, trust_remote_code)

    small = model == EMBEDDED
    batch = 24 if small else 4
    text = RECIPE.format(
        data_name=data.name,
        command=shlex.quote(str(out)),
        parts="\n".join(f"#   {part}: {layers} layers, {neurons:,} neurons" for part, layers, neurons in parts),
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", out.stem).lstrip("._-") or "run",
        task=task,
        model=_quoted(str(Path(model).expanduser().resolve()) if Path(model).expanduser().is_dir() else model),
        dtype="float32" if small else "bfloat16",
        data=_quoted(_relative(data, out.parent)),
        counted=", ".join(f"{pair} ({count})" for pair, count in pairs.items()),
        items=items,
        pairs=", ".join(pairs),
        test=min(items, 200),
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
    found = f"{len(ours)} {task} examples of {items} items in {len(pairs)} pairs"
    return f"wrote {out}: {found}; neuroglot run {shlex.quote(str(out))}"


def _examples(data: Path) -> tuple[list[Example], str]:
    """Return the examples of the task that can be trained, and the task."""
    checked = [record for _, record in check_records(read_records(data), lambda example, sizes: None)]
    examples = [record for record in checked if isinstance(record, Example)]
    allow(data, len(examples), [record for record in checked if isinstance(record, Bad)], 0)
    found = Counter(e.task for e in examples)
    task = next((t for t in TASKS if t in found), None)
    if task is None:
        raise UserError(f"{data} has no {' or '.join(TASKS)} examples; it has {', '.join(found)}")
    ours = [e for e in examples if e.task == task]
    return ours, task


def _relative(data: Path, folder: Path) -> str:
    """Return a path that a recipe in a folder finds, relative if the data lies in or under that folder."""
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
