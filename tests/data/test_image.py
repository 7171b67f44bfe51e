"""Opening images as a person would see them, and refusing broken ones in one line that names the file."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import unicodedata
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from neuroglot.data.example import RenderSpec
from neuroglot.data.image import open_image
from neuroglot.data.store import image_key
from neuroglot.errors import UserError
from neuroglot.synthetic.render import render

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


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(depth: int, colours: int, row: bytes, width: int, *chunks: bytes, height: int = 1) -> bytes:
    """A PNG of one row, of a depth and colour type that Pillow does not write."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def one_bit_png(side: int) -> bytes:
    """A black PNG of side x side pixels, made without holding them."""
    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    packer = zlib.compressobj(1)
    row = bytes(1 + -(-side // 8))
    rows = b"".join(packer.compress(row * 500) for _ in range(side // 500))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


def tiff(row: bytes, width: int, bits: int, kind: int = 1, zero_is_white: bool = False) -> bytes:
    """A TIFF of one row of grey values: whole numbers (kind 1), with a sign (2) or floating point (3)."""
    fields = {256: width, 257: 1, 258: bits, 259: 1, 262: int(not zero_is_white), 273: 122, 277: 1, 279: len(row),
              339: kind}  # fmt: skip
    entries = b"".join(struct.pack("<HHLL", tag, 3, 1, value) for tag, value in fields.items())
    return struct.pack("<2sHLH", b"II", 42, 8, len(fields)) + entries + bytes(4) + row


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
    data = png(16, 2, b"\xff\xff\0\0\0\0" + b"\x80\x00\0\0\0\0", 2)
    opened = open_image(data)
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (128, 0, 0)]


BLACK, GREY, WHITE = 0, 116, 255


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (png(1, 0, b"\x40", 2, chunk(b"tRNS", b"\0\0")), [WHITE, WHITE]),  # black is clear: paper
        (png(2, 0, b"\x1b", 4, chunk(b"tRNS", b"\0\1")), [BLACK, WHITE, 170, WHITE]),
        (png(4, 0, b"\x05\xaf", 4, chunk(b"tRNS", b"\0\5")), [BLACK, WHITE, 170, WHITE]),
        (png(8, 0, b"\0\5\x74", 3, chunk(b"tRNS", b"\0\5")), [BLACK, WHITE, GREY]),
        (png(16, 0, struct.pack(">3H", 0, 30000, 65535), 3, chunk(b"tRNS", b"\0\0")), [WHITE, GREY, WHITE]),
        (png(16, 2, struct.pack(">6H", 9, 9, 9, 0, 0, 65535), 2, chunk(b"tRNS", b"\0\x09" * 3)), [WHITE, BLACK]),
        (png(16, 4, struct.pack(">4H", 0, 0, 30000, 65535), 2), [WHITE, GREY + 1]),
        (tiff(struct.pack("<3H", 0, 30000, 65535), 3, 16), [BLACK, GREY, WHITE]),
        (tiff(struct.pack("<3H", 0, 30000, 65535), 3, 16, zero_is_white=True), [WHITE, 139, BLACK]),
        (tiff(struct.pack("<3H", 0, 116, 255), 3, 16), [BLACK, GREY, WHITE]),  # 8 bits in 16
        (tiff(b"\x00\x07\xff\xff\xf0\x00", 3, 12), [BLACK, 127, WHITE]),
        (tiff(struct.pack("<3h", 0, 15000, 32767), 3, 16, 2), [BLACK, GREY, WHITE]),
        (tiff(struct.pack("<3f", 0, 0.4577, 1), 3, 32, 3), [BLACK, GREY, WHITE]),
    ],
)
def test_odd_kinds_of_pixels_are_read_rightly(data, seen):
    opened = open_image(data)
    assert [opened.getpixel((x, 0))[0] for x in range(len(seen))] == seen


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (png(16, 0, struct.pack(">3H", 0, 2000, 4095), 3), "from 0 to 4095"),  # 12 bits in 16, or a dark image
        (tiff(struct.pack("<3H", 0, 2000, 4095), 3, 16), "from 0 to 4095"),
        (tiff(struct.pack("<3h", -900, 0, 900), 3, 16, 2), "from -900 to 900"),
        (tiff(struct.pack("<3b", -128, 0, 127), 3, 8, 2), "from -128 to 127"),
        (tiff(struct.pack("<3L", 0, 2**17, 2**20), 3, 32), "from 0 to 1.04858e+06"),
        (tiff(struct.pack("<3f", 0, float("nan"), 1), 3, 32, 3), "nan"),
        (tiff(struct.pack("<3f", 0, float("inf"), 1), 3, 32, 3), "inf"),
        (tiff(struct.pack("<3f", 0, 0.5, 1.02), 3, 32, 3), "from 0 to 1.02"),
        (tiff(struct.pack("<3f", 0, 0.005, 0.01), 3, 32, 3), "from 0 to 0.01"),
    ],
)
def test_pixels_of_which_nothing_says_what_is_white_are_refused(data, values):
    one_line(data, values, "which of them is white", "save it")


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


def fields(*entries: bytes) -> bytes:
    """An EXIF block, or a TIFF directory, of these fields."""
    return struct.pack("<2sHLH", b"II", 42, 8, len(entries)) + b"".join(entries) + bytes(4)


TURNED = struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "odd",
    [
        struct.pack("<HHL4s", 0x0100, 2, 4, b"abc\0"),  # a width in letters: struct.error in Pillow
        struct.pack("<HHL4s", 0x0100, 3, 2**31, b"abcd"),
        struct.pack("<HHLL", 0x0103, 5, 40, 60_000),  # 40 fractions far behind the end
        struct.pack("<HHL4s", 0x0110, 99, 1, b"abcd"),
        struct.pack("<HHLL", 0x8769, 4, 1, 2**32 - 1),
    ],
)
def test_odd_exif_does_not_stop_an_image_and_the_orientation_counts(kind, odd):
    block = fields(*sorted([odd, TURNED]))
    opened = open_image(encoded(halves(), kind, exif=b"Exif\0\0" + block))
    assert opened.size == (20, 40)


def with_chunk(data: bytes, at: int = 33) -> bytes:
    whole = encoded(halves())
    return whole[:at] + data + whole[at:]


def with_segment(marker: int, data: bytes) -> bytes:
    whole = encoded(halves(), "JPEG")
    return whole[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + whole[20:]  # in place of JFIF's


BOMB = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize(
    "data",
    [
        with_chunk(chunk(b"zTXt", b"workflow\0\0" + BOMB)),
        with_chunk(chunk(b"zTXt", b"workflow\0\0" + BOMB), -12),
        with_chunk(chunk(b"iCCP", b"profile\0\0" + BOMB)),
        with_chunk(chunk(b"iCCP", b"profile\0\7")),
        with_chunk(chunk(b"tEXt", b"Author\0me")[:-1] + b"?"),  # its checksum is wrong
        with_chunk(chunk(b"tEXt", b"transparency\0none")),  # names under which Pillow keeps its own notes
        with_chunk(chunk(b"tEXt", b"bbox\0none")),
        with_chunk(chunk(b"acTL", b"\0\0")),
        with_chunk(chunk(b"gAMA", b"")),
        with_chunk(chunk(b"eXIf", b"II")),
        with_segment(0xE2, b"MPF\0" + fields(struct.pack("<HHLL", 0xB001, 4, 1, 7))),
        with_segment(0xE1, b"Exif\0\0" + fields(struct.pack("<HHLL", 0x011A, 5, 1, 2**32 - 1))),
        with_segment(0xED, b"Photoshop 3.0\x008BIM"),
        encoded(halves(), "TIFF", tiffinfo={700: b"text"}).replace(b"\xbc\2\1\0", b"\xbc\2\2\0"),  # XMP as ASCII
        encoded(halves(), "AVIF", exif=b"Exif\0\0" + fields(struct.pack("<HHLHH", 0x0103, 3, 1, 6, 0))).replace(
            b"II*", b"??*"
        ),
        encoded(halves(), "TIFF", compression="tiff_lzw", tiffinfo={34665: 2**31 - 1}),
    ],
)
def test_odd_metadata_does_not_stop_an_image(data):
    opened = open_image(data)
    assert near(opened.getpixel((5, 10)), RED, 30)
    assert near(opened.getpixel((35, 10)), BLUE, 30)


def test_metadata_of_a_file_is_not_passed_on():
    """What is sent or saved afterwards holds the pixels alone."""
    assert not open_image(encoded(halves(), "JPEG", icc_profile=b"camera", comment=b"home", dpi=(72, 72))).info


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
        ("photo.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),  # starts no program
        ("lfs.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("._0.jpg", b"\0\5\26\7\0\2\0\0Mac OS X        ", "a Mac's notes"),
        ("IMG_1.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
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


@pytest.mark.parametrize(
    "written",
    [
        unicodedata.normalize("NFC", "\u00e4 b.png"),
        unicodedata.normalize("NFD", "\u00e4 b.png"),
        "sub\\..\\\u00e4 b.png",
        "folder\\..\\\u00e4 b.png ",
        "%C3%A4%20b.png",
        ".\\a%CC%88 b.png",
    ],
)
def test_a_name_in_another_spelling_is_found(written, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / unicodedata.normalize("NFD", "\u00e4 b.png")).write_bytes(encoded(halves()))
    assert open_image(tmp_path / written).size == (40, 20)
    assert image_key(tmp_path / written) == image_key(tmp_path / "\u00e4 b.png")


def test_the_exact_name_comes_first(tmp_path):
    for name, size in (("a%20b.png", 10), ("a b.png", 20), ("a\\b.png", 30)):
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (size, size))))
    assert [open_image(tmp_path / name).width for name in ("a%20b.png", "a b.png", "a\\b.png")] == [10, 20, 30]


def test_a_name_that_is_nearly_there_is_said(tmp_path):
    (tmp_path / "Photos").mkdir()
    (tmp_path / "Photos/A b.PNG").write_bytes(encoded(halves()))
    for written, likely in (("photos/A b.PNG", "Photos"), ("Photos/a b.png", "Photos/A b.PNG"),
                            ("Photos\\A-b.PNG", "Photos/A b.PNG")):  # fmt: skip
        one_line(tmp_path / written, "does not exist", f"did you mean {tmp_path / likely}")
    assert "did you mean" not in one_line(tmp_path / "Photos/other.jpg")


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


@pytest.mark.parametrize(
    ("data", "most"),
    [
        (one_bit_png(14_500), "at most 200,000,000 are read"),
        (png(1, 0, b"", 1, height=100_000_000), "at most 65,535 a side"),
        (png(8, 0, b"", 100_000_000), "at most 65,535 a side"),
        (png(16, 0, b"", 11_000, height=10_000), "at most 106,666,666 are read"),  # more memory a pixel
        (encoded(halves(), "GIF").replace(struct.pack("<HH", 40, 20), struct.pack("<HH", 40_000, 20_000)), "pixels"),
        (encoded(halves(), "BMP").replace(struct.pack("<ii", 40, 20), struct.pack("<ii", 2**30, 20)), "a side"),
    ],
)
def test_a_small_file_that_unpacks_to_too_many_pixels(data, most, tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(data)
    assert len(data) < 300_000
    one_line(path, str(path), "pixels", most)


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded():
    out = io.BytesIO()
    Image.new("L", (64, 64), 128).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    assert open_image(data).size == (64, 64)
    many = data[:last] + data[last:-2] * 300 + data[-2:]
    with pytest.raises(UserError, match=r"has 3\d\d scans; at most 200 of a JPEG are read; save it again"):
        open_image(many)


def test_a_large_scan_is_read():
    """12,000 x 9,000 pixels of one bit; of 2,000 rows here, for time."""
    assert open_image(encoded(Image.new("1", (12_000, 2_000), 1))).size == (12_000, 2_000)


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
