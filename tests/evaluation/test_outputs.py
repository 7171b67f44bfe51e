"""`neuroglot score` on outputs of any system, against sacreBLEU's own command; and one line for each broken input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from neuroglot.evaluation import paired_bootstrap, score_rows

REFERENCES = ["der Hund läuft über die Straße .", "geöffnet von 9 bis 17 Uhr", "bitte nicht betreten", "Ausgang hier"]
ONE = ["der Hund läuft auf der Straße .", "geöffnet von 9 bis 18 Uhr", "bitte nicht betreten", "Eingang hier"]
TWO = ["ein Hund läuft", "geöffnet bis 17 Uhr", "nicht betreten", "Ausgang hier"]


def write(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def objects(path, rows):
    return write(path, [json.dumps(row, ensure_ascii=False) for row in rows])


@pytest.fixture
def files(tmp_path):
    return [
        write(tmp_path / name, texts) for name, texts in (("one.de", ONE), ("ref.de", REFERENCES), ("two.de", TWO))
    ]


def figures_of(said):
    (result,) = json.loads(said)["results"]
    (pair,) = result["pairs"].values()
    return pair["figures"]


def sacrebleus(files, *options):
    command = [sys.executable, "-m", "sacrebleu", str(files[1]), "-i", str(files[0]), "-b", "-w", "6", *options]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_plain_text_is_scored_as_sacrebleu_scores_it(cli, files):
    code, out, err = cli("score", files[0], files[1], "--pair", "en-de", "--json", "--resamples", "50")
    assert (code, err) == (0, "")
    found = figures_of(out)
    assert list(found) == ["bleu", "chrf", "ter", "exact"]
    for name, options in {"bleu": [], "chrf": ["--chrf-word-order", "2"], "ter": []}.items():
        assert found[name]["value"] == pytest.approx(sacrebleus(files, "-m", name, *options), abs=1e-5), name
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
        assert "version:" in found[name]["signature"]
    assert found["exact"]["value"] == 25.0


def test_a_comparison_is_the_paired_bootstrap(cli, files):
    code, out, err = cli("score", *files[:2], "--pair", "en-de", "--against", files[2], "--json", "--seed", "3")
    assert (code, err) == (0, "")
    rows = [
        [
            {"pair": "en-de", "index": i, "hypothesis": h, "reference": r}
            for i, (h, r) in enumerate(zip(t, REFERENCES, strict=True))
        ]
        for t in (ONE, TWO)
    ]
    found = figures_of(out)
    for name in ("bleu", "chrf", "ter", "exact"):
        expected = paired_bootstrap(rows[1], rows[0], name, seed=3)
        got = found[name]
        assert got["difference"] == pytest.approx(expected.value)
        assert (got["difference_low"], got["difference_high"]) == pytest.approx((expected.low, expected.high))
        assert got["p"] == expected.p
        assert got["value"] - got["other"] == pytest.approx(got["difference"])
    same = figures_of(cli("score", *files[:2], "--against", files[0], "--json")[1])
    # Of four items, more than one draw in twenty holds none that has four tokens: BLEU has no interval there.
    assert {name: figure["p"] for name, figure in same.items()} == {"bleu": None, "chrf": 1, "ter": 1, "exact": 1}
    assert (same["bleu"]["difference"], same["bleu"]["low"], same["bleu"]["high"]) == (0, None, None)


def test_the_table_names_signatures_and_the_way_of_the_intervals(cli, files):
    code, out, _ = cli("score", *files[:2], "--pair", "en-de", "--against", files[2], "--resamples", "20")
    assert code == 0
    assert "BLEU: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in out
    assert "TER (lower is better)" in out
    assert "20 bootstrap draws of source items" in out


def run_rows():
    rows = []
    for system, texts in (("base", TWO), ("mnaft", ONE)):
        for pair in ("en-de", "en-fr"):
            for index, (said, wanted) in enumerate(zip(texts, REFERENCES, strict=True)):
                rows.append(
                    {
                        "system": system,
                        "split": "image_translation",
                        "pair": pair,
                        "item": f"i{index}",
                        "index": index,
                        "reference": wanted,
                        "hypothesis": said,
                        "source": "x",
                        "nll": 2.0 + index,
                    }
                )
    return rows  # fmt: skip


def test_hypotheses_of_a_run_need_no_other_file(cli, tmp_path):
    path = objects(tmp_path / "hypotheses.jsonl", run_rows())
    code, out, err = cli("score", path, "--system", "mnaft", "--against", "base", "--json", "--resamples", "30")
    assert (code, err) == (0, "")
    (result,) = json.loads(out)["results"]
    assert list(result["pairs"]) == ["en-de", "en-fr", "average"]
    expected = score_rows([row for row in run_rows() if row["system"] == "mnaft"])
    for pair, part in result["pairs"].items():
        for name, figure in part["figures"].items():
            assert figure["value"] == pytest.approx(expected[pair][name]), (pair, name)
    assert result["pairs"]["average"]["items"] == 4
    assert result["pairs"]["average"]["figures"]["nll"]["signature"] == "nats|unit:character|text:nfc+blanks"
    assert len(json.loads(cli("score", path, "--json", "--resamples", "5")[1])["results"]) == 2
    one = json.loads(cli("score", path, "--json", "--pair", "en-fr", "--system", "base", "--metrics", "exact")[1])
    assert list(one["results"][0]["pairs"]) == ["en-fr"]


def test_items_of_one_file_do_for_both(cli, tmp_path):
    own = [{"hypothesis": said, "reference": wanted} for said, wanted in zip(ONE, REFERENCES, strict=True)]
    other = [{"hypothesis": said, "reference": wanted} for said, wanted in zip(TWO, REFERENCES, strict=True)]
    named = [{**row, "item": f"i{n // 2}"} for n, row in enumerate(other)]
    plain, items = objects(tmp_path / "plain.jsonl", own), objects(tmp_path / "items.jsonl", named)
    for first, second in ((plain, items), (items, plain)):
        code, out, err = cli("score", first, "--against", second, "--json", "--resamples", "50")
        assert (code, err) == (0, "")
        figures = figures_of(out)
        assert figures["exact"]["difference"] == figures["exact"]["value"] - figures["exact"]["other"]
    assert paired_bootstrap(*([{**row, "pair": "en-de", "index": n} for n, row in enumerate(rows)]
                              for rows in (own, named)), metric="exact").items == 2  # fmt: skip


@pytest.mark.parametrize(("given", "found"), [("en-zh_hans", "en-zh_Hans"), ("EN-DE", "en-de")])
def test_a_pair_may_be_spelt_in_any_way(cli, files, given, found):
    code, out, err = cli("score", files[0], files[1], "--pair", given, "--json", "--metrics", "exact")
    assert (code, err) == (0, "")
    assert list(json.loads(out)["results"][0]["pairs"]) == [found]


def test_plain_text_against_a_run_takes_its_references(cli, tmp_path, files):
    rows = [row for row in run_rows() if row["system"] == "mnaft" and row["pair"] == "en-de"]
    path = objects(tmp_path / "hypotheses.jsonl", rows)
    code, out, err = cli("score", path, "--against", files[2], "--json", "--metrics", "exact")
    assert (code, err) == (0, "")
    assert figures_of(out)["exact"]["other"] == 25.0


def test_a_byte_order_mark_and_windows_line_ends_are_not_text(cli, tmp_path):
    for name, texts in (("h.txt", ONE), ("r.txt", ONE)):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode() + b"\r\n")
    write(tmp_path / "plain", ONE)
    assert figures_of(cli("score", tmp_path / "h.txt", tmp_path / "plain", "--json")[1])["exact"]["value"] == 100.0


def test_a_line_separator_inside_a_segment_does_not_split_it(cli, tmp_path):
    texts = ["a\u2028b c d", "e\x0cf"]
    paths = [write(tmp_path / name, texts) for name in "hr"]
    (result,) = json.loads(cli("score", *paths, "--json")[1])["results"]
    assert result["pairs"]["und-und"]["n"] == 2


def broken(tmp_path, files):
    """Each mistake, as arguments, and what is said about it."""
    one, ref, _ = files
    short = write(tmp_path / "short", REFERENCES[:3])
    latin = tmp_path / "latin"
    latin.write_bytes("gut\nschön\n".encode("latin-1"))
    empty = write(tmp_path / "empty", [])
    garbage = write(tmp_path / "garbage.jsonl", ['{"hypothesis": "a"}', "{not json"])
    a_list = write(tmp_path / "list.jsonl", ["[1, 2]"])
    nameless = objects(tmp_path / "nameless.jsonl", [{"text": "a"}])
    number = objects(tmp_path / "number.jsonl", [{"hypothesis": 3, "reference": "a"}])
    alone = objects(tmp_path / "alone.jsonl", [{"hypothesis": "a"}])
    pair = objects(tmp_path / "pair.jsonl", [{"hypothesis": "a", "reference": "a", "pair": "en_de"}])
    twice = objects(tmp_path / "twice.jsonl", [{"hypothesis": "a", "reference": "a", "index": 1}] * 2)
    many = objects(tmp_path / "many.jsonl", run_rows())

    def counted(name, **changes):
        row = {"hypothesis": "a", "reference": "a", "nll": 1.0, "tokens": 2, "alternative_nll": [2.0, 3.0],
               "alternative_tokens": [1, 2]}  # fmt: skip
        return objects(tmp_path / f"{name}.jsonl", [row, {**row, **changes}])

    return [
        ((counted("none", alternative_tokens=[0, 1]),), "line 2: alternative_tokens must be a list of whole numbers"),
        ((counted("null", alternative_tokens=[None, 1]),), "above 0, got [None, 1]"),
        ((counted("few", alternative_tokens=[1]),), "alternative_nll has 2 numbers and alternative_tokens 1"),
        ((counted("zero", tokens=0),), "line 2: tokens must be a whole number above 0, got 0"),
        ((counted("nan", nll=float("nan")),), "line 2: nll must be a finite number, got nan"),
        ((counted("others", alternative_nll=[1.0, float("inf")]),), "alternative_nll must be a list of numbers"),
        ((counted("text", alternative_tokens="12"),), "alternative_tokens must be a list of whole numbers"),
        ((one, short), "has 4 segments and"),
        ((latin, ref), "line 2 is not UTF-8 (byte 3)"),
        ((empty, ref), "is empty"),
        ((tmp_path / "absent", ref), "does not exist"),
        ((tmp_path, ref), "cannot be read: Is a directory"),
        ((garbage, ref), "line 2 is not JSON"),
        ((a_list,), "line 1 holds a list, expected an object"),
        ((nameless,), "line 1 has no field hypothesis; it has text"),
        ((number,), "line 1: hypothesis must be a text, got 3"),
        ((alone,), "has no reference for segment 1"),
        ((pair,), "line 1: pair 'en_de' is malformed"),
        ((twice,), "has segment 1 of und-und twice"),
        ((one, ref, "--pair", "en-xxx"), "language code 'xxx' is not known"),
        ((one, ref, "--metrics", "bleu,blue"), "figure 'blue' is not known; did you mean bleu"),
        ((one, ref, "--metrics", "nll"), "the figure nll cannot be computed"),
        ((one, ref, "--metrics", "lines"), "no reference has several lines"),
        ((one, ref, "--tokenise", "14a"), "did you mean 13a"),
        ((one, ref, "--against", "absent"), "--against absent does not exist"),
        ((one, ref, "--against", short), "has 3 segments and"),
        ((one, ref, "--resamples", "0"), "resamples must be 1 or more"),
        ((one, ref, "--comet", tmp_path / "none"), "does not exist; make one: python3 -m venv comet"),
        ((many, "--against", "base"), "has 2 systems: base, mnaft; choose one with --system"),
        ((many, "--system", "mnatf"), "has nothing of system mnatf; it has base, mnaft"),
        ((one, ref, "--metrics", "comet"), "give it with --comet PATH"),
    ]  # fmt: skip


def test_broken_inputs_get_one_clear_line_each(cli, tmp_path, files):
    for arguments, words in broken(tmp_path, files):
        code, out, err = cli("score", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("neuroglot: "), err
        assert err.count("\n") == 1, err
        assert words in err, (arguments, err)


@pytest.mark.parametrize(("name", "content", "why"), [
    ("a.jsonl", '{"hypothesis": null, "reference": "x"}', 'line 1: hypothesis is null, expected a text; give ""'),
    ("a.jsonl", '{"hypothesis": "a", "hypothesis": "b", "reference": "x"}', "the key 'hypothesis' occurs twice"),
    ("a.jsonl", '{"hypothesis": NaN, "reference": "x"}', "hypothesis must be a text, got nan"),
    ("a.jsonl", '{"hypothesis": "a", "references": []}', "references must be a list of texts"),
    ("a.jsonl", '{"hypothesis": "a", "references": "b"}', "references must be a list"),
    ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
    ("a.txt", "x\ny\n".encode("utf-16"), "is UTF-16; save the file as UTF-8"),
    ("a.txt", "Stra\xdfe\n".encode("latin-1"), "line 1 is not UTF-8"),
    ("a.txt", b"x\ry\r", "ends its lines with carriage returns alone"),
    ("a.txt", b"", "is empty"),
])  # fmt: skip
def test_a_file_that_cannot_be_scored_says_why_in_one_line(cli, tmp_path, files, name, content, why):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = cli("score", path, *([files[1]] if name == "a.txt" else []))
    assert (code, out) == (2, "")
    assert why in err
    assert len(err.strip().splitlines()) == 1


def test_a_system_that_said_nothing_is_scored(cli, tmp_path, files):
    silent = write(tmp_path / "silent.de", [""] * len(REFERENCES))
    code, out, err = cli("score", silent, files[1], "--pair", "en-de", "--json", "--resamples", "20")
    assert (code, err) == (0, "")
    found = {name: figure["value"] for name, figure in figures_of(out).items()}
    assert found == {"bleu": 0, "chrf": 0, "ter": 100, "exact": 0}


def test_figures_that_mean_nothing_are_null_in_json_and_a_dash_in_the_table(cli, tmp_path):
    rows = [{"hypothesis": "a red car", "reference": "one red car", "pair": "en-en", "index": n} for n in range(8)]
    path = objects(tmp_path / "short.jsonl", rows)
    code, out, _ = cli("score", path, "--against", path, "--json", "--resamples", "20", "--metrics", "bleu,chrf0")
    assert code == 0
    found = json.loads(out, parse_constant=pytest.fail)["results"][0]["pairs"]["en-en"]["figures"]
    bleu = found["bleu"]
    assert "0 runs of four tokens in 8" in bleu.pop("reason")
    assert {value for key, value in bleu.items() if key != "signature"} == {None}
    assert found["chrf0"]["value"] > 50
    assert "nw:0" in found["chrf0"]["signature"]
    code, out, _ = cli("score", path, "--against", path, "--resamples", "20")
    assert code == 0
    assert "–" in out
    assert "No BLEU: the references are too short" in out
    one = objects(tmp_path / "one.jsonl", [{**rows[0], "reference": "one red car is here"}])
    figures = figures_of(cli("score", one, "--json")[1])
    assert all(figure["low"] is None for figure in figures.values()), "one item has no interval"


def test_several_references_in_files_or_in_the_rows(cli, tmp_path, files):
    others = write(tmp_path / "other.ref", ONE)
    code, out, err = cli("score", files[0], files[1], others, "--pair", "en-de", "--json", "--resamples", "20")
    assert (code, err) == (0, "")
    rows = [
        {"hypothesis": said, "references": [wanted, said], "pair": "en-de"}
        for said, wanted in zip(ONE, REFERENCES, strict=True)
    ]
    path = objects(tmp_path / "rows.jsonl", rows)
    found = figures_of(out)
    assert figures_of(cli("score", path, "--json", "--resamples", "20")[1]) == found
    values = {name: round(figure["value"], 6) for name, figure in found.items()}
    assert values == {"bleu": 100, "chrf": 100, "ter": 0, "exact": 100}
    assert found["bleu"]["signature"].startswith("nrefs:2|")
