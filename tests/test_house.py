"""The house: arrows between files point one way."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import neuroglot

HOUSE = Path(neuroglot.__file__).parent


def module(path):
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, modules):
    """The modules that a file takes names from, wherever it does; for annotations alone does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else node.module
        elif isinstance(node, ast.Import) and id(node) not in typing:
            yield from (alias.name for alias in node.names)


def test_no_files_import_each_other_in_a_circle():
    paths = {module(path): path for path in HOUSE.rglob("*.py")}
    graph = defaultdict(set)
    for name, path in paths.items():
        if path.name != "__init__.py":  # a package's face hands on what its files define
            graph[name] |= {found for found in imported(path, paths) if found in paths and found != name}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(f"a circle: {' <- '.join(error.args[1])}") from None
    assert "neuroglot.pipeline.run" in order  # it has seen the house


def test_no_module_hides_a_name_that_its_package_exports():
    """A package's attribute of a module's name becomes the module as soon as anybody imports that."""
    for face in HOUSE.rglob("__init__.py"):
        package = importlib.import_module(module(face))
        for path in face.parent.glob("*.py"):
            if path.stem in getattr(package, "__all__", ()):
                importlib.import_module(module(path))
                assert not isinstance(getattr(package, path.stem), ModuleType), f"{module(path)} hides the name"
