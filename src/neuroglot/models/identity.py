"""What identifies a model: so that what was found with one is not taken for another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuroglot.artefact import digests
from neuroglot.models.load import resolve

WHOLE_FILE = 256 * 2**20
"""Files of a model up to this size are identified by their content, larger ones by size and time."""


def model_identity(model: str) -> Any:
    """Return what identifies a model: by content what is small, so that it is itself wherever it is installed."""
    place = Path(resolve(model))
    if not place.is_dir():
        return str(place)
    kinds = (".json", ".jinja", ".safetensors", ".py")
    return {p.name: _identity(p) for p in sorted(place.iterdir()) if p.suffix in kinds}


def _identity(path: Path) -> Any:
    status = path.stat()
    if status.st_size > WHOLE_FILE:
        return [str(path), status.st_size, status.st_mtime_ns]
    return digests(path)
