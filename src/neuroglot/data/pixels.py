"""Reading an image file as the RGB pixels that a person would see.

Only `FORMATS` are read: other readers of Pillow's start programs (PostScript) or are hardly ever needed. Sides and
memory are bounded by what the header says, before anything is decoded. Metadata can turn an image; damaged metadata
never stops it from being read.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile

from neuroglot.data.metadata import image_alone, orientation
from neuroglot.data.paths import located, shortened
from neuroglot.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read; multi-picture JPEG files and animated PNG files are among them."""

MAX_SIDE = 65_535
"""Pixels that an image may be wide or high: what JPEG can hold, and more than a long strip of a webtoon has."""

MAX_BYTES = 1_600_000_000
"""Memory that decoding an image may take: 200 million ordinary pixels, as of the largest cameras of phones."""

_COSTS = {"I;16": 15, "I;16B": 15, "I": 16, "F": 16, "JPEG2000": 28, "WEBP": 24, "AVIF": 20}
"""Bytes that a pixel takes while it is decoded, by mode or format; 8 in all others: as in the file, and as RGB."""

_WHITES = {"I;12": 4095.0, "I;16S": 32767.0, "I;16BS": 32767.0}
"""How a TIFF file holds its values, as Pillow calls it -> which of them is white, where that is not 65,535."""

_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer instead of the image: fetch it with `git lfs pull`",
    b"%PDF": "a PDF: save its pages as images",
    b"%!PS": "PostScript, which is not read, because a program would have to run it",
    b"\xc5\xd0\xd3\xc6": "PostScript, which is not read, because a program would have to run it",
    b"\x00\x05\x16\x07": "a Mac's notes about a file, not the file itself",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"<svg": "an SVG drawing: save it as PNG",
    b"<?xml": "XML, such as an SVG drawing: save it as PNG",
    b"<!doctype html": "a web page: the download failed or needs a login",
    b"<html": "a web page: the download failed or needs a login",
}
"""How files begin that often lie where an image should, in lower case -> what they are."""

_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the pixels upright."""

_Opener = Callable[[IO[bytes], str], ImageFile.ImageFile]


def read_image(source: Path | bytes) -> Image.Image:
    """Return an image in RGB: turned as its EXIF says, its first frame, transparency on white, without metadata.

    Raises:
        UserError: the file is missing, empty, truncated, no image or of another format than `FORMATS`, larger than
            `MAX_SIDE` or `MAX_BYTES` allow, or of more than 8 bits a value without saying which value is white.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), f"image of {len(source)} bytes")
    name = f"image {shortened(source)}"
    try:
        file = located(source).open("rb")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None
    with file:
        return _read(file, name)


def _read(file: IO[bytes], name: str) -> Image.Image:
    head = file.read(64)
    opener = _opener(head)
    expected = f"expected a whole {', '.join(IMAGE_SUFFIXES[:4])} file"
    if opener is None:
        raise UserError(f"{name} cannot be read: no known image format{_what_else(head)}; {expected}")
    try:
        return _decoded(file, opener, name)
    except UserError:
        raise
    except Exception as error:  # whatever a decoder raises
        with suppress(Exception):
            file.seek(0)
            alone, exif = image_alone(file.read())
            return _decoded(io.BytesIO(alone), opener, name, exif)
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name} cannot be read: {detail}; {expected}") from None


def _opener(head: bytes) -> _Opener | None:
    """Return what opens a file that begins so; None for one that is not read.

    `Image.open` is not used: its own bound on pixels is lower than ours, and a setting of the whole process.
    """
    Image.init()
    for kind in FORMATS:
        opener, accepts = Image.OPEN.get(kind, (None, None))
        if opener is not None and accepts is not None and accepts(head[:16]) is True:
            return opener
    return None


def _what_else(head: bytes) -> str:
    if not head:
        return " (the file is empty)"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1"):
        return " (HEIC: save it as JPEG or PNG)"
    start = head.lstrip().lower() if head[:1] in b"< \t\r\n" else head
    return next((f" ({what})" for begins, what in _OTHERS.items() if start.startswith(begins)), "")


def _decoded(file: IO[bytes], opener: _Opener, name: str, exif: bytes = b"") -> Image.Image:
    """Return the pixels of an image, upright, in RGB.

    Args:
        file: it.
        opener: of its format.
        name: for messages.
        exif: its EXIF block, where the file no longer holds it.
    """
    file.seek(0)
    image = opener(file, "")
    _check_size(image, name)
    raw = image.tile[0].args if image.tile else None
    rawmode = raw if isinstance(raw, str) else raw[0] if isinstance(raw, tuple) and raw else ""
    image.load()
    turn = None if image.format == "TIFF" else _TRANSPOSED.get(orientation(exif, image.info))  # Pillow turns a TIFF
    seen = _rgb(image, str(rawmode), name)
    del image  # large, and so is what is turned
    seen = seen if turn is None else seen.transpose(turn)
    seen.info = {}
    return seen


def _check_size(image: ImageFile.ImageFile, name: str) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise UserError(f"{name} has {width} x {height} pixels; at most {MAX_SIDE:,} a side are read; cut it")
    cost = max(_COSTS.get(image.mode, 8), _COSTS.get(image.format or "", 8))
    if width * height * cost > MAX_BYTES:
        raise UserError(
            f"{name} has {width} x {height} pixels; at most {MAX_BYTES // cost:,} are read of this kind; scale it down"
        )


def _rgb(image: Image.Image, rawmode: str, name: str) -> Image.Image:
    """Return pixels as they are seen on white paper.

    Args:
        image: decoded.
        rawmode: how the file holds its values, as Pillow calls it.
        name: for messages.
    """
    if image.mode[0] in "IF":
        return _eight_bits(image, rawmode, name).convert("RGB")
    clear = image.info.get("transparency")
    if isinstance(clear, int) and image.mode == "L":  # as the file counts, where Pillow has spread 4 bits over 8
        most = 2 ** int(rawmode[2:]) - 1 if rawmode in ("L;2", "L;4") else 255
        image.info["transparency"] = (clear & most) * 255 // most
    elif isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 if ";16" in rawmode else value & 255 for value in clear)
    if image.mode == "L" and getattr(image, "tag_v2", {}).get(339) == (2,):  # SampleFormat, which Pillow passes over
        raise UserError(f"{name} has values from -128 to 127, and nothing says which of them is white; save it again")
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image)
    return paper


def _eight_bits(image: Image.Image, rawmode: str, name: str) -> Image.Image:
    """Return what has more than 8 bits a value as grey; a plain conversion would clip at 255.

    Raises:
        UserError: nothing says which value is white, and a guess would be a black image or a white one.
    """
    values = np.asarray(image, dtype=np.float32)
    darkest, lightest = float(values.min()), float(values.max())
    if rawmode in _WHITES:
        white = _WHITES[rawmode]
    elif darkest == lightest and image.mode.startswith("I;16"):
        white = 65535.0  # of one value all over there is nothing to see, whatever it means
    else:  # programs keep masks and 8 bits in wider values as they are; 10 or 12 bits cannot be told from dark 16
        white = next((most for most in (1.0, 255.0) if lightest <= most), 65535.0)
    level = white / 255
    unclear = darkest != lightest < 16 * level
    if not np.isfinite([darkest, lightest]).all() or unclear or darkest < -level or lightest > white:
        raise UserError(
            f"{name} has values from {darkest:g} to {lightest:g}, and nothing says which of them is white; save it "
            "with 8 bits a value"
        )
    grey = (values * (255.0 / white)).clip(0, 255).astype(np.uint8)
    tags = getattr(image, "tag_v2", {})
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white, which Pillow heeds up to 8 bits only
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)
