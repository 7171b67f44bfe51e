"""The lock fits what pyproject.toml asks for, and README names its versions."""

import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked(file, python="3.11"):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(here)
    }


def direct():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    asked = [Requirement(text) for texts in lists for text in texts]
    return [requirement for requirement in asked if requirement.name != "neuroglot"]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_every_direct_dependency_is_locked_within_its_range(file, python):
    pins = locked(file, python)
    wrong = {
        str(asked): pins.get(canonicalize_name(asked.name))
        for asked in direct()
        if not asked.specifier.contains(pins.get(canonicalize_name(asked.name), "0"))
    }
    assert wrong == {}


def test_the_oldest_lock_is_at_the_lower_bounds():
    """A bound that no set of packages reaches is not a bound. torch is held; see the Makefile."""
    pins = locked("constraints-oldest.txt")
    above = {}
    for asked in direct():
        lower = [spec.version for spec in asked.specifier if spec.operator == ">="]
        pin = pins[canonicalize_name(asked.name)]
        if asked.name != "torch" and lower and not (pin + ".").startswith(lower[0] + "."):
            above[asked.name] = (lower[0], pin)
    assert above == {}


def test_readme_states_the_locked_versions():
    pins, readme = locked("constraints.txt"), " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"Tested with torch {pins['torch']}, transformers {pins['transformers']}, PEFT {pins['peft']} and the other "
        "versions of `constraints.txt`"
    ) in readme
