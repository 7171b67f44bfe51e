"""Damaged and forged profiles, selections and adapters: each is read, or refused in one line.

Half of the inputs are bytes or headers changed at random. In the other half what a file says is changed and its
checksum is right again, so that the change is met by whoever reads the content.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import fuzz
from safetensors.torch import load_file, save

from neuroglot.file_format import (
    ADAPTER,
    MANIFEST,
    PROFILE,
    SELECTION,
    Format,
    load_tensors,
    save_tensors,
    write_manifest,
)
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.pair import Condition, Pair
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig
from neuroglot.tuner.adapter import CONFIG, WEIGHTS, Adapter, Units

DEEP = "[" * 3000 + "]" * 3000
VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**40, 10**30, 0.5, float("nan"), "", "x", "en-de", "a\nb\x1b[2J", "\ud83d", [], {}, [1],
    ["x"], [[]], {"a": 1}, {"x": {"y": [None]}}, [None] * 100, "F64", "I64", "BOOL", "F8_E4M3", [0, 0], [0, 2**62],
]  # fmt: skip


def profile() -> Profile:
    layers = (Layer("a.up", "language", 4, 3, True), Layer("b.down", "vision", 2, 5, False, 1))
    conditions = tuple(Condition("image_translation", Pair("en", target)) for target in ("de", "fr"))

    def sums() -> dict[str, torch.Tensor]:
        return {x.name: torch.rand(2, 1, 1, x.neurons, dtype=torch.float64) for x in layers}

    counts, items = torch.full((2, 1), 3), {"image_translation": torch.tensor([2])}
    blocks = {"image_translation": {x.name: torch.rand(1, 1, x.neurons, dtype=torch.float64) for x in layers}}
    return Profile("m", "f", layers, conditions, ("gradient",), ("all",), counts, sums(), sums(), sums(), sums(),
                   blocks, items, {"weight": {x.name: torch.rand(x.neurons) for x in layers}})  # fmt: skip


def selection() -> Selection:
    both = frozenset({"en-de", "en-fr"})
    rows = {"a.up": {both: torch.tensor([0, 2]), frozenset({"en-de"}): torch.tensor([3])},
            "b.down": {both: torch.tensor([1])}}  # fmt: skip
    return Selection(("en-de", "en-fr"), rows, {"method": "mnaft", "neurons": {"vision": 2}}, {"b.down": 1})


def adapter() -> Adapter:
    layout = {"a.up": {"en-de": 1, "en-de,en-fr": 2}}
    config = NeuroglotConfig(pairs=["en-de", "en-fr"], layout=layout, base_model_name_or_path="m")
    units = {group: Units(torch.arange(k, dtype=torch.int32), (torch.rand(k, 3),), torch.rand(k))
             for group, k in layout["a.up"].items()}  # fmt: skip
    return Adapter(config, {"a.up": units})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with one of each."""
    folder = tmp_path_factory.mktemp("whole")
    profile().save(folder / "profile.safetensors")
    selection().save(folder / "selection.safetensors")
    adapter().save(folder / "adapter")
    return folder


def replaced(draw: random.Random, tree: Any) -> Any:
    """Return a JSON value of which one place, anywhere in it, is another, missing or twice as deep."""
    if isinstance(tree, dict) and tree and draw.random() < 0.9:
        key = draw.choice(list(tree))
        rest = {k: v for k, v in tree.items() if k != key}
        return rest if draw.random() < 0.15 else {**rest, draw.choice((key, key, key, "x")): replaced(draw, tree[key])}
    if isinstance(tree, list) and tree and draw.random() < 0.8:
        place = draw.randrange(len(tree))
        return [*tree[:place], replaced(draw, tree[place]), *tree[place + draw.choice((0, 1)) :]]
    return draw.choice(VALUES)


def scrambled(draw: random.Random, data: bytes) -> bytes:
    """Return bytes with a few of them changed, cut off or put in."""
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(data) + 1) if draw.random() < 0.5 else draw.randrange(min(len(data), 400) + 1)
        new = bytes(draw.choices(range(256), k=draw.choice((0, 1, 1, 4))))
        data = data[:place] + new + data[place + draw.choice((0, 1, 1, 30)) :]
    return data[: draw.randrange(len(data) + 1)] if draw.random() < 0.1 else data


def header(draw: random.Random, data: bytes) -> bytes:
    """Return a safetensors file with another header."""
    size = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + size])
    kind = draw.choice(("tensors", "tensors", "head", "deep", "metadata"))
    if kind == "tensors":
        tree = replaced(draw, tree)
    elif kind == "head" and "neuroglot" in tree.get("__metadata__", {}):
        tree["__metadata__"]["neuroglot"] = json.dumps(replaced(draw, json.loads(tree["__metadata__"]["neuroglot"])))
    elif kind == "deep":
        tree["__metadata__"] = {"neuroglot": draw.choice((DEEP, DEEP[:3000], "9" * 5000, '{"format": ' + DEEP + "}"))}
    else:
        tree["__metadata__"] = draw.choice(VALUES)
    text = json.dumps(tree).encode()
    return struct.pack("<Q", draw.choice((len(text), len(text), len(text), 0, 2**63))) + text + data[8 + size :]


def changed(draw: random.Random, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors of which one has another name, shape, type or values, or is not there."""
    name = draw.choice(list(tensors))
    value, rest = tensors[name], {k: v for k, v in tensors.items() if k != name}
    new = draw.choice((
        value.double(), value.to(torch.bool), value[:0], value[None], value.flatten(), torch.tensor(3), value.half(),
        torch.cat([value, value]), value.to(torch.int64) - 5, value.float() * float("nan"), torch.empty(0, 3),
    ))  # fmt: skip
    other = draw.choice((name, name, name, f"{name}x", name.replace("|", "/"), "|", ""))
    return rest if draw.random() < 0.15 else {**rest, other: new.contiguous().clone()}


def forged(draw: random.Random, file: Path, kind: Format, tensors: dict[str, torch.Tensor], head: Any) -> bytes:
    """Return a file of ours that says something else and has the right checksum."""
    if draw.random() < 0.6:
        head = replaced(draw, head)
    if draw.random() < 0.6 or not isinstance(head, dict):
        tensors = changed(draw, tensors)
    out = file.parent / "forged.safetensors"
    try:
        save_tensors(out, kind, tensors, head if isinstance(head, dict) else {})
    except Exception:  # not everything can be written
        return scrambled(draw, file.read_bytes())
    return out.read_bytes()


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")
def test_artefacts(whole, tmp_path) -> None:
    kinds: dict[str, tuple[Format, Callable[[Path], object]]] = {
        "profile.safetensors": (PROFILE, Profile.load),
        "selection.safetensors": (SELECTION, Selection.load),
    }
    loaded = {name: load_tensors(whole / name, kind) for name, (kind, _) in kinds.items()}
    source, folder = whole / "adapter", tmp_path / "adapter"
    files = {name: (source / name).read_bytes() for name in (CONFIG, WEIGHTS, MANIFEST)}
    weights, config = load_file(source / WEIGHTS), json.loads(files[CONFIG])
    folder.mkdir()

    def make(draw: random.Random) -> dict[str, bytes]:
        name = draw.choice([*kinds, "adapter"])
        return make_adapter(draw) if name == "adapter" else {name: make_file(draw, name)}

    def make_file(draw: random.Random, name: str) -> bytes:
        how = draw.randrange(4)
        if how < 2:
            return forged(draw, whole / name, kinds[name][0], *loaded[name])
        return (header if how == 2 else scrambled)(draw, (whole / name).read_bytes())

    def make_adapter(draw: random.Random) -> dict[str, bytes]:
        given, how = dict(files), draw.randrange(5)
        if how == 0:
            given[CONFIG] = json.dumps(replaced(draw, config)).encode()
        elif how == 1:
            given[WEIGHTS] = save(changed(draw, weights))
        elif how == 2:
            given[WEIGHTS] = header(draw, given[WEIGHTS])
        elif how == 3:
            given[MANIFEST] = json.dumps(replaced(draw, json.loads(files[MANIFEST]))).encode()
        else:
            name = draw.choice(list(given))
            given[name] = draw.choice((scrambled(draw, given[name]), DEEP.encode(), b""))
        sealing = "as it was" if how == 3 else draw.choice(("as it was", "none", "none", "right", "right"))
        if sealing == "none":
            del given[MANIFEST]
        elif sealing == "right":
            given[MANIFEST] = b""
        return given

    def read(given: dict[str, bytes]) -> None:
        for name, data in given.items():
            if name in kinds:
                (tmp_path / name).write_bytes(data)
                kinds[name][1](tmp_path / name)
                return
        for name in files:
            (folder / name).unlink(missing_ok=True)
        for name, data in given.items():
            (folder / name).write_bytes(data)
        if given.get(MANIFEST) == b"":
            write_manifest(folder, ADAPTER, {})
        Adapter.load(folder)

    fuzz("artefacts", make, read)
