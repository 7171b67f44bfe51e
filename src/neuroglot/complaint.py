"""What pydantic finds wrong with a tree of settings, said to people."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from neuroglot.errors import nearest

_SHAPES = {
    "tuple_type": "must be a list, such as [a, b]",
    "model_type": "must be a section of keys",
    "dict_type": "must be a section of keys",
}


def complaint(model: type[BaseModel], error: ValidationError, tree: dict[str, Any]) -> str:
    """Return in one line what is wrong first, with its path, what was got and what would do.

    Args:
        model: what the tree should have been.
        error: what pydantic says.
        tree: what was given.
    """
    errors = error.errors()
    # Of a field that may be one of two things, the deepest complaint is about the one that was meant.
    first = max((e for e in errors if e["loc"][:2] == errors[0]["loc"][:2]), key=lambda e: len(e["loc"]))
    value: Any = tree
    keys: list[str] = []
    for key in first["loc"]:  # pydantic's path also names the alternatives of a type
        if isinstance(value, dict | list) and (key in value if isinstance(value, dict) else isinstance(key, int)):
            value = value[key]  # type: ignore[index]
            keys.append(str(key))
    place = ".".join(keys)
    if first["type"] == "extra_forbidden":
        section: Any = model
        for parent in keys[:-1]:
            section = section.model_fields[parent].annotation
        return f"unknown key {place}; {nearest(keys[-1], section.model_fields)}"
    message = _SHAPES.get(first["type"]) or first["msg"].replace("Input should be", "must be")
    if first["type"] == "value_error":  # one of ours, which says what it got
        message = message.removeprefix("Value error, ")
    else:
        message += f", got {first['input']!r}"
    return f"{place}: {message}" if place else message
