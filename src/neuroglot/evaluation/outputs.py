"""Files that hold what a system said: text with a line a segment, or JSONL with an object a segment.

Notable: a text file is split at line feeds and nowhere else, so that a segment with a form feed or a Unicode line
separator in it stays one segment, as for sacreBLEU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neuroglot.errors import UserError
from neuroglot.pair import Pair

FIELDS = {"hypothesis": str, "reference": str, "references": list, "source": str, "pair": str, "system": str,
          "split": str, "item": str, "index": int, "nll": float, "tokens": int}  # fmt: skip
"""What is read of an object, and its type; anything else stays unread, except lists of alternatives."""
LISTS = ("alternative_nll", "alternative_tokens")


def read_texts(path: Path | str) -> list[str]:
    """Return the lines of a text file; a system that said nothing is a file of empty lines.

    Raises:
        UserError: it is missing, empty or not UTF-8; the message says where.
    """
    raw = _bytes(Path(path))
    result = []
    lines = raw.split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, start=1):
        result.append(_decoded(line, path, number).removesuffix("\r"))
    return result


def read_outputs(path: Path | str, field: str = "hypothesis") -> list[dict[str, Any]]:
    """Return a row per segment: of JSONL its objects, of text `{"hypothesis": line}`.

    Objects are what `hypotheses.jsonl` of a run holds, or any with `hypothesis` and perhaps `reference`, `references`
    (a list of which any will do), `source`, `pair`, `item`, `system`, `split`, `index`, `nll`.

    Args:
        path: the file; JSONL if it is called `.jsonl` or `.json`.
        field: what every object must have.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a line is not such an object.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".json"):
        return [{field: text} for text in read_texts(path)]
    rows = []
    for number, line in enumerate(_bytes(path).split(b"\n"), start=1):
        text = _decoded(line, path, number).strip()
        if text:
            rows.append(_row(text, field, path, number))
    if not rows:
        raise UserError(f"{path} holds no segments; expected one JSON object a line")
    return rows


def _row(text: str, field: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} line {number} is not JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{path} line {number} holds a {type(row).__name__}, expected an object")
    if field == "reference" and row.get(field) is None and row.get("references"):
        row[field] = row["references"][0] if isinstance(row["references"], list) else None
    if field in row and row[field] is None:
        raise UserError(f'{path} line {number}: {field} is null, expected a text; give "" where nothing was said')
    if field not in row:
        raise UserError(f"{path} line {number} has no field {field}; it has {', '.join(sorted(row)) or 'none'}")
    for name, kind in FIELDS.items():
        wanted = (int, float) if kind is float else kind
        if row.get(name) is not None and (not isinstance(row[name], wanted) or isinstance(row[name], bool)):
            raise UserError(f"{path} line {number}: {name} must be a {_word(kind)}, got {row[name]!r}")
    several = row.get("references")
    if several is not None and not (several and all(isinstance(text, str) for text in several)):
        raise UserError(f"{path} line {number}: references must be a list of texts, got {several!r}")
    wrong = _wrong_numbers(row)
    if wrong:
        raise UserError(f"{path} line {number}: {wrong}")
    if row.get("pair") is not None:
        try:
            row["pair"] = str(Pair.parse(row["pair"]))
        except UserError as error:
            raise UserError(f"{path} line {number}: {error}") from None
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; half surrogate pairs, which no figure can take, become replacement characters.

    Raises:
        ValueError: a key occurs twice, and nobody knows which is meant.
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return {name: _whole(value) for name, value in result.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(text) if isinstance(text, str) else text for text in value]
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


LARGEST = 1e30
"""Nats of a text at most: sums and squares of larger numbers would overflow."""


def _wrong_numbers(row: dict[str, Any]) -> str:
    """Return what is wrong with an object's nats and counts of tokens; nothing if they can be scored."""
    nats, counts = (row.get(name) or [] for name in LISTS)
    if not isinstance(nats, list) or not all(nat is None or _is_number(nat) for nat in nats):
        return f"{LISTS[0]} must be a list of numbers, got {row[LISTS[0]]!r}"
    if row.get("nll") is not None and not _is_number(row["nll"]):
        return f"nll must be a finite number, got {row['nll']!r}; give null where it is not known"
    if not isinstance(counts, list) or not all(_is_count(count) for count in counts):
        return f"{LISTS[1]} must be a list of whole numbers above 0, got {row[LISTS[1]]!r}"
    if row.get("tokens") is not None and not _is_count(row["tokens"]):
        return f"tokens must be a whole number above 0, got {row['tokens']!r}"
    if nats and counts and len(nats) != len(counts):
        return f"{LISTS[0]} has {len(nats)} numbers and {LISTS[1]} {len(counts)}; expected one each for every reading"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _word(kind: type) -> str:
    return {str: "text", int: "whole number", float: "number", list: "list"}[kind]


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; expected a file with a segment a line") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not raw:
        raise UserError(f"{path} is empty; expected a segment a line")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16; save the file as UTF-8")
    if b"\r" in raw and b"\n" not in raw:
        raise UserError(f"{path} ends its lines with carriage returns alone; save the file with line feeds")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _decoded(line: bytes, path: Path | str, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} line {number} is not UTF-8 (byte {error.start}); save the file as UTF-8") from None
