"""What pydantic finds wrong with a tree of settings, said to people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from neuroglot.errors import nearest

_SHAPES = {
    "tuple_type": "a list, such as [a, b]",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "dict_type": "a section of keys",
}


def error_message(model: type[BaseModel], error: ValidationError, tree: dict[str, Any], section: str = "") -> str:
    """Return in one line what is wrong first, with its path, what was got and what would do.

    Args:
        model: what the tree should have been.
        error: what pydantic says.
        tree: what was given.
        section: the path of the tree itself.
    """
    errors = error.errors()
    field = 1 if section else 2
    of_field = [e for e in errors if e["loc"][:field] == errors[0]["loc"][:field]]
    # Of a field that may be one of two things, the deepest error is about the one that was meant.
    first = max(of_field, key=lambda e: len(e["loc"]))
    value: Any = tree
    keys = [section] if section else []
    for key in first["loc"]:  # pydantic's path also names the alternatives of a type
        if key in value if isinstance(value, dict) else isinstance(value, list | tuple) and isinstance(key, int):
            value = value[key]
            keys.append(str(key))
    position = ".".join(keys)
    if first["type"] == "extra_forbidden":
        known = _bare(_annotation(model, first["loc"][:-1])).model_fields
        return f"unknown key {position}; {nearest(keys[-1], known)}"
    if first["type"] == "missing":
        return f"{'.'.join([*keys, str(first['loc'][-1])])} is missing; it has no default"
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [member.model_fields["kind"].default for member in _members(_annotation(model, first["loc"]))]
        result = first.get("ctx", {}).get("tag")
        return f"{position}: {'a kind is missing' if result is None else f'kind {result!r} is not known'}; " + (
            nearest(str(result), kinds)
        )
    if first["type"] == "value_error":  # one of ours, which says what it got
        message = first["msg"].removeprefix("Value error, ")
    else:
        alike = [e for e in of_field if e["input"] is first["input"]]  # one error for each kind of value that would do
        alike = [e for e in alike if e["type"].endswith("_than") or e["type"].endswith("_equal")] or alike  # that kind
        wanted = dict.fromkeys(_wanted(e) if len(alike) == 1 else _wanted(e).partition(", unable")[0] for e in alike)
        message = f"must be {' or '.join(wanted)}, got {first['input']!r}"
    return f"{position}: {message}" if position else message


def _wanted(error: ErrorDetails) -> str:
    """Return what would do in a value's place."""
    return _SHAPES.get(error["type"]) or re.sub("^Input should( be)? ", "", error["msg"])


def _annotation(model: Any, location: Sequence[Any]) -> Any:
    """Return the type at a place of a tree, by pydantic's path to it."""
    for step in location:
        model = _inside(model, step)
    return model


def _inside(kind: Any, step: Any) -> Any:
    """Return the type one step into another: a field's, a value's, or the one of several sections of a kind."""
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields[step].annotation
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return next(member for member in _members(kind) if member.model_fields["kind"].default == step)


def _members(kind: Any) -> Sequence[Any]:
    """Return the sections of which a value may be any, told apart by their kind."""
    return get_args(_bare(kind))


def _bare(kind: Any) -> Any:
    """Return a type without what is annotated to it; of one that may be None, what else it is."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    others = [member for member in get_args(kind) if member is not type(None)]
    return others[0] if len(others) == 1 and len(get_args(kind)) == 2 else kind
