"""Reading an image file as the RGB pixels that a person would see: turned as the camera was held, scaled down."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from neuroglot.data.paths import located, shortened
from neuroglot.errors import UserError

# ---- Size limits ----------------------------------------------------------------------------------------------------

Size = tuple[int, int]
"""Width and height in pixels."""

SMALLEST = 16
"""Pixels of the shorter side below which nothing is scaled: nobody reads what is left."""
STEP = 0.92
"""By which a size that is still too large is multiplied: processors count in steps, so the largest that fits is sought
and not computed."""


class Budget:
    """What an image may take.

    Args:
        max_pixels: width times height; 0 for no limit.
        max_tokens: of all images of an example, which share them evenly; 0 for no limit.
        tokens: how many tokens the model's processor makes of an image of a size.
    """

    def __init__(self, max_pixels: int, max_tokens: int, tokens: Callable[[Size], int]) -> None:
        self._max_pixels = max_pixels
        self._max_tokens = max_tokens
        self._tokens = tokens
        self._known: dict[tuple[Size, int], Size] = {}

    def fit(self, size: Size, images: int = 1) -> Size:
        """Return the size that an image gets, which is its own if that fits.

        Args:
            size: the image's own.
            images: how many the example has.

        Raises:
            UserError: the processor makes more tokens than allowed of an image of this shape, however small.
        """
        key = (size, images)
        if key not in self._known:
            self._known[key] = self._fit(within(size, self._max_pixels), images)
        return self._known[key]

    def scaled(self, image: Image.Image, images: int = 1) -> Image.Image:
        """Return an image as it is shown to the processor."""
        size = self.fit(image.size, images) if self._max_pixels or self._max_tokens else image.size
        return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)

    def check(self) -> None:
        """Refuse a number of tokens into which the processor can make no image fit.

        Raises:
            UserError: it makes more of the smallest.
        """
        if self._max_tokens:
            least = min(self._tokens((side, side)) for side in (SMALLEST, 4 * SMALLEST))
            if least > self._max_tokens:
                raise self._refusal((SMALLEST, SMALLEST), least, self._max_tokens)

    def _fit(self, size: Size, images: int) -> Size:
        if not self._max_tokens:
            return size
        allowed = self._max_tokens // images
        tokens = self._tokens(size)
        if tokens <= allowed:
            return size
        least = _times(size, min(1.0, SMALLEST / min(size)))
        fewest = self._tokens(least)
        if fewest > allowed:
            raise self._refusal(size, fewest, allowed)
        scale = min(STEP, math.sqrt(allowed / tokens) / STEP)  # nearly it, where tokens grow with the pixels
        while min(smaller := _times(size, scale)) > SMALLEST:
            if self._tokens(smaller) <= allowed:
                return smaller
            scale *= STEP
        return least

    def _refusal(self, size: Size, tokens: int, allowed: int) -> UserError:
        of = "" if allowed == self._max_tokens else f" ({allowed} for each image of the example)"
        return UserError(
            f"the model's processor makes {tokens} tokens of an image of {size[0]} x {size[1]} pixels, however small "
            f"it is scaled; data.max_image_tokens allows {self._max_tokens}{of}; raise it, or use a model whose "
            "processor makes fewer of smaller images"
        )


def within(size: Size, most: int) -> Size:
    """Return a size of at most so many pixels, in the same aspect; 0 for no limit.

    Examples:
        >>> within((1000, 500), 5000)
        (100, 50)
    """
    pixels = size[0] * size[1]
    return size if not most or pixels <= most else _times(size, math.sqrt(most / pixels), most)


def _times(size: Size, scale: float, most: int = 0) -> Size:
    width, height = (max(1, int(side * scale)) for side in size)
    if most and width * height > most:  # one of them would be less than a pixel
        width, height = min(width, most), min(height, most)
    return width, height


# ---- Metadata -------------------------------------------------------------------------------------------------------

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
    match = _XMP.search(xmp) if isinstance(xmp, bytes) else None
    return int(match[1]) if match else 1


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
    # An item of another type than Exif is not changed; a box `infe` says the type of an item.
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


# ---- Decoding -------------------------------------------------------------------------------------------------------
# Only `FORMATS` are read: other readers of Pillow's start programs (PostScript) or are hardly ever needed. Sides and
# memory are bounded by what the header says, before anything is decoded. Metadata can turn an image; damaged metadata
# never stops it from being read.

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read; multi-picture JPEG files and animated PNG files are among them."""

MAX_SCANS = 200
"""A progressive JPEG has about 10."""

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
    if image.format in ("JPEG", "MPO"):
        _check_scans(file, name)
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


def _check_scans(file: IO[bytes], name: str) -> None:
    """Bound the passes over the pixels that a progressive JPEG asks for: a scan of a few bytes costs a whole pass."""
    at = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")  # in compressed data 0xFF is followed by 0
    file.seek(at)
    if scans > MAX_SCANS:
        raise UserError(f"{name} has {scans:,} scans; at most {MAX_SCANS} of a JPEG are read; save it again")


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
