"""Conversations: one question with its images, and the answer, which is the target.

TRL: `prompt` and `completion`, or `messages`, lists of `{role, content}` whose content is a text or a list of parts,
and `images`. A part is a text, an image (`image`, `url` or `path`, or OpenAI's `image_url`), or else the place of one
of `images`, as is an `<image>` in a text; there must be as many places as images, or none. LLaMA-Factory
(sharegpt): `conversations` of `{from, value}` with an `<image>` in the text for each of `images`. Either as JSONL, a
JSON array, parquet, a saved dataset or a dataset of the hub.

How to obtain: whatever was prepared for TRL's SFTTrainer or for LLaMA-Factory (without its dataset_info.json).

What the user says beside the images is an instruction for image translation, transcribing and describing, and is
dropped: neuroglot asks in its own words, the same for all systems. For text and multimodal translation it is what
there is to translate, and is kept whole as the source; where it carries an instruction as well, give the text a column
of its own and name that in `data.columns.source`. System messages are dropped. A record with several turns is refused:
which of them translates cannot be told.

Languages come from `source_lang` and `target_lang`, as columns or by `data.columns`, or are the recipe's one pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from neuroglot.data.example import Example, ImageSource
from neuroglot.data.readers.layout import Layout, Record
from neuroglot.data.readers.make import Piece, check_surrogates, checked_text, examples
from neuroglot.data.readers.records.fields import columns_read, directed, images_of, mapped, names_of, split_named
from neuroglot.data.readers.sources.named import source_rows
from neuroglot.data.readers.sources.rows import Fields, Row, convert
from neuroglot.errors import UserError
from neuroglot.pair import TASKS

OWN = ("source", "source_lang", "target_lang", "task", "split", "item", "id", "image", "images")
"""Fields beside the conversation."""

TRL = ("prompt", "completion", "messages")
SHAREGPT = ("conversations",)
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PLACE = "<image>"
IMAGE_KEYS = ("image", "image_url", "url", "path")


class _Turn(NamedTuple):
    role: str
    text: str
    images: Sequence[Any] = ()
    places: int = 0


def read_trl(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a conversational dataset as TRL takes it.

    Raises:
        UserError: the source is missing, or lacks the columns.
    """
    return _read(path, layout, TRL, ["completion|messages"], partial(_trl, layout))


def read_sharegpt(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a dataset in LLaMA-Factory's sharegpt format.

    Raises:
        UserError: the source is missing, or lacks the column.
    """
    return _read(path, layout, SHAREGPT, ["conversations"], partial(_sharegpt, layout))


def _read(path: Path, layout: Layout, own: Sequence[str], needs: Sequence[str], schema: Any) -> Iterator[Record]:
    named, uses = columns_read(layout, (*OWN, *own))
    mapped_away = set(layout.columns)
    missing = [need for need in needs if not set(need.split("|")) & mapped_away]
    return convert(source_rows(path, layout, [*named, *missing], uses), schema)


def _trl(layout: Layout, row: Row, fields: Fields) -> Iterator[Example]:
    values = mapped(fields, layout, (*OWN, *TRL))
    if values.get("completion") is not None:
        turns = [*_messages(values.get("prompt"), "prompt"), *_messages(values["completion"], "completion")]
    else:
        turns = _messages(values.get("messages"), "messages")
    inside = [image for turn in turns for image in turn.images]
    given = _listed(values)
    if inside and given and inside != given:
        raise UserError("images stand both in the messages and in the field images; give them in one of the two")
    places, count = sum(turn.places for turn in turns), len(given or inside)
    if places not in (0, count):
        raise UserError(
            f"the messages have {places} places for images ({PLACE} or a part of type image), and the record has "
            f"{count} images; expected as many in the field images"
        )
    return _examples(layout, row, values, turns, inside)


def _listed(values: Mapping[str, Any]) -> list[Any]:
    given = values.get("images", values.get("image"))
    return [] if given is None else given if isinstance(given, list) else [given]


def _messages(value: Any, name: str) -> list[_Turn]:
    if not isinstance(value, list):
        raise UserError(f"field {name!r} must be a list of messages with role and content, got {_shown(value)}")
    turns = []
    for message in value:
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise UserError(f"a message of {name!r} must have role and content, got {_shown(message)}")
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
            raise UserError(f"the content of a message must be a text or a list of parts, got {_shown(content)}")
        turns.append(_turn(message["role"], parts))
    return turns


def _turn(role: Any, parts: Sequence[Mapping[str, Any]]) -> _Turn:
    texts: list[str] = []
    images: list[Any] = []
    places = 0
    for part in parts:
        held = next((part[key] for key in IMAGE_KEYS if part.get(key)), None)
        kind = part.get("type") or ("text" if part.get("text") else "image" if held else None)
        if kind not in ("text", "image", "image_url"):
            raise UserError(
                f"a part of type {_shown(kind)} in the content of a message cannot be read; expected text, image or "
                "image_url"
            )
        if kind == "text":
            texts.append(str(part.get("text") or ""))
        elif held:  # OpenAI's address is an object, which may hold how closely to look besides
            images.append(held.get("url") if kind == "image_url" and isinstance(held, Mapping) else held)
        else:
            places += 1
    text = "\n".join(text for text in texts if text)
    # LLaMA-Factory's messages have places in the text.
    return _Turn(_role(role), text.replace(PLACE, "").strip(), images, places + text.count(PLACE))


def _sharegpt(layout: Layout, row: Row, fields: Fields) -> Iterator[Example]:
    values = mapped(fields, layout, (*OWN, *SHAREGPT))
    said = values.get("conversations")
    if not isinstance(said, list):
        raise UserError(f"field 'conversations' must be a list of turns with from and value, got {_shown(said)}")
    turns, places = [], 0
    for turn in said:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str) or "from" not in turn:
            raise UserError(f"a turn of 'conversations' must have from and value, got {_shown(turn)}")
        places += turn["value"].count(PLACE)
        turns.append(_Turn(_role(turn["from"]), turn["value"].replace(PLACE, "").strip()))
    count = len(_listed(values))
    if places != count:
        raise UserError(f"the turns have {places} {PLACE}, and the record has {count} images; expected as many")
    return _examples(layout, row, values, turns, [])


def _role(name: Any) -> str:
    role = ROLES.get(str(name))
    if role is None:
        raise UserError(f"role {name!r} is not known; expected one of {', '.join(ROLES)}")
    return role


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _examples(
    layout: Layout, row: Row, values: Mapping[str, Any], turns: Sequence[_Turn], inside: Sequence[Any]
) -> Iterator[Example]:
    asked = [turn.text for turn in turns if turn.role == "user"]
    answers = [turn.text for turn in turns if turn.role == "assistant"]
    if len(asked) != 1 or len(answers) != 1:
        raise UserError(f"expected one user turn and one assistant turn, got {len(asked)} and {len(answers)}")
    target = checked_text(answers[0], "answer of the assistant")
    given = values.get("images", values.get("image")) or list(inside)
    images = images_of(given, layout.images or row.folder)
    pair = directed(values, layout)
    task = values.get("task")
    if task is not None and task not in TASKS:
        raise UserError(f"task {task!r} is not known; expected one of {', '.join(TASKS)}")
    tasks = [task] if task else layout.tasks or ([layout.task] if images else ["text_translation"])
    for one in tasks:
        yield from _of_task(one, layout, row, {**values, "images": given}, pair, asked[0], target, images)


def _of_task(
    task: str,
    layout: Layout,
    row: Row,
    values: Mapping[str, Any],
    pair: Any,
    asked: str,
    target: str,
    images: tuple[ImageSource, ...],
) -> Iterator[Example]:
    """Yield the example of one task; the answer is the target of whichever it is."""
    own = values.get("source")
    source = own if own is not None else asked if task in ("text_translation", "multimodal_translation") else None
    if source is not None:
        source = checked_text(str(source), "text to translate")
    check_surrogates(target)
    split = split_named(values.get("split"), row, layout)
    piece = Piece(
        source=source,
        targets={pair: target},
        item=str(values["item"]) if values.get("item") is not None else f"{names_of(values['images'])}|{source or ''}",
        number=row.position,
        written=images,
        pictured=images,
        split=split,
        meta={"id": str(values["id"])} if values.get("id") is not None else {},
    )
    if task in ("ocr", "describe"):
        if not images:
            raise UserError(f"task {task} needs an image; this record has none")
        yield Example(images, None, target, pair.source, pair.target, task, item=piece.item,
                      meta={**({"split": split} if split else {}), **piece.meta})  # fmt: skip
        return
    if task == "image_translation" and not images and layout.render is None:
        raise UserError("task image_translation needs an image; this record has none")
    yield from examples(piece, layout, [task])
