"""Finding the file that an image path means, as other systems, programs and people write paths."""

from __future__ import annotations

import difflib
import os
import unicodedata
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from neuroglot.errors import UserError

SEARCHED = 2000
"""Most names in a folder for which similar names are searched."""


def located(path: Path) -> Path:
    """Return the file that a path means.

    A file of exactly that name comes first. Otherwise backslashes count as slashes, `%20` as a space, letters with
    accents may be one character or two (NFC and NFD), and white space at the ends is ignored.

    Raises:
        UserError: there is no file; the message suggests a similar name, for example of other case.
    """
    if os.path.isfile(path):
        return path
    file, likely = _meant(path)
    if file is not None and os.path.isfile(file):
        return file
    hint = f"; did you mean {shortened(likely)}?" if likely is not None else ""
    try:
        os.stat(path)
        what = "is no file"
    except (FileNotFoundError, NotADirectoryError):
        what = "does not exist"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"image {shortened(path)} cannot be read: {reason}; expected the path of an image") from None
    raise UserError(f"image {shortened(path)} {what}{hint}; paths are taken relative to the data file")


def meant(path: Path) -> Path:
    """Return the path of the file that `located` would find, or the plain spelling if nothing exists."""
    return path if os.path.lexists(path) else _meant(path)[0] or Path(plain(path))


def plain(path: Path) -> str:
    """Return one spelling for all paths that `located` treats as the same."""
    return _plain(_spellings(path)[-1])


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether the file that a path means lies in a folder, after resolving `..` and symbolic links."""
    try:
        return Path(os.path.realpath(meant(path))).is_relative_to(os.path.realpath(folder))
    except ValueError:  # a name that no file can have
        return False


def stamp(path: Path) -> tuple[int, int] | None:
    """Return size in bytes and time of change in nanoseconds of the file that a path means; None without one."""
    for candidate in (lambda: path, lambda: meant(path)):
        with suppress(OSError, ValueError):
            status = candidate().stat()
            return status.st_size, status.st_mtime_ns
    return None


def shortened(name: object) -> str:
    """Return a name short enough for a message: a field for a path may contain image data by mistake."""
    text = str(name)
    return text if len(text) <= 200 else f"{text[:80]}...{text[-40:]} ({len(text):,} characters)"


def _spellings(path: Path) -> list[str]:
    slashed = os.path.normpath(str(path).replace("\\", "/"))
    return list(dict.fromkeys([str(path), slashed, os.path.normpath(unquote(slashed))]))


def _meant(path: Path) -> tuple[Path | None, Path | None]:
    """Return the existing path with another spelling, otherwise an existing path with a similar name."""
    likely = None
    for text in _spellings(path):
        here = Path()
        for part in Path(text).parts:
            if os.path.lexists(here / part):
                here /= part
                continue
            same, similar = _alike(here, part)
            if same is None:
                likely = likely or (here / similar if similar is not None else None)
                break
            here /= same
        else:
            return here, None
    return None, likely


def _alike(folder: Path, name: str) -> tuple[str | None, str | None]:
    """Return the name in a folder that is the same text, and one that is similar."""
    try:
        known = _names(str(folder), os.stat(folder).st_mtime_ns)
    except (OSError, ValueError):
        return None, None
    wanted = _plain(name)
    folded = known.get(wanted.casefold(), ())
    same = next((other for other in folded if _plain(other) == wanted), None)
    if folded or len(known) > SEARCHED:
        return same, next(iter(folded), None)
    numbered = [other for other in known if _digits(other) == _digits(wanted)]  # 7.png is not meant by 8.png
    close = difflib.get_close_matches(wanted.casefold(), numbered, n=1, cutoff=0.8)
    return None, known[close[0]][0] if close else None


@lru_cache(maxsize=16)
def _names(folder: str, changed: int) -> dict[str, list[str]]:
    """Return the names in a folder by their text in lower case; cached, for data sets with many missing images."""
    known: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        known.setdefault(_plain(name).casefold(), []).append(name)
    return known


def _digits(name: str) -> str:
    return "".join(c for c in name if c.isdigit())


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()
