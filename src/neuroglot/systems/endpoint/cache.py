"""Answers on disk: what was paid for once is not asked again, by this run or by any other.

One file an answer, named by the hash of the request, put in its place whole: a run can be killed at any moment, and
several may share a folder. The images of a request are kept as their hashes, the key never.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from neuroglot.errors import UserError


def default_folder() -> Path:
    """Return where answers are kept if the recipe does not say: in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "neuroglot" / "answers"


def key_of(request: Mapping[str, Any]) -> str:
    """Return what an answer is filed under: the same request always has the same."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class AnswerCache:
    """A folder of answers.

    Args:
        folder: made when the first answer is put there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the answer to a request; None if there is none, or its file is damaged."""
        try:
            kept = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        answer = kept.get("answer") if isinstance(kept, dict) else None
        return answer if isinstance(answer, dict) else None

    def put(self, key: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep an answer.

        Raises:
            UserError: it cannot be written.
        """
        path = self._path(key)
        kept = {"request": _without_images(request), "answer": answer}
        text = json.dumps(kept, ensure_ascii=False, allow_nan=False, indent=1)
        if text.encode("utf-8", "replace").decode() != text:  # half a surrogate pair: escaped, as it came
            text = json.dumps(kept, allow_nan=False, indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A name of its own: two processes may put the same answer at the same time.
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:8]}", suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                    file.write(text + "\n")
                os.replace(name, path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name)
        except OSError as error:
            raise UserError(
                f"answers cannot be kept in {self.folder}: {error.strerror}; set cache to another"
            ) from None

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _without_images(value: Any) -> Any:
    """Return a request with each data URL put short, as its hash."""
    if isinstance(value, Mapping):
        return {name: _without_images(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_images(inner) for inner in value]
    if isinstance(value, str) and value.startswith("data:"):
        return f"{value.partition(',')[0]},sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return value
