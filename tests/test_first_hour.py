"""What someone meets who tries the library: what mistakes are told, how values look, names in docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType
from typing import Any

import huggingface_hub
import peft
import pytest
import torch
import transformers

import neuroglot
import neuroglot.evaluation
import neuroglot.neurons
import neuroglot.training
import neuroglot.tuner
from neuroglot import Batch, Batcher, Condition, NeuroglotConfig, Pair, Profile, Selection, load_model
from neuroglot.errors import UserError
from neuroglot.models.load import load_skeleton
from neuroglot.neurons.inventory import Layer

ALL = frozenset({"en-de", "en-fr"})


def selection() -> Selection:
    return Selection(("en-de", "en-fr"), {f"layers.{i}": {ALL: torch.arange(900)} for i in range(300)})


def a_profile() -> Profile:
    layers = tuple(Layer(f"layers.{i}", "language", 9, 9, False) for i in range(300))
    values = {layer.name: torch.ones(2, 1, 1, 9) for layer in layers}
    conditions = tuple(Condition.parse(f"ocr:{code}-{code}") for code in ("en", "de"))
    return Profile("m", "f", layers, conditions, ("s",), ("all",), torch.ones(2, 1), values, values, values, values)


MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "profile": (lambda m: neuroglot.profile(m, "en-de"), r"batches must be a sequence of \(inputs, condition\)"),
    "profile of a batch": (lambda m: neuroglot.profile(m, ["en-de"]), r"a batch must be \(inputs, condition\) or"),
    "profile of words": (lambda m: neuroglot.profile(m, [("a", "b")]), "must be a mapping of tensors with input_ids"),
    "profile of no model": (lambda m: neuroglot.profile("embedded", []), "model must be a transformers .* str 'embed"),
    "inventory": (lambda m: neuroglot.inventory("embedded"), "such as load_model returns, got str 'embedded'"),
    "select": (lambda m: neuroglot.select("profile.safetensors"), r"Profile.load\(path\) reads, got str 'profile"),
    "method": (lambda m: neuroglot.select(a_profile(), 3), "method must be one of mnaft, .* got int 3"),
    "from_selection": (lambda m: NeuroglotConfig.from_selection("s.safetensors"), "Selection.load reads, got str 's"),
    "pairs": (lambda m: NeuroglotConfig(pairs="en-de"), r"pairs must be a list such as \['en-de', 'en-fr'\], got str"),
    "active_pair": (lambda m: neuroglot.active_pair(m, 3).__enter__(), "pair must be such as 'en-de', or a list"),
    "batcher": (lambda m: Batcher("embedded"), "such as load_processor returns, got str 'embedded'"),
    "load_model": (lambda m: load_model(3), "model must be embedded, a folder, or a name on the hub, got int 3"),
    "pair": (lambda m: Pair.parse(3), "pair .*3.* is malformed; expected source-target such as en-de"),
    "condition": (lambda m: Condition.parse(3), "a condition must be task:source-target, such as ocr:en-en, got int"),
    "rank": (lambda m: NeuroglotConfig(r=8), "unexpected keyword argument 'r'; use rank, which makes"),
    "target_modules": (lambda m: NeuroglotConfig(target_modules="all-linear"), "use a selection, which names its lay"),
    "misspelt": (lambda m: NeuroglotConfig(rnak=8), "unexpected keyword argument 'rnak'; did you mean rank"),
    "modules_to_save": (lambda m: NeuroglotConfig.from_selection(selection(), modules_to_save=["a"]), "whole modules"),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("embedded")


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_what_was_expected(case: str, model: Any) -> None:
    call, message = MISTAKES[case]
    with pytest.raises(UserError, match=message) as error:
        call(model)
    assert "\n" not in str(error.value)


def test_one_name_does_for_a_list_of_one(model: Any) -> None:
    assert neuroglot.inventory(model, "connector") == neuroglot.inventory(model, ["connector"])
    with pytest.raises(UserError, match="no batches"):
        neuroglot.profile(model, [], scores="gradient", classes="target", parts="language")


def test_large_values_have_short_texts() -> None:
    batch = Batch({"input_ids": torch.ones(4, 2000)}, Condition.parse("ocr:en-en"), tuple(map(str, range(5000))))
    for value in (a_profile(), selection(), NeuroglotConfig.from_selection(selection()), batch):
        assert type(value).__name__ in repr(value)
        assert len(repr(value)) < 1500
        assert "\n" not in repr(value)


def public() -> list[tuple[str, Any, ModuleType]]:
    """Return every public function, class and method, with the package that exports it."""
    found = []
    for package in (neuroglot, neuroglot.neurons, neuroglot.tuner, neuroglot.training, neuroglot.evaluation):
        for name in package.__all__:
            thing = getattr(package, name)
            if callable(thing) and (getattr(thing, "__module__", "") or "").startswith("neuroglot"):
                found.append((f"{package.__name__}.{name}", thing, package))
                members = inspect.getmembers(thing, inspect.isroutine) if inspect.isclass(thing) else []
                own = [(key, member) for key, member in members if not key.startswith("_") and key in vars(thing)]
                found += [(f"{package.__name__}.{name}.{key}", member, package) for key, member in own]
    return found


def resolves(word: str, package: ModuleType) -> bool:
    parts = word.split(".")
    if parts[0] == "neuroglot":
        if any(part.startswith("_") for part in parts):
            return False
        for i in range(len(parts), 0, -1):
            try:
                thing: Any = importlib.import_module(".".join(parts[:i]))
            except ModuleNotFoundError:
                continue
            for part in parts[i:]:
                thing = getattr(thing, part, None)
            return thing is not None
        return False
    homes = (package, neuroglot, torch, torch.nn, transformers, peft, transformers.pytorch_utils, __builtins__)
    names = [home if isinstance(home, dict) else vars(home) for home in homes]
    shown = [*package.__all__, *neuroglot.__all__]
    return parts[0] in shown or any(parts[0] in one for one in names[2:]) or hasattr(transformers, parts[0])


def test_every_name_in_a_public_docstring_can_be_found() -> None:
    missing = []
    for place, thing, package in public():
        for word in re.findall(r"`([A-Za-z_][\w.]*)`", inspect.getdoc(thing) or ""):
            named = word.startswith(("neuroglot.", "_")) or re.match(r"[A-Z]\w*[A-Za-z]", word)
            if named and not resolves(word, package):
                missing.append(f"{place}: {word}")
    assert missing == []
    assert len(public()) > 50


def test_a_name_near_the_embedded_model_asks_nobody_and_a_dead_hub_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    class Dead(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(503)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Dead)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    try:
        with pytest.raises(UserError, match="'embeded' is not known; did you mean embedded"):
            load_skeleton("embeded")
        assert asked == []
        with pytest.raises(UserError, match="owner/model-that-is-nowhere cannot be loaded"):
            load_skeleton("owner/model-that-is-nowhere")
        assert [path for path in asked if "owner" in path] == []
        assert "/" in asked
    finally:
        server.shutdown()
        server.server_close()
