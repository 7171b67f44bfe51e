"""The user's own data: one JSON object a line, with `image`, `target`, `source_lang`, `target_lang`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example
from neuroglot.errors import UserError, nearest
from neuroglot.pair import TASKS, language_code

REQUIRED = ("target", "source_lang", "target_lang")
OPTIONAL = ("image", "images", "source", "task", "split", "item", "alternatives")
SPLITS = ("train", "dev", "test")


def read_jsonl(path: Path | str) -> Iterator[Example]:
    """Yield the examples of a JSONL file, in its order.

    Fields: `image` (or `images`, a list; paths relative to the file), `target`, `source_lang`, `target_lang`; optional
    `source` (for image translation what the image says, for text and multimodal translation the text to translate),
    `task` (default `image_translation`, `text_translation` without an image), `split` (train, dev or test), `item`
    (names what several languages share; default the image and the source), `alternatives`.

    Raises:
        UserError: the file is missing or empty, or a line is wrong; the message names the file and the line.
    """
    found = False
    for number, record in read_records(path):
        if isinstance(record, UserError):
            raise UserError(f"{path} line {number}: {record}")
        found = True
        yield record
    if not found:
        raise UserError(f"data file {path} holds no examples; expected one JSON object a line")


def read_records(path: Path | str) -> Iterator[tuple[int, Example | UserError]]:
    """Yield the number of each line that is not blank, and its example or what is wrong with it.

    Raises:
        UserError: the file is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"data file {path} does not exist; give a JSONL file, `signs` or `scenes`")
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if line:
                    yield number, _example(json.loads(line), path.parent)
            except UnicodeDecodeError as error:
                yield number, UserError(f"the line is not UTF-8 (byte {error.start}); save the file as UTF-8")
            except json.JSONDecodeError as error:
                yield (
                    number,
                    UserError(f"the line is not JSON: {error.msg} at column {error.colno}; one object a line"),
                )
            except UserError as error:
                yield number, error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
                yield number, UserError(f"the line is not JSON that can be read: {error}; one object a line")


def _example(record: Any, folder: Path) -> Example:
    if not isinstance(record, dict):
        raise UserError(f"expected an object, got {type(record).__name__}")
    for key in record:
        if key not in (*REQUIRED, *OPTIONAL):
            raise UserError(f"unknown field {key!r}; {nearest(key, (*REQUIRED, *OPTIONAL))}")
    for key in REQUIRED:
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise UserError(f"field {key!r} must be a text, got {record.get(key)!r}")
    if "image" in record and "images" in record:
        raise UserError("give either image or images, not both")
    names = record.get("images", record.get("image"))
    names = [] if names is None else [names] if isinstance(names, str) else names
    if not _texts(names):
        raise UserError(f"image must be a path or a list of paths, got {names!r}")
    source = record.get("source")
    if source is not None and not isinstance(source, str):
        raise UserError(f"source must be a text, got {source!r}")
    task = record.get("task", "image_translation" if names else "text_translation")
    if task not in TASKS:
        raise UserError(f"task {task!r} is not known; {nearest(str(task), TASKS)}")
    if task in ("image_translation", "ocr", "describe", "multimodal_translation") and not names:
        raise UserError(f"task {task} needs an image; add the field image or set task to text_translation")
    if task in ("text_translation", "multimodal_translation") and not source:
        raise UserError(f"task {task} needs the field source, the text to translate")
    split = record.get("split")
    if split is not None and split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    alternatives = record.get("alternatives") or []
    if not _texts(alternatives):
        raise UserError(f"alternatives must be a list of texts, got {alternatives!r}")
    for text in (record["target"], source or "", *names, *alternatives):
        if not text.isascii() and text.encode("utf-8", "ignore").decode() != text:
            raise UserError(f"half a surrogate pair in {text[:60]!r}; write the character itself, or leave it out")
    item = record.get("item")
    languages = [language_code(record[key]) for key in ("source_lang", "target_lang")]
    return Example(
        images=tuple(folder / name for name in names),
        source=source,
        target=record["target"],
        source_lang=languages[0],
        target_lang=languages[1],
        task=task,
        alternatives=tuple(alternatives),
        item=f"{'|'.join(names)}|{source or ''}" if item is None else str(item),
        meta={} if split is None else {"split": split},
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v for v in value)
