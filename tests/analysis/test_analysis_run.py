"""The verb: what it writes, what it skips, and what it says to wrong use."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from analysis_kit import setting_of
from scipy import stats

from neuroglot.analysis import analyse, layer_ranks
from neuroglot.analysis.kinds import KINDS
from neuroglot.config.load import load_recipe
from neuroglot.file_format import ANALYSIS, LAYERS, read_json
from neuroglot.neurons import Profile, select
from neuroglot.pipeline.run import execute


def test_one_kind_is_measured_written_and_then_skipped(cli, own_run):
    code, out, err = cli("analyse", own_run, "--only", "difficulty", "--items", "2", "--json")
    assert code == 0, err
    assert re.search(r"analysis: about \d+\.\d minutes", err)
    found = json.loads(out)
    assert list(found["kinds"]) == ["difficulty"]
    assert read_json(own_run / "analysis.json", ANALYSIS) == found
    entry = found["kinds"]["difficulty"]
    assert entry["found"]["items"] == 2
    assert entry["sentence"] in (own_run / "analysis.md").read_text(encoding="utf-8")
    page = (own_run / "analysis.html").read_text(encoding="utf-8")
    assert "Not measured:" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page), "the page loads something"
    assert not (own_run / ".analysis").exists()

    code, out, err = cli("analyse", own_run, "--only", "difficulty", "--items", "2")
    assert code == 0
    assert "difficulty: unchanged" in err
    assert "minutes" not in err
    assert read_json(own_run / "analysis.json", ANALYSIS) == found

    content = json.loads((own_run / "analysis.json").read_text())
    content["kinds"]["difficulty"]["found"]["items"] = 99
    (own_run / "analysis.json").write_text(json.dumps(content))
    code, _, err = cli("analyse", own_run, "--only", "difficulty", "--items", "2")
    assert code == 0
    assert "does not match its checksum" in err
    assert "difficulty: unchanged" not in err


def test_wrong_use_is_one_line(cli, own_run, tmp_path):
    def refused(*arguments):
        code, out, err = cli("analyse", *arguments)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"neuroglot: [^\n]+\n", err), err
        return err

    assert "did you mean noise?" in refused(own_run, "--only", "nose")
    assert "--seeds must be 2 or more, got 1" in refused(own_run, "--seeds", "1")
    assert "--items must be 2 or more, got 0" in refused(own_run, "--items", "0")
    assert "--ablate must be zero or mean, got 'half'" in refused(own_run, "--ablate", "half")
    assert "no recipe.yaml" in refused(tmp_path / "nowhere")
    (own_run / "selection.safetensors").rename(own_run / "kept")
    assert "run the select stage first" in refused(own_run)
    (own_run / "profile.safetensors").unlink()
    assert "run the profile stage first" in refused(own_run)
    recipe = (own_run / "recipe.yaml").read_text()
    (own_run / "recipe.yaml").write_text(recipe.replace("method: mnaft", "method: full"))
    assert "method=full, which chooses none" in refused(own_run)
    assert not (own_run / "analysis.json").exists()


def test_a_profile_of_another_model_is_refused(cli, own_run):
    path = own_run / "profile.safetensors"
    replace(Profile.load(path), fingerprint="0123456789abcdef").save(path)
    code, _, err = cli("analyse", own_run, "--only", "specificity")
    assert code == 2
    assert "made for another model" in err


def test_agreement_of_rankings_is_kendalls_tau():
    rng = np.random.default_rng(0)
    names = {"vision": [f"v{i}" for i in range(9)]}
    rankings = {
        method: [{name: float(rng.normal()) for name in names["vision"]} for _ in range(3)] for method in ("a", "b")
    }
    found = layer_ranks._agreement(rankings, names)["vision"]
    values = {m: np.array([[run[name] for name in names["vision"]] for run in runs]) for m, runs in rankings.items()}
    between = [stats.kendalltau(x, y).statistic for x in values["a"] for y in values["b"]]
    assert found["a, b"]["tau"]["mean"] == pytest.approx(np.mean(between))
    a = values["a"]
    own = [stats.spearmanr(a[i], a[j]).statistic for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["a, a"]["rho"]["mean"] == pytest.approx(np.mean(own))


@pytest.mark.slow
@pytest.mark.turns
def test_every_kind_of_a_whole_run(own_run):
    said: list[str] = []
    found = analyse(own_run, seeds=2, items=6, say=said.append)
    assert list(found["kinds"]) == list(KINDS)
    for name, entry in found["kinds"].items():
        assert "skipped" not in entry["found"], name
        assert entry["sentence"].endswith(".")
        assert "interval" in entry["found"]
        assert "nan" not in entry["sentence"]
    pictures = sorted(own_run.glob("analysis-*.svg"))
    assert len(pictures) >= len(KINDS) - 1  # difficulty has none where pairs explain nothing
    for picture in pictures:
        root = ET.fromstring(picture.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in picture.read_text(encoding="utf-8")
    layers = found["kinds"]["layers"]["found"]
    assert set(layers["cost"]) == {"full", "lora", "neurons", "relevance"}
    assert all(row["seconds"] > 0 and row["forward"] >= row["backward"] > 0 for row in layers["cost"].values())
    ablation = found["kinds"]["ablation"]["found"]
    assert ablation["draws"] >= 5
    assert len(ablation["doses"]["rows"]) == 5

    again: list[str] = []
    assert analyse(own_run, seeds=2, items=6, say=again.append) == found
    assert again == [f"{name}: unchanged" for name in KINDS]
    # With other means than zero, the ablation alone is measured again.
    other = analyse(own_run, only=["ablation"], seeds=2, items=6, ablate="mean")
    assert other["kinds"]["noise"] == found["kinds"]["noise"]
    assert other["kinds"]["ablation"]["found"]["groups"] != ablation["groups"]


@pytest.mark.slow
def test_one_pair_leaves_out_what_needs_several(cli, tmp_path):
    recipe = load_recipe("quickstart", ["name=one", "data.pairs=[en-de]"], "smoke")
    execute(recipe, tmp_path, lambda label, total: lambda done: None, print)
    found = analyse(tmp_path / "one", seeds=2, items=4)
    skipped = {name for name, entry in found["kinds"].items() if "skipped" in entry["found"]}
    assert skipped == {"specificity", "difficulty"}
    assert found["kinds"]["ablation"]["found"]["doses"] is None
    assert "Nothing to show: the run has one pair" in (tmp_path / "one" / "analysis.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_probe_by_neurons_tunes_the_same_share_of_every_layer(tmp_path):
    recipe = load_recipe(
        "quickstart", ["name=probed", "method=neumt", "data.pairs=[en-de, en-fr]", "probe.estimator=neurons"], "smoke"
    )
    folder = execute(recipe, tmp_path, lambda label, total: lambda done: None, print)
    found = read_json(folder / "layers.json", LAYERS)
    profile = Profile.load(folder / "profile.safetensors")
    assert found["estimator"] == "neurons"
    assert set(found["similarity"]) == {layer.name for layer in profile.layers}
    assert any(value < 1 - 1e-6 for pairs in found["similarity"].values() for value in pairs.values())
    chosen = select(profile, "mnaft", layers=1.0, budget=0.1, specific=0.0, contrast="none")
    for layer in profile.layers:
        assert abs(sum(map(len, chosen.rows[layer.name].values())) - 0.1 * layer.neurons) <= 1
    setting = setting_of(folder)
    assert setting.choose(profile).rows.keys() == setting.selection.rows.keys()
