"""The pictogram benchmark: what counts as seen, as an alternative, as writable; and a figure by hand."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neuroglot.models.load import load_processor

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    name = "benchmark_pictograms"
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "pictograms.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(scope="module")
def data():
    folder = Path(os.environ.get("NEUROGLOT_TEST_DATA", "missing")) / "pictograms"
    if not folder.is_dir():
        pytest.skip("no pictograms: NEUROGLOT_TEST_DATA does not name the folder of test data")
    return folder


@pytest.fixture(scope="module")
def splits(benchmark, data):
    return benchmark.read(data, ("fr", "hi"))


def test_seen_pictures_are_those_of_training_and_words_are_not(splits):
    shown = {e.images[0] for e in splits["train"]}
    words = {e.source for e in splits["train"]}
    for split in ("dev", "test"):
        assert all(e.meta["seen"] == (e.images[0] in shown) for e in splits[split])
        assert not words & {e.source for e in splits[split]}
    share = np.mean([e.meta["seen"] for e in splits["test"]])
    assert 0.7 < share < 0.8


def test_alternatives_are_the_other_names_of_the_word(benchmark, splits):
    for example in splits["test"]:
        same = {e.target for e in splits["test"] if (e.source, e.target_lang) == (example.source, example.target_lang)}
        assert {example.target, *example.alternatives} == same
        assert example.target not in example.alternatives
    assert 36 < benchmark.chance(splits["test"])["all"] < 39  # as the data say of themselves


def test_what_the_tokenizer_cannot_write_is_left_out(benchmark, splits):
    tokenizer = load_processor("embedded").tokenizer
    kept, left_out = benchmark.writable(splits, tokenizer)
    assert left_out["hi"] > 500 > 20 > left_out["fr"]
    for example in kept["test"]:
        texts = (example.source, example.target, *example.alternatives)
        for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
            assert tokenizer.unk_token_id not in ids
    assert sum(map(len, kept.values())) + left_out.total() == sum(map(len, splits.values()))


def test_a_figure_is_the_mean_over_languages_of_hits(benchmark, splits):
    examples = splits["test"][:40]
    hits = np.array([[float(e.target_lang == "fr") for e in examples], [0.0] * 40])
    every = np.ones(40, bool)
    found = benchmark.figure(hits, examples, every)
    assert (found["value"], found["seeds"], found["n"]) == (25.0, [50.0, 0.0], 40)
    assert found["low"] == found["high"] == 25.0  # every word has all of one language right
    one = benchmark.figure(np.array([[1.0] * 20 + [0.0] * 20]), examples, every)
    assert one["low"] < one["value"] < one["high"]
    assert benchmark.figure(np.full((1, 40), np.nan), examples, every) is None
    only = benchmark.figure(hits[:1], examples, np.array([e.target_lang == "fr" for e in examples]))
    assert (only["value"], only["n"]) == (100.0, 20)


def test_a_lookup_names_seen_pictures_and_no_others(benchmark, splits):
    class Pixels:
        """Vectors of pictures by their names, one each."""

        def __call__(self, images):
            import torch

            rows = [np.random.default_rng(list(str(image).encode())).normal(size=(1, 8)) for image in images]
            return torch.tensor(np.array(rows), dtype=torch.float32)

    lookup = benchmark.Lookup(splits["train"], Pixels())
    tested = splits["test"][:60]
    right = [answer == e.target for answer, e in zip(lookup.translate(tested), tested, strict=True)]
    assert all(hit for hit, e in zip(right, tested, strict=True) if e.meta["seen"])
    assert lookup.translate([replace(tested[0], images=())]) == [""]


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(benchmark, data, tmp_path, capsys):
    command = ["--data", str(data), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "found.json")]
    command += [
        "--seeds",
        "1",
        "--languages",
        "fr",
        "--steps",
        "4",
        "--tuning",
        "2",
        "--test",
        "4",
        "--methods",
        "lookup",
    ]
    benchmark.main(command)
    first = (tmp_path / "out" / "cells" / "lookup-0.json").stat().st_mtime_ns
    benchmark.main([*command, "gated-fusion", "base", "lora"])
    assert (tmp_path / "out" / "cells" / "lookup-0.json").stat().st_mtime_ns == first
    found = benchmark.json.loads((tmp_path / "found.json").read_text())
    assert list(found["systems"]) == ["lookup", "gated-fusion", "base", "lora"]
    assert found["systems"]["lookup"]["whole"]["seen"]["exact"]["value"] == 100
    for method in ("gated-fusion", "base", "lora"):
        assert found["systems"][method]["other image"]["all"]["contrastive"]["n"] == found["size"]["scored"]
    with pytest.raises(SystemExit, match="does not exist"):
        benchmark.main(["--data", str(tmp_path)])
    assert "guessing among" in capsys.readouterr().out
