"""The reader of a user's own file: every field, and every mistake with its file and line."""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from neuroglot.data.example import Example
from neuroglot.data.image import open_image
from neuroglot.data.readers import Layout, read_jsonl, read_source
from neuroglot.data.readers.records import images_of
from neuroglot.errors import UserError

GOOD = {"image": "a.png", "target": "Ausgang", "source_lang": "en", "target_lang": "de"}


@pytest.fixture
def write(tmp_path):
    def write(*records, name="data.jsonl", prefix=b"") -> Path:
        path = tmp_path / name
        lines = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records]
        path.write_bytes(prefix + b"\n".join(lines))
        return path

    return write


def test_the_least_that_is_needed(write, tmp_path):
    (example,) = read_jsonl(write(GOOD))
    assert example == Example(
        (tmp_path / "a.png",), None, "Ausgang", "en", "de", "image_translation", item="a.png|", meta={}
    )
    assert str(example.pair) == "en-de"
    assert str(example.condition) == "image_translation:en-de"


def test_every_field(write, tmp_path):
    full = {
        "images": ["a.png", "sub/b.png"],
        "target": "Grüße",
        "source_lang": "EN",
        "target_lang": "zh-hans",
        "source": "Greetings",
        "task": "multimodal_translation",
        "split": "dev",
        "item": 0,
        "alternatives": ["Gruß", "Grüß"],
    }
    (example,) = read_jsonl(str(write(full)))
    assert example == Example(
        (tmp_path / "a.png", tmp_path / "sub/b.png"),
        "Greetings",
        "Grüße",
        "en",
        "zh_Hans",
        "multimodal_translation",
        ("Gruß", "Grüß"),
        item="0",
        meta={"split": "dev"},
    )


def test_defaults(write):
    text = {"source": "exit", "target": "Ausgang", "source_lang": "en", "target_lang": "de"}
    described = {**GOOD, "task": "describe", "source_lang": "de"}
    french = {**GOOD, "target_lang": "fr"}
    one, two, three, four = read_jsonl(write(text, {**GOOD, "source": "exit"}, described, french))
    assert (one.task, one.images, one.source) == ("text_translation", (), "exit")
    assert (two.task, two.source) == ("image_translation", "exit")
    assert three.condition.task == "describe"
    # What several languages share is the image and the source: the same item, so that parallel data are seen as such.
    assert three.item == four.item != two.item
    absolute = list(read_jsonl(write({**GOOD, "image": "/data/x.png"})))
    assert absolute[0].images == (Path("/data/x.png"),)


def test_an_image_in_the_line_itself(write):
    url = "data:image/png;base64," + b64encode(b"pixels").decode()
    one, two, path = read_jsonl(write({**GOOD, "image": url}, {**GOOD, "image": [url, "a.png"]}, GOOD))
    assert one.images == (b"pixels",)
    assert two.images == (b"pixels", *path.images)
    assert len(one.item) < 40  # a hash, and not the image


@pytest.mark.parametrize(
    "written", ["file://{}/a b.png", "file://{}/a%20b.png", "file:{}/a b.png", "file://localhost{}/a%20b.png",
                "FILE://a b.png", "{}\\a b.png"],
)  # fmt: skip
def test_an_image_by_an_address_of_this_machine(written, tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "a b.png")
    (image,) = images_of(written.format(tmp_path), tmp_path)
    assert open_image(image).size == (5, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_an_image_in_base64_without_an_address(kind):
    buffer = BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, kind)
    content = b64encode(buffer.getvalue()).decode()
    for written in (content, f"{content[:60]}\n{content[60:]}\n", {"bytes": content}):
        (image,) = images_of(written, Path())
        assert open_image(image).size == (5, 4)


def test_an_id_of_a_question(write):
    question = {"instruction": "q", "target": "a", "id": 7}
    first, second = read_jsonl(write({**question, "source_lang": None}, question))
    assert (first.meta, str(first.pair)) == ({"instruction": "q", "id": "7"}, "en-en")
    assert second == first  # which `data check` reports


def test_blank_lines_windows_line_ends_and_a_byte_order_mark(write):
    line = json.dumps(GOOD).encode()
    path = write(line + b"\r", b"", b"   \r", line, b"", prefix=b"\xef\xbb\xbf")
    assert len(list(read_jsonl(path))) == 2


def test_it_is_read_as_it_is_asked_for(write):
    """A mistake in line 2 does not hide line 1, and a large file is not held in memory."""
    reader = read_jsonl(write(GOOD, b"{"))
    assert next(reader).target == "Ausgang"
    with pytest.raises(UserError, match="line 2"):
        next(reader)


MISTAKES = {
    "broken JSON": (b'{"image": "a.png",', r"is not JSON: .* at column \d+; one object a line"),
    "a list": ([1, 2], "expected an object, got list"),
    "a text": ("x", "expected an object, got str"),
    "Latin-1": ('{"target": "Grüße"}'.encode("latin-1"), r"is not UTF-8 \(byte 14\); save the file as UTF-8"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "is not UTF-8"),
    "no target": ({k: v for k, v in GOOD.items() if k != "target"}, "field 'target' is missing or empty"),
    "empty target": ({**GOOD, "target": "  "}, "field 'target' is empty"),
    "invisible target": ({**GOOD, "target": "\u200b\ufeff"}, "field 'target' is empty"),
    "NaN for a target": ({**GOOD, "target": float("nan")}, "field 'target' is NaN, as a table writes an empty cell"),
    "a field twice": (b'{"image": "a.png", "target": "Haus", "target": "Maus"}', "the field 'target' occurs twice"),
    "a field twice inside": (b'{"image": "a.png", "targets": {"de": "x", "de": "y"}}', "the field 'de' occurs twice"),
    "two objects": (
        json.dumps(GOOD).encode() * 2,
        r"not JSON: a second object begins at column \d+; one object a line",
    ),
    "comma too many": (b'{"image": "a.png",}', "not JSON: a comma before the closing bracket at column"),
    "Python's quotes": (b"{'image': 'a.png'}", "not JSON: a text in single quotes, as Python prints it"),
    "Python's None": (b'{"image": None}', "not JSON: Python's None, for which JSON has null"),
    "number for a target": ({**GOOD, "target": 5}, "field 'target' must be a text, got 5"),
    "no language": ({k: v for k, v in GOOD.items() if k != "source_lang"}, "field 'source_lang' must be a text"),
    "unknown field": ({**GOOD, "traget": "x"}, "unknown field 'traget'; did you mean target"),
    "strange field": ({**GOOD, "zzz": 1}, "unknown field 'zzz'; known: alternatives, id, image"),
    "unknown language": ({**GOOD, "target_lang": "german"}, "language code 'german' is malformed; .*did you mean de"),
    "made-up language": ({**GOOD, "source_lang": "xx"}, "language code 'xx' is not known"),
    "unknown task": ({**GOOD, "task": "image_tranlsation"}, "task 'image_tranlsation' is not known; did you mean"),
    "task of a wrong type": ({**GOOD, "task": ["ocr"]}, "is not known"),
    "no image to read": ({**GOOD, "image": None, "task": "ocr"}, "task ocr needs an image; add the field image"),
    "no images": ({**GOOD, "task": "describe", "image": []}, "task describe needs an image"),
    "nothing to translate": ({k: v for k, v in GOOD.items() if k != "image"}, "needs the field source, the text"),
    "multimodal without source": ({**GOOD, "task": "multimodal_translation"}, "needs the field source"),
    "image of a wrong type": ({**GOOD, "image": 7}, "image must be a path or a list of paths, got 7"),
    "empty image": ({**GOOD, "image": ""}, "image must be a path or a list of paths"),
    "image twice": ({**GOOD, "images": ["b.png"]}, "give either image or images, not both"),
    "image at an address": ({**GOOD, "image": "https://x.org/a.png"}, "image 'https://x.org/a.png' is an address"),
    "image in broken base64": ({**GOOD, "image": "data:image/png;base64,iV*"}, "'data:image/png;base64,iV.*cannot be"),
    "no targets": ({"image": "a.png", "source_lang": "en", "targets": {}}, "targets holds no text; expected one for"),
    "number for an answer's language": (
        {"instruction": "q", "target": "a", "source_lang": 5},
        "'source_lang' must be",
    ),
    "list for an answer's language": ({"instruction": "q", "target": "a", "target_lang": ["en"]}, "'target_lang' mus"),
    "source of a wrong type": ({**GOOD, "source": ["x"]}, "source must be a text"),
    "unknown split": ({**GOOD, "split": "valid"}, "split must be one of train, dev, test, got 'valid'"),
    "one alternative": ({**GOOD, "alternatives": "Eingang"}, "alternatives must be a list of texts, got 'Eingang'"),
    "alternative of a wrong type": ({**GOOD, "alternatives": [1]}, "alternatives must be a list of texts"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_file_and_line(case, write):
    wrong, message = MISTAKES[case]
    path = write(GOOD, b"", wrong)
    with pytest.raises(UserError, match=message) as caught:
        list(read_jsonl(path))
    assert str(caught.value).startswith(f"{path} line 3")
    assert "\n" not in str(caught.value)


OTHER_FILES = {
    "pretty": (json.dumps(GOOD, indent=1).encode(), "line 1: the object that begins here goes on over several lines"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "is UTF-16; save it as UTF-8"),
    "UTF-16 without a mark": (json.dumps(GOOD).encode("utf-16-le"), "is UTF-16 or no file of text; save it as UTF-8"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "is a pointer of Git LFS"),
    "gzip": (gzip.compress(b"{}"), "is compressed with gzip"),
    "a spreadsheet": (b"PK\x03\x04\x14\x00\x06\x00", "is a zip archive or a spreadsheet"),
    "a page": (b"<!DOCTYPE html>\n<html>", "is a page of the web, not a data file"),
}


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.parquet"])
@pytest.mark.parametrize("case", OTHER_FILES)
def test_a_file_of_another_kind_is_called_by_its_name(case, name, tmp_path):
    content, message = OTHER_FILES[case]
    if (case, name) in (("pretty", "x.csv"), ("pretty", "x.parquet"), ("UTF-16 without a mark", "x.parquet")):
        pytest.skip("is not told apart there")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        list(read_source(tmp_path / name, Layout()))
    assert str(tmp_path / name) in str(caught.value)


def test_an_array_is_read_under_any_name_and_a_field_twice_in_it_costs_one_record(tmp_path):
    row = json.dumps({"source": "yes", "target": "ja", "source_lang": "en", "target_lang": "de"})
    (tmp_path / "x.jsonl").write_text(f'[{row},\n{row[:-1]}, "target": "nein"}}, {row}]')
    found = [record for _, record in read_source(tmp_path / "x.jsonl", Layout())]
    assert [str(r)[:31] if isinstance(r, UserError) else r.target for r in found] == [
        "ja", "the field 'target' occurs twice", "ja"]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file(content, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"empty\.jsonl holds no examples; expected one JSON object a line"):
        list(read_jsonl(path))


@pytest.mark.parametrize("name", ["gone.jsonl", "."])
def test_a_missing_file(name, tmp_path):
    with pytest.raises(UserError, match=r"does not exist; give a JSONL file, `signs` or `scenes`"):
        list(read_jsonl(tmp_path / name))


@pytest.mark.parametrize(
    ("written", "inside"),
    [
        ("a.png", True),
        ("sub/../a.png", True),
        ("{}/own/a.png", True),
        ("../other/b.png", False),
        ("..\\other\\b.png", False),
        ("%2e%2e/other/b.png", False),
        ("{}/other/b.png", False),
        ("file://{}/other/b.png", False),
        ("link.png", False),
        ("folder/b.png", False),
        ("../other/missing.png", False),
    ],
)
def test_a_root_bounds_where_images_lie(written, inside, tmp_path):
    """Wherever dots and symbolic links lead; without a root, images may lie anywhere."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir(), other.mkdir()
    Image.new("RGB", (5, 4)).save(own / "a.png")
    Image.new("RGB", (5, 4)).save(other / "b.png")
    (own / "link.png").symlink_to(other / "b.png")
    (own / "folder").symlink_to(other)
    record = {**GOOD, "image": written.format(tmp_path)}
    (own / "data.jsonl").write_text(json.dumps(record))
    ((_, free),) = read_source(own / "data.jsonl")
    assert isinstance(free, Example)
    ((_, found),) = read_source(own / "data.jsonl", Layout(root=own))
    if inside:
        assert found == free
    else:
        assert isinstance(found, UserError)
        assert "lies outside of data.root" in str(found)


def test_a_question_may_say_where_its_image_belongs(write):
    """As LLaVA writes its own; what places images is the model's chat template."""
    path = write(
        {"instruction": "<image>\nWhat is it?", "target": "a <image> tag", "image": "a.png"},
        {"instruction": "What does <image> mean in HTML?", "target": "nothing"},
    )
    asked = [(e.meta["instruction"], e.target) for e in read_jsonl(path)]
    assert asked == [("What is it?", "a <image> tag"), ("What does <image> mean in HTML?", "nothing")]
