"""The format of files: written completely or not at all, with a name and a version, and a checksum.

Every JSON file, safetensors file and folder with a manifest carries its format, what it was made from, and a checksum
of its content. Reading verifies all of it, so that a truncated, altered, foreign or newer file is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.errors import UserError, refusing

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "neuroglot.json"
"""In a folder with a manifest: what it is, and the SHA-256 of every file that is loaded from it."""

_HEAD = "neuroglot"
"""The one key of a safetensors file's metadata: several would be written in another order each time."""


class NewerFileError(UserError):
    """A file of a version that this one cannot know."""


REMEMBERED = 64 * 2**20
"""Files from this size on are hashed once a process: nobody rewrites them within a tick of the file system's clock."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: what it holds, such as `profile`.
        version: counts up when its content changes its meaning.
        stage: the verb that makes it.
    """

    name: str
    version: int
    stage: str

    def __str__(self) -> str:
        return f"neuroglot-{self.name}-{self.version}"

    @property
    def again(self) -> str:
        """What to do about one that cannot be used."""
        return f"delete it and run the {self.stage} stage again"

    def check(self, result: Any, path: Path | str) -> None:
        """Compare with what a file says it is.

        Raises:
            UserError: it is of another kind, or of an older or a newer version.
        """
        if result == str(self):
            return
        known = re.fullmatch(rf"neuroglot-{self.name}-(\d+)", str(result))
        if known is None:
            raise UserError(f"{path} is no {self.name} file: format {result!r}, expected {str(self)!r}; {self.again}")
        reads = f"format {result!r}, this one reads {str(self)!r}"
        if int(known[1]) > self.version:
            raise NewerFileError(f"{path} was made by a newer neuroglot: {reads}; update neuroglot, or {self.again}")
        raise UserError(f"{path} was made by an older neuroglot: {reads}; {self.again}")

    @contextmanager
    def reading(self, path: Path | str) -> Iterator[None]:
        """Refuse a file by its name, whatever goes wrong while it is read in the block."""
        with refusing(lambda why: self.damaged(path, why)):
            try:
                yield
            except FileNotFoundError:
                raise self.missing(path) from None

    def damaged(self, path: Path | str, why: Any) -> UserError:
        """Return the error for a file that cannot be read as what it should be."""
        return UserError(f"{path} cannot be read as {self.name}: {' '.join(str(why).split())}; {self.again}")

    def missing(self, path: Path | str) -> UserError:
        """Return the error for a file that is not there."""
        return UserError(f"{path} does not exist; run the {self.stage} stage first")


PROFILE = Format("profile", 3, "profile")
PROFILING = Format("profiling", 1, "profile")
LAYERS = Format("layers", 1, "probe")
MOVEMENT = Format("movement", 1, "probe")
SELECTION = Format("selection", 3, "select")
ADAPTER = Format("adapter", 1, "train")
MODEL = Format("model", 1, "train")
TRAINING = Format("training", 1, "train")
CHECKPOINT = Format("checkpoint", 1, "train")
SCORES = Format("scores", 2, "evaluate")
LOSSES = Format("losses", 1, "compare")
COMPARISON = Format("comparison", 2, "compare")
ABLATION = Format("ablation", 1, "sweep")
ANALYSIS = Format("analysis", 1, "analysis")


def given_path(path: Path | str, folder: Path | str = "") -> Path:
    """Return a path that a user gave, relative to a folder; `~` is the home folder, `~nobody` stays as it is.

    Raises:
        UserError: no file can have such a name.
    """
    text = os.path.join(folder, os.path.expanduser(path))
    if "\0" in text:
        raise UserError(f"path {text} holds a NUL character, which no file's name has")
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in text.split(os.sep)]
    if max(sizes) > 255 or sum(sizes) + len(sizes) > 4096:
        raise UserError(f"path {text} is too long; a name has at most 255 bytes, a path 4,096")
    return Path(text)


# ---- files that are there whole or not at all -------------------------------------------------------------------


def cache_folder(kind: str) -> Path:
    """Return the folder of what can be made again (`records`, `answers`, `smoke`).

    It lies in `NEUROGLOT_CACHE`, or else in `neuroglot` in the user's cache folder.
    """
    own = os.environ.get("NEUROGLOT_CACHE")
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(own) if own else users / "neuroglot") / kind


@contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, and put what was written there in its place at the end.

    After an exception `path` is unchanged, and there is no temporary file.
    """
    temporary = path.with_name(f".{path.name}.part")
    remove(temporary)
    try:
        yield temporary
        if path.is_dir() or temporary.is_dir():
            remove(path)
        temporary.replace(path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with fresh(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


# ---- JSON ---------------------------------------------------------------------------------------------------------


def with_checksum(kind: Format, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its format and a checksum over all of it."""
    # As it will be read back: NaN and infinity are null in JSON.
    whole = json.loads(json.dumps({"format": str(kind), **content}), parse_constant=lambda name: None)
    return {**whole, "checksum": _checksum(whole)}


def write_json(path: Path, kind: Format, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write a JSON object with its checksum, and return it."""
    whole = with_checksum(kind, content)
    write_text(path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return whole


def read_json(path: Path, kind: Format) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        UserError: the file is missing, damaged, or something else.
    """
    with refusing(lambda why: f"{path} is not valid JSON ({why}); {kind.again}"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise kind.missing(path) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected an object; {kind.again}")
    kind.check(content.get("format"), path)
    if content.get("checksum") != _checksum({k: v for k, v in content.items() if k != "checksum"}):
        raise kind.damaged(path, "its content does not match its checksum")
    return content


def _checksum(content: Mapping[str, Any], digest: Any = None) -> str:
    digest = hashlib.sha256() if digest is None else digest
    digest.update(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
    return str(digest.hexdigest())


# ---- safetensors --------------------------------------------------------------------------------------------------


def save_tensors(path: Path | str, kind: Format, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
    """Write tensors and what is known about them; the same content always makes the same bytes."""
    from safetensors.torch import save_file

    whole = {"format": str(kind), **head}
    whole["checksum"] = _checksum(whole, _hash(tensors))
    save_file(dict(tensors), str(path), metadata={_HEAD: json.dumps(whole, sort_keys=True)})


def load_tensors(path: Path | str, kind: Format) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: tensors and head.

    Raises:
        UserError: the file is missing, damaged, or something else.
    """
    from safetensors import safe_open

    with kind.reading(path), safe_open(str(path), framework="pt") as file:
        meta = file.metadata() or {}
        head = json.loads(meta[_HEAD]) if _HEAD in meta else {"format": meta.get("format")}
        kind.check(head.get("format"), path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        if head.pop("checksum", None) != _checksum(head, _hash(tensors)):
            raise kind.damaged(path, "its content does not match its checksum")
    return tensors, head


def kind_of(path: Path | str) -> str:
    """Return the name of the format that a safetensors file says it has, such as `profile`.

    Raises:
        UserError: the file is missing, or none of ours.
    """
    from safetensors import safe_open

    said = f"{path} is no file of neuroglot; expected a selection or a profile, or a run's folder"
    with refusing(lambda why: said), safe_open(str(path), framework="pt") as file:
        name = re.fullmatch(r"neuroglot-(\w+)-\d+", json.loads((file.metadata() or {})[_HEAD])["format"])
    if name is None:
        raise UserError(said)
    return name[1]


def _hash(tensors: Mapping[str, Tensor]) -> Any:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest


# ---- folders ------------------------------------------------------------------------------------------------------


def digests(path: Path) -> Any:
    """Return the SHA-256 of a file, or name -> that of what a folder holds, hidden files left out."""
    if path.is_dir():
        return {p.name: digests(p) for p in sorted(path.iterdir()) if not p.name.startswith(".")}
    status = path.stat()
    if status.st_size < REMEMBERED:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed: int, node: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, kind: Format, facts: Mapping[str, Any]) -> None:
    """Put a manifest into a folder: facts, and the SHA-256 of every file except the card that people edit."""
    files = {name: result for name, result in digests(folder).items() if name not in (MANIFEST, "README.md")}
    write_json(folder / MANIFEST, kind, {**facts, "files": files})


def read_manifest(folder: Path, kind: Format) -> dict[str, Any]:
    """Verify a folder by its manifest and return that.

    Raises:
        UserError: there is no manifest, it is of another kind or version, or a file is missing or was changed.
    """
    manifest = read_json(folder / MANIFEST, kind)
    result = digests(folder)
    if not isinstance(manifest.get("files"), dict):
        raise kind.damaged(folder / MANIFEST, "it does not list the files")
    for name, wanted in manifest["files"].items():
        if result.get(name) != wanted:
            what = "is missing" if name not in result else "is damaged or was changed since"
            raise UserError(f"{folder / name} {what}: {folder / MANIFEST} says otherwise; {kind.again}")
    return manifest
