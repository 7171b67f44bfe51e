"""Opening images as a person would see them, and refusing broken ones in one line that names the file."""

from __future__ import annotations

import contextlib
import io
import os
import random
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from neuroglot.data.example import RenderSpec
from neuroglot.data.image import open_image
from neuroglot.data.render import render
from neuroglot.errors import UserError

RED, BLUE = (220, 20, 30), (10, 30, 200)


def halves(left=RED, right=BLUE) -> Image.Image:
    """Left half one colour, right half another."""
    image = Image.new("RGB", (40, 20), left)
    image.paste(right, (20, 0, 40, 20))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def near(pixel, colour, within=12) -> bool:
    return all(abs(int(a) - b) <= within for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_the_same_from_a_file_and_from_bytes(kind, tmp_path):
    data = encoded(halves(), kind, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    path = tmp_path / f"halves.{kind.lower()}"
    path.write_bytes(data)
    for source in (path, data):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (40, 20))
        assert near(image.getpixel((5, 10)), RED, 30)
        assert near(image.getpixel((35, 10)), BLUE, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA", "I;16", "I", "F"])
def test_every_mode_becomes_rgb_with_light_and_dark_where_they_were(mode):
    grey = Image.new("L", (40, 20), 0)
    grey.paste(255, (20, 0, 40, 20))
    if mode in ("I;16", "I"):
        values = np.asarray(grey).astype(np.uint32) * 257
        image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    else:
        image = grey.convert(mode)
    data = encoded(image, "JPEG" if mode in ("CMYK", "YCbCr") else "TIFF" if mode in ("I", "F") else "PNG")
    opened = open_image(data)
    assert opened.mode == "RGB"
    assert near(opened.getpixel((5, 10)), (0, 0, 0))
    assert near(opened.getpixel((35, 10)), (255, 255, 255))


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    opened = np.asarray(open_image(encoded(Image.fromarray(values))))[..., 0].ravel()
    assert np.abs(opened.astype(int) - np.arange(256)).max() <= 1
    # A dark 16-bit image stays dark.
    dark = open_image(encoded(Image.fromarray(np.full((4, 4), 200, np.uint16))))
    assert dark.getpixel((0, 0)) == (0, 0, 0)
    # Floating point: from 0 to 1.
    ramp = Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4))
    assert np.ptp(np.asarray(open_image(encoded(ramp, "TIFF")))) == 255


def test_cmyk_colours():
    opened = open_image(encoded(halves().convert("CMYK"), "JPEG", quality=95))
    assert near(opened.getpixel((5, 10)), RED, 30)
    assert near(opened.getpixel((35, 10)), BLUE, 30)


def test_sixteen_bits_of_three_colours():
    """Pillow writes none, so the file is put together here: a PNG of one row, red beside half red."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    row = b"\0" + b"\xff\xff\0\0\0\0" + b"\x80\x00\0\0\0\0"
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    opened = open_image(data)
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (128, 0, 0)]


def test_palette_colours():
    opened = open_image(encoded(halves().quantize(4)))
    assert near(opened.getpixel((5, 10)), RED)


@pytest.mark.parametrize(
    ("orientation", "red_at"),
    [*enumerate([(5, 10), (35, 10), (35, 10), (5, 10), (10, 5), (10, 5), (10, 35), (10, 35)], start=1)],
)
def test_the_camera_was_held_sideways(orientation, red_at):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG"):
        opened = open_image(encoded(halves(), kind, exif=exif))
        assert opened.size == ((20, 40) if orientation > 4 else (40, 20))
        assert near(opened.getpixel(red_at), RED, 30)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    data = encoded(Image.new("RGB", (8, 8), RED), kind, save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert near(open_image(data).getpixel((4, 4)), RED)


def test_transparency_is_white():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.paste((*RED, 255), (4, 0, 8, 8))
    clear.paste((0, 0, 0, 128), (0, 4, 4, 8))
    opened = open_image(encoded(clear))
    assert opened.getpixel((1, 1)) == (255, 255, 255)
    assert opened.getpixel((6, 1)) == RED
    assert near(opened.getpixel((1, 6)), (127, 127, 127))
    palette = halves().quantize(4)
    clear_index = palette.getpixel((5, 10))
    opened = open_image(encoded(palette, transparency=clear_index))
    assert opened.getpixel((5, 10)) == (255, 255, 255)
    assert near(opened.getpixel((35, 10)), BLUE)


def test_a_spec_is_rendered():
    spec = RenderSpec("Exit", 3, 4, style=(("font", "DejaVu Serif"),))
    assert open_image(spec).tobytes() == render("Exit", 3, 4, {"font": "DejaVu Serif"}).image.tobytes()
    assert open_image(RenderSpec("Exit", 3, 4)).tobytes() == render("Exit", 3, 4).image.tobytes()


def one_line(source, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        open_image(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("cut.png", encoded(Image.effect_noise((60, 60), 80))[:900], "truncated"),
        ("cut.jpg", encoded(Image.effect_noise((60, 60), 80), "JPEG")[:600], "truncated"),
        ("header.png", encoded(halves())[:20], "cannot be read"),
        ("empty.png", b"", "no known image format"),
        ("notes.txt", b"this is a text", "no known image format"),
        ("page.html", b"<html><body>404</body></html>", "no known image format"),
        ("random.png", bytes(random.Random(0).randbytes(500)), "no known image format"),
    ],
)
def test_broken_files(name, data, reason, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    one_line(path, str(path), reason, "expected a whole .png")
    one_line(data, f"image of {len(data)} bytes", reason)


def test_missing_files_and_folders(tmp_path):
    one_line(tmp_path / "gone.png", str(tmp_path / "gone.png"), "does not exist", "relative to the data file")
    one_line(tmp_path, str(tmp_path), "is no file")


@pytest.mark.parametrize("length", [300, 100_000])
def test_a_name_that_no_file_can_have(length, tmp_path):
    """Such as an image in base64 where its path should be."""
    one_line(tmp_path / ("iVBORw0KGgo" * (length // 11)), "iVBORw0KGgo", "File name too long", "characters)")


def test_a_folder_that_may_not_be_read(tmp_path):
    (tmp_path / "shut").mkdir(mode=0)
    try:
        one_line(tmp_path / "shut/a.png", "shut/a.png", "Permission denied" if os.geteuid() else "does not exist")
    finally:
        (tmp_path / "shut").chmod(0o700)


@pytest.mark.parametrize("side", [10_001, 20_000])
def test_a_small_file_that_unpacks_to_too_many_pixels(side, tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(one_bit_png(side))
    assert path.stat().st_size < 300_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, from 89 million pixels
        one_line(path, str(path), "pixels", "at most 100,000,000 are read", "scale it down")


def one_bit_png(side: int) -> bytes:
    """A black PNG of side x side pixels, made without holding them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    packer = zlib.compressobj(1)
    row = bytes(1 + -(-side // 8))
    rows = b"".join(packer.compress(row * 500) for _ in range(side // 500))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF", "JPEG2000"])
def test_damage_anywhere_is_the_users_error_or_still_an_image(kind):
    """Decoders raise whatever they like; here it is one kind of error."""
    whole = encoded(Image.effect_noise((30, 20), 60).convert("RGB"), kind)
    rng = random.Random(kind)
    for turn in range(60):
        data = bytearray(whole)
        if turn % 2:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randrange(1, 5)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(UserError):
                assert open_image(bytes(data)).mode == "RGB"
