"""Damaged images: read as RGB within the bounds, or refused in one line; nothing else, whatever a decoder raises."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib

import pytest
from fuzzing import fuzz
from PIL import Image

from neuroglot.data.image import open_image
from neuroglot.data.pixels import MAX_BYTES, MAX_SIDE
from neuroglot.errors import UserError

FIELDS = (0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x010F, 0x0110, 0x0111, 0x0112, 0x0115, 0x0116, 0x0117, 0x011A,
          0x011B, 0x0128, 0x0131, 0x0132, 0x0201, 0x0202, 0x8298, 0x8769, 0x8825, 0xA005, 0x927C)  # fmt: skip
NOTES = {270: "note", 305: "program", 282: 72.0, 283: 72.0, 296: 2, 700: b"<x/>", 34665: 9, 34675: b"icc", 34853: 9}
"""Fields of a TIFF file without which its pixels are the same."""

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


def picture() -> Image.Image:
    image = Image.radial_gradient("L").resize((24, 16)).convert("RGB")
    image.paste((250, 20, 20), (0, 0, 6, 4))
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.fixture(scope="module")
def wholes() -> list[bytes]:
    """One small file of each kind and mode that is likely to meet other code in a decoder."""
    rgb = picture()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "Maker", 72.0
    clear = rgb.convert("RGBA")
    clear.putalpha(rgb.convert("L"))
    frames = {"save_all": True, "append_images": [rgb.rotate(90)]}
    return [
        saved(rgb, "PNG", exif=exif),
        saved(clear, "PNG"),
        saved(rgb.quantize(8), "PNG", transparency=0),
        saved(rgb.convert("L").convert("I;16"), "PNG", transparency=0),
        saved(rgb, "PNG", **frames),
        saved(rgb, "JPEG", exif=exif),
        saved(rgb, "JPEG", progressive=True, comment=b"none"),
        saved(rgb.convert("CMYK"), "JPEG"),
        saved(rgb, "MPO", **frames),
        saved(rgb, "WEBP", exif=exif),
        saved(clear, "WEBP", lossless=True),
        saved(rgb, "WEBP", **frames),
        saved(rgb.quantize(8), "GIF", **frames),
        saved(rgb, "TIFF", exif=exif),
        saved(rgb, "TIFF", tiffinfo=NOTES),
        saved(rgb, "TIFF", compression="tiff_lzw", tiffinfo=NOTES),
        saved(rgb, "TIFF", compression="jpeg"),
        saved(rgb.convert("F"), "TIFF"),
        saved(rgb.convert("LAB"), "TIFF"),
        saved(rgb.convert("1"), "TIFF", compression="group4"),
        saved(rgb, "BMP"),
        saved(rgb.quantize(4), "BMP"),
        saved(rgb.convert("L"), "PPM"),
    ]


def odd_exif(rng: random.Random) -> bytes:
    """An EXIF block whose fields have wrong types, counts, offsets and values, with an orientation in most."""
    order = rng.choice("<>")
    places = sorted(rng.sample(FIELDS, rng.randint(1, 8)) + [0x0112] * (rng.random() < 0.8))
    body = rng.randbytes(rng.randint(0, 60))
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    block += struct.pack(order + "H", len(places) if rng.random() < 0.9 else rng.randrange(65536))
    for tag in places:
        kind = rng.choice((*SIZES, 0, 13, 99))
        count = rng.choice((0, 1, 1, 1, 2, 3, 4, 8, rng.randrange(2**32)))
        inside = SIZES.get(kind, 1) * count <= 4
        value = rng.choice((b"\6\0\0\0", b"\0\6\0\0", b"abc\0", rng.randbytes(4)))
        if not inside and rng.random() < 0.7:
            value = struct.pack(order + "L", rng.randrange(200))
        if tag == 0x0112 and rng.random() < 0.7:
            kind, count, value = 3, 1, struct.pack(order + "HH", rng.randrange(10), 0)
        block += struct.pack(order + "HHL", tag, kind, count) + value
    return block + rng.randbytes(4) + body


def with_exif(rng: random.Random, whole: bytes, block: bytes) -> bytes:
    """A sound PNG, JPEG or WebP file with an EXIF block put in."""
    if whole.startswith(b"\x89PNG"):
        return whole[:33] + chunk(b"eXIf", block) + whole[33:]
    if whole.startswith(b"\xff\xd8"):
        segment = b"Exif\0\0" + block
        jfif = 20 if whole[2:4] == b"\xff\xe0" and rng.random() < 0.5 else 2
        kept = whole[jfif:]  # without JFIF, Pillow asks EXIF for the resolution
        return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + kept
    extended = b"VP8X" + struct.pack("<L", 10) + bytes([8, 0, 0, 0, 23, 0, 0, 15, 0, 0])
    inner = (
        b"WEBP" + extended + whole[12:] + b"EXIF" + struct.pack("<L", len(block)) + block + b"\0" * (len(block) % 2)
    )
    return b"RIFF" + struct.pack("<L", len(inner)) + inner


def odd_fields(rng: random.Random, whole: bytes) -> bytes:
    """A sound TIFF file of which fields that have nothing to do with its pixels are odd."""
    data = bytearray(whole)
    start = struct.unpack_from("<L", data, 4)[0] + 2
    (count,) = struct.unpack_from("<H", data, start - 2)
    for at in range(start, start + 12 * count, 12):
        if struct.unpack_from("<H", data, at)[0] in NOTES and rng.random() < 0.5:
            kind, number = rng.choice((*SIZES, 13, 16)), rng.choice((0, 1, 2, 4, 100, rng.randrange(2**32)))
            struct.pack_into("<HLL", data, at + 2, kind, number, rng.choice((0, 8, rng.randrange(2**32))))
    return bytes(data)


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """A file of which some bytes are others, missing, or there twice."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        at = rng.randrange(len(data)) if rng.random() < 0.5 else min(len(data) - 1, rng.randrange(120))
        what = rng.random()
        if what < 0.6:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif what < 0.75:
            data[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\xff\xff", rng.randbytes(4)))
        elif what < 0.85:
            del data[at : at + rng.randint(1, 40)]
        elif what < 0.95:
            data[at:at] = data[at : at + rng.randint(1, 40)]
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def read(given: tuple[bytes, bool]) -> None:
    data, sound = given
    try:
        image = open_image(data)
    except UserError as error:
        if sound:
            raise AssertionError("refused for its metadata") from error
        raise
    assert image.mode == "RGB"
    assert max(image.size) <= MAX_SIDE
    assert 8 * image.width * image.height <= MAX_BYTES
    assert not image.info


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about metadata
        yield


def test_damaged_images(wholes):
    """Most are damaged anywhere; the others are sound but for their metadata, and none of these may be refused."""
    exif_less = [w for w in wholes if w[:4] in (b"\x89PNG", b"RIFF") or w[:2] == b"\xff\xd8"]
    exif_less = [w for w in exif_less if not any(mark in w for mark in (b"Exif", b"eXIf", b"VP8X"))]

    noted = [w for w in wholes if w.startswith(b"II*") and b"program" in w]

    def make(rng: random.Random) -> tuple[bytes, bool]:
        kind = rng.random()
        if kind < 0.6:
            return damaged(rng, rng.choice(wholes)), False
        if kind < 0.7:
            return odd_fields(rng, rng.choice(noted)), True
        return with_exif(rng, rng.choice(exif_less), odd_exif(rng)), True

    fuzz("image bytes", make, read)
