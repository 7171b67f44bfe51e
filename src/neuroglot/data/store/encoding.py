"""A record as bytes and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neuroglot.data.example import Example, ImageSource, RenderSpec
from neuroglot.errors import UserError

_write = json.JSONEncoder(ensure_ascii=False).encode


def encoded(record: Example | UserError) -> bytes:
    """Return a record as a line of JSON, and after it the bytes of its images."""
    if isinstance(record, UserError):
        fields: list[Any] = [str(record)]
        return _write(fields).encode("utf-8", "surrogatepass")
    held = [image for image in record.images if isinstance(image, bytes)]
    images = [_named(image) for image in record.images]
    fields = [record.target, record.source, record.source_lang, record.target_lang, record.task, record.item, images,
              record.alternatives, record.meta]  # fmt: skip
    text = _write(fields).encode("utf-8", "surrogatepass")
    return b"\n".join([text, b"".join(held)]) if held else text


def _named(image: ImageSource) -> Any:
    """Return what JSON holds for an image: a path, the number of its bytes, or the fields of a render spec."""
    if isinstance(image, bytes):
        return len(image)
    return str(image) if isinstance(image, Path) else [image.text, image.seed, image.index, image.kind, image.style]


def decoded(raw: bytes) -> Example | UserError:
    """Return the record that `encoded` made bytes of."""
    text, _, rest = raw.partition(b"\n")  # JSON has none of its own
    fields = json.loads(text.decode("utf-8", "surrogatepass"))
    if len(fields) == 1:
        return UserError(fields[0])
    target, source, source_lang, target_lang, task, item, names, alternatives, meta = fields
    images: list[ImageSource] = []
    for name in names:
        if isinstance(name, int):
            images.append(rest[:name])
            rest = rest[name:]
        elif isinstance(name, str):
            images.append(Path(name))
        else:
            shown, seed, index, kind, style = name
            images.append(RenderSpec(shown, seed, index, kind, tuple((key, value) for key, value in style)))
    return Example(tuple(images), source, target, source_lang, target_lang, task, tuple(alternatives), item, meta)
