"""The signs that the embedded model was trained on: whatever rendering learns, their pixels stay as they were."""

from __future__ import annotations

import hashlib

import pytest
from PIL import features

from neuroglot.synthetic.render import render
from neuroglot.synthetic.signs import signs

DRAWN_BY = {"pil": "13.0.0", "freetype2": "2.14.3", "raqm": "0.11.0"}
"""The versions that drew what is recorded below; another FreeType may put an edge elsewhere."""

RECORDED = {
    ("default", "en", 0): ("11260a11df7dfab25db89e7a", "f1c591af19ee63f0a3673d0d"),
    ("default", "en", 1): ("d2793d917c56e2bd1f2afb64", "f2627d864d7e292c7bbde0ff"),
    ("default", "cs", 11): ("13a6fa413fa2991ad6ee25b3", "5e479346a8e295baea6c70b2"),
    ("plain", "en", 3): ("5baf86c86bc159057505c65e", "3e8a5031bcdb8c26d973bfc7"),
    ("serif", "tr", 2): ("337d9a44c9cdd8926bb80d01", "07fcf993b6e30640f31ada05"),
    ("small", "de", 1): ("6c4a7bd7b51f05b71789c586", "e41ac0f1025fc6a88a30d26d"),
    ("large", "fr", 0): ("d23bf5417117ea24ecc933a8", "5e8116ce1cf9ceb4278a3da6"),
}
"""Style, language, seed -> hash of pixels, hash of characters and their places."""

STYLES = {
    "default": ({}, 120),
    "plain": ({"plain": "yes"}, 120),
    "serif": ({"font": "DejaVu Serif"}, 120),
    "small": ({"font": "DejaVu Sans Mono", "size": "10"}, 120),
    "large": ({}, 448),
}


def digest(style, side, language, seed, count=60):
    """Hash of pixels, and of where the characters stand, of so many signs of a language."""
    pixels, places = hashlib.sha256(), hashlib.sha256()
    for index, sign in enumerate(signs("train", count)):
        drawn = render(sign.text(language), seed, index * 7, style, side, side)
        pixels.update(drawn.image.tobytes())
        places.update(repr([(c.text, round(c.x, 3), round(c.y, 3)) for c in drawn.characters]).encode())
    return pixels.hexdigest()[:24], places.hexdigest()[:24]


@pytest.mark.parametrize(("name", "language", "seed"), RECORDED)
def test_the_pixels_of_before(name, language, seed):
    versions = {key: features.version(key) for key in DRAWN_BY}
    if versions != DRAWN_BY:
        pytest.skip(f"recorded with {DRAWN_BY}, drawn with {versions}")
    style, side = STYLES[name]
    assert digest(style, side, language, seed) == RECORDED[name, language, seed]
