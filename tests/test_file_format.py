"""Files that carry what they are: cut, altered, foreign, older and newer ones are refused by name."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from neuroglot.errors import UserError
from neuroglot.file_format import (
    ADAPTER,
    LAYERS,
    PROFILE,
    Format,
    fresh,
    load_tensors,
    read_json,
    read_manifest,
    save_tensors,
    write_json,
    write_manifest,
)

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2], dtype=torch.int32), "c": torch.zeros(0, 4)}
HEAD = {"model": "m", "pairs": ["en-de", "en-zh_Hans"], "note": "Ü", "share": 0.1}
CONTENT = {"similarity": {"layer": {"en-de": 0.30000000000000004}}, "seconds": 1e-9, "note": "Ü", "pairs": ("en-de",)}


def put_json(path, kind, content=CONTENT):
    write_json(path, kind, content)


def put_tensors(path, kind):
    save_tensors(path, kind, TENSORS, HEAD)


def put_folder(path, kind):
    path.mkdir(exist_ok=True)
    (path / "weights").write_bytes(bytes(range(256)) * 4)
    (path / "inner").mkdir(exist_ok=True)
    (path / "inner" / "more").write_text("more")
    (path / "README.md").write_text("a card")
    write_manifest(path, kind, {"method": "mnaft"})


KINDS = {  # how it is written, how it is read, its format, the file in it that is tampered with
    "json": (put_json, read_json, LAYERS, "."),
    "safetensors": (put_tensors, load_tensors, PROFILE, "."),
    "folder": (put_folder, read_manifest, ADAPTER, "weights"),
    "manifest": (put_folder, read_manifest, ADAPTER, "neuroglot.json"),
}


@pytest.fixture(params=KINDS)
def made(request, tmp_path):
    """A whole file: (path to give to the reader, the file to tamper with, write, read, format)."""
    write, read, kind, inside = KINDS[request.param]
    path = tmp_path / "it"
    write(path, kind)
    read(path, kind)
    return path, path / inside, write, read, kind


def refused(read, path, kind, message):
    with pytest.raises(UserError, match=message) as caught:
        read(path, kind)
    assert re.match(re.escape(str(path)), str(caught.value))
    assert "\n" not in str(caught.value)
    assert f"run the {kind.stage} stage" in str(caught.value)


def test_what_was_written_comes_back(tmp_path):
    put_tensors(tmp_path / "t", PROFILE)
    tensors, head = load_tensors(tmp_path / "t", PROFILE)
    assert head == {"format": str(PROFILE), **HEAD}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    put_json(tmp_path / "j", LAYERS)
    read = read_json(tmp_path / "j", LAYERS)
    assert read["similarity"] == CONTENT["similarity"]
    assert read["pairs"] == ["en-de"]
    put_folder(tmp_path / "f", ADAPTER)
    assert read_manifest(tmp_path / "f", ADAPTER)["method"] == "mnaft"
    assert set(read_manifest(tmp_path / "f", ADAPTER)["files"]) == {"weights", "inner"}


def test_the_same_content_is_the_same_bytes(tmp_path):
    for turn in range(8):
        save_tensors(tmp_path / str(turn), PROFILE, dict(sorted(TENSORS.items(), reverse=turn % 2)), HEAD)
    assert len({(tmp_path / str(turn)).read_bytes() for turn in range(8)}) == 1


def test_a_file_that_is_not_there(made):
    path, _, _, read, kind = made
    refused(read, path.parent / "gone", kind, f"does not exist; run the {kind.stage} stage first")


def test_a_file_cut_short_anywhere(made):
    path, file, _, read, kind = made
    whole = file.read_bytes()
    for length in sorted({0, 1, 5, 40, len(whole) // 2, len(whole) - 2}):
        file.write_bytes(whole[:length])
        refused(read, path, kind, "cannot be read as|is not valid JSON|is damaged or was changed|is no ")


def test_a_flipped_bit_anywhere(made):
    path, file, _, read, kind = made
    whole = file.read_bytes()
    step = max(1, len(whole) // 150)
    for place in range(0, len(whole), step):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        refused(read, path, kind, "; (update|delete|run)")
    file.write_bytes(whole)
    read(path, kind)


def test_a_file_that_is_missing_from_a_folder_and_a_card_that_was_edited(tmp_path):
    put_folder(tmp_path, ADAPTER)
    (tmp_path / "README.md").write_text("a better card")
    read_manifest(tmp_path, ADAPTER)
    (tmp_path / "inner" / "more").unlink()
    refused(read_manifest, tmp_path, ADAPTER, "inner is damaged or was changed since: .*neuroglot.json says otherwise")
    (tmp_path / "weights").unlink()
    (tmp_path / "inner" / "more").write_text("more")
    refused(read_manifest, tmp_path, ADAPTER, "weights is missing")


def test_another_kind_an_older_and_a_newer_version(made):
    path, _, write, read, kind = made
    write(path, Format("something", 1, "train"))
    refused(read, path, kind, f"is no {kind.name} file: format 'neuroglot-something-1', expected '{kind}'")
    write(path, Format(kind.name, 0, kind.stage))
    refused(
        read, path, kind, f"was made by an older neuroglot: format 'neuroglot-{kind.name}-0', this one reads '{kind}'"
    )
    write(path, Format(kind.name, 99, kind.stage))
    refused(
        read, path, kind, f"was made by a newer neuroglot: format 'neuroglot-{kind.name}-99'.*; update neuroglot, or"
    )


def test_files_of_other_programs(tmp_path):
    path = tmp_path / "it"
    for meta in (None, {"format": "pt"}):
        save_file(TENSORS, path, metadata=meta)
        refused(load_tensors, path, PROFILE, f"is no profile file: format (None|'pt'), expected '{PROFILE}'")
    save_file(TENSORS, path, metadata={"format": "neuroglot-profile-1", "profile": "{}"})  # the first version
    refused(load_tensors, path, PROFILE, "was made by an older neuroglot")
    path.write_bytes(b"pairs: [en-de]\n" * 20)
    refused(load_tensors, path, PROFILE, "cannot be read as profile")
    refused(load_tensors, tmp_path, PROFILE, "cannot be read as profile")
    for content, message in (
        ("{", "is not valid JSON"),
        ("[1]", "holds a list, expected an object"),
        ("{}", "format None"),
    ):
        path.write_text(content)
        refused(read_json, path, LAYERS, message)
    path.write_bytes(b"\xff\xfe")
    refused(read_json, path, LAYERS, "is not valid JSON")


def test_a_value_changed_by_hand(tmp_path):
    put_json(tmp_path / "it", LAYERS)
    content = json.loads((tmp_path / "it").read_text())
    (tmp_path / "it").write_text(json.dumps({**content, "seconds": 2}))
    refused(read_json, tmp_path / "it", LAYERS, "its content does not match its checksum")
    (tmp_path / "it").write_text(json.dumps(content))  # the same content, laid out another way
    read_json(tmp_path / "it", LAYERS)


def test_an_exception_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    (tmp_path / "a").write_text("old")

    def stopped():
        with fresh(tmp_path / "a") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with fresh(tmp_path / "a") as part:
        part.mkdir()
        (part / "b").write_text("new")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["a", "a/b"]


def test_one_variable_moves_every_cache(tmp_path, monkeypatch):
    """Stores of records, answers of endpoints and the corpora of smoke scale."""
    from neuroglot.config.smoke import corpus_in
    from neuroglot.file_format import cache_folder
    from neuroglot.systems.endpoint import Endpoint

    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "own"))
    assert cache_folder("records") == tmp_path / "own" / "records"
    assert corpus_in("iwslt").parent == tmp_path / "own" / "smoke"
    assert Endpoint("gpt", "http://127.0.0.1:9/v1", "stub").cache.folder == tmp_path / "own" / "answers"
    monkeypatch.delenv("NEUROGLOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert cache_folder("records") == tmp_path / "users" / "neuroglot" / "records"
