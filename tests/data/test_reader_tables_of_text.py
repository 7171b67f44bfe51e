"""CSV and TSV files: a stray quotation mark costs its own row, and rows of several lines stay whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroglot.data.readers import Layout, read_source
from neuroglot.errors import UserError

HEAD = "source,target,source_lang,target_lang\n"


@pytest.fixture
def read(tmp_path):
    def read(text: str | bytes, name: str = "x.csv") -> tuple[list, list]:
        path: Path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        records = list(read_source(path, Layout(pairs=("en-de",))))
        positions = [position for position, _ in records]
        assert positions == sorted(positions)
        bad = [(position, str(r)) for position, r in records if isinstance(r, UserError)]
        return [(p, r.source, r.target) for p, r in records if not isinstance(r, UserError)], bad

    return read


def test_texts_of_a_tsv_that_begin_with_a_quotation_mark(read):
    good, bad = read('source\ttarget\n"Exit" left\tAusgang\n"Open\tOffen\n"Push\tDrücken 5"\n', "x.tsv")
    assert good == [(2, '"Exit" left', "Ausgang"), (3, '"Open', "Offen"), (4, '"Push', 'Drücken 5"')]
    assert bad == []


def test_a_tsv_whose_stray_marks_make_a_pair(read):
    """Between them lie whole rows."""
    good, _ = read('source\ttarget\n"Exit\tAusgang\nOpen\tOffen\nPush 5"\tDrücken\n', "x.tsv")
    assert good == [(2, '"Exit', "Ausgang"), (3, "Open", "Offen"), (4, 'Push 5"', "Drücken")]


def test_a_tsv_with_quoted_values(read):
    good, bad = read('source\ttarget\r\n"say ""yes"""\t"sag\r\nja"\r\nno\tnein\r\n', "x.tsv")
    assert (good, bad) == ([(3, 'say "yes"', "sag\r\nja"), (4, "no", "nein")], [])


def test_a_stray_mark_in_a_csv_costs_one_row(read):
    good, bad = read(HEAD + '"Exit,Ausgang,en,de\n' + "Open,Offen,en,de\n" * 5)
    assert [position for position, _, _ in good] == [3, 4, 5, 6, 7]
    assert bad == [
        (2, "the line is not CSV: unexpected end of data; close every quotation mark, and double those inside a value")
    ]


@pytest.mark.parametrize("last", ['Push 5",Drücken,en,de', 'Push,5",en,de'])
def test_rows_between_two_stray_marks_are_all_named(last, read):
    """What they were cannot be told; none is lost without being counted."""
    good, bad = read(f'{HEAD}"Exit,Ausgang,en,de\nOpen,Offen,,de\n{last}\nPull,Ziehen,en,de\n')
    assert good == [(5, "Pull", "Ziehen")]
    assert [position for position, _ in bad] == [2, 3, 4]
    assert all("the quotation mark that opens in line 2 spans" in reason for _, reason in bad)


@pytest.mark.parametrize(("head", "rest"), [("source,target\n", "\n"), (HEAD, ",en,de\n")])
def test_values_of_several_lines_stay_whole(head, rest, read):
    text = "Dear Sir,\nthank you, and\n\ngood bye,\nyours"
    good, bad = read(f'{head}"{text}","Danke,\nIhr"{rest}No,Nein{rest}')
    assert [(source, target) for _, source, target in good] == [(text, "Danke,\nIhr"), ("No", "Nein")]
    assert bad == []


def test_the_head_of_a_csv(read):
    with pytest.raises(UserError, match=r"x\.csv line 1: the line is not UTF-8; save the file as UTF-8") as caught:
        read("Größe,target\nx,y\n".encode("latin-1"))
    str(caught.value).encode()
    with pytest.raises(UserError, match=r"x\.csv line 1: the line is not CSV: unexpected end of data"):
        read('"source,target\nx,y\n')


def test_every_message_can_be_printed():
    """A name that is no UTF-8 comes from a file system or a file with half surrogate pairs."""
    assert str(UserError("there is no Gr\udcf6\udcdfe, and no Größe")) == "there is no Gr\\udcf6\\udcdfe, and no Größe"
