"""Conversations: one question with its images, and an answer, which is the target.

TRL and ms-swift: `prompt` and `completion`, or `messages`, lists of `{role, content}` whose content is a text or a
list of parts, and `images`. A part is a text, an image (`image`, `url` or `path`, or OpenAI's `image_url`), or a
placeholder of one of `images`, like `<image>` in a text. LLaMA-Factory (sharegpt): `conversations` of `{from, value}`;
ms-swift also writes `conversation` of `{human, assistant}`. Alpaca: `instruction`, `input` and `output`. ms-swift:
`query` and `response`. The last two may have a `history` of pairs. All of them have `images`, with an `<image>` in the
user's text for each image, which only the sharegpt format requires. The file is JSONL, a JSON array, parquet, a saved
dataset or a dataset of the hub.

How to obtain: whatever was prepared for TRL's SFTTrainer, LLaMA-Factory (without its dataset_info.json) or ms-swift.

For image translation, transcribing and describing, the user's text beside the images is an instruction and is
dropped: neuroglot uses its instructions, the same for all systems. For text and multimodal translation the user's text
is the text to translate, and all of it is the source (of an Alpaca record with an `input`, the input); if it also
contains an instruction, put the text into another column and name that in `data.columns.source`. System messages are
dropped. A record with several turns is refused: it is unclear which of them translates. `<image>` in the user's text
is the placeholder of an image; in an answer it is text.

Languages come from `source_lang` and `target_lang`, as columns or by `data.columns`, or are the recipe's one pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from neuroglot.data.example import Example
from neuroglot.data.readers.examples import Notes, Piece, checked_text, examples, name_of, not_a_text, shown
from neuroglot.data.readers.files import Fields, Row, convert
from neuroglot.data.readers.layout import Layout, Record
from neuroglot.data.readers.records import (
    PLACE,
    columns_read,
    directed,
    id_of,
    images_of,
    mapped,
    names_of,
    split_named,
)
from neuroglot.data.readers.tables import source_rows
from neuroglot.errors import UserError, nearest
from neuroglot.pair import TASKS

OWN = ("source", "source_lang", "target_lang", "task", "split", "item", "id", "image", "images")
"""Fields beside the conversation."""

TRL = ("prompt", "completion", "messages")
SHAREGPT = ("conversations", "conversation")
ALPACA = ("instruction", "input", "output", "history")
SWIFT = ("query", "response", "history")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
IMAGE_KEYS = ("image", "image_url", "url", "path")


class _Turn(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: a value of `ROLES`.
        text: unchanged, with placeholders of images.
        images: images in its parts.
        places: number of parts that are placeholders of the record's images.
    """

    role: str
    text: str
    images: Sequence[Any] = ()
    places: int = 0


Talk = Callable[[Mapping[str, Any]], list[_Turn]]
"""Returns the turns of a record's fields."""


def read_trl(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a conversational dataset as TRL takes it.

    Raises:
        UserError: the source is missing, or lacks the columns.
    """
    return _read(path, layout, TRL, ["completion|messages"], _trl)


def read_sharegpt(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a dataset in LLaMA-Factory's sharegpt format.

    Raises:
        UserError: the source is missing, or lacks the column.
    """
    return _read(path, layout, SHAREGPT, ["conversations"], _sharegpt)


def read_alpaca(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a dataset in the Alpaca format, with images.

    Raises:
        UserError: the source is missing, or lacks the columns.
    """
    return _read(path, layout, ALPACA, ["instruction", "output"], _alpaca)


def read_swift(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a dataset in ms-swift's query and response format.

    Raises:
        UserError: the source is missing, or lacks the columns.
    """
    return _read(path, layout, SWIFT, ["query", "response"], _swift)


def _read(path: Path, layout: Layout, columns: Sequence[str], needs: Sequence[str], talk: Talk) -> Iterator[Record]:
    named, uses = columns_read(layout, (*OWN, *columns))
    mapped_fields = set(layout.columns)
    missing = [need for need in needs if not set(need.split("|")) & mapped_fields]
    return convert(source_rows(path, layout, [*named, *missing], uses), partial(_record, layout, columns, talk))


def _record(layout: Layout, columns: Sequence[str], talk: Talk, row: Row, fields: Fields) -> Iterator[Example]:
    values = mapped(fields, layout, (*OWN, *columns))
    turns = talk(values)
    asking = [turn for turn in turns if turn.role != "assistant"]
    slots = sum(turn.places + turn.text.count(PLACE) for turn in asking) + sum(
        turn.places for turn in turns if turn.role == "assistant"
    )
    inside = [image for turn in turns for image in turn.images]
    listed = _listed(values)
    if inside and listed and inside != listed:
        raise UserError("images stand both in the messages and in the field images; give them in one of the two")
    count = len(listed or inside)
    if talk is _sharegpt and slots != count:
        raise UserError(f"the turns have {slots} {PLACE}, and the record has {count} images; expected as many")
    if slots not in (0, count):
        raise UserError(
            f"the messages have {slots} places for images ({PLACE} or a part of type image), and the record has "
            f"{count} images; expected as many in the field images"
        )
    return _examples(layout, row, values, turns, listed or inside)


def _listed(values: Mapping[str, Any]) -> list[Any]:
    images = values.get("images", values.get("image"))
    return [] if images is None else images if isinstance(images, list) else [images]


# ---- turns ----------------------------------------------------------------------------------------------------------


def _trl(values: Mapping[str, Any]) -> list[_Turn]:
    if values.get("completion") is not None:
        return [*_messages(values.get("prompt"), "prompt"), *_messages(values["completion"], "completion")]
    return _messages(values.get("messages"), "messages")


def _messages(value: Any, name: str) -> list[_Turn]:
    if not isinstance(value, list):
        raise UserError(f"field {name!r} must be a list of messages with role and content, got {shown(value)}")
    turns = []
    for message in value:
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise UserError(f"a message of {name!r} must have role and content, got {shown(message)}")
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
            raise UserError(f"the content of a message must be a text or a list of parts, got {shown(content)}")
        turns.append(_turn(message["role"], parts))
    return turns


def _turn(role: Any, parts: Sequence[Mapping[str, Any]]) -> _Turn:
    texts: list[str] = []
    images: list[Any] = []
    placeholders = 0
    for part in parts:
        image = next((part[key] for key in IMAGE_KEYS if part.get(key)), None)
        kind = part.get("type") or ("text" if part.get("text") else "image" if image else None)
        if kind not in ("text", "image", "image_url"):
            raise UserError(
                f"a part of type {shown(kind)} in the content of a message cannot be read; expected text, image or "
                "image_url"
            )
        if kind == "text":
            texts.append(str(part.get("text") or ""))
        elif image:  # OpenAI's address is an object, which may also have the level of detail
            images.append(image.get("url") if kind == "image_url" and isinstance(image, Mapping) else image)
        else:
            placeholders += 1
    return _Turn(_role(role), "\n".join(text for text in texts if text), images, placeholders)


def _sharegpt(values: Mapping[str, Any]) -> list[_Turn]:
    name = "conversations" if values.get("conversations") is not None else "conversation"
    talk = values.get(name)
    if not isinstance(talk, list):
        raise UserError(f"field 'conversations' must be a list of turns with from and value, got {shown(talk)}")
    turns = []
    for turn in talk:
        if isinstance(turn, Mapping) and set(turn) == {"human", "assistant"}:
            turns += _pair(turn["human"], turn["assistant"], name, name)
        elif not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str) or "from" not in turn:
            raise UserError(f"a turn of {name!r} must have from and value, got {shown(turn)}")
        else:
            turns.append(_Turn(_role(turn["from"]), turn["value"]))
    return turns


def _alpaca(values: Mapping[str, Any]) -> list[_Turn]:
    texts = [values.get(name) or "" for name in ("instruction", "input")]
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"fields 'instruction' and 'input' must be texts, got {shown(text)}")
    asked = "\n".join(filter(None, texts))
    return [*_history(values), *_pair(asked, values.get("output"), "instruction", "output")]


def _swift(values: Mapping[str, Any]) -> list[_Turn]:
    return [*_history(values), *_pair(values.get("query") or "", values.get("response"), "query", "response")]


def _history(values: Mapping[str, Any]) -> Iterator[_Turn]:
    history = values.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError(f"field 'history' must be a list of pairs of question and answer, got {shown(history)}")
    for asked, answer in history:
        yield from _pair(asked, answer, "history", "history")


def _pair(asked: Any, answer: Any, *names: str) -> list[_Turn]:
    for text, name in zip((asked, answer), names, strict=True):
        if not isinstance(text, str):
            raise not_a_text(f"field {name!r}", text)
    return [_Turn("user", asked), _Turn("assistant", answer)]


def _role(name: Any) -> str:
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise UserError(f"role {shown(name)} is not known; expected one of {', '.join(ROLES)}")
    return role


# ---- examples -------------------------------------------------------------------------------------------------------


def _examples(
    layout: Layout, row: Row, values: Mapping[str, Any], turns: Sequence[_Turn], image_values: Sequence[Any]
) -> Iterator[Example]:
    asked = [turn.text for turn in turns if turn.role == "user"]
    answers = [turn.text for turn in turns if turn.role == "assistant"]
    if len(asked) != 1 or len(answers) != 1:
        raise UserError(f"expected one user turn and one assistant turn, got {len(asked)} and {len(answers)}")
    if next(turn.role for turn in turns if turn.role != "system") == "assistant":
        raise UserError("the answer of the assistant comes before the question; expected the user's turn first")
    target = checked_text(answers[0], "answer of the assistant")
    images = images_of(list(image_values), layout.images or row.folder)
    pair = directed(values, layout)
    task = values.get("task")
    if task is not None and task not in TASKS:
        raise UserError(f"task {shown(task)} is not known; {nearest(shown(task), TASKS)}")
    for name in [task] if task else layout.tasks or ([layout.task] if images else ["text_translation"]):
        notes = Notes()
        split = split_named(values.get("split"), row, layout, notes)
        source, item = _source(name, values, asked[0], notes), values.get("item")
        piece = Piece(
            source=source,
            targets={pair: target},
            item=f"{names_of(list(image_values))}|{source or ''}" if item is None else name_of(item, "item"),
            number=row.position,
            written=images,
            pictured=images,
            split=split,
            meta={**id_of(values), **notes.meta},
        )
        if name in ("ocr", "describe"):  # the answer is the target of any task
            if not images:
                raise UserError(f"task {name} needs an image; this record has none")
            yield Example(images, None, target, pair.source, pair.target, name, item=piece.item,
                          meta={**({"split": split} if split else {}), **piece.meta})  # fmt: skip
            continue
        if name == "image_translation" and not images and layout.render is None:
            raise UserError("task image_translation needs an image; this record has none")
        yield from examples(piece, layout, [name])


def _source(task: str, values: Mapping[str, Any], asked: str, notes: Notes) -> str | None:
    """Return the text to translate: the field `source`, Alpaca's input, or the user's whole text.

    Image placeholders before and after it are removed; one in the middle is also removed, and reported.
    """
    text = values.get("source")
    if text is None and task in ("text_translation", "multimodal_translation"):
        text = values.get("input") or asked
        inner = str(text).strip()
        while inner != (bare := inner.removeprefix(PLACE).removesuffix(PLACE).strip()):
            inner = bare
        text = notes.cleaned("source", inner, inner.replace(PLACE, ""))
    if text is None:
        return None
    return checked_text(str(text), "text to translate")
