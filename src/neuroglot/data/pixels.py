"""Reading an image file as the RGB pixels that a person would see: turned upright, scaled down."""

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
"""Least pixels of the shorter side after scaling: smaller images cannot be read."""
STEP = 0.92
"""Factor for a size that is still too large: the number of tokens grows in steps, so the largest size that fits is
searched for and not computed."""


class Budget:
    """Limits for the size of an image.

    Args:
        max_pixels: most pixels, width times height; 0 for no limit.
        max_tokens: most tokens of all images of an example, which share them evenly; 0 for no limit.
        tokens: returns the number of tokens that the model's processor makes of an image of a size.
    """

    def __init__(self, max_pixels: int, max_tokens: int, tokens: Callable[[Size], int]) -> None:
        self._max_pixels = max_pixels
        self._max_tokens = max_tokens
        self._tokens = tokens
        self._known: dict[tuple[Size, int], Size] = {}

    def fit(self, size: Size, images: int = 1) -> Size:
        """Return the size to which an image is scaled, unchanged if it fits.

        Args:
            size: size of the image.
            images: number of images of the example.

        Raises:
            UserError: the processor makes too many tokens of an image of this shape, even of the smallest.
        """
        key = (size, images)
        if key not in self._known:
            self._known[key] = self._fit(within(size, self._max_pixels), images)
        return self._known[key]

    def scaled(self, image: Image.Image, images: int = 1) -> Image.Image:
        """Return an image scaled for the processor."""
        size = self.fit(image.size, images) if self._max_pixels or self._max_tokens else image.size
        return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)

    def check(self) -> None:
        """Refuse a limit of tokens into which no image fits.

        Raises:
            UserError: the processor makes more tokens of the smallest image.
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
        scale = min(STEP, math.sqrt(allowed / tokens) / STEP)  # about right if tokens grow with the pixels
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
    """Return a size of at most `most` pixels with the same aspect ratio; 0 for no limit.

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
"""Type of a field that may contain the orientation -> its code for `struct`."""

_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TIFF_PIXELS = (254, 256, 257, 258, 259, 262, 266, 273, ORIENTATION, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323,
                324, 325, 332, 334, 338, 339, 347, *range(512, 522), *range(529, 533))  # fmt: skip
"""Fields that are needed to read the pixels of a TIFF file correctly."""


def orientation(exif: bytes, info: Mapping[Any, Any]) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 if it is not given.

    No other field is read, so that damage elsewhere does not matter.

    Args:
        exif: an EXIF block, with or without its marker; empty for the one in `info`.
        info: Pillow's metadata of the file.
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
    """Yield tag, type, offset and byte order of the fields of the first directory of a TIFF file or EXIF block."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if order is None:
        return
    (start,) = struct.unpack_from(order + "L", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", block, at)
        yield tag, kind, at, order


def image_alone(data: bytes) -> tuple[bytes, bytes]:
    """Return a PNG, JPEG, TIFF or AVIF file with only the data of its pixels, and its EXIF block, empty if none.

    Text, colour profiles, animations and cameras' previews can be damaged, or larger than Pillow accepts.
    """
    if data.startswith(_PNG):
        return _png_alone(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_alone(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_alone(data), b""
    # An item of another type than Exif is not changed; a box `infe` has the type of an item.
    return re.sub(rb"(?s)(infe[\2\3]...(?:..){2,3})Exif", rb"\1none", data), b""


def _png_alone(data: bytes) -> tuple[bytes, bytes]:
    chunks, exif, start = [_PNG], b"", len(_PNG)
    while start + 8 <= len(data):
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if kind in _PNG_PIXELS:
            chunks.append(data[start : start + 12 + size])
        elif kind == b"eXIf":
            exif = data[start + 8 : start + 8 + size]
        start += 12 + size
    return b"".join(chunks), exif


def _jpeg_alone(data: bytes) -> tuple[bytes, bytes]:
    segments, exif, start = [data[:2]], b"", 2
    while start + 4 <= len(data):
        if data[start] != 0xFF or data[start + 1] in (0, 0xFF):  # filling
            start += 1
            continue
        marker, size = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == 0xDA:  # the rest is pixels
            segments.append(data[start:])
            break
        segment = data[start : start + 2 + size]
        if marker == 0xE1 and segment[4:].startswith(b"Exif\0\0"):
            exif = exif or segment[4:]
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):  # JFIF and Adobe's segment define the colours
            segments.append(segment)
        start += 2 + size
    return b"".join(segments), exif


def _tiff_alone(data: bytes) -> bytes:
    alone = bytearray(data)
    with suppress(struct.error):
        for tag, _, at, _ in _fields(data):
            if tag not in _TIFF_PIXELS:
                alone[at + 2 : at + 4] = b"\0\0"  # a type that no reader knows: the field is skipped
    return bytes(alone)


# ---- Decoding -------------------------------------------------------------------------------------------------------
# Only `FORMATS` are read: Pillow's other readers start programs (PostScript) or are rarely needed. Sides and memory
# are limited from the header, before anything is decoded. Metadata can turn an image; damaged metadata never prevents
# reading it.

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read; multi-picture JPEG files and animated PNG files are among them."""

MAX_SCANS = 200
"""A progressive JPEG has about 10."""

MAX_SIDE = 65_535
"""Most pixels of a side: the limit of JPEG, and more than a long strip of a webtoon has."""

MAX_BYTES = 1_600_000_000
"""Most bytes of memory for decoding an image: 200 million ordinary pixels, as from the largest phone cameras."""

_COSTS = {"I;16": 15, "I;16B": 15, "I": 16, "F": 16, "JPEG2000": 28, "WEBP": 24, "AVIF": 20}
"""Bytes per pixel during decoding, by mode or format; 8 for all others: as in the file, and as RGB."""

_WHITES = {"I;12": 4095.0, "I;16S": 32767.0, "I;16BS": 32767.0}
"""Pillow's name for the values of a TIFF file -> the value of white, if it is not 65,535."""

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
"""First bytes, in lower case, of files often found instead of an image -> what they are."""

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
    """Return an image in RGB: turned by its EXIF orientation, first frame, transparency on white, no metadata.

    Raises:
        UserError: the file is missing, empty, truncated, no image or of another format than `FORMATS`, larger than
            `MAX_SIDE` or `MAX_BYTES` allow, or of more than 8 bits a value without a known value of white.
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
    except Exception as error:  # decoders raise many types
        with suppress(Exception):
            file.seek(0)
            alone, exif = image_alone(file.read())
            return _decoded(io.BytesIO(alone), opener, name, exif)
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name} cannot be read: {detail}; {expected}") from None


def _opener(head: bytes) -> _Opener | None:
    """Return the function that opens a file with these first bytes; None if its format is not read.

    `Image.open` is not used: its limit on pixels is lower than ours, and a setting of the whole process.
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
        file: the image file.
        opener: opens files of its format.
        name: name for messages.
        exif: its EXIF block, if the file no longer contains it.
    """
    file.seek(0)
    image = opener(file, "")
    _check_size(image, name)
    if image.format in ("JPEG", "MPO"):
        _check_scans(file, name)
    raw = image.tile[0].args if image.tile else None
    rawmode = raw if isinstance(raw, str) else raw[0] if isinstance(raw, tuple) and raw else ""
    image.load()
    turn = None if image.format == "TIFF" else _TRANSPOSED.get(orientation(exif, image.info))  # Pillow turns TIFF
    seen = _rgb(image, str(rawmode), name)
    del image  # frees memory before turning
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
    """Limit the scans of a progressive JPEG: each costs a pass over all pixels, even if it has only a few bytes."""
    at = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")  # in compressed data 0xFF is followed by 0
    file.seek(at)
    if scans > MAX_SCANS:
        raise UserError(f"{name} has {scans:,} scans; at most {MAX_SCANS} of a JPEG are read; save it again")


def _rgb(image: Image.Image, rawmode: str, name: str) -> Image.Image:
    """Return an image as RGB on a white background.

    Args:
        image: the decoded image.
        rawmode: Pillow's name for the values in the file.
        name: name for messages.
    """
    if image.mode[0] in "IF":
        return _eight_bits(image, rawmode, name).convert("RGB")
    clear = image.info.get("transparency")
    if isinstance(clear, int) and image.mode == "L":  # a value of the file, while Pillow has scaled 4 bits to 8
        most = 2 ** int(rawmode[2:]) - 1 if rawmode in ("L;2", "L;4") else 255
        image.info["transparency"] = (clear & most) * 255 // most
    elif isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 if ";16" in rawmode else value & 255 for value in clear)
    if image.mode == "L" and getattr(image, "tag_v2", {}).get(339) == (2,):  # SampleFormat, which Pillow ignores
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
    """Return an image of more than 8 bits a value as grey; a plain conversion would clip at 255.

    Raises:
        UserError: the value of white is not known, and a guess could give a black or a white image.
    """
    values = np.asarray(image, dtype=np.float32)
    darkest, lightest = float(values.min()), float(values.max())
    if rawmode in _WHITES:
        white = _WHITES[rawmode]
    elif darkest == lightest and image.mode.startswith("I;16"):
        white = 65535.0  # an image of a single value shows nothing in any case
    else:  # programs store masks and 8 bits unscaled in wider values; 10 or 12 bits look like dark 16 bits
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
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white; Pillow applies it only up to 8 bits
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)
