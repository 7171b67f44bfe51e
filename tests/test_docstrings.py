"""The examples in docstrings give what stands below them."""

import doctest
from importlib import import_module
from pathlib import Path

import neuroglot

SOURCE = Path(neuroglot.__file__).parent


def test_the_examples_in_docstrings_give_what_stands_below_them():
    failed, tried = {}, 0
    for file in sorted(SOURCE.rglob("*.py")):
        if ">>>" in file.read_text(encoding="utf-8"):
            name = ".".join(("neuroglot", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
            result = doctest.testmod(import_module(name))
            tried += result.attempted
            if result.failed:
                failed[name] = result.failed
    assert failed == {}
    assert tried
