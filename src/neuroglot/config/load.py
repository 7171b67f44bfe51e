"""Reading recipes: the shipped ones beside this file, or any YAML file, with `key=value` overrides on top."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroglot.config.recipe import Recipe, check
from neuroglot.config.smoke import corpus_in
from neuroglot.config.strict_yaml import read_yaml
from neuroglot.config.systems import anchor as anchor_systems
from neuroglot.errors import UserError, nearest
from neuroglot.file_format import given_path

DATA = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of data files."""
SMOKE: dict[str, Any] = {
    "data.train": 24, "data.dev": 4, "data.test": 3, "data.heldout": 2, "data.retention": 2,
    "profile.items": 4, "profile.batch_size": 4, "probe.steps": 2, "probe.items": 2, "probe.batch_size": 4,
    "train.steps": 4, "train.batch_size": 4, "train.save_steps": 2, "train.log_steps": 1,
    "evaluate.max_new_tokens": 8, "evaluate.retention_items": 2, "evaluate.items": 2,
    "report.gallery": 3,
    "classic.steps": 4, "classic.eval_steps": 2, "classic.batch_size": 4, "classic.width": 32,
}  # fmt: skip
"""What `--scale smoke` makes of any recipe: every stage runs, nothing is learned."""
SMOKE_SWEEP = {"seeds": 1, "rates": [1e-3]}
"""And of what is swept, where something is."""


def shipped() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    return {p.stem: p for p in sorted(Path(__file__).parent.with_name("recipes").glob("*.yaml"))}


def load_recipe(source: str | Path, overrides: Sequence[str] | None = None, scale: str = "full") -> Recipe:
    """Read a recipe.

    Paths in a file are relative to it, those in overrides and in shipped recipes to the working folder.

    Args:
        source: a YAML file, or the name of a shipped recipe.
        overrides: `key.path=value` texts; values are read as YAML.
        scale: `full`, or `smoke` to shrink every size.

    Raises:
        UserError: no such file, not YAML, an unknown key (with the nearest names) or a wrong value (with its path).
    """
    path = given_path(source)
    if not path.is_file():
        path = shipped().get(str(source), path)
    if is_data(str(source)):
        raise UserError(
            f"{source} is data, not a recipe; write a recipe with: neuroglot init --data {shlex.quote(str(source))}"
        )
    if not path.is_file():
        hint = nearest(str(source), shipped())
        raise UserError(f"recipe {source} does not exist; give a YAML file or the name of a shipped recipe; {hint}")
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {source} is not YAML: {error}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"recipe {source} must be a mapping of sections, got {type(tree).__name__}")
    if scale not in ("full", "smoke"):
        raise UserError(f"scale must be full or smoke, got {scale!r}")
    smoke = tree.pop("smoke", None)
    _anchor(tree, Path.cwd() if path in shipped().values() else path.parent)
    if scale == "smoke":
        _shrink(tree, smoke, str(source))
    if scale == "smoke" and isinstance(tree.get("sweep"), dict):
        tree["sweep"] = {**tree["sweep"], **SMOKE_SWEEP}
    _override(tree, overrides)
    _anchor(tree, Path.cwd())
    return check(tree, f"recipe {source}")


def is_data(source: str) -> bool:
    """Whether what a user names is data, and no recipe."""
    path = given_path(source)
    if path.is_file() or source not in shipped():
        return source.startswith("hf:") or path.is_dir() or path.suffix.lower() in DATA
    return False


def data_recipe(source: str, overrides: Sequence[str] | None = None) -> Recipe:
    """Return the recipe of data without one, of which all but the data section says nothing.

    Args:
        source: a file, a folder, or `hf:owner/name`.
        overrides: as of `load_recipe`.

    Raises:
        UserError: an override is wrong.
    """
    tree: dict[str, Any] = {"data": {"source": source}}
    _override(tree, overrides)
    _anchor(tree, Path.cwd())
    return check(tree, source)


def _override(tree: dict[str, Any], overrides: Sequence[str] | None) -> None:
    for override in overrides or []:
        key, result, text = override.partition("=")
        if not result or not all(key.split(".")):
            raise UserError(f"override {override!r} is malformed; expected key.path=value such as train.steps=50")
        try:
            value = read_yaml(text)
        except UserError as error:
            raise UserError(f"override {override!r}: the value is not YAML: {error}") from None
        _put(tree, key, value)


def _shrink(tree: dict[str, Any], smoke: Any, source: str) -> None:
    """Make a recipe small: every size, and what its own `smoke` section says.

    That section is `key.path: value` like overrides; `layout` in it has a little corpus made in that layout, which
    takes the place of `data.source`.
    """
    if smoke is not None and not isinstance(smoke, dict):
        raise UserError(
            f"recipe {source}: smoke must be a section of keys such as model.path: embedded, got {smoke!r}"
        )
    for key, value in {**SMOKE, **(smoke or {})}.items():
        if key == "layout":
            _put(tree, "data.source", str(corpus_in(str(value))))
        else:
            _put(tree, str(key), value)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise UserError(f"{key}: {parent} is a value, not a section")
    tree[last] = value


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Make the paths in a recipe absolute; a model's name is a path if it looks like one or a folder is there."""
    scored = tree.get("evaluate")
    if isinstance(scored, dict) and isinstance(scored.get("retention"), list | str):
        files = scored["retention"] if isinstance(scored["retention"], list) else [scored["retention"]]
        places = [str(given_path(f, folder).resolve()) if isinstance(f, str) else f for f in files]
        tree["evaluate"] = {**scored, "retention": places}
    named = (("data", "source", ("signs", "scenes")), ("data", "images", ("",)), ("data", "root", ("",)),
             ("model", "path", ("embedded",)), ("select", "file", ()))  # fmt: skip
    for section, key, names in named:
        inside = tree.get(section)
        if not isinstance(inside, dict) or not isinstance(inside.get(key), str) or inside[key] in names:
            continue
        if section == "data" and inside[key].startswith("hf:"):
            continue
        position = given_path(inside[key], folder)
        if section != "model" or inside[key].startswith((".", "~")) or position.is_dir():
            tree[section] = {**inside, key: str(position.resolve())}
    data = tree.get("data")
    if isinstance(data, dict) and isinstance(data.get("render"), dict):
        photographs = given_path(str(data["render"].get("background", "")), folder)
        if "background" in data["render"] and photographs.is_dir():
            render = {**data["render"], "background": str(photographs.resolve())}
            tree["data"] = {**data, "render": render}
    if tree.get("systems") is not None:
        tree["systems"] = anchor_systems(tree["systems"], folder)
