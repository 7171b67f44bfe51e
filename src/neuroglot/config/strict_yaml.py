"""YAML as people expect it: what would be read as something else than it looks like is text, or refused.

Plain values are those of YAML 1.2's core schema: `yes`, `no` (Norwegian), `12:30`, `2024-01-01` and `0x1f` are texts,
`010` is ten and `1e-3` a number. A key that stands twice, anchors and aliases (a short text can stand for gigabytes),
numbers of thousands of digits and endless nesting are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from neuroglot.errors import UserError

DEEPEST = 20
"""Sections within sections, at most."""
LARGEST = 2**63
"""No whole number is larger than a machine's."""

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Loader(_PARSER):
    """Builds values of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys differ."""
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(result) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), keys[0])
            raise UserError(f"key {twice!r} stands twice{_place(node.start_mark)}; a section names a key once")
        return result

    def construct_yaml_int(self, node: Any) -> int:
        """Return a whole number, in decimal digits."""
        if len(node.value) > 20 or not -LARGEST <= int(node.value) < LARGEST:
            raise UserError(f"the number {node.value:.30}{_place(node.start_mark)} is too large")
        return int(node.value)


for _tag, _pattern, _first in (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", re.compile(r"[-+]?\d+"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes texts that either version of YAML would read as numbers in quotation marks."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", _Loader.yaml_implicit_resolvers["0"][-1][1], list("-+.0123456789")
)


def read_yaml(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        UserError: it is not YAML, or holds what is refused here.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_PARSER):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise UserError(f"anchors (&) and aliases (*) are not read{_place(event.start_mark)}; write it out")
            opens, closes = isinstance(event, yaml.CollectionStartEvent), isinstance(event, yaml.CollectionEndEvent)
            depth += opens - closes
            if depth > DEEPEST:
                raise UserError(f"more than {DEEPEST} sections or lists within each other{_place(event.start_mark)}")
        return yaml.load(text, Loader=_Loader)
    except UserError:
        raise
    except Exception as error:  # of its parser and constructors
        raise UserError(" ".join(str(error).replace(' in "<unicode string>",', "").split())) from None


def write_yaml(value: Any) -> str:
    """Return a value as YAML that `read_yaml` reads as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _place(mark: Any) -> str:
    return f" in line {mark.line + 1}, column {mark.column + 1}"
