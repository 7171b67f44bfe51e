"""What tells items, images and texts apart: 64 bits of each."""

from __future__ import annotations

import hashlib
import os
import sys
import unicodedata
from functools import cache
from pathlib import Path

from neuroglot.data.example import Example, ImageSource
from neuroglot.data.paths import plain


def hashed(raw: bytes) -> int:
    """Return 64 bits of a hash: two of a million differ in what they hash with a chance of 3 in 10^8."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def hash_text(text: str) -> int:
    """Return 64 bits of a text's hash."""
    return hashed(text.encode("utf-8", "surrogatepass"))


def image_key(image: ImageSource) -> int:
    """Return what tells an image from others without opening it: of a file its path, of bytes what they are."""
    if isinstance(image, bytes):
        return hashed(image)
    return hash_text(os.path.abspath(plain(image)) if isinstance(image, Path) else repr(image))


def text_key(example: Example) -> int:
    """Return what tells an example's text in its source language from others; 0 where it has none.

    It is what is translated, however it is shown and spelled: text, or read off an image, whose reference it is then.
    """
    text = example.target if example.task == "ocr" else example.source
    return hash_text(f"{example.source_lang}|{normalised(text)}") if text and text.strip() else 0


@cache
def _punctuation() -> dict[int, str]:
    return {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "P"}


def normalised(text: str) -> str:
    """Return a text without what does not make it another one: case, spacing, punctuation, compatibility forms.

    Examples:
        >>> normalised("  Open  daily!")
        'open daily'
    """
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
    words = " ".join(folded.casefold().translate(_punctuation()).split())
    return words or text.strip()
