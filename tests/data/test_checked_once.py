"""A source is checked against a model once, whichever runs and cells of a grid come after."""

from __future__ import annotations

import json

import pytest

from neuroglot.errors import UserError
from neuroglot.pipeline.context import REJECTED, Data

LIMITS = ["model", 40]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))


def write(path, *targets):
    record = {"source": "a sign", "source_lang": "en", "target_lang": "de", "task": "text_translation"}
    path.write_text("".join(json.dumps({**record, "target": t, "id": t}) + "\n" for t in targets), encoding="utf-8")
    return path


class Fits:
    """Refuses a word, and counts what it is asked."""

    def __init__(self, refused=""):
        self.refused, self.asked = refused, []

    def __call__(self, example, sizes):
        self.asked.append(example.target)
        if example.target == self.refused:
            raise UserError(f"no {self.refused}")


def look(path, folder, fits, limits=LIMITS, most=1):
    folder.mkdir(exist_ok=True)
    data = Data(path, folder)
    found = [example.target for example in data.examples(fits, limits, most, lambda label, total: lambda done: None)]
    said = []
    data.tell(said.append)
    return found, said


def test_another_run_knows_what_was_found_and_tells_it_in_its_own_folder(tmp_path):
    path = write(tmp_path / "signs.jsonl", "eins", "zwei", "drei")
    fits, later = Fits("zwei"), Fits()
    first, second = tmp_path / "first", tmp_path / "second"
    found, said = look(path, first, fits)
    assert (found, len(fits.asked)) == (["eins", "drei"], 3)
    assert said == [f"data: 1 of 3 records left out; see {first / REJECTED}"]
    assert look(path, second, later) == (found, [f"data: 1 of 3 records left out; see {second / REJECTED}"])
    assert not later.asked
    assert (second / REJECTED).read_text() == (first / REJECTED).read_text()
    assert look(path, second, later) == (found, [])  # which is there to be seen


@pytest.mark.parametrize("change", ["source", "limits", "most", "damage"])
def test_what_may_change_the_answer_asks_again(tmp_path, change):
    path = write(tmp_path / "signs.jsonl", "eins", "zwei", "drei")
    look(path, tmp_path, Fits())
    again = Fits()
    if change == "source":
        write(path, "eins", "zwei", "drei", "vier")
    if change == "damage":
        (kept,) = (tmp_path / "cache" / "records").glob("*.checked")
        kept.write_text(kept.read_text()[:-9])
    limits = ["model", 41] if change == "limits" else LIMITS
    found, _ = look(path, tmp_path, again, limits, 2 if change == "most" else 1)
    assert again.asked == found


def test_a_source_that_was_refused_is_refused_again_at_once(tmp_path):
    path = write(tmp_path / "signs.jsonl", "eins", "zwei", "drei")
    for fits, asked in ((Fits("drei"), 3), (Fits("drei"), 0)):
        with pytest.raises(UserError, match=r"line 3: no drei"):
            look(path, tmp_path, fits, most=0)
        assert len(fits.asked) == asked


def test_the_list_of_what_is_left_out_goes_when_nothing_is(tmp_path):
    path = write(tmp_path / "signs.jsonl", "eins", "zwei")
    look(path, tmp_path, Fits("zwei"))
    assert (tmp_path / REJECTED).is_file()
    write(path, "eins", "zwei", "drei")
    look(path, tmp_path, Fits())
    assert not (tmp_path / REJECTED).exists()


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "file" / "cache"))
    path = write(tmp_path / "signs.jsonl", "eins", "zwei")
    for fits in (Fits(), Fits()):
        assert look(path, tmp_path, fits) == (["eins", "zwei"], [])
        assert len(fits.asked) == 2
