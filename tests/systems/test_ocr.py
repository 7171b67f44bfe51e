"""OCR readers: boxes in reading order, and what real engines read on rendered signs."""

from __future__ import annotations

import io
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.pair import Pair
from neuroglot.synthetic.render import render
from neuroglot.systems import System
from neuroglot.systems.ocr import RapidReader, TesseractReader, reading_order

SIGNS = ("Please close the gate\nbehind you", "NO PARKING")


def box(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def turned(boxes: list[list[tuple[float, float]]], degrees: float) -> list[list[tuple[float, float]]]:
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return [[tuple(turn @ np.array(corner)) for corner in corners] for corners in boxes]


PAGE = [box(0, 0, 80, 20), box(95, 3, 60, 18), box(200, -2, 50, 22), box(10, 30, 200, 20), box(0, 60, 90, 12),
        box(120, 58, 60, 16)]  # fmt: skip
LINES = [[0, 1, 2], [3], [4, 5]]


@pytest.mark.parametrize("degrees", [0, 9, -14, 30])
def test_boxes_become_lines_in_reading_order_whatever_the_tilt(degrees):
    order = list(range(len(PAGE)))
    random.Random(degrees).shuffle(order)
    found = reading_order(turned([PAGE[index] for index in order], degrees))
    assert [[order[index] for index in line] for line in found] == LINES


def test_a_line_may_be_read_from_the_right():
    assert reading_order(PAGE, right_to_left=True) == [list(reversed(line)) for line in LINES]


def shuffled(boxes: list, seed: int, **how) -> list[list[int]]:
    order = list(range(len(boxes)))
    random.Random(seed).shuffle(order)
    found = reading_order([boxes[index] for index in order], **how)
    return [[order[index] for index in line] for line in found]


@pytest.mark.parametrize("seed", range(3))
def test_columns_are_read_from_right_to_left_and_bands_from_above(seed):
    title = [box(40, 0, 200, 22)]  # above two bands of columns, the second with a column in two pieces
    above = [box(200, 40, 20, 120), box(172, 40, 21, 90), box(144, 42, 20, 118)]
    balloon = [box(60, 50, 20, 60), box(32, 50, 20, 80)]
    below = [box(200, 190, 20, 50), box(201, 250, 20, 70), box(172, 190, 20, 110)]
    page = [*title, *above, *balloon, *below]
    lines = [[0], [1], [2], [3], [4], [5], [6, 7], [8]]
    assert shuffled(page, seed, vertical=True) == lines
    assert shuffled(page, seed)[0] == [0], "a language that is not written so is read line by line"
    # A caption beside it stays a horizontal text: its lines from above, from left to right.
    caption = [box(0, 60, 70, 14), box(0, 82, 60, 14), box(64, 82, 30, 14)]
    assert shuffled([*above, *caption], seed, vertical=True) == [[0], [1], [2], [3], [4, 5]]


@pytest.mark.parametrize("seed", range(3))
def test_long_lines_beside_each_other_are_columns_and_short_ones_a_table(seed):
    head = [box(0, 0, 420, 20)]
    left = [box(0, y, 200, 14) for y in (40, 60, 80)]
    right = [box(220, y + 3, 200, 14) for y in (40, 60, 80)]
    assert shuffled([*head, *left, *right], seed) == [[index] for index in range(7)]
    assert shuffled([*left, *right], seed, right_to_left=True) == [[3], [4], [5], [0], [1], [2]]
    prices = [box(220, y, 40, 14) for y in (40, 60, 80)]
    assert shuffled([*left, *prices], seed) == [[0, 3], [1, 4], [2, 5]]


def test_no_boxes_are_no_lines():
    assert reading_order([]) == []


def sign(text: str, index: int = 0, language: str = "en", **changes) -> Example:
    image = render(text, 5, index, {"plain": "yes", "font": "DejaVu Sans", "size": "26"}, 384, 110).image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    fields = {"task": "ocr", "target": "?", "target_lang": language, **changes}
    return Example((buffer.getvalue(),), None, source_lang=language, **fields)


def blank() -> Example:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 100), "white").save(buffer, "PNG")
    return Example((buffer.getvalue(),), None, "?", "en", "en", "ocr")


@pytest.fixture(scope="module")
def rapid() -> RapidReader:
    pytest.importorskip("rapidocr")
    return RapidReader(side=448, threads=1)


def test_rapidocr_reads_signs_line_by_line(rapid):
    assert isinstance(rapid, System)
    examples = [sign(text, index) for index, text in enumerate(SIGNS)]
    assert rapid.translate([*examples, blank()]) == [*SIGNS, ""]
    assert rapid.nll(examples) is None


def test_several_images_are_read_one_after_the_other(rapid):
    both = [sign("ONE"), sign("TWO")]
    example = Example(both[0].images + both[1].images, None, "?", "en", "en", "ocr")
    assert rapid.translate([example]) == ["ONE\nTWO"]


@pytest.mark.parametrize("language", ["ar", "hi", "ru", "th", "ko", "vi", "el"])
def test_rapidocr_says_which_languages_it_can_read(rapid, language):
    with pytest.raises(UserError, match=r"cannot read .* knows Latin letters except Vietnamese, Chinese and Japanese"):
        rapid.check(Pair(language, language))


@pytest.mark.parametrize("language", ["en", "de", "cs", "lv", "tr", "pt_BR", "zh", "zh_Hant", "ja", "sr_Latn"])
def test_rapidocr_reads_these(rapid, language):
    rapid.check(Pair(language, language))


def test_the_model_has_a_character_for_every_letter_of_the_languages_it_is_said_to_read(rapid):
    from pathlib import Path

    import onnxruntime
    import rapidocr

    model = next((Path(rapidocr.__file__).parent / "models").glob("*rec*.onnx"))
    known = set(onnxruntime.InferenceSession(model).get_modelmeta().custom_metadata_map["character"].split("\n"))
    letters = "àâæçéèêëîïôœùûüÿ äöüß áčďéěíňóřšťúůýž āčēģīķļņšūž çğıİöşü ñ ãõ ąćęłńóśźż ăâîșț åæø őű ðþ đ ėįųū õ ċġħż"
    assert set(letters) - known <= {" "}
    assert set("出口立入禁止あカ請") <= known
    for unread in ("ạ", "а", "अ", "ا", "가"):
        assert unread not in known, f"{unread} can be read now: say so"


def test_a_reader_refuses_what_is_no_transcription(rapid):
    with pytest.raises(UserError, match="reads text in images, got a image_translation example with 1 images"):
        rapid.translate([sign("A", task="image_translation", target_lang="de")])


tesseract_only = pytest.mark.skipif(shutil.which("tesseract") is None, reason="the program tesseract is not installed")


@tesseract_only
def test_tesseract_reads_signs_line_by_line():
    reader = TesseractReader()
    assert isinstance(reader, System)
    assert reader.translate([sign(text, index) for index, text in enumerate(SIGNS)] + [blank()]) == [*SIGNS, ""]


@tesseract_only
def test_tesseract_says_which_data_are_missing():
    with pytest.raises(
        UserError, match=r"no data for Swahili \(sw\); it has .*eng.*; install .*swa, a package such as"
    ):
        TesseractReader().check(Pair("sw", "sw"))


def test_tesseract_names_its_data_by_its_own_codes(monkeypatch):
    reader = object.__new__(TesseractReader)
    monkeypatch.setattr(TesseractReader, "installed", ("chi_sim", "chi_tra", "ces", "deu", "eng", "lav", "srp_latn"))
    wanted = {"en": "eng", "de": "deu", "cs": "ces", "lv": "lav", "zh": "chi_sim", "zh_Hant": "chi_tra",
              "sr_Latn": "srp_latn"}  # fmt: skip
    assert {language: reader._data(language) for language in wanted} == wanted


def test_without_the_program_there_is_one_clear_line(monkeypatch, tmp_path):
    pytest.importorskip("pytesseract")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the program tesseract, which is not on the PATH; install it"):
        TesseractReader()
