"""The gallery page: a batch as the model sees it, in every token, label and pixel."""

from __future__ import annotations

import html.parser
import io
import re

import family_processors
import numpy as np
import pytest
import torch
from PIL import Image

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example, RenderSpec
from neuroglot.data.image import open_image
from neuroglot.validation import Plan, Record, check
from neuroglot.validation.page import preview_batch, write_page

pytestmark = [pytest.mark.turns, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]


def signs(*texts: str) -> list[Example]:
    return [
        Example((RenderSpec(text, 1, n),), text, target, "en", "fr", "image_translation", item=str(n))
        for n, (text, target) in enumerate(text.split("|") for text in texts)
    ]


BATCH = signs("Exit|Sortie", "Closed on Friday|Fermé le vendredi", "5 < 7 & more|5 < 7 « et plus »")


class Chips(html.parser.HTMLParser):
    """The tokens that a page shows, row by row: kind and number."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, int]]] = []
        self.images: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "p" and given.get("class") == "chips":
            self.rows.append([])
        if tag == "span" and "data-n" in given:
            self.rows[-1].append((given["class"].split()[1], int(given["data-n"])))
        if tag == "img":
            self.images.append(given["src"])


@pytest.fixture(scope="module")
def text(processor, tmp_path_factory):
    """The page of the batch."""
    batcher, path = Batcher(processor), tmp_path_factory.mktemp("gallery") / "page.html"
    records = [Record(n, e, "train") for n, e in enumerate(BATCH, start=1)]
    report = check(lambda: iter(records), Plan("signs", "image_translation"), batcher)
    write_page(path, report, preview_batch(batcher, BATCH), "en-fr")
    return path.read_text(encoding="utf-8")


def test_the_mask_on_the_page_is_that_of_the_labels(processor, text):
    batcher = Batcher(processor)
    page = Chips(text)
    encoded = batcher.encode(BATCH)
    assert len(page.rows) == len(page.images) == 3
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    for row, ids, labels, real in zip(
        page.rows, encoded["input_ids"], encoded["labels"], encoded["attention_mask"], strict=True
    ):
        kinds = [kind for kind, count in row for _ in range(count)]
        assert [kind == "trained" for kind in kinds] == (labels != -100).tolist()
        assert [kind == "image" for kind in kinds] == (ids == image).tolist()
        assert [kind == "padding" for kind in kinds] == (real == 0).tolist()
        assert sum(kind == "image" for kind, _ in row) == 1  # the image is one chip


def test_the_chips_hold_the_ids_of_the_batch(processor):
    batcher = Batcher(processor)
    encoded = batcher.encode(BATCH)
    for sample, ids in zip(preview_batch(batcher, BATCH).samples, encoded["input_ids"], strict=True):
        assert [i for chip in sample.chips for i in chip.ids] == ids.tolist()
    trained = "".join(c.text for c in preview_batch(batcher, BATCH).samples[1].chips if c.kind == "trained")
    assert trained.replace("·", " ").startswith("Fermé le vendredi")


def test_pixels_are_those_of_the_tensor(processor):
    """Scaled and normalised again, the pictures on the page are the tensor."""
    batcher = Batcher(processor)
    pixels = batcher.encode(BATCH)["pixel_values"]
    images = processor.image_processor
    for sample, tensor in zip(preview_batch(batcher, BATCH).samples, pixels, strict=True):
        (shown,) = sample.pictures
        values = torch.tensor(shown).permute(2, 0, 1).float() * images.rescale_factor
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.image_mean, images.image_std))
        assert torch.allclose((values - mean) / std, tensor, atol=1e-5)
        source = np.asarray(open_image(sample.example.images[0]))
        assert source.shape == shown.shape
        assert np.abs(source.astype(int) - shown.astype(int)).max() <= 1  # it has the size of the model's own


def test_the_page_stands_alone_and_escapes_what_it_shows(text):
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert text.count("&lt;") >= 2  # the sign's text holds two, and no tag begins with them
    assert "< 7" not in text
    assert text.count("<svg") == 2  # wide and narrow
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower().split()


def png(width: int, height: int) -> bytes:
    """A picture whose four quarters differ: a mistake in the order of patches would show."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 250, 30)
    pixels[height // 2 :, : width // 2] = (30, 30, 250)
    pixels[height // 2 :, width // 2 :] = (240, 240, 240)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "family",
    [
        name if name in ("llava", "qwen2_5_vl") else pytest.param(name, marks=pytest.mark.slow)
        for name in family_processors.PROCESSED
    ],
)
def test_every_family_shows_its_pictures(family):
    """Each picture, or the tile that shows the whole of it, has its quarters where they belong."""
    if family == "smolvlm":
        pytest.importorskip("num2words", reason="its processor asks for it")
    batcher = Batcher(family_processors.processor(family))
    examples = [
        Example((png(32, 32),), None, "Ausgang", "en", "de", "image_translation"),
        Example((png(32, 32), png(32, 32)), None, "Café am Freitag", "en", "de", "image_translation"),
    ]
    seen = preview_batch(batcher, examples)
    assert seen.remark == ""
    encoded = batcher.encode(examples)
    for sample, labels in zip(seen.samples, encoded["labels"], strict=True):
        assert sum(len(c.ids) for c in sample.chips if c.kind == "trained") == int((labels != -100).sum())
        assert sum(len(c.ids) for c in sample.chips if c.kind == "image") >= 4 * len(sample.example.images)
        whole = [p for p in sample.pictures if _quartered(p)]
        assert len(whole) == len(sample.example.images)


def _quartered(pixels) -> bool:
    h, w, _ = pixels.shape
    quarters = [pixels[y, x].astype(int) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]
    wanted = [(250, 30, 30), (30, 250, 30), (30, 30, 250), (240, 240, 240)]
    return all(np.abs(q - np.array(w)).max() <= 30 for q, w in zip(quarters, wanted, strict=True))
