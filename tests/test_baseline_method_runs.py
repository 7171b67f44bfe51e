"""A run of a baseline method serves as any other: it is translated with, merged, exported, or refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

import neuroglot.tuner  # noqa: F401  (registers the adapter types)
from neuroglot.models.load import load_model

pytestmark = pytest.mark.slow

ARGUMENTS = ("data.pairs=[en-de]", "data.heldout=0", "--scale", "smoke")


def sign(folder):
    from PIL import Image

    Image.new("RGB", (90, 60), "white").save(folder / "sign.png")
    return folder / "sign.png"


@pytest.mark.parametrize("method", ["prompt", "bitfit", "connector"])
@pytest.mark.turns
def test_a_run_serves(cli, tmp_path, method):
    code, _, err = cli("run", "quickstart", f"name={method}", f"method={method}", *ARGUMENTS, "--runs", tmp_path)
    assert code == 0, err
    run = tmp_path / method
    training = json.loads((run / "training.json").read_text())
    assert training["audit"]["outside"] == []
    systems = json.loads((run / "scores.json").read_text())["systems"]
    assert {"base", method} <= systems.keys()
    code, out, err = cli("translate", sign(tmp_path), "--from", "en", "--to", "de", "--run", run)
    assert (code, out.count("sign.png")) == (0, 1), err
    code, _, err = cli("merge", run, tmp_path / "merged")
    if method == "prompt":
        assert (code, err.count("\n")) == (2, 1)
        assert "is a learned prompt" in err
        assert not (tmp_path / "merged").exists()
    elif method == "connector":
        assert code == 2
        assert "is a plain model already" in err
        merged, base = (dict(load_model(place).named_parameters()) for place in (str(run / "model"), "embedded"))
        assert {n for n in base if not torch.equal(base[n], merged[n])} == {n for n in base if "projector" in n}
    else:
        assert code == 0, err
        merged = load_model(str(tmp_path / "merged"))
        adapter = PeftModel.from_pretrained(load_model("embedded"), str(run / "adapter")).merge_and_unload()
        for name, parameter in adapter.named_parameters():
            assert torch.equal(parameter, merged.get_parameter(name)), name
    if method != "connector":
        code, _, err = cli("export", run, tmp_path / "lora", "--format", "lora")
        assert (code, err.count("\n")) == (2, 1)
        assert "expected NEUROGLOT" in err
        card = (run / "adapter" / "README.md").read_text()
        assert "import neuroglot" in card
        assert ("merge_and_unload" in card) == (method == "bitfit")
        assert "| pairs | en-de |" in card
