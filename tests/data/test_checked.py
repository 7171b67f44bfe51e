"""Records before training: what would be drawn is laid out, and large images do not add up in memory."""

from __future__ import annotations

import itertools
import random
import string
import tracemalloc
from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image

from neuroglot.data.batch import Batcher
from neuroglot.data.example import Example, RenderSpec
from neuroglot.data.image import image_size, open_image
from neuroglot.data.readers import Bad, check_records
from neuroglot.errors import UserError
from neuroglot.synthetic.fonts import BUNDLED, Face, _bundled, load_font
from neuroglot.synthetic.typesetting import APART, SMALLEST, fit, surely_fits
from neuroglot.validation import Plan, Record, check

MIB = 2**20
LETTERS = "abcdefghij klmnop qrstuvwxyz ÄŁŵ -J' "


def sign(text: str, index: int = 1, **style: str) -> Example:
    spec = RenderSpec(text, 1, index, style=tuple(sorted(style.items())))
    return Example((spec,), text, "Ausgang", "en", "de", "image_translation", item=str(index))


def checked(examples, fits=lambda example, sizes: None):
    return [found for _, found in check_records(enumerate(examples, start=1), fits)]


def test_what_cannot_be_drawn_is_bad_before_anything_is_drawn(tmp_path):
    bad = ["far too long " * 130, "no glyph: \U0010fffd", "  "]
    found = checked([sign("Exit"), *map(sign, bad), sign("Exit", background=str(tmp_path))])
    assert isinstance(found[0], Example)
    reasons = [record.reason for record in found[1:] if isinstance(record, Bad)]
    for reason, words in zip(
        reasons, ("does not fit 120 x 120", "no installed font", "empty text", "holds no photographs"), strict=True
    ):
        assert words in reason


def test_what_is_drawn_counts_with_its_size(processor):
    sizes: list = []
    picture = RenderSpec("two red stars", 1, 1, kind="picture")
    examples = [sign("Exit", width="448", height="224"), sign("Exit"), replace(sign("Exit"), images=(picture,))]
    checked(examples, lambda example, seen: sizes.append(list(seen)))
    assert sizes == [[(448, 224)], [(120, 120)], [(120, 120)]]
    assert sizes == [[open_image(e.images[0]).size] for e in examples]
    batcher = Batcher(processor, max_length=60)
    (found,) = checked([sign("Exit")], batcher.check)
    assert isinstance(found, Bad)
    assert "at most 60 fit" in found.reason
    with pytest.raises(UserError, match="at most 60 fit"):
        batcher.encode([sign("Exit")])


def test_laying_out_says_what_drawing_says():
    """For texts about as long as fits; in any font, size and number of lines."""
    rng = random.Random(0)
    outcomes = set()
    for index in range(60):
        text = "".join(rng.choices(LETTERS, k=rng.randrange(60, 260))) + rng.choice(
            ["", "\nx", " žluťoučký", " Выход"]
        )
        style = rng.choice([{}, {"width": "200"}, {"margin": "0.2"}])
        said = []
        for look in (image_size, lambda e: open_image(e).size):
            try:
                said.append(look(sign(text, index, **style).images[0]))
            except UserError as error:
                said.append(str(error))
        assert said[0] == said[1], text
        outcomes.add(type(said[0]))
    assert outcomes == {tuple, str}


def test_what_surely_fits_does():
    rng = random.Random(1)
    sure = 0
    for _ in range(300):
        face = Face((_bundled(rng.choice(list(BUNDLED)[:4]), rng.random() < 0.5),))
        text = "".join(rng.choices(LETTERS, k=rng.randrange(20, 160))) + "x"
        if surely_fits(text, face, 116, 120, 12):
            sure += 1
            assert fit(text, face, SMALLEST, 116, 120, 12) is not None
    assert sure > 60


@pytest.mark.parametrize("family", [family for family in BUNDLED if family != "DejaVu Sans Mono"])
def test_no_two_letters_are_moved_apart_by_more_than_is_allowed_for(family):
    font = load_font(_bundled(family, False), 64)
    letters = string.ascii_letters + "-'"
    alone = {c: font.getlength(c) for c in letters}
    for a, b in itertools.product(letters, repeat=2):
        assert font.getlength(a + b) - alone[a] - alone[b] <= (APART - 1) / 2 * (alone[a] + alone[b])


@pytest.mark.parametrize("whole", [False, True], ids=["before a run", "data check"])
def test_large_images_do_not_add_up(whole):
    """Three hundred megabytes of them pass by."""
    made = BytesIO()
    Image.new("RGB", (9, 9)).save(made, "PNG")
    image = made.getvalue() + bytes(2 * MIB)  # what comes after a picture's end is left alone

    def examples():
        for n in range(150):
            yield Example((image + bytes([n]),), None, "x", "en", "de", "image_translation")

    tracemalloc.start()
    try:
        if whole:
            check(lambda: (Record(n, e, "train") for n, e in enumerate(examples())), Plan("x", "image_translation"))
        else:
            for _ in check_records(enumerate(examples()), lambda example, sizes: None):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * MIB


def test_a_text_in_several_fonts_is_no_finding():
    """Of the bundled families STIX alone has a circled letter, and DejaVu alone has Armenian."""
    example = sign("Ⓐ Ելք")
    open_image(example.images[0])
    report = check(lambda: [Record(1, example, "train")], Plan("x", "image_translation"))
    assert not {"missing_font", "cannot_render"} & {f.kind for f in report.findings}


def test_texts_that_cannot_be_drawn_may_be_allowed():
    records = [Record(n, e, "train") for n, e in enumerate((sign("\U0010fffd"), sign("lang " * 3000), sign("Exit")))]
    for most, severity in ((1, "error"), (2, "warning")):
        report = check(lambda: records, Plan("x", "image_translation", max_bad=most))
        kinds = {f.kind: (f.count, f.severity) for f in report.findings}
        assert kinds["missing_font"] == kinds["cannot_render"] == (1, severity)
        assert report.examples == 1
