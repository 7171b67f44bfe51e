"""What files of images hold beside their pixels: how the camera was held, and the pixels without all of it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

ORIENTATION = 0x0112
_UNSIGNED = {1: "B", 3: "H", 4: "L"}
"""Type of a field that may hold the orientation -> its code for `struct`."""

_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TIFF_PIXELS = (254, 256, 257, 258, 259, 262, 266, 273, ORIENTATION, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323,
                324, 325, 332, 334, 338, 339, 347, *range(512, 522), *range(529, 533))  # fmt: skip
"""Fields without which the pixels of a TIFF file cannot be read, or not rightly."""


def orientation(exif: bytes, info: Mapping[Any, Any]) -> int:
    """Return how an image has to be turned, 1 to 8 as EXIF counts; 1 where nothing says it.

    The field is looked up without reading any other, so that damage elsewhere does not matter.

    Args:
        exif: an EXIF block, with or without its mark; empty for the one in `info`.
        info: what Pillow found in the file beside the pixels.
    """
    raw = info.get("Raw profile type exif")
    if not exif and isinstance(raw, str):  # as ImageMagick writes it into PNG files
        with suppress(ValueError):
            exif = bytes.fromhex("".join(raw.split("\n")[3:]))
    block = exif or info.get("exif")
    if isinstance(block, bytes):
        block = re.sub(rb"^(?:Exif\0\0)+", b"", block)
        with suppress(struct.error):
            for tag, kind, at, order in _fields(block):
                if tag == ORIENTATION and kind in _UNSIGNED:
                    (value,) = struct.unpack_from(order + _UNSIGNED[kind], block, at + 8)
                    return value if 1 <= value <= 8 else 1
    xmp = info.get("xmp")
    found = _XMP.search(xmp) if isinstance(xmp, bytes) else None
    return int(found[1]) if found else 1


def _fields(block: bytes | bytearray) -> Iterator[tuple[int, int, int, str]]:
    """Yield tag, type, place and byte order of the fields of the first directory of a TIFF file or EXIF block."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if order is None:
        return
    (start,) = struct.unpack_from(order + "L", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", block, at)
        yield tag, kind, at, order


def image_alone(data: bytes) -> tuple[bytes, bytes]:
    """Return a PNG, JPEG, TIFF or AVIF file without what is not needed for its pixels, and its EXIF block, if any.

    Text, colour profiles, animations and the previews of cameras can be damaged, or larger than Pillow takes.
    """
    if data.startswith(_PNG):
        return _png_alone(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_alone(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_alone(data), b""
    # An item of another type than Exif is left alone; a box `infe` says the type of an item.
    return re.sub(rb"(?s)(infe[\2\3]...(?:..){2,3})Exif", rb"\1none", data), b""


def _png_alone(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, at = [_PNG], b"", len(_PNG)
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind in _PNG_PIXELS:
            kept.append(data[at : at + 12 + size])
        elif kind == b"eXIf":
            exif = data[at + 8 : at + 8 + size]
        at += 12 + size
    return b"".join(kept), exif


def _jpeg_alone(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, at = [data[:2]], b"", 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0, 0xFF):  # filling
            at += 1
            continue
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:  # from here on, it is pixels
            kept.append(data[at:])
            break
        segment = data[at : at + 2 + size]
        if marker == 0xE1 and segment[4:].startswith(b"Exif\0\0"):
            exif = exif or segment[4:]
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):  # JFIF and Adobe's segment say what the colours are
            kept.append(segment)
        at += 2 + size
    return b"".join(kept), exif


def _tiff_alone(data: bytes) -> bytes:
    alone = bytearray(data)
    with suppress(struct.error):
        for tag, _, at, _ in _fields(data):
            if tag not in _TIFF_PIXELS:
                alone[at + 2 : at + 4] = b"\0\0"  # a type that no reader knows: the field is passed over
    return bytes(alone)
